"""Studies: what the shipped YAML files expand into, how they may grow, and what each slip is told."""

import shutil
from pathlib import Path

import pytest
from fake_results import write_results

from pel_core.common.errors import PelError
from pel_core.common.files import read_json, write_json
from pel_core.common.yaml_files import load_yaml
from pel_core.spec.records import lookup
from pel_core.spec.results import METRICS, metrics_file, read_result
from pel_core.spec.run_spec import RunSpec
from pel_core.spec.values import value_path
from pel_core.studies.config import find, parse_seeds
from pel_core.studies.plan import plan
from pel_core.studies.status import status
from pel_core.studies.study import load, load_settings

CONFIGS = Path(__file__).parents[2] / "workflow/config"
SMALL = """
title: Small
roles: {small: Toy}
tables:
  t1:
    title: "{small}, one"
    where: {dataset: small-ir20}
    rows:
      - {label: PEL, method: adaptformer}
    columns:
      - {label: LA, value: overall}
      - {label: CE, value: tail, loss: ce}
"""
TOY = """
title: Toy
backbone: toy
seeds: [0]
data: {small: toy}
"""


@pytest.fixture
def files(tmp_path):
    """Write a study and a config and load them, after replacing words of either."""

    def make(study: str = SMALL, config: str = TOY, **settings):
        (tmp_path / "study.yaml").write_text(study)
        (tmp_path / "config.yaml").write_text(config)
        return load(tmp_path / "study.yaml", tmp_path / "config.yaml", results=tmp_path / "results", **settings)

    return make


@pytest.mark.parametrize(
    ("config", "runs", "artefacts"), [("demo", 37, 10), ("paper", 37, 10), ("cifar", 19, 5), ("images", 19, 5)]
)
def test_the_report_on_every_shipped_config(config, runs, artefacts):
    study = load("report", config, seeds="0")
    assert len(study.specs) == runs  # 4 methods on 7 data sets, 3 probes on 3 of them, shared between all artefacts
    assert len(study.artefacts) == artefacts
    assert len(load("report", config, seeds=[0, 1]).specs) == 2 * runs
    assert all(RunSpec.parse(slug) == spec for slug, spec in study.specs.items())


def test_the_reports_runs_keep_their_names():
    """Their results were made under these names: a recipe or default that changes one loses them."""
    pinned = (Path(__file__).parents[1] / "golden/report-runs.txt").read_text().split()
    now = {slug for config in ("demo", "cifar", "paper") for slug in load("report", config, seeds="0").specs}
    assert sorted(now) == pinned


def test_titles_call_a_role_as_the_study_does_unless_the_configuration_has_a_title(files):
    assert files().artefact("t1").title == "Toy, one"
    assert files(SMALL.replace("Toy}", "Caltech-30}")).artefact("t1").title == "Caltech-30, one"
    assert (
        files(config=TOY.replace("small: toy", "small: {dataset: toy, title: Stand-in}")).artefact("t1").title == "Stand-in, one"
    )


@pytest.mark.parametrize("config", ["own", "own-mini"])
def test_a_study_of_ones_own_says_how_titles_call_ones_own_images(tmp_path, config):
    (tmp_path / "mine.yaml").write_text((CONFIGS / "own-table.yaml").read_text().replace("own: Your images", "own: Caltech-30"))
    titles = {name: artefact.title for name, artefact in load(tmp_path / "mine.yaml", config).artefacts.items()}
    assert titles == {"own-table": "Caltech-30: accuracy (%)"}
    assert load("own-table", config).artefact("own-table").title == "Your images: accuracy (%)"
    shared = load("losses", config).artefacts.values()  # bound to ImageNet-LT's role, which these images are not
    assert shared and all("Your images" in artefact.title and "ImageNet" not in artefact.title for artefact in shared)


def test_the_demo_has_seeds_and_says_what_it_is():
    study = load()
    assert len(study.seeds) >= 2
    assert {artefact.banner[0] for artefact in study.artefacts.values()} == {"DEMO"}


def test_a_config_without_a_role_leaves_its_artefacts_out():
    study = load("report", "cifar")
    assert list(study.artefacts) == ["table1", "figure2", "figure3", "compare", "claims"]
    assert "imagenet-lt" in study.left_out["table2"]
    with pytest.raises(PelError, match=r"table2 is not part of .*cifar"):
        study.artefact("table2")
    with pytest.raises(PelError, match="Did you mean 'table1'"):
        study.artefact("tabel1")


def test_the_last_half_is_resolved_with_the_backbones_depth(files):
    study = files(SMALL.replace("method: adaptformer", 'method: "adaptformer@-2:+vpt-shallow"'))
    assert next(iter(study.specs)) == "toy-ir20.toy.adaptformer@2:4+vpt-shallow.s0"


def test_columns_may_set_any_field_and_values_share_runs(files):
    study = files()
    assert list(study.specs) == ["toy-ir20.toy.adaptformer.s0", "toy-ir20.toy.adaptformer.s0.loss=ce"]
    assert files(SMALL.replace(", loss: ce", "")).specs.keys() == {"toy-ir20.toy.adaptformer.s0"}


def test_evaluation_fields_share_the_training_run(files):
    study = files(SMALL.replace("loss: ce", "tte: none"))
    assert {spec.train.slug for spec in study.specs.values()} == {"toy-ir20.toy.adaptformer.s0"}
    assert study.delta("toy-ir20.toy.adaptformer.s0.tte=none").endswith("runs/toy-ir20.toy.adaptformer.s0/delta.safetensors")


def test_zero_shot_needs_no_training_run_and_keeps_its_recipe(files):
    study = files(SMALL.replace("adaptformer", "zero-shot").replace(", loss: ce", ""), TOY + "recipe: {epochs: 3}\n")
    assert study.delta("toy-ir20.toy.zero-shot.s0") == ""


def test_the_configs_recipe_and_numbers_like_5e_4(files):
    study = files(config=TOY + "recipe: {epochs: 3, lr: 5e-4}\n")
    assert next(iter(study.specs)) == "toy-ir20.toy.adaptformer.s0.epochs=3.lr=0.0005"


def test_artefacts_may_have_seeds_of_their_own(files):
    study = files(SMALL.replace("    rows:", "    seeds: [3, 4]\n    rows:"))
    assert {spec.seed for spec in study.specs.values()} == {3, 4}


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("title: Small", "title: Small\ntitle: Again", ["'title' was given before, on line 2"]),
        ("roles: {small: Toy}", "", ["the key 'roles' is missing"]),
        ("roles: {small: Toy}", "roles: [small]", ["roles: found [\"small\"], expected a mapping"]),
        ("    columns:", "    colums:", ["tables.t1", "'colums'", "Did you mean 'columns'?"]),
        ("method: adaptformer", "method: adaptfomer", ["tables.t1", "'adaptfomer'", "Did you mean 'adaptformer'?"]),
        ("method: adaptformer", 'method: "adaptformer@9:12"', ["tables.t1", "PEL x LA", "not inside the 4 blocks"]),
        ("value: tail", "value: tial", ["tables.t1", "'tial'", "Did you mean 'tail'?"]),
        ("value: tail", "value: parameters", ["tables.t1", "unknown value 'parameters'"]),
        ("loss: ce", "loss: la2", ["tables.t1", "PEL x CE", "'la2'", "Did you mean 'la'?"]),
        ("loss: ce", "lose: ce", ["tables.t1.columns[1]", "'lose'", "Did you mean 'loss'?"]),
        ("loss: ce", "lr: fast", ["PEL x CE", "lr=fast: expected a number"]),
        ("dataset: small-ir20", "dataset: smal-ir20", ["unknown role 'smal'", "Did you mean 'small'?"]),
        ("dataset: small-ir20", "backbone: toy", ["tables.t1", "no dataset is given"]),
        ("{label: PEL, method: adaptformer}", "{method: adaptformer}", ["tables.t1.rows[0]", "'label' is missing"]),
        ("- {label: PEL, method: adaptformer}", "[]", ["tables.t1.rows", "at least one"]),
        ("  t1:", "  t1/x:", ["tables", "letters, digits"]),
        ("title: Small", "title: !!python/object/apply:os.getcwd []", ["not valid YAML"]),
        ("title: Small", "title: [", ["not valid YAML"]),
        ('title: "{small}, one"', 'title: ""', ["tables.t1.title", "not empty"]),
    ],
)  # fmt: skip
def test_a_slip_in_a_study_says_where_what_and_the_nearest(files, old, new, words):
    assert old in SMALL
    with pytest.raises(PelError) as error:
        files(SMALL.replace(old, new))
    assert "study.yaml" in str(error.value)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("backbone: toy", "backbone: tony", ["unknown backbone 'tony'"]),
        ("seeds: [0]", "seeds: [0, 0]", ["seeds", "different whole numbers"]),
        ("seeds: [0]", "seeds: 0", ["seeds: found 0, expected a list"]),
        ("data: {small: toy}", "data: {smal: toy}", ["unknown role 'smal'", "Did you mean 'small'?"]),
        ("data: {small: toy}", "data: {small: toi}", ["unknown data set 'toi'", "Did you mean 'toy'?"]),
        ("data: {small: toy}", "data: {other: toy}", ["makes nothing", "the config names no data set for the role 'small'"]),
        ("title: Toy", "title: Toy\ncomparable: false", ["comparable is false; say why"]),
        ("title: Toy", "title: Toy\nrecipe: {lrr: 1}", ["recipe", "'lrr'", "Did you mean 'lr'?"]),
        ("title: Toy", "title: Toy\nresources: {threads: many}", ["resources.threads", "expected a whole number"]),
        ("title: Toy", "title: Toy\nweights: {clip-b61: x}", ["unknown backbone 'clip-b61'"]),
        ("title: Toy", "title: Toy\ndatasets: {mine: {train: a.txt}}", ["data set 'mine'", "root is missing"]),
    ],
)  # fmt: skip
def test_a_slip_in_a_config_says_where_what_and_the_nearest(files, old, new, words):
    assert old in TOY
    with pytest.raises(PelError) as error:
        files(config=TOY.replace(old, new))
    for word in ["config.yaml", *words]:
        assert word in str(error.value)


def test_the_study_in_the_docs_is_one(tmp_path):
    text = (CONFIGS.parents[1] / "docs/studies.md").read_text(encoding="utf-8")
    example = text.split("```yaml\n")[1].split("```")[0]
    (tmp_path / "losses.yaml").write_text(example)
    study = load(tmp_path / "losses.yaml", "demo", seeds="0")
    assert list(study.artefacts) == ["losses", "losses-tail"]
    assert len({spec.train.slug for spec in study.specs.values()}) == 3


def test_names_and_paths_of_yaml_files():
    assert find("report") == find(CONFIGS / "report.yaml") or find("report").samefile(CONFIGS / "report.yaml")
    with pytest.raises(PelError, match="Did you mean 'report'"):
        find("raport")
    with pytest.raises(PelError, match=r"no/such\.yaml does not exist"):
        find("no/such.yaml")


def test_keys_may_be_shared_by_anchors_and_merged(tmp_path):
    (tmp_path / "a.yaml").write_text("base: &b {x: 1}\nmore: {<<: *b, y: 5e-4}\nother: {<<: *b, x: 2}\n")
    assert load_yaml(tmp_path / "a.yaml")["more"] == {"x": 1, "y": 5e-4}
    assert load_yaml(tmp_path / "a.yaml")["other"] == {"x": 2}


@pytest.mark.parametrize(
    ("given", "seeds"),
    [
        ("0,1", [0, 1]),
        (3, [3]),
        ([1, 2], [1, 2]),
        ("0, 5", [0, 5]),
        ("0, 1", [0, 1]),
        ("0 1", [0, 1]),
        (" 3  1 ,2 ", [3, 1, 2]),
        ("0..4", [0, 1, 2, 3, 4]),
        ("7,0..2 9..9", [7, 0, 1, 2, 9]),
    ],
)
def test_seeds_as_they_come_from_a_command_line(given, seeds):
    assert parse_seeds(given) == seeds


DIGITS = ["²", "٣", "1²"]  # of which int() reads some
RANGES = ["4..0", "0..", "0...4", "0..4,3", "0..999999999"]


@pytest.mark.parametrize(
    "given", ["", " ", "a", "0,0", "-1", [0.5], "0,,1", "0,", "0_1", "1.0", True, "9" * 5000, *DIGITS, *RANGES]
)
def test_seeds_that_are_none(given):
    with pytest.raises(PelError, match="expected different whole numbers"):
        parse_seeds(given)


def test_settings_of_snakemake_are_known():
    with pytest.raises(PelError, match="Did you mean 'config'"):
        load_settings({"confg": "demo"})


def test_values_are_metrics_or_paths():
    assert value_path("tail") == "metrics.tail"
    assert value_path("parameters.head") == "parameters.head"
    assert {value_path(name) for name in METRICS} == {f"metrics.{name}" for name in METRICS}


# Reading results.


def test_a_missing_run_is_named_with_the_command_that_makes_it(files):
    study = files()
    with pytest.raises(PelError, match=r"toy-ir20\.toy\.adaptformer\.s0 has no result: .*snakemake --cores 1"):
        read_result(study.results, next(iter(study.specs.values())))


def spoil(study, **changes):
    """The first run's stored result with some keys replaced; its spec."""
    write_results(study.results, study.specs)
    slug, spec = next(iter(study.specs.items()))
    path = metrics_file(study.results, slug)
    record = read_json(path)
    for key, value in changes.items():
        record[key] = {**record[key], **value} if isinstance(value, dict) else value
    write_json(path, record)
    return spec


def test_another_versions_result_is_stale_until_accepted_by_name(files):
    study = files()
    spec = spoil(study, versions={"train": 0})
    with pytest.raises(PelError, match="stale: trained by version 0, this is 1"):
        read_result(study.results, spec)
    assert read_result(study.results, spec, accept=[spec.slug])["versions"]["train"] == 0
    assert study.missing() == [spec.slug]
    assert not files(config=f"{TOY}accept: ['{spec.slug}']\n").missing()


def test_a_result_of_before_a_change_of_a_few_entries_is_refused_by_what_changed(files, monkeypatch):
    study = files()
    spec = spoil(study)
    read_result(study.results, spec)
    monkeypatch.setattr("pel_core.spec.revisions.REVISIONS", (("images are drawn otherwise", lambda spec: True),))
    with pytest.raises(PelError, match=r"since a change: images are drawn otherwise\. .*makes it again"):
        read_result(study.results, spec)


def test_a_slug_that_means_something_else_now_is_refused(files):
    study = files()
    spec = spoil(study, spec={"lr": 0.5})
    with pytest.raises(PelError, match=r"means something else now \(lr: stored 0.5, now 0.01\)"):
        read_result(study.results, spec)


def test_a_result_older_than_a_field_is_good(files):
    study = files()
    spec = spoil(study)
    path = metrics_file(study.results, spec.slug)
    record = read_json(path)
    del record["spec"]["vpt_len"]
    write_json(path, record)
    assert read_result(study.results, spec)["slug"] == spec.slug


def test_results_in_a_wrong_folder_or_form_are_refused(files):
    study = files()
    spec = spoil(study, slug="other")
    with pytest.raises(PelError, match="holds the result of other"):
        read_result(study.results, spec)
    write_json(metrics_file(study.results, spec.slug), [1])
    with pytest.raises(PelError, match="not a result of this program"):
        read_result(study.results, spec)
    metrics_file(study.results, spec.slug).write_text("{")
    with pytest.raises(PelError, match="not valid JSON"):
        read_result(study.results, spec)


def test_a_value_that_is_not_stored_says_what_there_is(files):
    study = files()
    record = read_result(study.results, spoil(study))
    assert lookup(record, "metrics.per_class.0") == record["metrics"]["per_class"][0]
    with pytest.raises(PelError, match=r"unknown value 'heat'.*Did you mean 'head'"):
        lookup(record, "metrics.heat")


# What a run depends on.


def test_lists_and_weights_count_by_content_not_by_place(tmp_path, monkeypatch):
    monkeypatch.setenv("PEL_DATA", "")  # so that it is put back as it was: `root` sets it
    monkeypatch.delenv("PEL_DATA")
    with pytest.raises(PelError, match=r"data set 'photos'.*--config root=FOLDER"):
        load("report", "images").data_params("photos")
    for place in ("a", "b"):
        (tmp_path / place / "lists").mkdir(parents=True)
        for name in ("classnames.txt", "lists/test.txt", *(f"lists/train_ir{ir}.txt" for ir in (200, 100, 50, 10))):
            (tmp_path / place / name).write_text(name)
    first, moved = (load("report", "images", root=tmp_path / place).data_params("photos") for place in ("a", "b"))
    assert first == moved
    (tmp_path / "b/lists/test.txt").write_text("another line")
    assert load("report", "images", root=tmp_path / "b").data_params("photos") != first
    (tmp_path / "b/lists/test.txt").unlink()
    with pytest.raises(PelError, match=r"test\.txt does not exist"):
        load("report", "images", root=tmp_path / "b").data_params("photos")
    for place in ("a", "b"):
        (tmp_path / place / "w.pt").write_text("weights")
    paths = [load("report", "cifar", weights=tmp_path / place / "w.pt") for place in ("a", "b")]
    assert paths[0].backbone_params("clip-b16") == paths[1].backbone_params("clip-b16")
    assert paths[0].weights_option("clip-b16") != paths[1].weights_option("clip-b16")
    with pytest.raises(PelError, match=r"weights of clip-b16: no\.pt does not exist"):
        load("report", "cifar", weights="no.pt").backbone_params("clip-b16")


def test_a_label_changes_its_own_artefact_only(files, tmp_path):
    before, after = files(), None
    texts = {name: before.draw_params(name) for name in before.artefacts}
    trains = [before.train_params(slug) for slug in before.specs]
    after = files(SMALL.replace("label: PEL", "label: Adapter"))
    assert after.draw_params("t1") != texts["t1"]
    assert [after.train_params(slug) for slug in after.specs] == trains


# Plans.


def test_a_plan_counts_what_is_missing(files):
    study = files()
    text = plan(study)
    assert "Runs: 2, of which 0 done, 2 missing; to train 2, to evaluate 2." in text
    assert "of toy-ir20 are not counted: their sizes are not known" in text
    assert "TFLOP" not in text and "minute" not in text
    write_results(study.results, study.specs)
    assert "Nothing is missing" in plan(study)
    assert "2 runs: 2 done\n" in status(study)
    slug = next(iter(study.specs))
    shutil.rmtree(metrics_file(study.results, slug).parent)
    assert "2 runs: 1 done, 1 missing" in status(study) and f"{slug} " in status(study, every=True)
    assert "1 missing" in plan(study)


def test_a_plan_estimates_hours_from_finished_runs(tmp_path):
    study = load("report", "cifar", seeds="0,1", results=tmp_path)
    assert "hours are not known" in plan(study)
    write_results(tmp_path, {slug: spec for slug, spec in study.specs.items() if spec.seed == 0})
    text = plan(study)
    assert "19 missing" in text
    assert "at the speed measured in finished runs" in text


def test_a_plan_names_results_it_cannot_use(files):
    study = files()
    spoil(study, versions={"train": 0})
    assert "cannot be used: toy-ir20.toy.adaptformer.s0: stale" in plan(study)
