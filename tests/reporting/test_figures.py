"""Figures: same inputs, same bytes; what a reader must be able to see is on them, or in the caption beside them; the map counts
what the models train."""

import logging
import re
import warnings
from dataclasses import replace

import pytest
from drawn_figures import check
from fake_results import write_results
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager

from pel_core.common.errors import PelError
from pel_core.reporting import figure_fonts, figure_style, figure_text
from pel_core.reporting.figure_bars import bar_figure, draw_bars, save_bars
from pel_core.reporting.figure_map import CensusRow, MapFigure, census, draw_map, short
from pel_core.reporting.figure_sheet import Sheet
from pel_core.reporting.figure_style import PAGE, plt, save, style
from pel_core.reporting.paired import Rows
from pel_core.reporting.statistics.effects import value_of
from pel_core.spec.results import run_folder
from pel_core.spec.run_spec import RunSpec
from pel_core.studies.kinds import FIGURE
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
    assert {path.name for path in (tmp_path / "a").iterdir()} == {f"figure3.{suffix}" for suffix in FIGURE}
    for suffix in FIGURE:
        first, second = ((tmp_path / folder / f"figure3.{suffix}").read_bytes() for folder in ("a", "b"))
        assert first == second
        assert len(first) > 5000 or suffix == "txt"
        assert not re.search(rb"CreationDate|<dc:date>", first)


def lines_of(axes, wide: float) -> list[tuple[float, float]]:
    """The ends of the whiskers of a width."""
    return [tuple(line.get_xdata()) for line in axes.lines if line.get_linewidth() == wide]


def test_points_show_the_mean_and_both_intervals_on_an_axis_that_holds_them(demo):
    made, rows = bar_figure(demo, "figure3"), Rows(demo.results)
    with style():
        figure = draw_bars(made)
        axes, text = figure.axes[0], words(figure)
    cells = demo.artefact("figure3").cells
    effects = [value_of(rows.row(cell), "overall") for cell in cells]
    assert lines_of(axes, 2.2) == [(effect.training.low, effect.training.high) for effect in effects]
    longer = any(effect.training.low < effect.general.low or effect.training.high > effect.general.high for effect in effects)
    assert ("thick one is longer" in made.sheet.caption[0]) == longer
    assert lines_of(axes, 0.8) == [(effect.general.low, effect.general.high) for effect in effects]
    points = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"]
    assert points == pytest.approx([effect.mean for effect in effects])
    low, high = axes.get_xlim()
    ends = [end for bar in made.bars for end in bar.ends]
    assert 0 < low < min(ends) and max(ends) < high and not axes.patches
    counts = [f"{bar.parameters:,} parameters" for bar in made.bars]
    said = ["attn", "ln", "mlp", "DEMO", "Overall accuracy", *counts, *(f"{effect.mean:.1f}" for effect in effects)]
    assert len(set(counts)) == 3 and [word for word in said if word not in text] == []


def test_a_caption_stands_beside_the_picture_and_not_in_it(demo, tmp_path):
    save_bars(demo, "figure3", tmp_path)
    caption = (tmp_path / "figure3.txt").read_text(encoding="utf-8")
    assert caption.startswith("[DEMO] CIFAR100-LT stand-in, imbalance ratio 100\n")
    with style():
        figure = draw_bars(bar_figure(demo, "figure3"))
        text = words(figure)
        low, high = (f"{end:.1f}" for end in figure.axes[0].get_xlim())
    said = [f"runs from {low} to {high}", "does not start at zero", "n = 3 seeds", "our reading", "not comparable", "the head"]
    assert [word for word in said if word not in caption or word in text] == []


def test_bars_from_zero_by_option(demo):
    made = replace(bar_figure(demo, "figure3"), form="bars")
    with style():
        axes = draw_bars(made).axes[0]
        assert axes.get_ylim()[0] == 0 and [patch.get_height() for patch in axes.patches] == [bar.value.mean for bar in made.bars]
        whiskers = [tuple(line.get_ydata()) for line in axes.lines]
        assert whiskers == [ends for bar in made.bars for ends in (bar.general, bar.training)]


def test_words_stay_inside_the_figure(demo):
    with style():
        for figure in (draw_bars(bar_figure(demo, "figure4")), a_map()):
            check(figure)


@pytest.mark.parametrize("form", ["points", "bars"])
def test_a_full_size_figure_with_one_seed_has_no_intervals_and_says_so(form, tmp_path):
    study = load("report", "paper", seeds="0", results=tmp_path)
    write_results(tmp_path, study.specs)
    made = replace(bar_figure(study, "figure5"), form=form)
    assert "no spread is known" in made.sheet.caption[0] and "Thick" not in made.sheet.caption[0]
    with style():
        figure = draw_bars(made)
        text = words(figure)
        assert "DEMO" not in text
        assert "73,728" in text and "36,864" in text and "92,160" in text
        assert not [line for line in figure.axes[0].lines if len(line.get_xdata()) > 1]


def test_a_point_without_whiskers_does_not_depend_on_the_seed_or_was_not_read(demo, tmp_path):
    study = load("tour", "demo", seeds="0,1,2", results=tmp_path)
    write_results(tmp_path, study.specs)
    made = bar_figure(study, "tour-bars")
    alone = {bar.series for bar in made.bars if bar.training is bar.general is None and bar.value.mean is not None}
    assert [made.series[i] for i in alone] == ["zero-shot"]
    assert "A point without lines: nothing in it depends on the seed." in made.sheet.caption
    slug = next(slug for slug in study.artefact("tour-bars").specs if ".adaptformer.s1" in slug)
    (run_folder(tmp_path, slug) / "predictions.parquet").unlink()
    made = bar_figure(study, "tour-bars")
    unread = [bar for bar in made.bars if made.series[bar.series] == "all blocks"]
    assert [bar.general for bar in unread] == [None] * 4 and unread[0].training
    assert "No thick line: the value is the same at every seed, which says nothing of its spread." in made.sheet.caption  # med
    assert any(
        line.startswith("No thin line: ") and "predictions.parquet does not exist; make it again" in line
        for line in made.sheet.caption
    )


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
    form: bars
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


ROWS = [
    *(CensusRow("All", block, "ffn", "adaptformer", 8453) for block in range(12)),
    *(CensusRow("Half", block, "ffn", "adaptformer", 8453) for block in range(6, 12)),
    CensusRow("Half", 0, "", "vpt-shallow", 7680),
    *(CensusRow("LN", block, site, "ln", 1536) for block in range(12) for site in ("attn.norm", "ffn.norm")),
]


def a_map():
    return draw_map(MapFigure(Sheet("Which sites of which block carry what", [], "DEMO", PAGE), ROWS, ["All", "Half", "LN"], 12))


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
            save(a_map(), tmp_path / folder, "m", ["M"])
    for suffix in FIGURE:
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
    heads = {"coop": {"recipe": "coop"}, "cache": {"head": "tip-adapter-f"}, "linear": {"head": "linear", "head.tau_norm": 1}}
    for label, options in heads.items():  # none of which is counted, or has to have its texts or images
        found = census(label, RunSpec.make("toy-ir20", "toy", "adaptformer@2:4+vpt-shallow", 0, **options), toy_results)
        assert [row.parameters for row in found] == [row.parameters for row in rows]


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
    study.artefact("m").how.draw(study, "m", tmp_path)
    assert (tmp_path / "m.pdf").stat().st_size > 5000
    assert "counted in the built model" in (tmp_path / "m.txt").read_text()


WORDS = ("适配器微调", "線形プローブ", "미세 조정")


def drawn_words(folder):
    with style():
        figure, axes = plt.subplots(figsize=(3, 2))
        axes.set_title(" ".join(WORDS), fontweight="bold")
        save(figure, folder, "f", ["A caption."])
    return (folder / "f.svg").read_bytes()


def test_letters_that_no_font_has_are_told_once_with_what_to_install(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", "pel_core")
    for module in (figure_fonts, figure_style, figure_text):
        monkeypatch.setattr(module, "families", lambda: ["DejaVu Sans"])
    monkeypatch.setattr(figure_fonts, "_told", set())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn_words(tmp_path)
        drawn_words(tmp_path)
    (told,) = [record.getMessage() for record in caplog.records]
    assert "which are boxes in figures" in told and "apt-get install fonts-noto-cjk" in told and "适" in told
    assert figure_fonts.lacking(["äß→ é", "a b"]) == "" and figure_fonts.lacking(["中a", "文中"]) == "中文"


def test_letters_are_those_of_a_font_that_has_them(tmp_path, monkeypatch, caplog):
    """With a font as small as it can be, called as one of those that are looked for: three letters, each a square."""
    figure_fonts.families.cache_clear()
    figure_fonts._letters_of.cache_clear()  # a font of this name may be installed, and may have been looked into
    font = made_font(tmp_path / "wqy-made.ttf", "WenQuanYi Micro Hei", "适配器")
    known = font_manager.fontManager.ttflist
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [each for each in known if each.name not in figure_fonts.CJK])
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: ["elsewhere/other.ttf", str(font)])
    boxes = _with_dejavu_alone(tmp_path / "boxes", monkeypatch)
    try:
        assert figure_fonts.families() == ["DejaVu Sans", "WenQuanYi Micro Hei"]
        assert figure_fonts.lacking(["适配器微"]) == "微"
        assert drawn_words(tmp_path / "letters") != boxes
        assert figure_text.text_width("适", 10) == pytest.approx(10 / 72)
        assert not [record for record in caplog.records if "weight" in record.getMessage()]
    finally:
        figure_fonts.families.cache_clear()
        figure_text.text_width.cache_clear()
        figure_fonts._letters_of.cache_clear()


def test_a_figure_that_is_saved_again_outside_the_style_says_nothing_of_weights(tmp_path, caplog):
    with style():
        figure = plt.figure()
    words = "findfont: Failed to find font weight bold for {}, now using 400."
    for name in ("SimHei", "Mine"):
        logging.getLogger("matplotlib.font_manager").warning(words.format(name))
    figure.savefig(tmp_path / "again.png")
    assert [record.getMessage() for record in caplog.records] == [words.format("Mine")]


def _with_dejavu_alone(folder, monkeypatch):
    with monkeypatch.context() as patch:
        for module in (figure_fonts, figure_style, figure_text):
            patch.setattr(module, "families", lambda: ["DejaVu Sans"])
        return drawn_words(folder)


def made_font(path, name: str, letters: str):
    """A TrueType font whose letters are squares, one em wide."""
    builder = FontBuilder(1000, isTTF=True)
    names = [".notdef", *(f"u{ord(letter):X}" for letter in letters)]
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap(dict(zip(map(ord, letters), names[1:], strict=True)))
    pen = TTGlyphPen(None)
    pen.moveTo((100, 0))
    for point in ((100, 800), (900, 800), (900, 0)):
        pen.lineTo(point)
    pen.closePath()
    builder.setupGlyf(dict.fromkeys(names, pen.glyph()))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 100)))
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": name, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return path
