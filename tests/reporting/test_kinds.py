"""Kinds of artefact, each tested by being declared: drawn from made-up results, refused where a key is missing, planned."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from fake_results import write_predicted, write_results
from plugin_module import import_as

from pel_core.common.errors import PelError
from pel_core.common.files import write_bytes
from pel_core.common.registry import ANYTHING, Knob, Plugin
from pel_core.reporting.runs import read_runs
from pel_core.reporting.tables import statistic
from pel_core.studies.kinds import AXIS, DESIGNS, FIGURE, FIGURES, REQUIRED, SUMMARY, TABLE, TABLES, ArtefactKind
from pel_core.studies.study import load

ROLES = {name: name for name in ("imagenet-lt", "places-lt", "inat2018", "demo-imagenet", "demo-places", "demo-inat")}
HOSTILE = 'A|B <b>&amp;</b> 5 % of $ #1 \\_x "quoted" ~^ äß→'
KINDS = {**FIGURES, **TABLES, **DESIGNS}
SAMPLES = {bool: True, int: 1, float: 0.5, str: HOSTILE, tuple: [1.0]}


def declare(kind: str) -> dict:
    """An entry of ``figures`` of a kind: every key that it has, and two rows by two columns with hostile labels."""
    entry = FIGURES.entry(kind)
    places = [{"at": 0.5}, {"at": 2}] if entry.value.places else [{}, {}]
    rows = [
        {"label": f"{i} {HOSTILE}", **at, "method": method}
        for i, (at, method) in enumerate(zip(places, ("ln", "bias"), strict=True))
    ]
    made = {"kind": kind, "title": HOSTILE, "note": HOSTILE, "where": {"dataset": "toy-ir20"}, entry.value.rows: rows}
    if entry.value.columns:
        made[entry.value.columns] = [{"label": f"{name} {HOSTILE}", "value": name} for name in ("head", "tail")]
    if kind == "shift":  # the own test images against others
        sets = ("test", "imagenet-lt", "places-lt")
        made[entry.value.columns] = [{"label": f"{role} {HOSTILE}", "evaluate_on": role} for role in sets]
    if kind == "critical-difference":  # of at least three methods on six data sets
        rows.append({"label": "3", "method": "zero-shot"})
        made[entry.value.columns] = [{"label": f"{role} {HOSTILE}", "dataset": role} for role in ROLES]
    return made | {
        knob.name: knob.default if knob.check is not ANYTHING else SAMPLES[knob.kind or type(knob.default)]
        for knob in entry.knobs
    }


def study_of(folder, results, **figures):
    """A study of these figures on the toy."""
    (folder / "study.yaml").write_text(yaml.safe_dump({"title": "T", "roles": {"toy": "Toy"} | ROLES, "figures": figures}))
    data = {"toy": "toy"} | ROLES
    config = {"title": "T", "backbone": "toy", "seeds": [0, 1], "data": data, "mark": "DEMO", "notice": "<made up>"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return load(folder / "study.yaml", folder / "config.yaml", results=results, figures=folder / "figures")


@pytest.mark.parametrize("kind", FIGURES)
def test_a_figure_of_every_kind_is_drawn_whatever_its_words(kind, tmp_path, toy_results):
    study = study_of(tmp_path, toy_results if FIGURES[kind].from_models else tmp_path / "results", f=declare(kind))
    write_results(study.results, study.specs)
    write_predicted(study.results, study.specs)
    artefact = study.artefact("f")
    assert artefact.how is FIGURES[kind] and artefact.kind == kind and {*artefact.knobs} <= {*artefact.declaration}
    artefact.how.draw(study, "f", study.folder("f"))
    assert study.files("f") == [f"{tmp_path}/figures/f.{suffix}" for suffix in FIGURE]
    for file, begins in zip(study.files("f"), (b"%PDF", b"<?xml", b"\x89PNG", b"[DEMO] A"), strict=True):
        with open(file, "rb") as handle:
            assert handle.read(8).startswith(begins)
    assert bool(study.specs) != FIGURES[kind].from_models


@pytest.mark.parametrize("kind", FIGURES)
def test_a_figure_refuses_a_key_of_another_kind_and_says_which_is_missing(kind, tmp_path):
    entry = FIGURES.entry(kind)
    required = ["title", entry.value.rows, *(knob.name for knob in entry.knobs if knob.default is REQUIRED)]
    for key in required:
        with pytest.raises(PelError, match=rf"figures\.f: the key '{key}' is missing"):
            study_of(tmp_path, tmp_path, f={name: value for name, value in declare(kind).items() if name != key})
    with pytest.raises(PelError, match=r"figures\.f: unknown key 'colour'"):
        study_of(tmp_path, tmp_path, f={**declare(kind), "colour": "red"})


def test_a_knob_of_a_figure_is_checked(tmp_path):
    with pytest.raises(PelError, match=r"figures\.f\.digits: found 9, expected a whole number from 0 to 6"):
        study_of(tmp_path, tmp_path, f={**declare("bars"), "digits": 9})


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_says_what_it_is_and_has_a_rule(name):
    registry = next(registry for registry in (FIGURES, TABLES, DESIGNS) if name in registry)
    assert registry.entry(name).about and registry[name].form in (FIGURE, TABLE, SUMMARY)
    assert not (registry[name].on_screen and "md" not in registry[name].form)
    assert all(knob.meaning for knob in registry.entry(name).knobs)


def test_a_kind_of_figure_of_a_plugin_takes_one_file(tmp_path):
    def draw(study, name, folder):
        artefact = study.artefact(name)
        means = [statistic(cell, read_runs(study, artefact)).mean for cell in artefact.cells]
        for suffix in FIGURE:
            write_bytes(folder / f"{name}.{suffix}", f"{artefact.knobs['shape']} {len(means)}".encode())

    plugin = Plugin("mine.py", "0" * 64)
    shape = Knob("shape", "square", "the shape of a cell")
    kind = ArtefactKind(FIGURE, draw, rows="lines", columns="cells", compared=True)
    import_as(plugin, lambda: FIGURES.register("heat", kind, about="a colour for each cell", knobs=(shape, AXIS)))
    try:
        study = study_of(tmp_path, tmp_path, f={**declare("heat"), "shape": "round"})
        write_results(study.results, study.specs)
        study.artefact("f").how.draw(study, "f", study.folder("f"))
        assert [Path(file).read_text() for file in study.files("f")] == ["round 4"] * len(FIGURE)
        assert study.inputs("f") and '"kind":"heat"' in study.draw_params("f").replace(": ", ":")
    finally:
        FIGURES.remove(plugin)
    with pytest.raises(PelError, match=r"figures\.f\.kind = 'heat'; known: bars, .*curve, .*map"):
        study_of(tmp_path, tmp_path, f={"kind": "heat", "title": "T"})


# What decides whether a figure is drawn again: a digest of its parameters with seeds 0 and 1.
DRAWN = {
    ("report", "demo", "table1"): "470303babfd98338",
    ("report", "paper", "table1"): "a0f898b06d5d3fbb",
    ("report", "paper", "figure3"): "d20783612df2b09c",
    ("report", "paper", "compare"): "21dfff9bf279078a",
    ("report", "paper", "claims"): "b45ade8d901deef6",
    ("epochs", "demo", "epochs-imagenet-lt"): "1b29c5ede7e58dd1",
}


@pytest.mark.parametrize(("study", "config", "name"), DRAWN)
def test_nothing_that_ships_is_drawn_again(study, config, name):
    params = load(study, config, seeds="0,1").draw_params(name)
    assert hashlib.sha256(params.encode()).hexdigest()[:16] == DRAWN[study, config, name]


def test_planning_with_every_kind_imports_no_library_that_draws():
    code = (
        "import sys\nfrom pel_core.studies.study import load\nload('report', 'demo')\n"
        "print([m for m in ('matplotlib', 'torch', 'pandas', 'scipy', 'markdown_it') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
