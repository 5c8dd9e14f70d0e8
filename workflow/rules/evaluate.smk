# Apart from training, so that a metric, another test-time ensembling or another split costs no training run.


def trained(wc):
    """The training run's parameters; zero-shot has none."""
    delta = STUDY.delta(wc.run)
    return {**prepared(wc), **({"delta": delta} if delta else {})}


rule evaluate:
    input:
        unpack(trained),
    output:
        metrics=f"{RESULTS}/runs/{{run}}/metrics.json",
        logits=f"{RESULTS}/runs/{{run}}/logits.safetensors",
        others=expand("{results}/runs/{{run}}/{file}", results=RESULTS, file=OUTPUTS),
    params:
        key=lambda wc: STUDY.evaluate_params(wc.run),
        # As `weights` in data.smk: a param computed from threads is not compared between calls.
        accept=lambda wc, threads: "--accept" if wc.run in STUDY.accept else "",
        options=lambda wc, threads: job_options.evaluate_options(STUDY.config),
    log:
        f"{RESULTS}/logs/{{run}}.evaluate.log",
    threads: STUDY.resource("threads")
    resources:
        gpu=1,
        mem_mb=lambda wc, attempt: STUDY.resource("mem_mb") * attempt,
        runtime=lambda wc, attempt: STUDY.resource("runtime") * attempt,
    shell:
        "exec {PYTHON:q} -m pel_core evaluate {wildcards.run:q} --results={RESULTS:q} {params.accept}"
        " {params.options} > {log:q} 2>&1"
