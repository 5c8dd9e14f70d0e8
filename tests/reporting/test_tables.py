"""Tables: golden text from a made-up sweep, the formats' promises, and the comparison with the report."""

import io
from pathlib import Path

import pandas as pd
import pytest
from fake_results import write_results

from pel_core.cli.study_commands import show_text
from pel_core.common.errors import PelError
from pel_core.common.files import read_json, write_json
from pel_core.reporting.compare import compare_files, compare_rows, read_reported
from pel_core.reporting.tables import Statistic, _best, millions, table_files, table_grid
from pel_core.spec.results import metrics_file
from pel_core.studies.study import load

EXPECTED = Path(__file__).parents[1] / "expected"


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """The report at full size on made-up results of three seeds."""
    results = tmp_path_factory.mktemp("results")
    study = load("report", "paper", seeds="0,1,2", results=results)
    write_results(results, study.specs)
    return study


@pytest.mark.parametrize("suffix", ["csv", "md", "tex"])
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
    study = load("report", "cifar", seeds="0", results=tmp_path)
    write_results(tmp_path, study.specs)
    for slug in study.specs:
        path = metrics_file(tmp_path, slug)
        record = read_json(path)
        record["metrics"] |= {"overall": None, "null_reasons": {"overall": "no class has fewer than 20 images"}}
        write_json(path, record)
    texts = table_files(study, "table1")
    assert "| – |" in texts["md"]
    assert "none, no class has fewer than 20 images" in texts["md"]
    assert "--" in texts["tex"]
    assert pd.read_csv(io.StringIO(texts["csv"]))["100"].isna().all()
    assert "NaN" not in texts["csv"] and "None" not in texts["csv"]


@pytest.mark.parametrize(
    ("count", "text"), [(101_436, "0.10M"), (4_749_324, "4.75M"), (50_718, "0.05M"), (3_852, "0.0039M"), (0, "0.00M")]
)
def test_parameter_counts_are_printed_as_the_report_does(count, text):
    assert millions(count) == text


def test_counts_of_one_table_have_the_same_digits():
    assert [millions(count, 3_852) for count in (3_852, 13_848)] == ["0.0039M", "0.0138M"]


def test_the_best_is_judged_as_printed_and_by_its_better_end():
    column = [[Statistic(value, None, 1)] for value in (80.04, 80.01, 79.0)]
    assert _best(column, ["metrics.overall"], 1) == {(0, 0), (1, 0)}
    assert _best(column, ["metrics.error_rate"], 1) == {(2, 0)}
    assert _best(column, ["parameters.learnable"], 1) == set()
    assert _best(column[:1], ["metrics.overall"], 1) == set()


# compare


def test_every_reported_number_is_beside_a_measured_one(sweep):
    lines = compare_rows(sweep)
    values = {(*tuple(line[i] for i in (0, 1, 4)), line[3]): line for line in lines if line[4] != "learnable_param_m"}
    reported = read_reported(sweep)
    assert sum(bool(line[8]) for line in values.values()) == len(reported)
    assert len(values) == 16 + 3 * 16 + 9
    unreported = [line for line in values.values() if not line[8]]
    assert {(line[0], line[3]) for line in unreported} == {("table4", "ln+adaptformer")}
    suspect = [line for line in values.values() if line[11]]
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
    assert set(frame["comparable"]) == {"no"}
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
    assert "Original PEL    ViT-B/16  0.10M" in text
    assert "Not made yet: table2" in text


if __name__ == "__main__":
    import tempfile

    EXPECTED.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        made = load("report", "paper", seeds="0,1,2", results=folder)
        write_results(folder, made.specs)
        for table in ("table1", "table4"):
            for kind, content in table_files(made, table).items():
                (EXPECTED / f"{table}.{kind}").write_text(content, encoding="utf-8")
