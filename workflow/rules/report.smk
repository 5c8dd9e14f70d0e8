# Tables and figures: pure functions of the runs' metrics.json, redrawn when their own declaration changes.

from pel_core.studies import kinds


report: "../report/workflow.rst"


ASK = f"--study={quote(str(STUDY.path))} --config={quote(str(STUDY.config_path))} --results={quote(str(RESULTS))}"
ASK += f" --figures={quote(str(FIGURES))} --seeds {','.join(map(str, STUDY.seeds))} --backbone {STUDY.bindings.backbone}"


def names(*forms):
    """A wildcard's pattern: the artefacts whose files are of these forms (pel_core/studies/kinds.py)."""
    return "|".join(name for name, artefact in STUDY.artefacts.items() if artefact.how.form in forms) or "(?!)"


def scored(name):
    """What says that the results an artefact reads are scored as they should be; a map is drawn from models."""
    return [] if STUDY.artefact(name).kind == "map" else STUDY.score_stamp


localrules:
    all,
    table,
    summary,
    figure,
    runs,
    page,


rule table:
    input:
        lambda wc: STUDY.inputs(wc.table),
        lambda wc: scored(wc.table),
    output:
        csv=report(
            f"{RESULTS}/tables/{{table}}.csv",
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "{table}", "as": "spreadsheet"},
        ),
        md=f"{RESULTS}/tables/{{table}}.md",
        tex=f"{RESULTS}/tables/{{table}}.tex",
        tabular=f"{RESULTS}/tables/{{table}}.tabular.tex",
        long=f"{RESULTS}/tables/{{table}}.long.csv",
    params:
        key=lambda wc: STUDY.draw_params(wc.table),
    log:
        f"{RESULTS}/logs/{{table}}.log",
    wildcard_constraints:
        table=names(kinds.TABLE),
    shell:
        "exec {PYTHON:q} -m pel_core table {wildcards.table:q} {ASK} > {log:q} 2>&1"


rule summary:
    # compare: measured beside reported. claims: conclusions, tested.
    input:
        lambda wc: STUDY.inputs(wc.summary),
        lambda wc: scored(wc.summary),
    output:
        csv=report(
            f"{RESULTS}/tables/{{summary}}.csv",
            caption="../report/summary.rst",
            category="Tables",
            labels={"table": "{summary}", "as": "spreadsheet"},
        ),
        md=f"{RESULTS}/tables/{{summary}}.md",
    params:
        key=lambda wc: STUDY.draw_params(wc.summary),
        kind=uncompared(lambda name: STUDY.artefact(name).kind),
    log:
        f"{RESULTS}/logs/{{summary}}.log",
    wildcard_constraints:
        summary=names(kinds.SUMMARY),
    shell:
        "exec {PYTHON:q} -m pel_core {params.kind} {ASK} > {log:q} 2>&1"


rule figure:
    input:
        lambda wc: STUDY.inputs(wc.figure),
        lambda wc: scored(wc.figure),
    output:
        pdf=f"{FIGURES}/{{figure}}.pdf",
        svg=report(
            f"{FIGURES}/{{figure}}.svg",
            caption="../report/figure.rst",
            category="Figures",
            labels={"figure": "{figure}"},
        ),
        png=f"{FIGURES}/{{figure}}.png",
    params:
        key=lambda wc: STUDY.draw_params(wc.figure),
    log:
        f"{RESULTS}/logs/{{figure}}.log",
    wildcard_constraints:
        figure=names(kinds.FIGURE),
    shell:
        "exec {PYTHON:q} -m pel_core figure {wildcards.figure:q} {ASK} > {log:q} 2>&1"


rule runs:
    # Not part of `all`: it is drawn anew whenever any run changes. `make report` asks for it.
    input:
        [STUDY.result_file(slug) for slug in STUDY.specs],
        STUDY.score_stamp,
    output:
        csv=report(
            f"{RESULTS}/provenance.csv",
            caption="../report/runs.rst",
            category="Runs",
            labels={"table": "runs", "as": "spreadsheet"},
        ),
        md=f"{RESULTS}/provenance.md",
        html=report(
            f"{RESULTS}/provenance.html",
            caption="../report/runs.rst",
            category="Runs",
            labels={"table": "runs", "as": "page"},
        ),
    log:
        f"{RESULTS}/logs/provenance.log",
    shell:
        "exec {PYTHON:q} -m pel_core provenance {ASK} > {log:q} 2>&1"


rule page:
    # The HTML report shows pages in place; a CSV file is only offered for download.
    input:
        f"{RESULTS}/tables/{{page}}.md",
    output:
        report(
            f"{RESULTS}/report/{{page}}.html",
            caption="../report/page.rst",
            category="Tables",
            labels={"table": "{page}", "as": "page"},
        ),
    log:
        f"{RESULTS}/logs/{{page}}.page.log",
    wildcard_constraints:
        page=names(kinds.TABLE, kinds.SUMMARY),
    shell:
        "exec {PYTHON:q} -m pel_core page {wildcards.page:q} {ASK} > {log:q} 2>&1"


rule provenance:
    # Everything that the HTML report shows.
    input:
        STUDY.targets(),
        rules.runs.output,
        [f"{RESULTS}/report/{name}.html" for name, made in STUDY.artefacts.items() if made.how.form != kinds.FIGURE],
