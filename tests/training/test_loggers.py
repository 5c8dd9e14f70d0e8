"""TensorBoard events: what is in them, that a resumed curve is not doubled, that no failure to write stops a run."""

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorboardX.proto.event_pb2 import Event, SessionLog

from pel_core.cli.main import main
from pel_core.common.errors import PelError
from pel_core.common.files import read_json
from pel_core.common.progress import Progress
from pel_core.spec.run_spec import RunSpec
from pel_core.training.loggers import MetricLogger, evaluated, wandb_id

SPEC = RunSpec.make("toy-ir20", "toy", "adaptformer", 0)


def read(folder: Path, kind: str) -> list[Event]:
    """The events of a kind of file, oldest first. A record is its length (8 bytes), a checksum (4), itself, a checksum (4)."""
    found = []
    for path in sorted(folder.glob(f"events.*.{kind}"), key=lambda path: path.stat().st_mtime_ns):
        content = path.read_bytes()
        while content:
            size = int.from_bytes(content[:8], "little")
            found.append(Event.FromString(content[12 : 12 + size]))
            content = content[16 + size :]
    return found


def points(found: list[Event], tag: str) -> dict[int, float]:
    """A curve as TensorBoard shows it: a start of a session takes back what lies at its step and beyond."""
    curve: dict[int, float] = {}
    for event in found:
        if event.session_log.status == SessionLog.START:
            curve = {step: value for step, value in curve.items() if step < event.step}
        for value in event.summary.value:
            if value.tag == tag:
                assert event.step not in curve, f"{tag} is doubled at step {event.step}"
                curve[event.step] = value.simple_value
    return curve


def course(folder: Path, steps: range, of: int = 40, last: int | None = None) -> None:
    """A training's reports: 20 steps an epoch, each step reported."""
    watcher = MetricLogger(folder, SPEC, 20)
    progress = Progress("x", of, quiet=True, watchers=[watcher])
    for done in steps:
        progress.step(done, 0.01, 1 / done, epoch=(done - 1) // 20, epochs=2)
        if done % 20 == 0:
            progress.epoch({"epoch": done // 20 - 1, "lr": 0.01, "loss": 0.5, "accuracy": 80.0 + done})
    watcher.close()


def test_a_curve_and_its_epochs(tmp_path):
    course(tmp_path, range(1, 41))
    found = read(tmp_path / "tensorboard" / SPEC.slug, "train")
    assert list(points(found, "train/loss")) == [1, 11, 21, 31]
    assert points(found, "train/lr")[31] == pytest.approx(0.01)
    assert points(found, "epoch/accuracy") == {20: 100.0, 40: 120.0}


def test_a_heads_own_rate_has_a_curve(tmp_path):
    watcher = MetricLogger(tmp_path, SPEC, 20)
    Progress("x", 20, quiet=True, watchers=[watcher]).step(1, 0.01, 1.0, epoch=0, epochs=1, head_lr=0.5)
    watcher.close()
    assert points(read(tmp_path / "tensorboard" / SPEC.slug, "train"), "train/head_lr") == {1: 0.5}


def test_a_resumed_curve_is_not_doubled(tmp_path):
    course(tmp_path, range(1, 36))  # killed at 35, with a checkpoint at 24
    course(tmp_path, range(25, 41))
    found = read(tmp_path / "tensorboard" / SPEC.slug, "train")
    curve = points(found, "train/loss")
    assert list(curve) == [1, 11, 21, 25, 35] and curve[35] == pytest.approx(1 / 35)
    assert list(points(found, "epoch/loss")) == [20, 40]


def test_a_run_made_anew_has_one_file(tmp_path):
    course(tmp_path, range(1, 41))
    course(tmp_path, range(1, 41))
    assert len(list((tmp_path / "tensorboard" / SPEC.slug).iterdir())) == 1


def test_what_cannot_be_written_stops_nothing(tmp_path, monkeypatch, capsys):
    watcher = MetricLogger(tmp_path, SPEC, 20)
    progress = Progress("x", 40, quiet=True, watchers=[watcher])
    progress.step(1, 0.01, 1.0, epoch=0, epochs=2)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(watcher.loggers[0]._writer, "write_event", full)
    for done in range(2, 41):
        progress.step(done, 0.01, 1.0, epoch=0, epochs=2)
    watcher.close()
    assert capsys.readouterr().err.count("no more TensorBoard events of this run") == 1


def test_a_folder_that_cannot_be_made_stops_nothing(tmp_path, capsys):
    (tmp_path / "tensorboard").write_text("a file")
    course(tmp_path, range(1, 5))
    evaluated(tmp_path, SPEC, {"overall": 1.0}, 10)
    assert capsys.readouterr().err.count("no more TensorBoard events") == 2


def test_final_metrics_and_hyperparameters(tmp_path):
    evaluated(tmp_path, SPEC, {"overall": 81.5, "tail": None, "per_class": [1.0]}, 40)
    evaluated(tmp_path, SPEC, {"overall": 82.5, "tail": None, "per_class": [1.0]}, 40)
    found = read(tmp_path / "tensorboard" / SPEC.slug, "evaluate")
    assert points(found, "test/overall") == {40: 82.5}
    tags = [value.tag for event in found for value in event.summary.value]
    assert {"_hparams_/experiment", "_hparams_/session_start_info"} <= set(tags) and "test/tail" not in tags


class FakeWandB:
    """What is asked of the package wandb."""

    def __init__(self):
        self.begun, self.logged, self.finished = [], [], 0

    def init(self, **options):
        self.begun.append(options)
        return SimpleNamespace(log=self.logged.append, finish=self._finish)

    def _finish(self):
        self.finished += 1


def test_weights_and_biases_where_it_is_asked_for(tmp_path, monkeypatch):
    fake = FakeWandB()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    watcher = MetricLogger(tmp_path, SPEC, 20, tensorboard=False, wandb=True)
    watcher({"step": 1, "lr": 0.1, "loss": 2.0, "first_step": 0})
    watcher.close()
    evaluated(tmp_path, SPEC, {"overall": 81.5}, 40, tensorboard=False, wandb=True)
    assert [options["resume"] for options in fake.begun] == ["allow", "allow"]
    assert fake.begun[0]["config"]["method"] == "adaptformer" and fake.begun[0]["id"] == fake.begun[1]["id"]
    assert fake.logged == [{"train/loss": 2.0, "train/lr": 0.1, "step": 1}, {"test/overall": 81.5, "step": 40}]
    assert fake.finished == 2 and not (tmp_path / "tensorboard").exists()


@given(slug=st.text(min_size=1, max_size=300), other=st.text(min_size=1, max_size=300), tail=st.text("abc.=", max_size=200))
def test_ids_are_allowed_and_no_two_slugs_share_one(slug, other, tail):
    for one, two in ((slug, other), (slug + tail, other + tail), (tail + slug, tail + other)):
        first, second = wandb_id(one), wandb_id(two)
        assert re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", first) and first == wandb_id(one)
        assert (first == second) == (one == two)
        assert one[:20].isascii() is False or first.startswith(re.sub(r"[^A-Za-z0-9_.-]", "-", one[:20]))


def test_long_slugs_of_two_data_sets_have_two_ids():
    rest = "clip-vit-b16.adaptformer.s0.epochs=50.lr=0.013.batch_size=128.weight_decay=0.0005"
    one, two = (f"{dataset}.{rest}" for dataset in ("places-lt", "imagenet-lt"))
    assert wandb_id(one) != wandb_id(two) and wandb_id(one).startswith("places-lt.clip-vit-b16.adaptformer.s0")


def test_weights_and_biases_that_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(PelError, match="pip install wandb"):
        MetricLogger(tmp_path, SPEC, 20, wandb=True)


def test_it_is_imported_only_when_asked_for():
    code = "import sys, pel_core.training.run; print([m for m in ('tensorboardX', 'wandb', 'tensorboard') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_a_real_run_leaves_a_handful_of_files(toy_results, tmp_path, capsys):
    """On a network file system files cost more than bytes. A log by Snakemake comes to each of train and evaluate."""
    for name in ("backbones", "data", "text"):
        (tmp_path / name).symlink_to(toy_results / name)
    assert main(["train", SPEC.slug, "--results", str(tmp_path)]) == 0
    assert main(["evaluate", SPEC.slug, "--results", str(tmp_path)]) == 0
    made = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink()]
    mine = [path for path in made if SPEC.slug in str(path)]
    assert len(mine) <= 12 and len(made) == len(mine), sorted(map(str, made))
    record = read_json(tmp_path / "runs" / SPEC.slug / "metrics.json")
    folder = tmp_path / "tensorboard" / SPEC.slug
    accuracies = list(points(read(folder, "train"), "epoch/accuracy").values())
    assert accuracies == pytest.approx([epoch["accuracy"] for epoch in record["training"]["curve"]], rel=1e-5)
    assert list(points(read(folder, "evaluate"), "test/overall").values()) == pytest.approx([record["metrics"]["overall"]])
    assert sum(path.stat().st_size for path in folder.iterdir()) < 20_000


def test_no_tensorboard_writes_none(toy_results, tmp_path):
    for name in ("backbones", "data", "text"):
        (tmp_path / name).symlink_to(toy_results / name)
    assert main(["train", SPEC.slug, "--results", str(tmp_path), "--no-tensorboard"]) == 0
    assert not (tmp_path / "tensorboard").exists()
