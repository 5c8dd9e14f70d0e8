"""A run on another data set's images (`evaluate_on`): which class is which, restricted logits, what is refused, what is stale."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from pel_core.cli.main import main
from pel_core.common.errors import PelError
from pel_core.common.files import read_json
from pel_core.common.tensors import read_tensors
from pel_core.data.datasets import Prepared, open_prepared
from pel_core.data.split import Split
from pel_core.data.test_sets import TestSet, match_classes, restricted
from pel_core.demo.stand_ins import STAND_INS
from pel_core.gallery.answers import of_runs
from pel_core.hardware.lease import SignOfLife
from pel_core.ingest.prepare import prepare
from pel_core.reporting.sensitivity import will_show
from pel_core.reporting.statistics.reading import Reader
from pel_core.spec import long_names
from pel_core.spec.results import invalid_reason, metrics_file, read_record, run_folder
from pel_core.spec.run_spec import RunSpec
from pel_core.studies.plan import plan
from pel_core.studies.study import load

NAMES = ["red", "green", "blue", "yellow", "cyan", "magenta"]  # of the toy data


def prepared(names: list[str], folders: list[str] | None = None, name: str = "other") -> Prepared:
    """A data set of one test image and (class + 1) training images a class, in folders called so."""
    labels = {"train": np.repeat(np.arange(len(names)), np.arange(1, len(names) + 1)), "test": np.arange(len(names))}
    paths = {split: folders and [f"/x/{split}/{folders[label]}/{i}.jpg" for i, label in enumerate(each)]
             for split, each in labels.items()}  # fmt: skip
    splits = {split: Split(each, paths=paths[split], file=split) for split, each in labels.items()}
    counts = np.bincount(labels["train"], minlength=len(names))
    return Prepared(name, names, None, **splits, val=None, train_counts=counts, groups=["head"] * len(names), sha256="0")


TRAINED = prepared(["tench", "crane", "crane", "shark"], ["n01", "n09", "n20", "n05"], "trained")


@pytest.mark.parametrize(
    "how, names, folders, members",
    [
        ({}, ["shark", "tench"], None, [[0], [3]]),
        ({"classes": "folders"}, ["a", "b", "c"], ["n20", "n01", "n09"], [[0], [1], [2]]),
        ({"classes": "sorted-folders"}, ["0", "10", "2"], ["0", "1", "2"], [[0], [1], [3]]),  # n01, n05, n09: not label order
        ({"leave_out": ["dog"]}, ["shark", "dog", "tench"], None, [[0], [3]]),
        ({"leave_out": "others"}, ["shark", "dog", "tench"], None, [[0], [3]]),
        ({"leave_out": ["n77"], "classes": "folders"}, ["a", "b", "c"], ["n20", "n77", "n01"], [[0], [2]]),
        ({"count": 2}, ["shark", "tench"], None, [[0], [3]]),
    ],
)  # fmt: skip
def test_classes_are_recognised(how, names, folders, members):
    found = match_classes(TRAINED, prepared(names, folders), TestSet(**how))
    assert found.members == members and sorted(found.labels[found.labels >= 0].tolist()) == [*range(len(members))]
    assert found.names == [TRAINED.class_names[each[0]] for each in members]
    assert [names[i] for i in np.flatnonzero(found.labels < 0)] == found.left_out


def test_a_file_says_which_class_is_which(tmp_path):
    given = {"bird": ["n09", "n20"], "fish": "tench", "dog": None}
    (tmp_path / "map.json").write_text(json.dumps(given))
    other = prepared(["fish", "dog", "bird"], ["f", "d", "b"])
    found = match_classes(TRAINED, other, how := TestSet(classes=str(tmp_path / "map.json")))
    assert (found.names, found.members, found.left_out) == (["tench", "bird"], [[0], [1, 2]], ["dog"])
    logits = np.array([[1.0, 2.0, 5.0, 9.0], [4.0, 3.0, 2.0, 0.0]])
    assert found.restrict(logits).tolist() == [[1.0, 5.0], [4.0, 3.0]], "a class that is several has the largest of their logits"
    data = restricted(TRAINED, other, how, found)
    assert data.test.labels.tolist() == [0, 1] and data.train_counts.tolist() == [1, 2 + 3] and data.class_names == found.names


@pytest.mark.parametrize(
    "how, names, folders, message",
    [
        ({}, ["shark", "dog", "cat"], None, "2 of its 3 classes are none of the 4 that trained trains on: dog, cat. .*leave_out"),
        ({}, ["crane", "shark"], None, "'crane' stands for several classes; say which is which by folders, or a JSON file"),
        ({"leave_out": ["cat"]}, ["shark", "tench"], None, "leave_out: 'cat' is none of its 2 classes"),
        ({"leave_out": "others"}, ["shark", "dog"], None, "1 of its classes fit trained; expected at least two"),
        ({"count": 200}, ["shark", "tench"], None, "2 of its classes fit trained, expected 200 as published"),
        ({"classes": "folders"}, ["shark", "tench"], None, "images of other are not in a folder for each class"),
        ({"classes": "sorted-folders"}, ["a", "b"], ["0", "n01"], "its folder 'n01' is no number"),
        ({"classes": {"shark": "tench", "tench": "tench"}}, ["shark", "tench"], None, "several of its classes are 'tench'"),
        ({"classes": {"shark": "crane", "tench": "tench"}}, ["shark", "tench"], None, "'shark': 'crane' is several classes"),
        (
            {"classes": {"shark": "whale", "tench": "tench"}},
            ["shark", "tench"],
            None,
            "'whale' is no class that trained trains on",
        ),
        ({"classes": {"shark": 3, "tench": "tench"}}, ["shark", "tench"], None, "'shark' is 3; expected a class of trained"),
        ({"classes": {"whale": "tench"}}, ["shark", "tench"], None, "'whale' is none of its 2 classes"),
        ({"classes": {"shark": "shark"}}, ["shark", "tench"], None, "1 of its 2 classes are none .*: tench"),
        ({"classes": []}, ["shark", "tench"], None, "holds no mapping"),
    ],
)
def test_classes_that_do_not_fit_are_named(tmp_path, how, names, folders, message):
    if not isinstance(how.get("classes", ""), str):
        (tmp_path / "map.json").write_text(json.dumps(how["classes"]))
        how = {**how, "classes": str(tmp_path / "map.json")}
    with pytest.raises(PelError, match=f"evaluate_on=other: .*{message}"):
        match_classes(TRAINED, prepared(names, folders), TestSet(**how))


def test_folders_of_some_classes_have_other_numbers():
    with pytest.raises(PelError, match=r"data.classes takes some of the classes"):
        how = TestSet(classes="sorted-folders")
        match_classes(replace(TRAINED, classes=np.array([0, 1, 2, 3])), prepared(["a", "b"], ["0", "1"]), how)


SLUG = "toy-ir20.toy.adaptformer.s0"


@pytest.mark.parametrize(
    "options, message",
    [
        ({"evaluate_on": "toy"}, "another data set than it is trained on"),
        ({"evaluate_on": "toy-ir20"}, "a data set without -irRATIO"),
        ({"evaluate_on": "Toys"}, "a data set without -irRATIO"),
        ({"evaluate_on": "shapes", "split": "val"}, "it must be test with evaluate_on=shapes"),
        ({"evaluate_on": "shapes", "posthoc.la": "val"}, "has other classes than the validation images"),
    ],
)
def test_runs_that_cannot_be(options, message):
    with pytest.raises(PelError, match=message):
        RunSpec.make("toy-ir20", "toy", "adaptformer", 0, **options)


def test_the_training_stays_the_same():
    spec = RunSpec.parse(f"{SLUG}.evaluate_on=shapes")
    assert spec.train.slug == SLUG and spec.data_bases == ("toy", "shapes") and RunSpec.parse(SLUG).data_bases == ("toy",)


@pytest.fixture(scope="module")
def shifted(toy_results, tmp_path_factory):
    """A results folder with a trained toy run, and a data set `shapes`: the toy test images of three classes, and others."""
    results, root = tmp_path_factory.mktemp("shifted") / "results", tmp_path_factory.mktemp("images")
    shutil.copytree(toy_results, results)
    test = open_prepared(results / "data/toy", "toy-ir20").test
    for i, label in enumerate(test.labels.tolist()):
        if NAMES[label] in ("blue", "red", "cyan"):
            (path := root / f"test/{NAMES[label]}/{i:03d}.png").parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.asarray(test.images[i])).save(path)
    for name in ("blue", "red", "cyan", "black"):
        for split, count in (("train", 2), ("test", name == "black")):
            for i in range(count):
                (path := root / f"{split}/{name}/x{i}.png").parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (20, 20), (40 * i, 7, 99)).save(path)
    config = {"datasets": {"shapes": {"kind": "folders", "root": str(root)}}}
    prepare("shapes", results / "data/shapes", config)
    words = ["--results", str(results), "--no-tensorboard"]
    assert main(["train", SLUG, *words]) == 0 and main(["evaluate", SLUG, *words, "--logits", "full"]) == 0
    return results, config


def evaluate(results: Path, **how) -> int:
    words = ["--results", str(results), "--no-tensorboard", "--logits", "full", "--test-set", json.dumps(how)]
    return main(["evaluate", f"{SLUG}.evaluate_on=shapes", *words])


def test_a_class_that_is_left_out_unsaid_stops_it(shifted, capsys):
    assert evaluate(shifted[0]) == 1
    assert "1 of its 4 classes are none of the 6 that toy-ir20 trains on: black" in capsys.readouterr().err
    assert not metrics_file(shifted[0], f"{SLUG}.evaluate_on=shapes").exists()


def test_other_images_are_predicted_with_logits_of_their_classes(shifted):
    results, _ = shifted
    own = read_json(metrics_file(results, SLUG))
    assert evaluate(results, leave_out=["black"]) == 0
    spec = RunSpec.parse(f"{SLUG}.evaluate_on=shapes")
    file = metrics_file(results, spec.slug)
    assert file.parent.parent == metrics_file(results, SLUG).parent, "it lies inside its training's folder"
    record, there = read_json(file), [NAMES.index(name) for name in ("red", "blue", "cyan")]
    assert record["data"]["classes"] == 3 and record["data"]["test_images"] == 30
    assert record["data"]["train_counts"] == [own["data"]["train_counts"][label] for label in there]
    assert record["test_set"]["left_out"] == ["black"] and record["delta_sha256"] == own["delta_sha256"]
    labels = open_prepared(results / "data/toy", "toy-ir20").test.labels
    whole, few = (read_tensors(path.with_name("logits.safetensors"))[0] for path in (metrics_file(results, SLUG), file))
    rows = np.concatenate([np.flatnonzero(labels == label) for label in sorted(there, key=lambda label: NAMES[label])])
    expected = whole["logits"].numpy()[rows][:, there]
    np.testing.assert_allclose(few["logits"].numpy(), expected, atol=0.15)  # files are resized by Pillow, arrays on the device
    hits = (few["logits"].argmax(1) == few["labels"]).float().mean()
    assert record["metrics"]["overall"] == pytest.approx(100 * float(hits))
    reader = Reader(results)
    assert reader.run(spec).images.digest != reader.run(RunSpec.parse(SLUG)).images.digest
    assert not invalid_reason(read_record(file), spec, results=results)
    assert read_json(metrics_file(results, SLUG)) == own
    assert main(["score", spec.slug, "--results", str(results)]) == 0 and read_json(file) == record, "scored again it is another"
    steps = f"{spec.slug}.posthoc.la=1"
    assert main(["score", steps, "--results", str(results)]) == 0
    assert read_json(metrics_file(results, steps))["data"]["classes"] == 3


def test_all_images_and_images_that_changed(shifted):
    results, config = shifted
    assert evaluate(results, leave_out="others", images="all") == 0
    spec = RunSpec.parse(f"{SLUG}.evaluate_on=shapes")
    file = metrics_file(results, spec.slug)
    assert read_json(file)["data"]["test_images"] == 30 + 3 * 2
    Image.new("RGB", (20, 20), (1, 2, 3)).save(Path(config["datasets"]["shapes"]["root"]) / "test/red/new.png")
    prepare("shapes", results / "data/shapes", config)
    assert "made from other images of shapes" in invalid_reason(read_record(file), spec, results=results)
    assert main(["score", spec.slug, "--results", str(results)]) == 1
    assert evaluate(results, leave_out="others") == 0 and read_json(file)["data"]["test_images"] == 31


COLUMNS = 'columns: [{label: "{}", evaluate_on: [test, sketch, photos]}]'
STUDY = """
title: Shifts
roles: {toy: Toy, seen: Seen, sketch: Sketches, photos: Photographs}
tables:
  shifts:
    title: On other images
    where: {dataset: toy-ir20, method: adaptformer, value: overall}
    rows: [{label: PEL}]
    columns: [{label: "{}", evaluate_on: [test, sketch, photos]}]
figures:
  shift:
    kind: shift
    title: On other images
    where: {dataset: toy-ir20}
    methods: [{label: PEL, method: adaptformer}]
    sets: [{label: "{}", evaluate_on: [test, sketch]}]
"""
CONFIG = """
title: T
backbone: toy
seeds: [0]
data: {toy: toy, sketch: demo-sketch}
test_sets: {demo-sketch: {leave_out: others}}
"""


def study_of(folder: Path, study: str = STUDY, config: str = CONFIG):
    (folder / "shifts.yaml").write_text(study)
    (folder / "config.yaml").write_text(config)
    return load(folder / "shifts.yaml", folder / "config.yaml", results=folder / "results")


def test_a_study_lays_test_sets_out(tmp_path):
    study = study_of(tmp_path)
    assert [column["label"] for column in study.artefact("shifts").declaration["columns"]] == ["Own test images", "Sketches"]
    assert list(study.specs) == [SLUG, slug := f"{SLUG}.evaluate_on=demo-sketch"]
    assert study.prepared(slug)["test_set"].endswith("data/demo-sketch/data.json") and "test_set" not in study.prepared(SLUG)
    assert study.test_set_option(slug) == """--test-set='{"leave_out": "others"}'""" and not study.test_set_option(SLUG)
    assert '"test_set":{"leave_out":"others"}' in study.predict_params(slug) and "test_set" not in study.predict_params(SLUG)


def test_the_plan_counts_passes_over_other_images(tmp_path):
    config = CONFIG.replace("backbone: toy", "backbone: clip-mini").replace("toy: toy", "toy: demo-imagenet")
    study = study_of(tmp_path, STUDY.replace("toy-ir20", "toy"), config)
    text = plan(study)
    assert "to train 1, to evaluate 2." in text and f"{5 * (1200 + 600):,} to evaluate (crops counted)" in text
    study = study_of(tmp_path, STUDY.replace("toy-ir20", "toy"), config.replace("leave_out: others", "images: all"))
    assert f"{5 * (1200 + 600 + sum(STAND_INS['demo-sketch'].train_counts())):,} to evaluate (crops counted)" in plan(study)


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("[test, sketch, photos]", "[test, scketch]", "unknown role 'scketch'.*Did you mean 'sketch'"),
        (COLUMNS, "columns: [{label: x}]", "a list stands in a row or column"),
        ("[test, sketch]}", "[sketch, test]}", "sets: expected the own test images first"),
        ("[test, sketch]}", "[test]}", "sets 1; a figure of kind shift"),
        ("[test, sketch, photos]", "{a: b}", "evaluate_on"),
    ],
)  # fmt: skip
def test_studies_that_cannot_be(tmp_path, old, new, message):
    with pytest.raises(PelError, match=message):
        where = "value: overall, evaluate_on: [sketch]}" if old == COLUMNS else "value: overall}"
        study_of(tmp_path, STUDY.replace(old, new, 1).replace("value: overall}", where, 1))


def test_a_table_of_which_no_other_set_is_bound_is_left_out(tmp_path):
    study = study_of(tmp_path, STUDY.replace("[test, sketch, photos]", "[test, photos]"))
    assert study.left_out == {"shifts": "the config names no data set for the role 'photos'"}


@pytest.mark.parametrize(
    "told, message",
    [("{imges: all}", "imges"), ("{images: some}", "images"), ("{leave_out: rest}", "others"), ("{count: -1}", "count")],
)
def test_configurations_that_cannot_be(tmp_path, told, message):
    with pytest.raises(PelError, match=message):
        study_of(tmp_path, config=CONFIG.replace("{leave_out: others}", told))


def test_the_gallery_and_predict_of_such_a_run(shifted, tmp_path, capsys):
    results, _ = shifted
    assert evaluate(results, leave_out="others") == 0
    spec = RunSpec.parse(f"{SLUG}.evaluate_on=shapes")
    steps = f"{spec.slug}.posthoc.la=1"
    assert main(["score", steps, "--results", str(results)]) == 0
    sets = of_runs({run: RunSpec.parse(run) for run in (SLUG, spec.slug, steps)}, results)
    assert [(one.base, [answers.slug for answers in one.answers]) for one in sets] == [
        ("toy", [SLUG]),
        ("shapes", [spec.slug, steps]),
    ]
    record = read_json(metrics_file(results, spec.slug))
    assert len(sets[1].split) == record["data"]["test_images"] and sets[1].data.class_names == record["test_set"]["classes"]
    assert sets[1].summary(sets[1].answers[0])["all"] == pytest.approx(record["metrics"]["overall"], abs=0.01)
    card = (run_folder(results, SLUG) / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])["model-index"][0]["results"]
    assert [each["dataset"]["name"] for each in front] == ["toy-ir20", *["shapes"] * (len(front) - 1)] and len(front) > 1
    assert "of another data set, `shapes`, and logits of its 3 classes alone" in card
    page = tmp_path / "g.html"
    assert main(["gallery", SLUG, spec.slug, "--results", str(results), "--out", str(page)]) == 0
    # New images may be of any class that was trained: the steps take all their counts.
    image = next(Path(shifted[1]["datasets"]["shapes"]["root"]).rglob("*.png"))
    assert main(["predict", str(image), "--run", steps, "--results", str(results), "--device", "cpu"]) == 0
    capsys.readouterr()


def test_a_name_that_is_longer_than_a_files_is_evaluated(shifted, monkeypatch):
    results, _ = shifted
    long = f"{SLUG}.evaluate_on=shapes"
    monkeypatch.setattr(long_names, "LONGEST", len(long) - 1)
    seen = []
    own = SignOfLife.__init__
    monkeypatch.setattr(SignOfLife, "__init__", lambda self, path, *rest: (seen.append(path.name), own(self, path, *rest))[1])
    assert evaluate(results, leave_out="others") == 0
    assert seen == [f"{long_names.file_name(long)}.predict.lease"] and seen[0].startswith("@") and len(seen[0]) < 40
    assert long_names.file_name("a" * 400) != long_names.file_name("a" * 401)


def test_a_number_on_other_images_is_none_of_its_data_set(tmp_path):
    study = study_of(tmp_path)
    cells = study.artefact("shifts").cells
    assert [cell.tested for cell in cells] == ["toy-ir20", "toy-ir20 on demo-sketch"]
    told = will_show(study)
    assert "toy-ir20 on demo-sketch: " in told and "toy-ir20: " in told
