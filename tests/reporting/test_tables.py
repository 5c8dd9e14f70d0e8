"""Tables: golden text from a made-up sweep, the formats' promises, and the comparison with the report."""

import io
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_results import record_overall, write_predictions, write_results

from pel_core.cli.study_commands import show_text
from pel_core.common.errors import PelError
from pel_core.common.files import read_json, write_json
from pel_core.evaluation.outputs import write_parquet
from pel_core.reporting.compare import compare_files, compare_rows, read_reported
from pel_core.reporting.table_text import LONG
from pel_core.reporting.tables import millions, table_files, table_grid
from pel_core.spec.results import metrics_file, run_folder
from pel_core.studies.kinds import TABLE
from pel_core.studies.study import load

EXPECTED = Path(__file__).parents[1] / "expected"


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """The report at full size on made-up results of three seeds."""
    results = tmp_path_factory.mktemp("results")
    study = load("report", "paper", seeds="0,1,2", results=results)
    write_results(results, study.specs)
    return study


@pytest.mark.parametrize("suffix", TABLE)
@pytest.mark.parametrize("name", ["table1", "table4"])
def test_a_table_is_spelled_as_it_was(sweep, name, suffix):
    # To renew after a deliberate change: python tests/reporting/test_tables.py
    assert table_files(sweep, name)[suffix] == (EXPECTED / f"{name}.{suffix}").read_text(encoding="utf-8")


def test_tables_have_the_reports_rows_columns_and_parameters(sweep):
    columns = {"table1": ["200", "100", "50", "10"]}
    counts = {
        "table1": ["0.10M", "0.06M", "0.05M", "0.14M"],
        "table2": ["0.62M", "0.32M", "0.31M", "0.65M"],
        "table3": ["0.18M", "0.10M", "0.09M", "0.21M"],
        "table4": ["4.75M", "2.38M", "2.37M", "4.79M"],
    }
    for name, parameters in counts.items():
        frame = pd.read_csv(io.StringIO(table_files(sweep, name)["csv"]))
        values = columns.get(name, ["Overall", "Head", "Med", "Tail"])
        spread = [f"{value} std" for value in values]
        assert list(frame.columns) == [
            "Method", "Backbone", "Learnable Param.", "#Epochs", *values, *spread, "n", "parameters", "recipe", "note",
        ]  # fmt: skip
        assert list(frame["Method"]) == ["Original PEL", "VPT-S+Partial", "Partial", "LN+AdaptFormer"]
        assert list(frame["Learnable Param."]) == parameters
        assert set(frame["#Epochs"]) == {20 if name == "table4" else 10}
        assert frame[values].dtypes.eq("float64").all()
        assert set(frame["n"]) == {3}
        assert frame["note"].isna().all()


def test_a_mean_is_over_the_seeds_with_the_sample_deviation(sweep):
    frame = pd.read_csv(io.StringIO(table_files(sweep, "table2")["csv"])).set_index("Method")
    slugs = [f"imagenet-lt.clip-b16.adaptformer.s{seed}" for seed in (0, 1, 2)]
    tails = pd.Series([read_json(metrics_file(sweep.results, slug))["metrics"]["tail"] for slug in slugs])
    assert frame.loc["Original PEL", "Tail"] == pytest.approx(tails.mean(), abs=1e-4)
    assert frame.loc["Original PEL", "Tail std"] == pytest.approx(tails.std(), abs=1e-4)


def test_one_seed_prints_plainly(sweep):
    texts = table_files(load("report", "paper", seeds="0", results=sweep.results), "table1")
    assert "±" not in texts["md"]
    assert "pm" not in texts["tex"]
    assert "One seed (0)" in texts["md"]
    assert "std" not in texts["csv"].splitlines()[0]


def test_the_recipe_is_the_stored_one(sweep):
    grid = table_grid(sweep, "table1")
    for words in (
        "logit adjustment (tau 1)",
        "cosine (scale 25)",
        "class-text features",
        "lr 0.01",
        "epochs 10",
        "batch 128",
        "five crops",
        "224 px",
    ):
        assert words in grid.recipe


def test_a_demo_says_so_in_every_format(tmp_path):
    study = load("report", "demo", seeds="0", results=tmp_path)
    write_results(tmp_path, study.specs)
    for name in ("table1", "table2", "table3", "table4"):
        for suffix, text in table_files(study, name).items():
            assert "DEMO" in text and "not comparable" in text, f"{name}.{suffix}"
        assert set(pd.read_csv(io.StringIO(table_files(study, name)["csv"]))["note"]) == {study.config["notice"].strip()}


def test_a_missing_cell_names_its_run(sweep, tmp_path):
    study = load("report", "paper", seeds="7", results=sweep.results)
    with pytest.raises(PelError, match=r"the run cifar100-ir200\.clip-b16\.adaptformer\.s7 has no result"):
        table_files(study, "table1")


def test_an_empty_group_is_a_dash_with_its_reason(tmp_path):
    study = toy(tmp_path)
    for slug in study.specs:
        path = metrics_file(study.results, slug)
        record = read_json(path)
        record["metrics"] |= {"tail": None, "null_reasons": {"tail": "no class has fewer than 20 images"}}
        write_json(path, record)
        classes = path.parent / "classes.csv"
        classes.write_text(classes.read_text().replace("tail", "med"))
    texts = table_files(study, "t")
    assert "| – |" in texts["md"] and "**" in texts["md"]  # the other column keeps its marks
    assert "tail: none, no class has fewer than 20 images" in texts["md"]
    assert "--" in texts["tex"]
    assert pd.read_csv(io.StringIO(texts["csv"]))["tail"].isna().all()
    assert "nan" not in texts["csv"].lower() and "None" not in texts["csv"] and "nan" not in texts["long.csv"].lower()


@pytest.mark.parametrize(
    ("count", "text"), [(101_436, "0.10M"), (4_749_324, "4.75M"), (50_718, "0.05M"), (3_852, "0.0039M"), (0, "0.00M")]
)
def test_parameter_counts_are_printed_as_the_report_does(count, text):
    assert millions(count) == text


def test_counts_of_one_table_have_the_same_digits():
    assert [millions(count, 3_852) for count in (3_852, 13_848)] == ["0.0039M", "0.0138M"]


# Marks


def toy(folder, options="", rows=("adaptformer", "ssf-ln", "zero-shot"), seeds=(0, 1, 2), columns="overall, tail"):
    """A study of one table on made-up results, a row for each method."""
    labels = ", ".join(f"{{label: {name}, method: {name}}}" for name in rows)
    shown = ", ".join(f"{{label: {value}, value: {value}}}" for value in columns.split(", "))
    where = "where: {dataset: toy-ir20}"
    text = f"title: T\nroles: {{toy: Toy}}\ntables:\n  t: {{title: T, {where}, rows: [{labels}], columns: [{shown}]{options}}}\n"
    (folder / "s.yaml").write_text(text)
    (folder / "c.yaml").write_text(f"{{title: T, backbone: toy, seeds: {list(seeds)}, data: {{toy: toy}}}}")
    study = load(folder / "s.yaml", folder / "c.yaml", results=folder / "results")
    write_results(study.results, study.specs)
    return study


def say(study, **means):
    """Make methods right about as many percent of the images of every group, a little more at each next seed; printed too."""
    for slug, spec in study.specs.items():
        value = means[spec.method.replace("-", "_")] + (spec.seed if spec.trains else 0)
        rates = dict.fromkeys(("head", "med", "tail"), value)
        write_predictions(study.results, spec, rates)
        record = read_json(metrics_file(study.results, slug))
        record["metrics"] |= {**rates, "overall": value}
        write_json(metrics_file(study.results, slug), record)


def long(study):
    frame = pd.read_csv(io.StringIO(table_files(study, "t")["long.csv"]), keep_default_na=False)
    assert tuple(frame.columns) == LONG
    return frame.set_index(["row", "column"])


def test_the_best_is_bold_and_what_is_not_separable_from_it_underlined(tmp_path):
    study = toy(tmp_path, ", baseline: zero-shot")
    say(study, adaptformer=70, ssf_ln=69, zero_shot=20)
    texts, numbers = table_files(study, "t"), long(study)
    assert "| adaptformer | 0.0" in texts["md"] and "| **71.0** ± 1.0 ↑ | **71.0** ± 1.0 ↑ |" in texts["md"]
    assert "| <u>70.0</u> ± 1.0 ↑ |" in texts["md"] and "| 20.0 | 20.0 |" in texts["md"]  # zero-shot has no part of the seed
    assert r"\pelbest{71.0} $\pm$ 1.0\pelabove{}" in texts["tex"] and r"\pellike{70.0}" in texts["tabular.tex"]
    assert "2 comparisons with the best and 2 with zero-shot" in texts["md"]
    assert "Arrows: separably above or below zero-shot" in texts["md"] and "(N = 800); tail" in texts["md"]
    best, like, zero = (numbers.loc[(name, "overall")] for name in ("adaptformer", "ssf-ln", "zero-shot"))
    assert (best["mark"], like["mark"], zero["mark"]) == ("best, above baseline", "like best, above baseline", "")
    assert float(zero["p_best_holm"]) < 0.001 < float(like["p_best"]) and float(like["minus_best"]) == -1
    assert float(like["low"]) < float(like["training_low"]) < 70 and (zero["sd"], zero["training_low"]) == ("", "")
    for column in ("mean", "sd", "low", "high", "p_best", "p_baseline", "p_baseline_holm"):
        assert like[column] != "", column


@pytest.mark.parametrize(
    ("seeds", "words"),
    [((0,), "Nothing is marked: one seed; at least three"), ((0, 1), "Nothing is marked: two seeds; at least three")],
)
def test_nothing_is_marked_under_three_seeds(tmp_path, seeds, words):
    study = toy(tmp_path, ", baseline: zero-shot", seeds=seeds)
    say(study, adaptformer=70, ssf_ln=69, zero_shot=20)
    text = table_files(study, "t")["md"]
    assert words in text and ("smallest difference that 2 seeds and N test images show" in text) == (len(seeds) == 2)
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert not any(mark in line for line in table for mark in ("**", "<u>", "↑"))
    assert set(long(study)["mark"]) == {""}


def test_a_better_end_below_and_values_that_no_image_makes(tmp_path):
    study = toy(tmp_path, columns="error_rate, parameters.learnable")
    say(study, adaptformer=70, ssf_ln=40, zero_shot=20)
    found = long(study)["mark"]
    assert found["adaptformer", "error_rate"] == "best" and set(found[:, "parameters.learnable"]) == {""}


def test_without_predictions_nothing_is_marked_and_the_command_is_named(tmp_path):
    study = toy(tmp_path)
    slug = "toy-ir20.toy.ssf-ln.s1"
    (run_folder(study.results, slug) / "predictions.parquet").unlink()
    text = table_files(study, "t")["md"]
    assert "Nothing is marked: " in text and f"python -m pel_core score '{slug}'" in text and "**" not in text


def test_predictions_that_do_not_give_the_recorded_accuracy_are_refused_by_name(tmp_path):
    study = toy(tmp_path)
    say(study, adaptformer=70, ssf_ln=69, zero_shot=20)
    slug = "toy-ir20.toy.ssf-ln.s1"
    record_overall(study.results, slug, 70.2)  # by an image and more
    told = rf"{re.escape(slug)}: its predictions\.parquet gives .* 70\.00 % \(800 images\), but .* 70\.20 %: .* score '{slug}'"
    with pytest.raises(PelError, match=told):
        table_files(study, "t")
    record_overall(study.results, slug, 70.05)  # rounding, as an earlier version may have written it
    assert "**" in table_files(study, "t")["md"]


def test_one_test_image_marks_nothing_and_says_why(tmp_path):
    """Once the rows beside the best were plain, as if they had been told from it."""
    study = toy(tmp_path, columns="overall, error_rate")
    for slug, spec in study.specs.items():
        path, said = run_folder(study.results, slug) / "predictions.parquet", np.array([2 if spec.trains else 1], np.int32)
        table = {"index": np.zeros(1, np.int32), "path": None, "label": np.array([2], np.int32), "prediction": said}
        write_parquet(path, table, {"data_sha256": "one"})
        record_overall(study.results, slug, 100.0 * (said[0] == 2))
    texts = table_files(study, "t")
    assert "Nothing is marked: one test image says nothing of other images." in texts["md"] and "**" not in texts["md"]
    assert "nan" not in "".join(texts.values()).lower() and set(long(study)["mark"]) == {""}


def test_zero_shot_with_crops_of_the_seed_is_a_row_of_several_runs(tmp_path):
    labels = "rows: [{label: a, method: adaptformer}, {label: z, method: zero-shot}, {label: r, method: zero-shot, tte: randaug}]"
    (tmp_path / "s.yaml").write_text(
        "title: T\nroles: {toy: Toy}\ntables:\n  t: {title: T, where: {dataset: toy-ir20}, "
        f"{labels}, columns: [{{label: overall, value: overall}}]}}\n"
    )
    (tmp_path / "c.yaml").write_text("{title: T, backbone: toy, seeds: [0, 1, 2], data: {toy: toy}}")
    study = load(tmp_path / "s.yaml", tmp_path / "c.yaml", results=tmp_path / "results")
    write_results(study.results, study.specs)
    for seed, spec in enumerate(spec for spec in study.specs.values() if spec.tte == "randaug"):
        write_predictions(study.results, spec, dict.fromkeys(("head", "med", "tail"), 20 + seed))
    numbers, text = long(study), table_files(study, "t")["md"]
    assert "| 21.0 ± 1.0 |" in text and float(numbers.loc["r", "overall"]["training_low"]) < 20
    assert (numbers.loc["z", "overall"]["sd"], numbers.loc["z", "overall"]["training_low"]) == ("", "")


@pytest.mark.parametrize(("spread", "shown"), [("sd", "1.0"), ("se", "0.6"), ("ci", "2.5")])
def test_the_spread_is_what_was_asked_for(tmp_path, spread, shown):
    study = toy(tmp_path, f", spread: {spread}")
    say(study, adaptformer=70, ssf_ln=69, zero_shot=20)
    assert f"71.0** ± {shown} |" in table_files(study, "t")["md"]


def test_intervals_in_the_cells_are_the_general_ones(tmp_path):
    study = toy(tmp_path, ", intervals: true")
    say(study, adaptformer=70, ssf_ln=69, zero_shot=20)
    low, high = (float(long(study).loc[("zero-shot", "overall")][end]) for end in ("low", "high"))
    text = table_files(study, "t")["md"]
    assert f"| 20.0 [{low:.1f}, {high:.1f}] |" in text and low < 20 < high and "±" not in text


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (("adaptformer", "ssf-ln"), "unknown baseline 'zero-shot'"),
        (("zero-shot", "zero-shot"), "baseline: 2 rows are labelled 'zero-shot'"),
    ],
)
def test_a_baseline_is_one_row_of_the_table(tmp_path, rows, message):
    with pytest.raises(PelError, match=message):
        toy(tmp_path, ", baseline: zero-shot", rows)


def test_what_all_rows_share_stands_above_unless_it_is_asked_for(tmp_path):
    text = table_files(toy(tmp_path), "t")["md"]
    assert "\nBackbone: " in text and "| Method | Learnable Param. | #Epochs | overall |" in text  # zero-shot has no epochs
    text = table_files(toy(tmp_path, ", info: [backbone]"), "t")["md"]
    assert "| Method | Backbone | overall |" in text


# compare


def test_every_reported_number_is_beside_a_measured_one(sweep):
    lines = compare_rows(sweep)
    values = {(*tuple(line[i] for i in (0, 1, 4)), line[3]): line for line in lines if line[4] != "learnable_param_m"}
    reported = read_reported(sweep)
    assert sum(bool(line[8]) for line in values.values()) == len(reported)
    assert len(values) == 16 + 3 * 16 + 9
    unreported = [line for line in values.values() if not line[8]]
    assert {(line[0], line[3]) for line in unreported} == {("table4", "ln+adaptformer")}
    suspect = [line for line in values.values() if "suspect" in line[13]]
    assert {(line[0], line[3]) for line in suspect} == {("table4", "adaptformer@-6:")}
    parameters = [line for line in lines if line[4] == "learnable_param_m"]
    assert len(parameters) == 4 + 4 + 4 + 3 + 9
    assert {line[9] for line in parameters} == {"+0.00"}  # the counts at full size are the report's


def test_a_difference_is_measured_minus_reported(sweep):
    frame = pd.read_csv(io.StringIO(compare_files(sweep)["csv"]))
    assert (
        (frame["measured"] - frame["reported"] - frame["difference"]).abs().dropna() < 0.0101
    ).all()  # each is rounded to two digits
    assert set(frame["comparable"]) == {"yes"}


def test_a_demo_is_not_comparable_in_words(tmp_path):
    study = load("report", "demo", seeds="0", results=tmp_path)
    write_results(tmp_path, study.specs)
    texts = compare_files(study)
    assert "Not comparable." in texts["md"]
    frame = pd.read_csv(io.StringIO(texts["csv"]))
    assert set(frame["comparable"]) == {"no"} and not frame["flag"].fillna("").str.contains("outside").any()
    assert frame["note"].str.contains("not comparable").all()


def test_no_result_comes_from_the_reported_file(sweep, tmp_path):
    lost = load("report", "paper", seeds="0", results=tmp_path)
    with pytest.raises(PelError, match="has no result"):
        compare_files(lost)


def test_reported_values_of_another_form_are_refused(sweep, tmp_path):
    (tmp_path / "reported.csv").write_text("a,b\n1,2\n")
    sweep.reported["path"] = tmp_path / "reported.csv"
    try:
        with pytest.raises(PelError, match="expected the columns artifact, dataset"):
            compare_files(sweep)
    finally:
        sweep.reported["path"] = sweep.path.parent / sweep.reported["file"]


def test_the_screen_shows_tables_and_what_is_missing(sweep, tmp_path):
    (sweep.results / "tables").mkdir(exist_ok=True)
    for suffix, text in table_files(sweep, "table1").items():
        (sweep.results / f"tables/table1.{suffix}").write_text(text)
    text = show_text(sweep)
    assert "Original PEL    0.10M             *79.0* ± 0.1  *81.7* ± 0.1" in text and "<u>" not in text and "**" not in text
    assert "Not made yet: table2" in text
    assert text.count("Recipe") == 1 and "Recipe of all: loss logit adjustment (tau 1); classifier cosine" in text


def test_a_table_says_what_of_its_recipe_is_not_the_default(sweep, tmp_path):
    texts = table_files(sweep, "table1")
    assert "\nRecipe: PEL-Lab's defaults. All of it: `table1.csv`.\n" in texts["md"]
    whole = pd.read_csv(io.StringIO(texts["csv"]))["recipe"][0]
    assert f"\n% {whole}\n" in texts["tex"] and texts["tex"].count("logit adjustment (tau 1)") == 1  # for a paper to say once
    assert "\nRecipe: PEL-Lab's defaults.\\par\n" in texts["tex"]
    text = table_files(toy(tmp_path), "t")["md"]
    assert "\nRecipe: PEL-Lab's defaults, but " in text and "; batch 32; " in text and "momentum 0.9" not in text


ALL_AND_FEWER = "{label: all, method: adaptformer}, {label: three, method: adaptformer, data.classes: 3}"


@pytest.mark.parametrize("more", ["", ", {label: ssf, method: ssf-ln}"])
def test_rows_of_fewer_classes_stand_in_a_table_and_are_not_compared(tmp_path, more):
    """docs/data.md's own example: it was refused once all of its runs were made. Other rows are compared all the same."""
    rows = f"[{ALL_AND_FEWER}{more}]"
    text = f"title: T\nroles: {{a: A}}\ntables:\n  t: {{title: T, where: {{dataset: a-ir20}}, rows: {rows}, "
    (tmp_path / "s.yaml").write_text(text + "columns: [{label: All, value: overall}]}\n")
    (tmp_path / "c.yaml").write_text("title: C\nbackbone: toy\nseeds: [0, 1, 2]\ndata: {a: toy}\n")
    study = load(tmp_path / "s.yaml", tmp_path / "c.yaml", results=tmp_path / "results")
    write_results(study.results, study.specs)
    for slug, spec in study.specs.items():
        if spec.factors.classes == 3:
            labels = np.arange(8, dtype=np.int32)
            path = run_folder(study.results, slug) / "predictions.parquet"
            about = {"slug": slug, "split": "test", "data_sha256": "fewer"}
            write_parquet(path, {"index": labels, "path": None, "label": labels, "prediction": labels}, about)
            record_overall(study.results, slug, 100.0)
    texts = table_files(study, "t")
    if not more:
        assert "Nothing is marked: the rows are on different test images." in texts["md"]
        return
    assert "Nothing is marked" not in texts["md"] and "a column's 1 comparison with the best" in texts["md"]
    assert "Compared with none, being on other test images than the other rows: three." in texts["md"]
    marked = pd.read_csv(io.StringIO(texts["long.csv"])).set_index("row")
    assert marked.loc[["all", "ssf"], "mark"].notna().any() and pd.isna(marked.loc["three", "mark"])
    assert marked.loc["three", "reason"] == "the rows are on different test images"


if __name__ == "__main__":
    import tempfile

    EXPECTED.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        made = load("report", "paper", seeds="0,1,2", results=folder)
        write_results(folder, made.specs)
        for table in ("table1", "table4"):
            for kind, content in table_files(made, table).items():
                (EXPECTED / f"{table}.{kind}").write_text(content, encoding="utf-8")
