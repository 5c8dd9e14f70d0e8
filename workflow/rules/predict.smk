# Apart from training, so that another test-time ensembling or another split costs no training run. One job passes the test images
# through the network and, its GPU given back, scores what came out: 2,000 fresh runs start no interpreter more for that.


@described
def trained(wc):
    """The training run's parameters; zero-shot has none."""
    delta = STUDY.delta(slug_of(wc.run))
    return {**prepared(wc), **({"delta": delta} if delta else {})}


EVALUATE_OPTIONS = job_options.evaluate_options(STUDY.config)


# logits.safetensors and predict.json are no outputs: Snakemake would remove them before a job, which passes no image through the
# network where they are there already and were made from the same.
rule predict:
    input:
        unpack(trained),
    output:
        metrics=f"{RESULTS}/runs/{{run}}/metrics.json",
        others=expand("{results}/runs/{{run}}/{file}", results=RESULTS, file=OUTPUTS),
    params:
        key=described(lambda wc: STUDY.predict_params(slug_of(wc.run))),
        run=uncompared(slug_of),
        accept=uncompared(lambda run: "--accept" if slug_of(run) in STUDY.accept else ""),
        test_set=uncompared(lambda run: STUDY.test_set_option(slug_of(run))),
        options=uncompared(lambda run: EVALUATE_OPTIONS),
    wildcard_constraints:
        run=r"(?!.*posthoc\.)[^/]+(/[^/]+)?",
    log:
        f"{RESULTS}/logs/{{run}}.predict.log",
    threads: STUDY.resource("threads")
    resources:
        gpu=1,
        mem_mb=grows(STUDY.resource("mem_mb")),
        runtime=grows(STUDY.resource("runtime")),
    shell:
        pel("evaluate {params.run:q} --results={RESULTS:q} {params.accept} {params.test_set} {params.options}")


# What is scored from the logits that other runs have stored (`posthoc` of a row): no network, no GPU. Their results stand for them.
rule posthoc:
    input:
        lambda wc: [] if STUDY.accepted(slug_of(wc.run)) else STUDY.stored(slug_of(wc.run)),
    output:
        metrics=f"{RESULTS}/runs/{{run}}/metrics.json",
        others=expand("{results}/runs/{{run}}/{file}", results=RESULTS, file=OUTPUTS),
    params:
        key=described(lambda wc: STUDY.predict_params(slug_of(wc.run))),
        run=uncompared(slug_of),
    wildcard_constraints:
        run=r"[^/]+/[^/]*posthoc\.[^/]+",
    log:
        f"{RESULTS}/logs/{{run}}.predict.log",
    threads: 1
    resources:
        mem_mb=grows(STUDY.resource("mem_mb")),
        runtime=grows(30),
    shell:
        pel("score {params.run:q} --results={RESULTS:q}")


# Where SCORE or the list of metrics has changed: all finished runs of the results folder at once, from their logits, in one process.
# Its file stands for that; what reads results is drawn after it. In a fresh folder it finds nothing to do. First, so that
# it is at work on no run that is being predicted (which it would leave alone).
rule score:
    output:
        STUDY.score_stamp,
    params:
        accept=lambda wc, threads: " ".join(f"--accept={quote(run)}" for run in STUDY.accept),
    log:
        f"{RESULTS}/logs/score.log",
    threads: STUDY.resource("threads")
    priority: 100
    resources:
        mem_mb=grows(STUDY.resource("mem_mb")),
        runtime=grows(30),
    shell:
        pel("score --results={RESULTS:q} --stamp={output:q} --threads={threads} {params.accept}")
