"""The analysis of a factorial design: against statsmodels, against paired contrasts, with images, with a cell that diverged, in
a plan."""

import csv
import io
from dataclasses import replace
from fractions import Fraction
from itertools import product

import numpy as np
import pandas as pd
import pytest
import yaml
from fake_results import fake_record, write_predictions, write_results
from statsmodels.formula.api import ols
from statsmodels.stats.anova import AnovaRM, anova_lm
from statsmodels.stats.multitest import multipletests

from pel_core.common.files import write_json
from pel_core.reporting.factorial_anova import anova_files
from pel_core.reporting.factorial_effects import analyse
from pel_core.reporting.factorial_power import designs_will_show
from pel_core.reporting.figure_main_effects import design_interaction, main_figure
from pel_core.reporting.paired import Rows
from pel_core.reporting.runs import read_runs
from pel_core.reporting.screen import Screen
from pel_core.reporting.statistics.anova import f_test
from pel_core.reporting.statistics.effects import Effect, contrast
from pel_core.reporting.statistics.image_part import closed_form
from pel_core.reporting.statistics.intervals import Interval, Variances, general, training
from pel_core.spec.outcomes import failed_file
from pel_core.spec.results import metrics_file
from pel_core.studies.design import Design, Factor, dot
from pel_core.studies.study import load

NAMES = "abc"


def design(*sizes, cells=None, order=3):
    factors = tuple(Factor(NAMES[i], tuple(map(str, range(size)))) for i, size in enumerate(sizes))
    return Design(factors, tuple(cells or product(*map(range, sizes))), order)


def measured(weights, y, images=None):
    """A contrast of y (cells, seeds) without images, or of 0/1 outcomes (cells, seeds, N) with them."""
    row = np.array(weights, float)
    d = np.tensordot(row, y, 1)
    v = float(d.var(ddof=1))
    part = Variances(y.shape[1], 10, False, v, 0.0, 0.0, 9)
    if images is not None:
        z = np.tensordot(row, images, 1) * 100 / images.shape[2]
        found = closed_form(z, np.zeros(images.shape[2], int))
        part = Variances(y.shape[1], images.shape[2], False, v, found.cov, found.within, found.df)
    mean = float(d.mean())
    both = training(mean, [part]), general(mean, [part])
    return Effect("overall", mean, v**0.5, tuple(d), (), part.images, False, *both, parts=(part,))


def result_of(made, effect, y, images=None):
    weights = made.orthogonal(effect)
    effects = [measured(row, y, images) for row in weights]
    return f_test(effects, [np.array(row, float) for row in weights], ["one"] * len(made.cells))


@pytest.mark.parametrize("sizes", [(2, 2), (2, 3, 2)])
def test_without_images_it_is_the_repeated_measures_anova_of_statsmodels(sizes):
    made, seeds = design(*sizes), 4
    y = np.random.default_rng(sizes).normal(70, 2, (len(made.cells), seeds)) + np.arange(seeds)
    frame = pd.DataFrame(
        [
            {"y": y[i, s], "seed": s, **{NAMES[k]: level for k, level in enumerate(cell)}}
            for i, cell in enumerate(made.cells)
            for s in range(seeds)
        ]
    )
    theirs = AnovaRM(frame, "y", "seed", within=list(NAMES[: len(sizes)])).fit().anova_table
    means = frame.groupby(list(NAMES[: len(sizes)]), as_index=False)["y"].mean()
    squares = anova_lm(ols(f"y ~ {'*'.join(f'C({name})' for name in NAMES[: len(sizes)])}", means).fit())["sum_sq"]
    for effect in made.modelled:
        names = [NAMES[i] for i in effect]
        found, row = result_of(made, effect, y), theirs.loc[":".join(names)]
        assert (found.f, found.p) == (pytest.approx(row["F Value"]), pytest.approx(row["Pr > F"]))
        assert (found.df, found.df_error) == (row["Num DF"], pytest.approx(row["Den DF"]))
        assert found.sum_of_squares == pytest.approx(squares[":".join(f"C({name})" for name in names)])


def test_without_a_cell_sums_of_squares_are_statsmodels_of_type_three():
    cells = [cell for cell in product(range(2), range(3), range(2)) if cell not in ((1, 2, 1), (0, 1, 0))]
    made = design(2, 3, 2, cells=cells, order=1)
    y = np.random.default_rng(3).normal(70, 2, (len(cells), 3))
    frame = pd.DataFrame([dict(zip(NAMES, cell, strict=True), y=mean) for cell, mean in zip(cells, y.mean(axis=1), strict=True)])
    fitted = ols("y ~ C(a, Sum) + C(b, Sum) + C(c, Sum)", frame).fit()
    squares = anova_lm(fitted, typ=3)["sum_sq"]
    for i, name in enumerate(NAMES):
        assert result_of(made, (i,), y).sum_of_squares == pytest.approx(squares[f"C({name}, Sum)"])
    predicted = fitted.predict(
        pd.DataFrame([dict(zip(NAMES, cell, strict=True)) for cell in product(range(2), range(3), range(2))])
    )
    at = [mean for cell, mean in zip(product(range(2), range(3), range(2)), predicted, strict=True) if cell[1] == 2]
    assert float(dot(made.marginal({1: 2}), list(map(Fraction, y.mean(axis=1))))) == pytest.approx(np.mean(at))


def test_of_one_degree_of_freedom_f_is_the_square_of_the_general_interval_s_t():
    made = design(2, 2)
    images = np.random.default_rng(1).random((4, 3, 200)) < 0.7
    y = 100 * images.mean(axis=2)
    for effect in made.modelled:
        (weights,) = made.orthogonal(effect)
        one, found = measured(weights, y, images), result_of(made, effect, y, images)
        assert found.f == pytest.approx((one.mean / one.general.se) ** 2)
        assert (found.p, found.df_error) == (pytest.approx(one.general.p()), pytest.approx(one.general.df))


@pytest.mark.parametrize(("seeds", "most"), [(3, 0.09), (5, 0.075)])
@pytest.mark.parametrize("noise", [(0.14, 0.02, 0.3), (0.018, 0.5, 0.3), (0.057, 0.3, 0.35)])
def test_the_error_of_the_first_kind_of_effects_with_several_degrees_of_freedom(seeds, most, noise):
    """Six equal cells in the probit model of test_statistics_errors.py: how often the main effect of three levels, and the
    interaction, are "found"."""
    made, generator, wrong = design(3, 2), np.random.default_rng([seeds, 7]), []
    seed, image, rest = noise
    for _ in range(400):
        latent = (
            0.6 + generator.normal(0, 1, 240) + generator.normal(0, seed, (6, seeds, 1)) + generator.normal(0, image, (6, 1, 240))
        )
        images = latent + generator.normal(0, rest, (6, seeds, 240)) > 0
        wrong += [result_of(made, effect, 100 * images.mean(axis=2), images).p <= 0.05 for effect in ((0,), (0, 1))]
    assert np.mean(wrong) <= most


PARTS = [{"label": "attn", "method": "ssf-attn"}, {"label": "ln", "method": "ssf-ln"}, {"label": "mlp", "method": "ssf-mlp"}]
ENTRY = {
    "title": "Parts",
    "where": {"dataset": "toy-ir20"},
    "factors": {"part": PARTS[:2], "loss": [{"sweep": "loss", "values": ["la", "ce"]}]},
    "note": "Made up.",
}


def study(folder, seeds=(0, 1, 2), write=True, **changed):
    data = {"toy": "toy", "other": "demo-imagenet"}
    content = {"title": "T", "roles": {"toy": "Toy", "other": "Other"}, "factorial": {"d": {**ENTRY, **changed}}}
    (folder / "s.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    config = {"title": "T", "backbone": "toy", "seeds": [*seeds], "data": data, "mark": "DEMO", "notice": "<made up>"}
    (folder / "c.yaml").write_text(yaml.safe_dump(config))
    made = load(folder / "s.yaml", folder / "c.yaml", results=folder / "results", figures=folder / "figures")
    if write:
        write_results(made.results, made.specs)
    return made


def say(made, **values):
    """Accuracy in percent of every group by ``part_loss`` and seed."""
    for cell in made.artefact("d-anova").cells:
        for spec in cell.specs:
            level = values[f"{spec.method.removeprefix('ssf-')}_{spec.loss}"]
            write_predictions(made.results, spec, dict.fromkeys(("head", "med", "tail"), level + spec.seed % 2))


def analysis(made):
    artefact = made.artefact("d-anova")
    return analyse(artefact, read_runs(made, artefact), Rows(made.results))


def test_effects_are_contrasts_over_the_same_seeds_and_images(tmp_path):
    made = study(tmp_path, values=["overall", "tail", "macro_f1"])
    cells = {(cell.specs[0].method, cell.specs[0].loss): cell for cell in made.artefact("d-anova").cells}
    rows = Rows(made.results)
    row = {key: rows.row(cell) for key, cell in cells.items()}
    for found in analysis(made)[:2]:
        both = [(row["ssf-ln", loss], row["ssf-attn", loss]) for loss in ("la", "ce")]
        main, other = contrast(both, found.value), contrast([both[1]], found.value, [both[0]])
        lines = {line.name: line for line in found.contrasts}
        for name, theirs in (("part", main), ("part x loss", other)):
            ours = lines[name].effect
            assert (ours.mean, ours.values) == (pytest.approx(theirs.mean), pytest.approx(theirs.values))
            for one, two in ((ours.training, theirs.training), (ours.general, theirs.general)):
                assert (one.low, one.high) == (pytest.approx(two.low), pytest.approx(two.high))
            test = next(line.test for line in found.effects if line.name == name)
            assert test.p == pytest.approx(theirs.p)
    assert analysis(made)[2].effects[0].test.p is not None  # by resampling


def test_known_effects_are_found_and_told(tmp_path):
    made = study(tmp_path)
    say(made, attn_la=60, attn_ce=50, ln_la=60, ln_ce=80)
    (found,) = analysis(made)
    assert {line.name: line.effect.mean for line in found.contrasts} == {
        "part": pytest.approx(15), "loss": pytest.approx(5), "part x loss": pytest.approx(30),
    }  # fmt: skip
    assert [line.eta for line in found.effects] == pytest.approx([225 / 475, 25 / 475, 225 / 475])
    assert all(0 < line.epsilon < line.eta for line in found.effects[::2])
    p = [line.test.p for line in found.effects]
    assert [line.p_holm for line in found.effects] == pytest.approx(list(multipletests(p, method="holm")[1]))
    files = anova_files(made, "d-anova")
    frame = pd.read_csv(io.StringIO(files["long.csv"]))
    assert (frame["row"] == "effect").sum() == (frame["row"] == "contrast").sum() == 3
    assert frame.set_index(["row", "effect"]).loc[("contrast", "part"), "estimate"] == pytest.approx(15)
    assert frame[["p", "p_holm", "low", "high", "df_error"]].notna().all(axis=None)
    for word in ("[DEMO]", "<made up>", "| part | ln - attn | +15.00 |", "(ln - attn) x (ce - la)", "4 of 4 cells", "Made up."):
        assert word in files["md"]
    screen = made.artefact("d-anova").how.on_screen("T", files["md"], Screen())
    assert any(line.split()[:2] == ["part", "1"] for line in screen) and not any("ln - attn" in line for line in screen)
    assert files["tex"].count("&") and "DEMO" in files["tabular.tex"] and r"\caption" not in files["tabular.tex"]
    main, both = main_figure(made, "d-main"), design_interaction(made, "d-part-loss")
    assert [[round(effect.mean, 1) for effect in effects] for _, _, effects in main.factors] == [[55.3, 70.3], [60.3, 65.3]]
    assert {(cell.level, cell.series): round(cell.mean - 1 / 3) for cell in both.cells} == {
        (0, 0): 60,
        (0, 1): 50,
        (1, 0): 60,
        (1, 1): 80,
    }


def test_every_artefact_of_a_design_is_drawn(tmp_path):
    made = study(tmp_path, factors={**ENTRY["factors"], "rate": [{"sweep": "lr", "values": [0.01, 0.1]}]}, fraction={"one_in": 2})
    for name, artefact in made.artefacts.items():
        artefact.how.draw(made, name, made.folder(name))
        assert all((made.folder(name) / f"{name}.{suffix}").stat().st_size > 50 for suffix in artefact.how.form)
    text = (made.results / "tables/d-anova.md").read_text()
    assert "part = loss x rate; loss = part x rate; rate = part x loss" in text and "4 of 8 cells" in text
    assert "not computed: 0 of its 1 degrees of freedom" in text


def diverge(made, spec):
    record = {
        key: value for key, value in fake_record(spec).items() if key not in ("metrics", "training", "evaluation", "scored")
    }
    failed = {"reason": "the loss became nan", "step": 3, "epoch": 1, "learning_rate": 0.5}
    write_json(failed_file(made.results, spec.slug), record | {"slug": spec.train.slug, "failed": failed})
    metrics_file(made.results, spec.slug).unlink()


def test_a_diverged_cell_is_named_and_leaves_what_does_not_need_it(tmp_path):
    made = study(tmp_path, factors={"part": PARTS, "loss": ENTRY["factors"]["loss"]})
    gone = next(spec for spec in made.specs.values() if (spec.method, spec.loss, spec.seed) == ("ssf-mlp", "ce", 1))
    diverge(made, gone)
    (found,) = analysis(made)
    assert {line.test.reason for line in found.effects} == {"cell (mlp, ce): diverged (1 of 3)"}
    assert [line.test.p for line in found.effects] == [None] * 3
    known = {line.contrast: line.effect.mean is not None for line in found.contrasts}
    assert known == {"ln - attn": True, "mlp - attn": False, "ce - la": False,
                     "(ln - attn) x (ce - la)": True, "(mlp - attn) x (ce - la)": False}  # fmt: skip
    for name, artefact in made.artefacts.items():
        artefact.how.draw(made, name, made.folder(name))
    text = (made.results / "tables/d-anova.md").read_text()
    assert f"Run {gone.slug} diverged" in text and "cell (mlp, ce): diverged (1 of 3)" in text
    assert "diverged (1 of 3)" in (made.results / "tables/d.md").read_text()
    figure = main_figure(made, "d-main")
    assert [effect.mean is not None for _, _, effects in figure.factors for effect in effects] == [True, True, False, True, False]
    assert any("No mean where it needs cell (mlp, ce)" in note for note in figure.sheet.caption)


def test_two_seeds_decide_nothing_and_one_has_no_training_interval(tmp_path):
    for seeds, words in (((0, 1), "two seeds"), ((0,), "one seed")):
        made = study(tmp_path, seeds=seeds)
        text = anova_files(made, "d-anova")
        assert f"Nothing is decided: no verdict from {words}; at least three." in text["md"]
        rows = list(csv.DictReader(io.StringIO(text["long.csv"])))
        assert all(words in row["reason"] and row["low"] for row in rows)
        assert all(bool(row["training_low"]) == (len(seeds) > 1) or row["sd"] == "0" for row in rows)


def test_data_sets_as_levels_are_not_paired_and_their_variances_add(tmp_path):
    data = [{"label": "toy", "dataset": "toy-ir20"}, {"label": "other", "dataset": "other"}]
    made = study(tmp_path, where={}, factors={"data": data, "part": PARTS})
    (found,) = analysis(made)
    artefact, rows = made.artefact("d-anova"), Rows(made.results)
    row = {(cell.dataset, cell.method): rows.row(cell) for cell in artefact.cells}
    pairs = [[(row[name, "ssf-ln"], row[name, "ssf-attn"])] for name in ("other", "toy-ir20")]
    theirs = contrast(pairs[0], "overall", pairs[1])
    ours = next(line.effect for line in found.contrasts if line.contrast == "(other - toy) x (ln - attn)")
    assert (ours.mean, ours.general.se) == (pytest.approx(theirs.mean), pytest.approx(theirs.general.se))
    main = next(line.effect for line in found.contrasts if line.name == "data")
    assert len(main.parts) == 2 and main.general.se**2 == pytest.approx(sum(part.total for part in main.parts))
    by_name = {line.name: line.test for line in found.effects}
    assert by_name["data"].p == pytest.approx(main.p)
    assert by_name["data x part"].df_error >= 4 and by_name["part"].df == 2
    assert "Data sets are levels here" in anova_files(made, "d-anova")["md"]


def test_ratios_of_one_data_set_have_the_same_test_images_and_are_paired(tmp_path):
    ratios = [{"label": f"ratio {ratio}", "dataset": f"toy-ir{ratio}"} for ratio in (10, 20)]
    made = study(tmp_path, where={}, factors={"ratio": ratios, "part": PARTS[:2]})
    (found,) = analysis(made)
    assert all(len(line.effect.parts) == 1 for line in found.contrasts)
    assert "not paired;" not in designs_will_show(made) and "not said" not in designs_will_show(made)


def test_the_plan_says_what_effects_a_design_could_decide(tmp_path):
    made = study(tmp_path, write=False, factors={"part": PARTS, "loss": ENTRY["factors"]["loss"]})
    assert "Factorial d: part (3) x loss (2), 6 cells, 18 runs" in designs_will_show(made)
    whole = study(tmp_path, factors={"part": PARTS, "loss": ENTRY["factors"]["loss"]})
    text = designs_will_show(whole)
    assert "by the variance of two finished cells" in text
    told = dict(part.rsplit(" ", 1) for part in text.split("differences): ")[1].split(" (")[0].split("; "))
    assert float(told["loss"]) < float(told["part"]) < float(told["part x loss"])  # three cells at a level, two, one
    assert not designs_will_show(replace(whole, declared={}))
    data = [{"label": "toy", "dataset": "toy-ir20"}, {"label": "other", "dataset": "other"}]
    mixed = designs_will_show(study(tmp_path, where={}, factors={"data": data, "part": PARTS}))
    assert "data not said: its images are not paired" in mixed or "not known before it is prepared" in mixed


def test_an_interval_without_width_says_why():
    empty = Interval(None, None, reason="no value")
    effect = Effect("overall", None, None, (), (), 0, False, empty, empty, reason="no value")
    assert f_test([effect], [np.array([1.0, -1.0])], ["a", "a"]).reason == "no value"
