# One training run per train slug, whichever tables and figures share it.


@described
def prepared(wc):
    """What a run reads besides its own parameters. Snakemake compares these files by content; of the largest only the existence
    counts, since what it holds follows from the small one beside it. A run that is accepted by name stays as it is.

    A job that is `ancient` to another in all it makes must not be: where it runs again, Snakemake forgets the other's own
    reasons to run."""
    run = slug_of(wc.run)
    old = STUDY.accepted(run)
    return compared({kind: ancient(path) if old or kind == "vit" else path for kind, path in STUDY.prepared(run).items()})


@described
def started_from(wc):
    """The trainings that a run starts from: an edge of the workflow. Another one of these makes the run again."""
    files = STUDY.parents(wc.run)
    return [ancient(file) for file in files] if STUDY.accepted(wc.run) else files


TRAIN_OPTIONS = job_options.train_options(STUDY.config)


rule train:
    input:
        unpack(prepared),
        parents=started_from,
    output:
        delta=f"{RESULTS}/runs/{{run}}/delta.safetensors",
        record=f"{RESULTS}/runs/{{run}}/train.json",
    params:
        key=described(lambda wc: STUDY.train_params(wc.run)),
        options=uncompared(lambda run: TRAIN_OPTIONS),
    log:
        f"{RESULTS}/logs/{{run}}.train.log",
    threads: STUDY.resource("threads")
    resources:
        gpu=job_options.gpus(STUDY.config),
        tasks=0, # one process starts the others: older SLURM plugins would start it once per GPU
        mem_mb=grows(STUDY.resource("mem_mb")),
        runtime=grows(STUDY.resource("runtime")),
        # SLURM warns a training before its time ends: it saves, ends and is retried. TERM, since USR1 would end the Snakemake
        # inside the job at once, and with it the training while it saves.
        slurm_extra=described(lambda wc, attempt: f"--signal=TERM@{min(120, 12 * STUDY.resource('runtime') * attempt)}"),
    shell:
        pel("train {wildcards.run:q} --results={RESULTS:q} {params.options}")
