# One training run per train slug, whichever tables and figures share it.


def prepared(wc):
    """What a run reads besides its own parameters. Of the large files only the existence counts: what they hold follows
    from the small ones beside them, which Snakemake compares by content."""
    return {kind: ancient(path) if kind in ("vit", "text") else path for kind, path in STUDY.prepared(wc.run).items()}


rule train:
    input:
        unpack(prepared),
    output:
        delta=f"{RESULTS}/runs/{{run}}/delta.safetensors",
        record=f"{RESULTS}/runs/{{run}}/train.json",
    params:
        key=lambda wc: STUDY.train_params(wc.run),
    log:
        f"{RESULTS}/logs/{{run}}.train.log",
    threads: STUDY.resource("threads")
    resources:
        gpu=1,
        mem_mb=lambda wc, attempt: STUDY.resource("mem_mb") * attempt,
        runtime=lambda wc, attempt: STUDY.resource("runtime") * attempt,
    shell:
        # exec, so that a cluster's warning signal reaches the program itself.
        "exec {PYTHON:q} -m pel_core train {wildcards.run:q} --results {RESULTS:q} > {log:q} 2>&1"
