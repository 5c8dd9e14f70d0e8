"""Factorial designs: cells from factors, fractions with their aliases, what is refused when the study is read, claims by
levels."""

from fractions import Fraction
from itertools import combinations, product
from math import prod

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pel_core.common.errors import PelError
from pel_core.studies.design import Design, Factor, dot, regular_fraction
from pel_core.studies.factorial import images_of
from pel_core.studies.study import load

FACTORS = {
    "part": [{"label": "attn", "method": "ssf-attn"}, {"label": "ln", "method": "ssf-ln"}],
    "loss": [{"sweep": "loss", "values": ["la", "ce"]}],
    "rate": [{"sweep": "lr", "values": [0.01, 0.1], "label": "lr {}"}],
}
ENTRY = {"title": "{toy}", "where": {"dataset": "toy-ir20"}, "factors": FACTORS}
ROLES = {"toy": "Toy", "other": "Other", "third": "Third"}
PLAYED = {"toy": "toy", "other": "demo-imagenet"}


def study(folder, entry, claims=None, config=None):
    content = {"title": "T", "roles": ROLES, "factorial": {"d": entry}} | ({"claims": claims} if claims else {})
    (folder / "s.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    (folder / "c.yaml").write_text(
        yaml.safe_dump({"title": "T", "backbone": "toy", "seeds": [0, 1, 2], "data": PLAYED} | (config or {}))
    )
    return load(folder / "s.yaml", folder / "c.yaml", results=folder / "results", figures=folder / "figures")


def design(*sizes, cells=None, order=2):
    factors = tuple(Factor("ABCDE"[i], tuple(map(str, range(size)))) for i, size in enumerate(sizes))
    return Design(factors, tuple(cells or product(*map(range, sizes))), order)


def test_a_design_makes_every_cell_once_and_its_artefacts(tmp_path):
    made = study(tmp_path, ENTRY)
    assert [*made.artefacts] == ["d", "d-anova", "d-main", "d-part-loss", "d-part-rate", "d-loss-rate"]
    assert len(made.specs) == 8 * 3
    got = {(spec.method, spec.loss, spec.lr) for spec in made.specs.values()}
    assert got == set(product(("ssf-attn", "ssf-ln"), ("la", "ce"), (0.01, 0.1)))
    table = made.artefact("d")
    assert [row["label"] for row in table.declaration["rows"]] == ["attn, la", "attn, ce", "ln, la", "ln, ce"]
    assert [column["label"] for column in table.declaration["columns"]] == ["lr 0.01", "lr 0.1"]
    for cell in table.cells:  # stands where its labels say
        at = f"{table.declaration['rows'][cell.row]['label']}, {table.declaration['columns'][cell.column]['label']}"
        spec = cell.specs[0]
        assert at == f"{spec.method.removeprefix('ssf-')}, {spec.loss}, lr {spec.lr:g}"


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(2, 4), min_size=2, max_size=3), st.integers(1, 3))
def test_a_full_design_is_the_product_and_its_contrasts_are_orthogonal(sizes, order):
    made = design(*sizes, order=order)
    assert len({*made.cells}) == len(made.cells) == prod(sizes) and made.is_full
    assert not any(made.model.values()) and len(made.modelled) == sum(
        1 for size in range(1, min(order, len(sizes)) + 1) for _ in combinations(sizes, size)
    )
    every = [weights for effect in made.modelled for weights in made.orthogonal(effect)]
    gram = np.array(every, float) @ np.array(every, float).T
    assert np.allclose(gram, np.diag(np.diag(gram))) and not any(map(sum, every))
    for effect in made.modelled:
        assert len(made.contrasts(effect)) == made.degrees(effect) and not made.aliases(effect)
    level = made.marginal({0: 1})
    share = Fraction(sizes[0], prod(sizes))
    assert level == tuple(share if cell[0] == 1 else 0 for cell in made.cells)


def test_contrasts_are_differences_and_differences_of_differences():
    made = design(2, 2)
    (_, main), (_, both) = made.contrasts((0,))[0], made.contrasts((0, 1))[0]
    assert main == (Fraction(-1, 2), Fraction(-1, 2), Fraction(1, 2), Fraction(1, 2))
    assert both == (1, -1, -1, 1)
    assert design(3, 2).contrasts((0, 1))[1][0] == "(2 - 0) x (1 - 0)"


def test_the_half_fraction_of_a_two_cubed_design_aliases_main_effects_with_interactions():
    made = design(2, 2, 2, cells=regular_fraction((2, 2, 2), 2, 0))
    assert len(made.cells) == 4 and made.modelled == [(0,), (1,), (2,)] and made.is_orthogonal
    assert {effect: made.aliases(effect) for effect in made.modelled} == {(0,): [(1, 2)], (1,): [(0, 2)], (2,): [(0, 1)]}
    four = design(2, 2, 2, 2, cells=regular_fraction((2, 2, 2, 2), 2, 1))  # resolution IV: mains with three-factor interactions
    assert four.aliases((0,)) == [(1, 2, 3)] and four.aliases((0, 1)) == [(2, 3)]
    assert four.model[2, 3].startswith("0 of its 1 degrees")


def test_an_irregular_fraction_adjusts_each_effect_for_the_others():
    """A 2 x 3 design of main effects without a cell: least squares on made-up means finds them exactly."""
    cells = [cell for cell in product(range(2), range(3)) if cell != (1, 2)]
    made = design(2, 3, cells=cells, order=1)
    values = [10 + 3 * a + (0, 1, 5)[b] for a, b in cells]
    assert [dot(weights, values) for _, weights in made.contrasts((0,))] == [3]
    assert [dot(weights, values) for _, weights in made.contrasts((1,))] == [1, 5]
    assert dot(made.marginal({1: 2}), values) == Fraction(10 + 1.5 + 5)  # of a cell that was not run too
    assert not made.is_orthogonal and made.aliases((0,)) == [(0, 1)]


def with_(**changed):
    return {**ENTRY, **changed}


ONE = [{"label": "one", "method": "ssf-attn"}]
NO_EFFECT = [{"label": "a", "tau": 1}, {"label": "b", "tau": 1.0}]
REFUSED = {
    "one level": (with_(factors={**FACTORS, "part": ONE}), ["factors.part has 1 level", "at least two"]),
    "one factor": (with_(factors={"part": FACTORS["part"]}), ["at least two factors"]),
    "the same run": (with_(factors={"part": FACTORS["part"], "tau": NO_EFFECT}), ["same run", "levels of tau have no effect"]),
    "a level without options": (
        with_(factors={"part": FACTORS["part"], "x": [{"label": "a"}, {"label": "b"}]}),
        ["same run", "levels of x"],
    ),
    "an option without effect": (
        with_(
            factors={"loss": [{"sweep": "loss", "values": ["la", "ce"]}], "tau": [{"sweep": "tau", "values": [1, 2]}]},
            where={"dataset": "toy-ir20", "method": "ssf-ln"},
        ),
        ["cell (ce, 2)", "tau=2", "has no effect"],
    ),
    "an unknown option": (
        with_(factors={**FACTORS, "rate": [{"label": "a", "lrr": 1}, {"label": "b", "lrr": 2}]}),
        ["'lrr'", "'lr'"],
    ),
    "two factors of one option": (
        with_(factors={**FACTORS, "x": [{"sweep": "lr", "values": [1, 2]}]}),
        ["rate and factors.x both set lr"],
    ),
    "labels alike": (
        with_(factors={**FACTORS, "x": [{"label": "a", "tau": 1}, {"label": "a", "tau": 2}]}),
        ["two levels", "'a'"],
    ),
    "a value": (
        with_(factors={**FACTORS, "x": [{"label": "a", "value": "head"}, {"label": "b", "value": "tail"}]}),
        ["`values`"],
    ),
    "no metric": (with_(values=["parameters.head"]), ["values: parameters.head is no metric"]),
    "an unknown metric": (with_(values=["overal"]), ["overal", "overall"]),
    "interactions of more factors than there are": (with_(interactions=4), ["interactions: 4", "at most the 3 factors"]),
    "an empty fraction": (with_(fraction={"one_in": 2, "offset": 2}), ["offset 2 leaves no cell", "0 to 1"]),
    "a fraction of unequal levels": (with_(fraction={"one_in": 3}), ["one_in 3 does not divide the 2 levels of part"]),
    "a fraction of two factors": (
        with_(factors={k: FACTORS[k] for k in ("part", "loss")}, fraction={"one_in": 2}),
        ["cannot tell the main effect of loss"],
    ),
    "everything excluded": (with_(exclude=[{"part": "attn"}, {"part": "ln"}]), ["exclude leaves no cell"]),
    "a level excluded": (with_(exclude=[{"part": "attn"}]), ["no cell is left of the level attn of part"]),
    "an unknown factor": (with_(exclude=[{"prat": "attn"}]), ["exclude[0]", "'prat'", "part"]),
    "an unknown level": (with_(exclude=[{"part": "att"}]), ["exclude[0]", "'att'", "attn"]),
    "excluded twice": (
        with_(exclude=[{"part": "ln", "loss": "ce"}, {"part": "ln", "loss": "ce"}]),
        ["exclude[1]", "no cell any more"],
    ),
    "cells and a fraction": (with_(cells=[{"levels": {"part": "ln"}}], fraction={"one_in": 2}), ["`cells` says all"]),
    "a cell without a level": (with_(cells=[{"levels": {"part": "ln"}}]), ["cells[0].levels", "no level of loss, rate"]),
    "an unknown key": (with_(factor={}), ["factorial.d", "unknown key 'factor'", "'factors'"]),
    "each and a data set": (
        with_(
            each=["toy-ir20"], factors={**FACTORS, "x": [{"label": "a", "dataset": "toy"}, {"label": "b", "dataset": "other"}]}
        ),
        ["every level of factors.x sets dataset", "`each`"],
    ),
    "a method's slip": (
        with_(factors={**FACTORS, "part": [{"label": "a", "method": "ssf-atn"}, FACTORS["part"][1]]}),
        ["ssf-attn"],
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_meant_is_refused_when_the_study_is_read(name, tmp_path):
    entry, words = REFUSED[name]
    with pytest.raises(PelError) as error:
        study(tmp_path, entry)
    assert [word for word in ["s.yaml", "factorial.d", *words] if word not in str(error.value)] == []


def test_tuned_is_a_level_beside_settings_that_are_given(tmp_path):
    tune = {"grid": {"lr": [0.01, 0.1]}, "seeds": [10], "hold_out": 0.1}
    levels = [{"label": "given", "tune": False}, {"label": "tuned", "tune": tune}]
    made = study(tmp_path, with_(factors={"part": FACTORS["part"], "how": levels}))
    assert [bool(cell.tuned) for cell in made.artefact("d-anova").cells] == [False, True, False, True]
    levels[1]["tune"] = False
    with pytest.raises(PelError, match="are the same run"):
        study(tmp_path, with_(factors={"part": FACTORS["part"], "how": levels}))


def test_cells_may_be_listed_with_options_of_their_own(tmp_path):
    cells = [
        {"levels": {"part": part, "place": place}, "method": f"ssf-{part}@{blocks}"}
        for part, first, last in (("attn", ":1", "-1:"), ("ln", ":2", "-2:"))
        for place, blocks in (("first", first), ("last", last))
    ]
    factors = {
        name: [{"label": each} for each in levels] for name, levels in (("part", ("attn", "ln")), ("place", ("first", "last")))
    }
    made = study(tmp_path, with_(factors=factors, cells=cells))
    assert len({spec.method for spec in made.specs.values()}) == 4 and len(made.artefact("d").cells) == 4
    with pytest.raises(PelError, match=r"cells\[4\]: the cell \(ln, last\) is given twice"):
        study(tmp_path, with_(factors=factors, cells=[*cells, cells[-1]]))


def test_a_fraction_is_planned_and_its_plots_say_what_is_aliased(tmp_path):
    made = study(tmp_path, with_(fraction={"one_in": 2}))
    assert len(made.specs) == 4 * 3
    assert "0 of its 1 degrees of freedom" in made.left_out["d-part-loss"]
    assert [row["label"] for row in made.artefact("d").declaration["rows"]] == [
        "attn, la, lr 0.01", "attn, ce, lr 0.1", "ln, la, lr 0.1", "ln, ce, lr 0.01",
    ]  # fmt: skip


def test_data_sets_are_levels_across_the_table_and_one_that_is_not_bound_leaves_the_design_out(tmp_path):
    data = [{"label": "toy", "dataset": "toy-ir20"}, {"label": "other", "dataset": "other"}]
    entry = {"title": "T", "factors": {"data": data, "part": FACTORS["part"]}}
    made = study(tmp_path, entry)
    assert [column["label"] for column in made.artefact("d").declaration["columns"]] == ["toy", "other"]
    data[1]["dataset"] = "third"
    with pytest.raises(PelError, match="no data set for the role 'third'"):
        study(tmp_path, entry)


def test_classes_are_other_test_images_and_label_noise_is_not(tmp_path):
    data = [{"label": "plain"}, {"label": "noisy", "data.noise": 0.2}, {"label": "few", "data.classes": 3}]
    made = study(tmp_path, with_(factors={"data": data, "part": FACTORS["part"]}))
    plain, noisy, few = (images_of(cell) for cell in made.artefact("d-anova").cells[::2])
    assert plain == noisy != few
    held = with_(factors={"data": data, "part": FACTORS["part"]}, where={**ENTRY["where"], "split": "val", "data.val": 0.1})
    plain, noisy, few = (images_of(cell) for cell in study(tmp_path, held).artefact("d-anova").cells[::2])
    assert plain == noisy != few
    claims = {"c": {"statement": "S", "parts": [{**CLAIM, "a": {"data": "few"}, "b": {"data": "plain"}}]}}
    with pytest.raises(PelError, match=r"claims\.c: a and b are on different test images"):
        study(tmp_path, with_(factors={"data": data, "part": FACTORS["part"]}), claims)
    over = [{"dataset": "toy-ir20", "method": "adaptformer"}]
    part = {"a": {"data.classes": 3}, "b": {"data.classes": 4}, "over": over, "value": "overall", "expect": "higher"}
    with pytest.raises(PelError, match=r"claims\.c: a and b are on different test images"):
        study(tmp_path, ENTRY, {"c": {"statement": "S", "parts": [part]}})


CLAIM = {"factorial": "d", "a": {"part": "attn"}, "b": {"part": "ln"}, "value": "overall", "expect": "higher"}


def claim(folder, **changed):
    made = study(folder, ENTRY, {"c": {"statement": "S", "parts": [{**CLAIM, **changed}]}})
    return made.artefact("s-claims").claims[0].contrasts[0]


def test_a_claim_may_name_levels(tmp_path):
    whole = claim(tmp_path)
    assert whole.label == "attn - ln" and len(whole.pairs) == 4 and not whole.minus
    part = claim(tmp_path, over=[{"loss": "la"}], minus=[{"loss": "ce"}])
    assert part.label == "(attn - ln at la) - (the same at ce)" and len(part.pairs) == len(part.minus) == 2
    for a, b in (*whole.pairs, *part.pairs, *part.minus):
        one, two = a.specs[0], b.specs[0]
        assert (one.method, two.method) == ("ssf-attn", "ssf-ln") and (one.loss, one.lr) == (two.loss, two.lr)
    assert {a.specs[0].loss for a, _ in part.minus} == {"ce"}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"factorial": "dd"}, ["unknown factorial design 'dd'"]),
        ({"a": {"prat": "attn"}}, ["a: unknown factor 'prat'", "part"]),
        ({"b": {"part": "lnn"}}, ["b: unknown level of part 'lnn'", "ln"]),
        ({"b": {"part": "attn"}}, ["different levels of the same factors"]),
        ({"b": {"loss": "ce"}}, ["different levels of the same factors"]),
        ({"over": [{"part": "ln"}]}, ["over: part is what a and b compare"]),
        ({"ovr": []}, ["unknown key 'ovr'", "over"]),
    ],
)
def test_a_slip_in_a_claim_by_levels_is_named(tmp_path, changed, words):
    with pytest.raises(PelError) as error:
        claim(tmp_path, **changed)
    assert [word for word in ["claims.c", *words] if word not in str(error.value)] == []
