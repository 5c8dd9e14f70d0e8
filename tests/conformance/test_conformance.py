"""Conformance: the golden folder holds, so does every option on made folders, and nothing wrong or unchecked passes."""

import json
import shutil
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from reference import write_golden

from pel_core.conformance import check_folder, main
from pel_core.conformance.report import Report, difference
from pel_core.conformance.vocabulary import FLAGS

GOLDEN = Path(__file__).parents[1] / "golden"
TUNED = {"adapter_dim": 3, "mask_ratio": 0.05}


def bad(report):
    """The lines that do not hold, as text."""
    return [str(check) for check in report.checks if check.status != "ok"]


def test_the_golden_folder_holds(capsys):
    assert main([str(GOLDEN)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 250 and "0 FAILED, 0 unsupported" in lines[-1]


def configurations():
    """Every flag alone, auto rules, ranges, heads and stacks."""
    flags = {flag: {flag: True, **TUNED} for flag in FLAGS}
    auto = {f"auto_{flag}": {flag: True} for flag in ("adaptformer", "lora", "mask", "vpt_deep")}
    ranges = {
        "last2": {"adapter": True, "partial": 2, **TUNED},
        "range": {"full_tuning": True, "vpt_deep": True, "partial": [1, 3], "vpt_len": 3},
        "none": {"adaptformer": True, "ln_tuning": True, "partial": 0},
        "ignored": {"bias_tuning": True, "vpt_shallow": True, "ln_tuning": True, "partial": 1},
        "mask_range": {"mask": True, "partial": [1, 3], "mask_ratio": 0.01, "mask_seed": 5},
    }
    heads = {kind: {"ssf_ln": True, "classifier": f"{kind}Classifier"} for kind in ("Linear", "L2Normed", "LayerNormed")}
    everything = {flag: True for flag in FLAGS if flag != "vpt_shallow"} | TUNED
    return {"head_only": {}} | flags | auto | ranges | heads | {"everything": everything}


@pytest.mark.parametrize(("family", "classes", "layers"), [("clip", 10, 4), ("timm", 57, 3)])
def test_every_option_against_a_second_implementation(tmp_path, family, classes, layers):
    folder = write_golden(tmp_path, configurations(), family, layers, width=64, classes=classes)
    report = check_folder(folder)
    assert not bad(report)
    assert len(report.checks) > 10 * len(configurations())


@pytest.mark.slow
def test_every_pair_of_options_against_a_second_implementation(tmp_path):
    stacks = [stack for stack in combinations(FLAGS, 2) if stack != ("vpt_shallow", "vpt_deep")]
    pairs = {"+".join(stack): {**dict.fromkeys(stack, True), "partial": 2, **TUNED} for stack in stacks}
    assert not bad(check_folder(write_golden(tmp_path, pairs, width=128)))


def rewrite(folder, file, **changes):
    """Replace or add arrays of an npz."""
    with np.load(folder / file) as stored:
        arrays = dict(stored)
    np.savez(folder / file, **{**arrays, **changes})


def edit_index(folder, change):
    index = json.loads((folder / "index.json").read_text())
    change(index)
    (folder / "index.json").write_text(json.dumps(index))


@pytest.fixture
def made(tmp_path):
    """A small folder that holds."""
    return write_golden(tmp_path, {"a": {"adaptformer": True, "ln_tuning": True, **TUNED}}, layers=2)


@pytest.mark.parametrize(
    "name", ["feature", "logits", "feature_no_tuner", "loss/LA", "train_losses", "logits_step3", "grad/head.weight"]
)
def test_a_wrong_number_fails(made, name):
    with np.load(made / "cfg_a.npz") as stored:
        value = stored[name]
    rewrite(made, "cfg_a.npz", **{name: value * 1.001})
    (line,) = bad(check_folder(made))
    assert "FAILED" in line and "a: " in line


def test_a_nan_fails(made):
    rewrite(made, "cfg_a.npz", feature=np.full((6, 64), np.nan, np.float32))
    assert any("feature " in line and "FAILED" in line for line in bad(check_folder(made)))


@pytest.mark.parametrize(
    "options",
    [
        {"adaptformer": True, "ln_tuning": True, "adapter_dim": 4},  # another rank
        {"adaptformer": True, **TUNED},  # a method less
        {"adaptformer": True, "ln_tuning": True, "partial": 1, **TUNED},  # fewer blocks
        {"adaptformer": True, "ln_tuning": True, "ssf_ln": True, **TUNED},  # a method more
    ],
)
def test_other_options_than_the_arrays_fail(made, options):
    edit_index(made, lambda index: index["configs"]["a"].update(options=options))
    assert any("what trains" in line and "FAILED" in line for line in bad(check_folder(made)))


@pytest.mark.parametrize(
    "options",
    [
        {"bn_tuning": True},
        {"partial": 5},
        {"partial": "half"},
        {"classifier": "ProtoClassifier"},
        {"new_option": 3},
        {"loss_type": "Other"},
    ],
)
def test_an_unknown_option_is_unsupported_and_fails(made, options, capsys):
    edit_index(made, lambda index: index["configs"]["a"]["options"].update(options))
    report = check_folder(made)
    assert any("unsupported" in line for line in bad(report))
    assert main([str(made)]) == 1 and "unsupported" in capsys.readouterr().out


def test_options_that_exclude_each_other_fail(made):
    edit_index(made, lambda index: index["configs"]["a"]["options"].update(vpt_shallow=True, vpt_deep=True))
    assert any("exclude each other" in line for line in bad(check_folder(made)))


def test_options_switched_off_change_nothing(made):
    off = {"bn_tuning": False, "lora": False, "partial": None, "adaptformer_scale": 0.1}
    edit_index(made, lambda index: index["configs"]["a"]["options"].update(off))
    assert not bad(check_folder(made))


def test_an_array_that_nobody_checks_fails(made):
    rewrite(made, "cfg_a.npz", surprise=np.zeros(3))
    (line,) = bad(check_folder(made))
    assert "surprise was not checked" in line


def test_an_array_that_the_index_lists_and_the_file_lacks_fails(made):
    edit_index(made, lambda index: index["files"]["cfg_a.npz"]["arrays"].update({"grad/other": [[1], "float32"]}))
    (line,) = bad(check_folder(made))
    assert "grad/other is missing" in line


def test_an_unknown_file_fails(made):
    np.savez(made / "new.npz", whatever=np.zeros(2))
    assert any("new.npz" in line for line in bad(check_folder(made)))


def test_a_missing_file_fails(made):
    (made / "cfg_a.npz").unlink()
    assert any(line.startswith("cfg_a.npz") for line in bad(check_folder(made)))


def test_a_corrupt_file_fails(made):
    (made / "cfg_a.npz").write_bytes(b"not an archive")
    assert any(line.startswith("cfg_a.npz") for line in bad(check_folder(made)))


def test_a_pickled_array_is_refused(made):
    np.savez(made / "cfg_a.npz", feature=np.array([{"a": 1}], dtype=object))
    assert any(line.startswith("cfg_a.npz") for line in bad(check_folder(made)))


@pytest.mark.parametrize("content", [None, "{", "[]", "{}"])
def test_a_folder_without_a_usable_index_fails(tmp_path, content, capsys):
    if content is not None:
        (tmp_path / "index.json").write_text(content)
    assert main([str(tmp_path)]) == 1
    assert "FAILED" in capsys.readouterr().out


@pytest.mark.slow
def test_files_are_known_by_what_they_hold(tmp_path):
    """Renaming every file changes nothing."""
    folder = shutil.copytree(GOLDEN, tmp_path / "golden")
    text = (folder / "index.json").read_text()
    for number, path in enumerate(sorted(folder.glob("*.npz"))):
        text = text.replace(f'"{path.name}"', f'"file{number}.npz"')
        path.rename(folder / f"file{number}.npz")
    (folder / "index.json").write_text(text)
    assert not bad(check_folder(folder))


def test_masks_are_compared(tmp_path):
    folder = write_golden(tmp_path, {"m": {"mask": True, "mask_ratio": 0.1}}, layers=2)
    assert any("masks (" in str(check) for check in check_folder(folder).checks)
    edit_index(folder, lambda index: index["configs"]["m"]["options"].update(mask_seed=1))
    assert any("masks" in line for line in bad(check_folder(folder)))


def test_a_wrong_alias_fails(made):
    def swap(index):
        aliases = index["configs"]["a"]["shared_with_backbone"]
        aliases["ln_tuned.0.weight"], aliases["ln_tuned.1.weight"] = aliases["ln_tuned.1.weight"], aliases["ln_tuned.0.weight"]

    edit_index(made, swap)
    assert any("shared_with_backbone" in line for line in bad(check_folder(made)))


def test_aliases_may_be_left_to_the_reference_order(made):
    edit_index(made, lambda index: index["configs"]["a"].pop("shared_with_backbone"))
    assert not bad(check_folder(made))


def test_an_empty_map_of_aliases_fails(made):
    edit_index(made, lambda index: index["configs"]["a"].update(shared_with_backbone={}))
    assert any("shared_with_backbone" in line for line in bad(check_folder(made)))


def test_a_report_without_checks_does_not_hold():
    assert not Report().holds


def test_a_gradient_where_there_should_be_none_fails():
    report = Report()
    report.gradients("zero", [("", [1e-8], [0.0])], relative=1e-4, floor=1e-7)
    assert report.holds
    report.gradients("wrong", [("", [1e-5], [0.0])], relative=1e-4, floor=1e-7)
    report.gradients("nan", [("", [np.nan], [1.0])], relative=1e-4, floor=1e-7)
    assert [check.status for check in report.checks] == ["ok", "FAILED", "FAILED"]


def test_difference():
    assert difference([1.0, np.nan], [1.0, np.nan]) == 0
    assert np.isnan(difference([np.nan], [1.0]))
    assert difference([1.0], [[1.0]]) == np.inf
    assert difference([1.1], [1.0], relative=True) == pytest.approx(0.1)
    assert difference([np.inf], [np.inf]) == 0
