# Tables and figures: pure functions of the runs' metrics.json, redrawn when their own declaration changes.

from pel_core.studies import kinds


def names(*forms):
    """A wildcard's pattern: the artefacts whose files are of these forms (pel_core/studies/kinds.py)."""
    return "|".join(name for name, artefact in STUDY.declared.items() if artefact.how.form in forms) or "(?!)"


def scored(name):
    """What says that the results an artefact reads are scored as they should be; a map is drawn from models."""
    return [] if STUDY.declared[name].kind == "map" else STUDY.score_stamp


def drawn_from(name):
    """What an artefact is drawn from, once the settings of its rows are chosen."""
    chosen(STUDY.artefact(name).pending)
    return STUDY.inputs(name)


def tried(wc):
    """What a step of a tuning is decided by, once those before it are."""
    wait(STUDY.steps[wc.selection][0].name, before=wc.selection)
    return STUDY.tried(wc.selection)


def all_results(wc):
    """The results of every run, once all settings are chosen."""
    chosen(STUDY.pending)
    return [STUDY.result_file(slug) for slug in STUDY.specs]


# Which of the settings that a study tries (`tune`) its rows are made with, or go on to the next rung. The file is a record: planning chooses by the results
# themselves (pel_core/studies/selection.py). A checkpoint, since the runs with the chosen settings are known only then.
checkpoint select:
    input:
        tried,
        STUDY.score_stamp,
    output:
        json=f"{RESULTS}/selections/{{selection}}.json",
        csv=f"{RESULTS}/selections/{{selection}}.csv",
    wildcard_constraints:
        selection=r"[^/]+",
    log:
        f"{RESULTS}/logs/{{selection}}.select.log",
    localrule: True
    shell:
        pel("select {wildcards.selection:q} {ASK}")


rule table:
    input:
        lambda wc: drawn_from(wc.table),
        lambda wc: scored(wc.table),
    output:
        csv=f"{RESULTS}/tables/{{table}}.csv",
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
    localrule: True
    shell:
        pel("table {wildcards.table:q} {ASK}")


rule summary:
    # compare: measured beside reported. claims: conclusions, tested.
    input:
        lambda wc: drawn_from(wc.summary),
        lambda wc: scored(wc.summary),
    output:
        csv=f"{RESULTS}/tables/{{summary}}.csv",
        md=f"{RESULTS}/tables/{{summary}}.md",
    params:
        key=lambda wc: STUDY.draw_params(wc.summary),
        kind=uncompared(lambda name: STUDY.artefact(name).kind),
    log:
        f"{RESULTS}/logs/{{summary}}.log",
    wildcard_constraints:
        summary=names(kinds.SUMMARY),
    localrule: True
    shell:
        pel("{params.kind} {ASK}")


rule figure:
    input:
        lambda wc: drawn_from(wc.figure),
        lambda wc: scored(wc.figure),
    output:
        pdf=f"{FIGURES}/{{figure}}.pdf",
        svg=f"{FIGURES}/{{figure}}.svg",
        png=f"{FIGURES}/{{figure}}.png",
        caption=f"{FIGURES}/{{figure}}.txt",
    params:
        key=lambda wc: STUDY.draw_params(wc.figure),
    log:
        f"{RESULTS}/logs/{{figure}}.log",
    wildcard_constraints:
        figure=names(kinds.FIGURE),
    localrule: True
    shell:
        pel("figure {wildcards.figure:q} {ASK}")


rule runs:
    # Not part of `all`: it is drawn anew whenever any run changes. `make report` asks for it.
    input:
        all_results,
        STUDY.score_stamp,
    output:
        csv=f"{RESULTS}/provenance.csv",
        md=f"{RESULTS}/provenance.md",
    log:
        f"{RESULTS}/logs/provenance.log",
    localrule: True
    shell:
        pel("provenance {ASK}")


rule provenance:
    # What `make report` asks for, before it writes the page.
    input:
        lambda wc: STUDY.targets(),
        all_chosen,
        rules.runs.output,


rule page:
    # The same, and the page beside the results.
    input:
        rules.provenance.input,
    output:
        f"{RESULTS}/report.html",
    log:
        f"{RESULTS}/logs/report.log",
    localrule: True
    shell:
        pel("report {ASK} --out={output:q}")
