"""The analysis of variance of a factorial design: what each factor and interaction does, how sure that is, and its share."""

import math
import re
from collections.abc import Sequence
from pathlib import Path

from pel_core.ingest.notes import data_notes, notes_footnote
from pel_core.reporting.analysis_text import analysis_tabular, analysis_tex, md_table
from pel_core.reporting.factorial_effects import Analysis, ContrastLine, EffectLine, analyse, design_of
from pel_core.reporting.paired import Rows
from pel_core.reporting.recipe_text import data_line, recipe_line, recipe_note
from pel_core.reporting.runs import read_runs
from pel_core.reporting.screen import Screen, table_lines
from pel_core.reporting.statistics.effects import LEAST_SEEDS, Effect
from pel_core.reporting.tables import write_csv, write_texts
from pel_core.spec.records import data_sets
from pel_core.studies.cells import Artefact
from pel_core.studies.design import Design
from pel_core.studies.factorial import images_of
from pel_core.studies.kinds import DESIGNS, TABLE, ArtefactKind
from pel_core.studies.study import Study

LONG = (
    "value", "row", "effect", "contrast", "df", "df_error", "sum_of_squares", "eta_squared", "epsilon_squared", "f", "estimate",
    "sd", "training_low", "training_high", "low", "high", "p", "p_holm", "family", "n", "images", "aliased_with", "reason",
    "note",
)  # fmt: skip
WIDE = ("effect", "df", "df error", "eta²", "epsilon²", "F", "p", "p (Holm)", "aliased with", "reason")
EXPLAINED = (
    "An effect is what a factor does to the mean of a cell, over the levels of all others; an interaction is what one does more "
    "at some levels of another. eta²: the effect's share of the sum of squares between cell means; epsilon²: the same less what "
    "seeds and images alone would make. F and p: another run, other test images (seeds x images, paired over both; Obuchowski "
    "and Rockette), of several degrees of freedom as if its contrasts varied alike; Holm's correction over the effects."
)
CONTRASTS = (
    "In points. Contrasts are with the first level of a factor; of an interaction differences of differences. `training`: "
    "another run on these test images; `general`: another run on other test images. Holm's correction over these contrasts."
)


def anova_files(study: Study, name: str) -> dict[str, str]:
    """The text of an analysis in each format, by suffix.

    Raises:
        PelError: a run cannot be used, or two on one data set have different test images.
    """
    artefact = study.artefact(name)
    runs = read_runs(study, artefact)
    found, records = analyse(artefact, runs, Rows(study.results)), runs.described()
    noted = notes_footnote(data_notes(study.results, data_sets(records)))
    notes = [*_notes(artefact, found), artefact.declaration.get("note", ""), *runs.notes(), data_line(records), *noted]
    notes, recipe = [recipe_note(records), *filter(None, notes)], recipe_line(records)
    several = len(found) > 1
    rows = [[each.value] * several + line for each in found for line in _wide(each)]
    header = ["value"] * several + [*WIDE]
    return {
        "csv": write_csv([LONG, *(line for each in found for line in _long(artefact, each) if line[1] == "effect")]),
        "md": _markdown(artefact, found, [f"{notes[0]} All of it: `{name}.tex`.", *notes[1:]]),
        "tex": analysis_tex(artefact, header, rows, [EXPLAINED, *notes], recipe),
        "tabular.tex": analysis_tabular(artefact, header, rows, recipe),
        "long.csv": write_csv([LONG, *(line for each in found for line in _long(artefact, each))]),
    }


def _wide(found: Analysis) -> list[list[str]]:
    lines = [_effect_cells(line) for line in found.effects]
    if found.rest:
        squares, degrees = found.rest
        share = f"{100 * squares / found.total:.1f} %" if found.total else ""
        lines.append(["effects not tested", str(degrees), "", share, *[""] * 6])
    return lines


def _effect_cells(line: EffectLine) -> list[str]:
    test = line.test
    shares = ["" if share is None else f"{100 * share:.1f} %" for share in (line.eta, line.epsilon)]
    numbers = [_plain(test.f, ".2f"), *map(_p, (test.p, line.p_holm))]
    return [line.name, str(test.df), _df(test.df_error), *shares, *numbers, "; ".join(line.aliases), test.reason]


def _df(df: float | None) -> str:
    return "" if df is None else f"{df:.1f}" if math.isfinite(df) else "∞"


def _p(p: float | None) -> str:
    return "" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _plain(value: float | None, how: str) -> str:
    return "" if value is None else f"{value:{how}}"


def _long(artefact: Artefact, found: Analysis) -> list[list[str]]:
    """A line for each effect and for each contrast; numbers unrounded but for the sixth digit."""
    tested, lines = sum(line.test.p is not None for line in found.effects), []
    for line in found.effects:
        test, effect = line.test, line.effect
        shares = [_g(each) for each in (line.eta, line.epsilon)]
        head = [
            found.value,
            "effect",
            line.name,
            "",
            str(test.df),
            _g(test.df_error),
            _g(test.sum_of_squares),
            *shares,
            _g(test.f),
        ]
        p = [_g(test.p), _g(line.p_holm), str(tested)]
        about = ["; ".join(line.aliases), "; ".join(filter(None, (test.reason, _wary(artefact))))]
        lines.append([*head, *_estimate(effect), *p, *_size(effect, artefact), *about, artefact.banner[1]])
    tested = sum(line.p_holm is not None for line in found.contrasts)
    for each in found.contrasts:
        df = each.effect.general.df if each.effect.general.se is not None else None
        head = [found.value, "contrast", each.name, each.contrast, "1", _g(df), "", "", "", ""]
        p = [_g(each.effect.p), _g(each.p_holm), str(tested)]
        about = ["", "; ".join(filter(None, (each.effect.reason or each.effect.general.reason, _wary(artefact))))]
        lines.append([*head, *_estimate(each.effect), *p, *_size(each.effect, artefact), *about, artefact.banner[1]])
    return lines


def _g(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _estimate(effect: Effect | None) -> list[str]:
    if effect is None:
        return [""] * 6
    ends = (effect.training.low, effect.training.high, effect.general.low, effect.general.high)
    return [_g(each) for each in (effect.mean, effect.sd, *ends)]


def _size(effect: Effect | None, artefact: Artefact) -> list[str]:
    return [str(len(artefact.seeds)), str(effect.images) if effect and effect.images else ""]


def _wary(artefact: Artefact) -> str:
    count = len(artefact.seeds)
    return "" if count >= LEAST_SEEDS else f"no verdict from {'one seed' if count == 1 else 'two seeds'}; at least three"


def _notes(artefact: Artefact, found: Sequence[Analysis]) -> list[str]:
    """What a reader has to know of the design, its aliases and its data."""
    design = design_of(artefact)
    factors = ", ".join(f"{factor.name} ({len(factor)} levels)" for factor in design.factors)
    total, seeds = math.prod(map(len, design.factors)), ", ".join(map(str, artefact.seeds))
    notes = [
        f"{factors}: {len(design.cells)} of {total} cells, seeds {seeds}: n = {len(artefact.seeds)}. {_images(found)}".rstrip()
    ]
    notes += [f"Nothing is decided: {_wary(artefact)}."] if _wary(artefact) else []
    if len({(cell.specs[0].dataset, images_of(cell)) for cell in artefact.cells}) > 1:
        notes.append(
            "Data sets are levels here. They are fixed, not sampled. Cells on the same test images are paired over seeds and "
            "images; those on different ones are not paired, and their variances add: differences between data sets are less "
            "sure than those within."
        )
    return notes + _fraction_notes(design)


def _images(found: Sequence[Analysis]) -> str:
    """How many test images a metric is of: the most that one of its contrasts has, on several test sets all together."""
    sizes = {each.value: max((line.effect.images for line in each.contrasts), default=0) for each in found}
    told = [f"{size:,}" + f" ({value})" * (len(set(sizes.values())) > 1) for value, size in sizes.items() if size]
    return f"N = {', '.join(dict.fromkeys(told))} test images." if told else ""


def _fraction_notes(design: Design) -> list[str]:
    if design.is_full:
        return []
    aliased = {name: other for name in design.modelled if (other := design.aliases(name))}
    told = [f"{design.name(name)} = {', '.join(map(design.name, other))}" for name, other in aliased.items()]
    notes = [f"Aliased in these cells, so that neither can be told from the other: {'; '.join(told)}."] if told else []
    if told:
        notes.append("The effect that is named first is shown, as if those behind it were nothing.")
    if not design.is_orthogonal:
        notes.append("The cells are not balanced: each effect is adjusted for all others in the model, and shares do not add up.")
    return notes


def _markdown(artefact: Artefact, found: Sequence[Analysis], notes: Sequence[str]) -> str:
    mark, notice = artefact.banner
    parts = [f"## {f'[{mark}] ' if mark else ''}{artefact.title}", ""]
    parts += [f"> **{notice}**", ""] if notice else []
    for each in found:
        parts += [f"**{each.value}**", ""] if len(found) > 1 else []
        shown = [i for i in range(len(WIDE)) if any(line[i] for line in _wide(each))]
        parts += md_table([WIDE[i] for i in shown], [[line[i] for i in shown] for line in _wide(each)])
        parts += md_table(
            ["effect", "contrast", "points", "training", "general", "p", "p (Holm)"], list(map(_contrast, each.contrasts))
        )
    return "\n".join([*parts, EXPLAINED, "", CONTRASTS, "", *(f"{note}\n" for note in notes)]).rstrip() + "\n"


def _contrast(line: ContrastLine) -> list[str]:
    effect = line.effect
    if effect.mean is None:
        return [line.name, line.contrast, "", effect.reason, "", "", ""]
    spans = [f"{each.low:+.2f} to {each.high:+.2f}" if each.low is not None else "" for each in (effect.training, effect.general)]
    return [line.name, line.contrast, f"{effect.mean:+.2f}", *spans, _p(effect.p), _p(line.p_holm)]


def save_anova(study: Study, name: str, folder: str | Path) -> None:
    """Make an analysis of variance into ``folder`` in each format.

    Raises:
        PelError: as `anova_files`.
    """
    write_texts(anova_files(study, name), name, folder)


def analysis_on_screen(title: str, markdown: str, screen: Screen) -> list[str]:
    """The effects on each metric, without the contrasts and what explains them."""
    parts = re.split(r"^\| effect \| contrast \|.*?\n\n", markdown, flags=re.DOTALL | re.MULTILINE)[:-1]
    return [line for part in parts for line in table_lines(part, screen)]


DESIGNS.register(
    "anova",
    ArtefactKind(TABLE, save_anova, version=2, on_screen=analysis_on_screen),
    about="the effects of a factorial design: share of the variation, F and p over seeds x images, contrasts with both intervals",
)
