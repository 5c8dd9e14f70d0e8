# Once per backbone and data set: converted weights, checked or rendered images, decoded ones, class-text features.


wildcard_constraints:
    run=r"[^/]+",
    backbone=r"[A-Za-z0-9_-]+",
    base=r"[a-z0-9_-]+",
    prompt=r"[a-z][a-z0-9:-]*",
    size=r"[1-9]\d*",


rule backbone:
    input:
        lambda wc: compared([]),
    output:
        f"{RESULTS}/backbones/{{backbone}}/backbone.json",
        f"{RESULTS}/backbones/{{backbone}}/vit.safetensors",
    params:
        key=described(lambda wc: STUDY.backbone_params(wc.backbone)),
        weights=uncompared(STUDY.weights_option),
    log:
        f"{RESULTS}/logs/{{backbone}}.backbone.log",
    threads: 1
    resources:
        mem_mb=grows(6000),
        runtime=grows(30),
    shell:
        pel("backbone {wildcards.backbone:q} --out={RESULTS:q}/backbones/{wildcards.backbone:q} {params.weights}")


# The check that every training job of a data set depends on, done once: lists, labels, every file (docs/data.md). What it finds wrong
# stands in its log; `python -m pel_core data check` tells all of it. It copies no image.
rule data:
    input:
        lambda wc: compared([]),
    output:
        f"{RESULTS}/data/{{base}}/data.json",
    params:
        key=described(lambda wc: STUDY.data_params(wc.base)),
        check=uncompared(lambda base: STUDY.check_images),
    log:
        f"{RESULTS}/logs/{{base}}.data.log",
    threads: STUDY.resource("threads")
    resources:
        mem_mb=grows(4000),
        runtime=grows(60),
    shell:
        pel(
            "data prepare {wildcards.base:q} --out={RESULTS:q}/data/{wildcards.base:q} --config={CONFIG:q} --check-images "
            "{params.check}"
        )


# The image files of a data set, decoded and reduced, for runs with `image_cache`. Its log says first how large that is. Only the file
# that is written last is an output: Snakemake would remove the pixels of a job that was stopped, which goes on where it was.
rule cache:
    input:
        f"{RESULTS}/data/{{base}}/data.json",
    output:
        f"{RESULTS}/cache/{{base}}.{{size}}/cache.json",
    log:
        f"{RESULTS}/logs/{{base}}.{{size}}.cache.log",
    threads: STUDY.resource("threads")
    resources:
        mem_mb=grows(4000),
        runtime=grows(240),
    shell:
        pel("data cache {wildcards.base:q} --size={wildcards.size:q} --results={RESULTS:q} --threads={threads}")


rule text:
    input:
        backbone=f"{RESULTS}/backbones/{{backbone}}/backbone.json",
        data=f"{RESULTS}/data/{{base}}/data.json",
        sentences=lambda wc: STUDY.descriptions(wc.base, wc.prompt),
    output:
        f"{RESULTS}/text/{{backbone}}/{{base}}.{{prompt}}.safetensors",
    params:
        weights=uncompared(STUDY.weights_option),
        sentences=lambda wc: STUDY.text_option(wc.base, wc.prompt),
    log:
        f"{RESULTS}/logs/{{backbone}}.{{base}}.{{prompt}}.text.log",
    threads: 1
    resources:
        mem_mb=grows(6000),
        runtime=grows(60),
    shell:
        pel(
            "text --backbone-dir={RESULTS:q}/backbones/{wildcards.backbone:q} --data-dir={RESULTS:q}/data/{wildcards.base:q} "
            "--prompt {wildcards.prompt:q} --out={output:q} {params.weights} {params.sentences}"
        )
