"""The ablation studies that ship: each loads, plans and draws; sweeps, sizes, `each`, curves and differences of contrasts."""

import re
from pathlib import Path

import pytest
from fake_results import write_predicted, write_predictions, write_results

from pel_core.common.errors import PelError
from pel_core.common.files import read_json, write_json
from pel_core.reporting.claims import claim_files, claim_rows
from pel_core.reporting.figure_curve import curve_figure, draw_curve
from pel_core.reporting.figure_style import plt, style
from pel_core.spec.posthoc import is_posthoc
from pel_core.spec.records import lookup
from pel_core.spec.results import metrics_file
from pel_core.spec.run_spec import RunSpec
from pel_core.studies.config import sized
from pel_core.studies.kinds import FIGURE
from pel_core.studies.layout import expand
from pel_core.studies.plan import plan
from pel_core.studies.study import load

CONFIGS = Path(__file__).parents[2] / "workflow/config"
# Study: runs of one seed on the demo, training runs among them; tables and figures; artefacts at full size.
STUDIES = {
    "components": (5, 4, 1, 3),
    "methods": (10, 9, 3, 9),
    "inits": (7, 7, 2, 6),
    "prompts": (12, 6, 1, 2),
    "classifiers": (8, 8, 1, 3),
    "losses": (8, 8, 1, 3),
    "baselines": (42, 39, 1, 3),
    "baselines-tuned": (53, 53, 1, 3),  # candidates; finals follow
    "mixing": (6, 6, 1, 1),
    "sampling": (13, 13, 1, 1),
    "epochs": (8, 4, 1, 3),
    "tte": (10, 1, 2, 6),
    "parameters": (14, 14, 2, 6),
    "blocks": (15, 15, 2, 6),
    "backbones": (2, 2, 1, 3),
    "resolution": (12, 12, 7, 13),
    "budget": (18, 18, 5, 5),
    "place": (9, 9, 7, 13),
    "fair-tables": (80, 80, 5, 5),  # candidates; finals follow
    "fair-probe": (160, 160, 2, 5),
    "sensitivity": (16, 16, 4, 8),
    "subsets": (12, 12, 1, 1),
    "posthoc": (16, 4, 6, 11),
    "stages": (10, 10, 2, 2),
    "soups": (33, 23, 1, 1),
    "robustness": (10, 4, 3, 3),
    "tour": (47, 28, 24, 25),
}
TOY = "{title: T, backbone: toy, seeds: [0, 1, 2], data: {toy: toy}}"
CURVE = """
title: Sweeps
roles: {toy: Toy}
figures:
  curve:
    kind: curve
    each: [toy-ir20]
    title: "{data}: rates"
    where: {method: adaptformer, value: tail}
    x: Rate
    log: true
    points: [{sweep: lr, values: [0.001, 0.01, 0.1]}, {at: 1, lr: 1}]
    series: [{sweep: loss, values: [la, ce], label: "loss {}"}]
claims:
  gap:
    statement: PEL leads by more at the high rate
    parts:
      - {a: {method: adaptformer}, b: {method: ssf-ln}, over: [{dataset: toy-ir20, lr: 0.1}], minus: [{dataset: toy-ir20}],
         value: overall, expect: higher}
"""


@pytest.fixture
def toy(tmp_path):
    """A study of the given text on the toy configuration."""

    def make(study: str = CURVE, config: str = TOY):
        (tmp_path / "sweeps.yaml").write_text(study)
        (tmp_path / "config.yaml").write_text(config)
        return load(tmp_path / "sweeps.yaml", tmp_path / "config.yaml", results=tmp_path / "results")

    return make


def test_every_study_that_ships_is_tested_here():
    shipped = {path.stem for path in CONFIGS.glob("*.yaml") if "\nbackbone: " not in path.read_text(encoding="utf-8")}
    assert shipped == {"report", "own-table", *STUDIES}  # own-table: test_own_data.py


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_plans_on_the_demo_and_at_full_size(name, tmp_path):
    runs, trained, artefacts, large = STUDIES[name]
    demo, paper = (load(name, config, seeds="0", results=tmp_path) for config in ("demo", "paper"))
    assert len(demo.specs) == runs
    assert len({spec.train.slug for spec in demo.specs.values() if spec.trains}) == trained
    assert (len(demo.artefacts), len(paper.artefacts)) == (artefacts, large)
    assert not paper.left_out and {*demo.left_out.values()} <= {"the config takes the first data set alone (each: first)"}
    for study in (demo, paper):
        assert all(RunSpec.parse(slug) == spec for slug, spec in study.specs.items())
        text = plan(study)
        stepped = sum(map(is_posthoc, study.specs.values()))
        again = f", to score from stored logits {stepped} (seconds)" * bool(stepped)
        assert f"to evaluate {len(study.specs) - stepped}{again}." in text
        assert "compare" not in text
        assert "0 TFLOP" not in re.sub(r"[\d,.]*[1-9][\d,.]*0? TFLOP", "", text)
        assert "1 minutes" not in text.replace("11 minutes", "").replace("21 minutes", "")


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_draws_all_it_declares(name, tmp_path):
    study = load(name, "demo", seeds="0", results=tmp_path)
    for _ in range(1 + bool(study.tunings)):  # candidates first, then the runs whose settings they decide
        write_results(tmp_path, study.specs)
        write_predicted(tmp_path, study.specs)
        study = load(name, "demo", seeds="0", results=tmp_path)
    for artefact in study.artefacts:
        how = study.artefact(artefact).how
        if how.from_models:  # needs them prepared: test_pages.py draws the tour's map, test_figures.py others
            continue
        how.draw(study, artefact, tmp_path / "made")
        if how.form == FIGURE:
            assert (tmp_path / f"made/{artefact}.pdf").stat().st_size > 5000
        else:
            text = (tmp_path / f"made/{artefact}.md").read_text(encoding="utf-8")
            assert "DEMO" in text and "–" not in text


@pytest.mark.parametrize(
    "name", sorted({*STUDIES} - {"blocks", "resolution", "place", "fair-tables", "fair-probe", "baselines-tuned", "soups"})
)
def test_a_study_shares_its_usual_run_with_the_report(name):
    assert load(name, "demo", seeds="0").specs.keys() & load("report", "demo", seeds="0").specs.keys()


def test_equal_budgets_are_equal():
    """Scales and shifts of a block of width D: 8 D at attention, 4 D at the LayerNorms, 10 D at the MLP."""
    per_block = {"ssf-attn": 8, "ssf-ln": 4, "ssf-mlp": 10}
    study = load("budget", "paper")
    cells = study.artefact("equal-budget-imagenet").cells
    counts = {sum(per_block[part.name] * len(part.blocks) for part in cell.specs[0].parts) for cell in cells}
    assert len(cells) == 6 and counts == {40}


def test_places_have_equal_budgets_too():
    per_block = {"ssf-attn": 8, "ssf-ln": 4, "ssf-mlp": 10}
    cells = load("place", "paper").artefact("place-imagenet-lt").cells
    parts = [part for cell in cells for part in cell.specs[0].parts]
    assert {per_block[part.name] * len(part.blocks) for part in parts} == {40} and len({cell.method for cell in cells}) == 9
    for part in parts:  # in the middle: as many blocks before it as behind it, up to one
        assert part.start in (0, (12 - len(part.blocks)) // 2, 12 - len(part.blocks), (13 - len(part.blocks)) // 2)


def test_a_value_may_depend_on_the_size():
    content = {"a": {"full": [1, 2], "small": [3]}, "b": [{"c": {"full": 1, "small": {"full": 0}}}]}
    assert sized(content, "full") == {"a": [1, 2], "b": [{"c": 1}]}
    assert sized(content, "small") == {"a": [3], "b": [{"c": {"full": 0}}]}


def test_of_where_row_and_column_the_last_that_names_a_key_wins(toy):
    table = "tables: {t: {title: T, where: {dataset: toy, loss: ce, tau: 2}, rows: [{label: r, method: ln, loss: la, lr: 1}], "
    table += "columns: [{label: c, value: tail, lr: 2}]}}"
    (cell,) = toy(f"title: T\nroles: {{toy: Toy}}\n{table}").artefact("t").cells
    assert (cell.specs[0].loss, cell.specs[0].tau, cell.specs[0].lr) == ("la", 2, 2)


def test_a_sweep_is_a_selection_for_each_value():
    made = expand([{"label": "x", "lr": 1}, {"sweep": "scale", "values": [15, 0.5], "head": "cosine", "label": "s {}"}])
    assert made[0] == {"label": "x", "lr": 1}
    assert made[1:] == [
        {"label": "s 15", "at": 15, "scale": 15, "head": "cosine"},
        {"label": "s 0.5", "at": 0.5, "scale": 0.5, "head": "cosine"},
    ]
    assert expand([{"sweep": "loss", "values": ["ce"]}]) == [{"label": "ce", "loss": "ce"}]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("sweep: lr,", "sweep: lrr,", ["figures.curve.points[0].sweep", "lrr", "Did you mean 'lr'?"]),
        ("values: [0.001, 0.01, 0.1]", "values: 3", ["points[0].values", "expected a list"]),
        ("values: [0.001, 0.01, 0.1]", "values: [0, 1]", ["curve-toy-ir20", "point 0", "logarithmic axis"]),
        ("{at: 1, lr: 1}", "{lr: 1}", ["points[1]", "'at' is missing"]),
        ("{at: 1, lr: 1}", "{sweep: loss, values: [ce]}", ["point ce", "needs a place"]),
        ("{at: 1, lr: 1}", "{at: 1, lrr: 1}", ["points[1]", "'lrr'", "Did you mean 'lr'?"]),
        ("values: [la, ce]", "values: []", ["series holds no value"]),
        ("values: [la, ce]", "values: [la, cee]", ["loss cee", "'cee'", "Did you mean 'ce'?"]),
        ("each: [toy-ir20]", "each: [toi-ir20]", ["unknown role 'toi'", "Did you mean 'toy'?"]),
        ("  curve:\n", "  curve-toy-ir20: {kind: map, title: M, methods: [{label: A, dataset: toy, method: ln}]}\n  curve:\n",
         ["curve-toy-ir20", "two artefacts of this name"]),
        ("kind: curve", "kind: curves", ["figures.curve.kind", "Did you mean 'curve'?"]),
        ("    x: Rate\n", "", ["figures.curve", "'x' is missing"]),
        ("minus: [", "minsu: [", ["claims.gap.parts[0]", "'minsu'", "Did you mean 'minus'?"]),
    ],
)  # fmt: skip
def test_a_slip_says_where_what_and_the_nearest(toy, old, new, words):
    assert old in CURVE
    with pytest.raises(PelError) as error:
        toy(CURVE.replace(old, new))
    for word in words:
        assert word in str(error.value)


def test_a_configuration_says_its_size(toy):
    both = CURVE.replace("values: [la, ce]", "values: {full: [la, ce], small: [la]}")
    assert len(toy(both).artefact("curve-toy-ir20").cells) == 8
    assert len(toy(both, TOY[:-1] + ", size: small}").artefact("curve-toy-ir20").cells) == 4
    with pytest.raises(PelError, match=r"config\.yaml: size = 'tiny'.*full, small"):
        toy(both, TOY[:-1] + ", size: tiny}")


def test_a_configuration_may_take_the_first_data_set_it_plays(toy):
    text = CURVE.replace("{toy: Toy}", "{other: Other, toy: Toy}").replace("[toy-ir20]", "[other, toy-ir20, toy-ir10]")
    assert [*toy(text).artefacts] == ["curve-toy-ir20", "curve-toy-ir10", "sweeps-claims"]
    study = toy(text, TOY[:-1] + ", each: first}")
    assert [*study.artefacts] == ["curve-toy-ir20", "sweeps-claims"]
    assert "no data set for the role 'other'" in study.left_out["curve-other"]
    assert "each: first" in study.left_out["curve-toy-ir10"]


def test_a_curve_shows_what_a_reader_must_see(toy):
    study = toy(CURVE.replace("roles: {toy: Toy}", "roles: {toy: Toy}"), TOY[:-1] + ", mark: DEMO, notice: not real}")
    write_results(study.results, study.specs)
    made = curve_figure(study, "curve-toy-ir20")
    assert [line.label for line in made.lines] == ["loss la", "loss ce"]
    assert made.lines[0].at == [0.001, 0.01, 0.1, 1]
    with style():
        figure = draw_curve(made)
        figure.draw_without_rendering()
        text = " ".join(item.get_text() for item in figure.findobj(plt.Text)).replace("\n", " ")
        axes = figure.axes[0]
        assert axes.get_xscale() == "log"
        assert [label.get_text() for label in axes.get_xticklabels()] == ["0.001", "0.01", "0.1", "1"]
        assert len(axes.collections) == 2  # an error bar each
        assert [word for word in ("Toy, imbalance ratio 20: rates", "DEMO", "Tail acc", "loss ce") if word not in text] == []
        caption = "\n".join(made.sheet.lines())
        assert [word for word in ("n = 3", "does not start at zero", "not real") if word not in caption or word in text] == []
        box = figure.bbox
        for item in figure.findobj(plt.Text):
            if item.get_text().strip() and item.get_visible() and item.get_rotation() == 0:
                extent = item.get_window_extent()
                assert box.x0 - 1 <= extent.x0 and extent.x1 <= box.x1 + 1 and box.y0 - 1 <= extent.y0, item.get_text()


def test_a_curve_has_the_same_bytes_each_time(toy, tmp_path):
    study = toy()
    write_results(study.results, study.specs)
    for folder in ("a", "b"):
        study.artefact("curve-toy-ir20").how.draw(study, "curve-toy-ir20", tmp_path / folder)
    for suffix in FIGURE:
        first, second = ((tmp_path / folder / f"curve-toy-ir20.{suffix}").read_bytes() for folder in ("a", "b"))
        assert first == second


def test_an_empty_group_is_a_gap_in_the_curve(toy):
    study = toy()
    write_results(study.results, study.specs)
    for seed in study.seeds:
        path = metrics_file(study.results, f"toy-ir20.toy.adaptformer.s{seed}.lr=0.1")
        record = read_json(path)
        record["metrics"] |= {"tail": None, "null_reasons": {"tail": "no class has fewer than 20 images"}}
        write_json(path, record)
    assert curve_figure(study, "curve-toy-ir20").lines[0].at == [0.001, 0.01, 1]
    for path in study.results.glob("runs/*/metrics.json"):
        record = read_json(path)
        record["metrics"] |= {"tail": None, "null_reasons": {"tail": "no class has fewer than 20 images"}}
        write_json(path, record)
    made = curve_figure(study, "curve-toy-ir20")
    assert made.sheet.why == "No value: no class has fewer than 20 images."
    with style():
        draw_curve(made).draw_without_rendering()


def test_a_contrast_may_be_taken_off_another(toy):
    """(a - b) at one place minus (a - b) at another, seed by seed; the file is the study's own."""
    study = toy()
    write_results(study.results, study.specs)
    for lr, lead, slope in ((".lr=0.1", 13.0, 1), ("", 1.0, 0.5)):
        for seed in study.seeds:
            for method, value in (("adaptformer", 50 + lead + slope * (seed - 1)), ("ssf-ln", 50)):
                spec = study.specs[f"toy-ir20.toy.{method}.s{seed}{lr}"]
                write_predictions(study.results, spec, dict.fromkeys(("head", "med", "tail"), value))
    assert study.summary("claims").name == "sweeps-claims"
    assert study.files("sweeps-claims")[1].endswith("tables/sweeps-claims.md")
    line = claim_rows(study)[0]
    assert line["contrast"] == "(adaptformer - ssf-ln at dataset=toy-ir20 lr=0.1) - (the same at dataset=toy-ir20)"
    assert (line["effect"], line["training_low"], line["training_high"], line["n"]) == ("+12.00", "+10.76", "+13.24", "3")
    assert float(line["low"]) < 10.76 and line["verdict"] == "holds"
    text = claim_files(study)["md"]
    assert "reported" not in text and "Sweeps: verdicts" in text


def test_the_last_of_a_list_may_be_named():
    record = {"slug": "r", "training": {"curve": [{"accuracy": 1.0}, {"accuracy": 2.0}]}}
    assert lookup(record, "training.curve.last.accuracy") == 2.0
    with pytest.raises(PelError):
        lookup({"slug": "r", "training": {"curve": []}}, "training.curve.last.accuracy")


def test_descriptions_need_a_file_and_count_by_content(toy, tmp_path):
    prompt = CURVE.replace("method: adaptformer, value", "prompt: descriptions, method: adaptformer, value")
    with pytest.raises(PelError, match=r"config\.yaml: the prompt 'descriptions' needs sentences.*descriptions: \{toy: FILE"):
        toy(prompt)
    config = TOY[:-1] + ", descriptions: {toy: words.json}}"
    prints = []
    for text in ("{}", "{ }"):
        (tmp_path / "words.json").write_text(text)
        study = toy(prompt, config)
        slug = next(slug for slug, spec in study.specs.items() if spec.prompt == "descriptions")
        prints.append((study.train_params(slug), study.predict_params(slug), study.train_params("toy-ir20.toy.ssf-ln.s0")))
    assert study.descriptions("toy", "descriptions") == [str(tmp_path / "words.json")]
    assert study.descriptions("toy", "default") == []
    assert [a == b for a, b in zip(*prints, strict=True)] == [False, False, True]


def test_a_head_of_sentences_reads_a_file_of_its_own(toy, tmp_path):
    """Of the same texts as the prompt, by whose content it counts; refused with the study where there is none."""
    row = "prompt: descriptions, head: language-guided, method: adaptformer, value"
    prompt = CURVE.replace("method: adaptformer, value", row)
    with pytest.raises(PelError, match=r"config\.yaml: the prompt 'descriptions' needs sentences.*descriptions: \{toy: FILE"):
        toy(prompt)
    config, prints = TOY[:-1] + ", descriptions: {toy: words.json}}", []
    for text in ("{}", "{ }"):
        (tmp_path / "words.json").write_text(text)
        study = toy(prompt, config)
        slug = next(slug for slug, spec in study.specs.items() if spec.head == "language-guided")
        prints.append((study.train_params(slug), study.predict_params(slug)))
    assert not {*prints[0]} & {*prints[1]}
    assert study.prepared(slug)["text"].endswith("/text/toy/toy.sentences:descriptions.safetensors")
    file = study.spec(slug).text_file
    assert study.descriptions("toy", file) == study.descriptions("toy", "descriptions") == [str(tmp_path / "words.json")]
    assert study.text_option("toy", file) == f"--descriptions={tmp_path / 'words.json'}"
    with pytest.raises(PelError, match=r"head.chosen_by=val: data set 'toy-ir20' has no validation split"):
        toy(prompt.replace("head: language-guided", "head: language-guided, head.chosen_by: val"), config)


def test_a_text_set_may_be_read_by_sentences(toy, tmp_path):
    row = 'prompt: "texts:mine", head: language-guided, method: adaptformer, value'
    config = TOY[:-1] + ', texts: {toy: {mine: {templates: ["a {}.", "the {}."]}}}}'
    study = toy(CURVE.replace("method: adaptformer, value", row), config)
    slug = next(slug for slug, spec in study.specs.items() if spec.head == "language-guided")
    file = study.spec(slug).text_file
    assert file == "sentences:texts:mine" and study.given_texts("toy", file) == study.given_texts("toy", "texts:mine")
    assert study.text_digest(study.spec(slug)) == study.text_set("toy", file).digest()
    assert study.text_option("toy", file) == study.text_option("toy", "texts:mine")
