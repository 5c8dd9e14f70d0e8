"""Figures: same inputs, same bytes; what a reader must be able to see is on them; the map counts what the models train."""

import re

import pytest
from fake_results import write_results

from pel_core.common.errors import PelError
from pel_core.reporting.figure_bars import bar_figure, draw_bars, save_bars
from pel_core.reporting.figure_map import CensusRow, census, draw_map, save_map, short
from pel_core.reporting.figure_style import plt, save, style
from pel_core.spec.run_spec import RunSpec
from pel_core.studies.study import load


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    results = tmp_path_factory.mktemp("results")
    study = load("report", "demo", seeds="0,1,2", results=results)
    write_results(results, study.specs)
    return study


def words(figure) -> str:
    """Every text on a figure."""
    figure.draw_without_rendering()
    return "\n".join(text.get_text() for text in figure.findobj(plt.Text))


def test_a_bar_figure_has_the_same_bytes_each_time(demo, tmp_path):
    for folder in ("a", "b"):
        save_bars(demo, "figure3", tmp_path / folder)
    for suffix in ("pdf", "svg", "png"):
        first, second = ((tmp_path / folder / f"figure3.{suffix}").read_bytes() for folder in ("a", "b"))
        assert first == second
        assert len(first) > 5000
        assert not re.search(rb"CreationDate|<dc:date>", first)


def test_a_bar_figure_shows_what_a_reader_must_see(demo):
    made = bar_figure(demo, "figure3")
    counts = [f"{bar.parameters:,}" for bar in made.bars]
    said = ["attn", "ln", "mlp", "n = 3", "our reading", "DEMO", "not comparable", "Overall accuracy", *counts]
    assert len(set(counts)) == 3
    with style():
        figure = draw_bars(made)
        text = words(figure).replace("\n", " ")
        whole, close = figure.axes
        assert [word for word in said if word not in text] == []
        assert whole.get_ylim()[0] == 0
        assert "not from zero" in close.get_title(loc="left")
        assert close.get_ylim()[0] > 0
        assert len(whole.patches) == 3
        assert len([line for line in whole.collections if len(line.get_segments())]) == 3  # an error bar on each


def test_words_stay_inside_the_figure(demo, tmp_path):
    with style():
        for figure in (draw_bars(bar_figure(demo, "figure4")), a_map()):
            figure.draw_without_rendering()
            box = figure.bbox
            for text in figure.findobj(plt.Text):
                if text.get_text().strip() and text.get_visible() and text.get_rotation() == 0:
                    extent = text.get_window_extent()
                    inside = (
                        extent.x0 >= box.x0 - 1
                        and extent.x1 <= box.x1 + 1
                        and extent.y0 >= box.y0 - 1
                        and extent.y1 <= box.y1 + 1
                    )
                    assert inside, text.get_text()


def test_a_full_size_figure_with_one_seed_has_no_error_bars_and_says_so(tmp_path):
    study = load("report", "paper", seeds="0", results=tmp_path)
    write_results(tmp_path, study.specs)
    with style():
        figure = draw_bars(bar_figure(study, "figure5"))
        text = words(figure)
        assert "no spread is known" in text.replace("\n", " ")
        assert "DEMO" not in text
        assert "73,728" in text and "36,864" in text and "92,160" in text
        assert not any(len(line.get_segments()) for line in figure.axes[0].collections)


def test_a_missing_run_is_an_error_and_leaves_no_file(demo, tmp_path):
    study = load("report", "demo", seeds="9", results=demo.results)
    with pytest.raises(PelError, match=r"ssf-attn\.s9 has no result"):
        save_bars(study, "figure3", tmp_path)
    assert not list(tmp_path.iterdir())


def test_bars_may_stand_in_series(tmp_path):
    (tmp_path / "study.yaml").write_text(
        """
title: T
roles: {small: Toy}
figures:
  f:
    kind: bars
    title: Losses
    axis: Accuracy
    where: {dataset: small-ir20, method: adaptformer}
    bars: [{label: LA, loss: la}, {label: CE, loss: ce}]
    series: [{label: head, value: head}, {label: tail, value: tail}]
"""
    )
    (tmp_path / "config.yaml").write_text("{title: T, backbone: toy, seeds: [0, 1], data: {small: toy}}")
    study = load(tmp_path / "study.yaml", tmp_path / "config.yaml", results=tmp_path)
    write_results(tmp_path, study.specs)
    with style():
        figure = draw_bars(bar_figure(study, "f"))
        assert [text.get_text() for text in figure.legends[0].get_texts()] == ["head (1,428)", "tail (1,428)"]
        assert len(figure.axes[0].patches) == 4
        save(figure, tmp_path, "f")


ROWS = [
    *(CensusRow("All", block, "ffn", "adaptformer", 8453) for block in range(12)),
    *(CensusRow("Half", block, "ffn", "adaptformer", 8453) for block in range(6, 12)),
    CensusRow("Half", 0, "", "vpt-shallow", 7680),
    *(CensusRow("LN", block, site, "ln", 1536) for block in range(12) for site in ("attn.norm", "ffn.norm")),
]


def a_map():
    return draw_map(
        ROWS, ["All", "Half", "LN"], 12, "Which sites of which block carry what", ["A note."], ("DEMO", "DEMO: words.")
    )


def test_the_map_prints_counts_per_site_and_in_all():
    with style():
        text = words(a_map())
    for word in (
        "All: 101,436 parameters",
        "Half: 58,398 parameters",
        "LN: 36,864 parameters",
        "50,718",
        "18,432",
        "tokens",
        "8.5k",
        "frozen",
        "DEMO",
    ):
        assert word in text


def test_a_map_has_the_same_bytes_each_time(tmp_path):
    for folder in ("a", "b"):
        with style():
            save(a_map(), tmp_path / folder, "m")
    for suffix in ("pdf", "svg", "png"):
        assert (tmp_path / "a" / f"m.{suffix}").read_bytes() == (tmp_path / "b" / f"m.{suffix}").read_bytes()


@pytest.mark.parametrize(
    ("count", "text"),
    [(7, "7"), (1536, "1.5k"), (8453, "8.5k"), (84_530, "85k"), (99_999, "100k"), (101_436, "101k"), (7_087_872, "7.1M")],
)
def test_short_counts(count, text):
    assert short(count) == text


def test_the_census_counts_the_built_model(toy_results):
    # Width 32, rank 1 (6 classes on 4 blocks): an AdaptFormer has 2*32*1 + 1 + 3*32 + 1 numbers, a prompt 10 * 32.
    spec = RunSpec.make("toy-ir20", "toy", "vpt-shallow+adaptformer@-2:", 0)
    rows = census("Partial", spec, toy_results)
    assert sorted((row.block, row.site, row.kind, row.parameters) for row in rows) == [
        (0, "", "vpt-shallow", 320), (2, "ffn", "adaptformer", 162), (3, "ffn", "adaptformer", 162),
    ]  # fmt: skip
    assert census("Zero", RunSpec.make("toy-ir20", "toy", "zero-shot", 0), toy_results) == []


def test_a_declared_map_is_drawn_from_prepared_models(toy_results, tmp_path):
    (tmp_path / "study.yaml").write_text(
        """
title: T
roles: {small: Toy}
figures:
  m:
    kind: map
    title: Map
    where: {dataset: small-ir20}
    methods: [{label: SSF, method: ssf-attn}, {label: Bias, method: bias}]
"""
    )
    (tmp_path / "config.yaml").write_text("{title: T, backbone: toy, seeds: [0], data: {small: toy}}")
    study = load(tmp_path / "study.yaml", tmp_path / "config.yaml", results=toy_results)
    assert study.inputs("m") == [f"{toy_results}/backbones/toy/backbone.json", f"{toy_results}/data/toy/data.json"]
    save_map(study, "m", tmp_path)
    assert (tmp_path / "m.pdf").stat().st_size > 5000
