"""The lease of a run: one process trains it, others wait, take over from the dead, and notice what they lost."""

import json
import subprocess
import threading
import time
from pathlib import Path

import pytest

from pel_core.cli.main import main
from pel_core.common.errors import PelError
from pel_core.common.progress import Progress
from pel_core.hardware import lease
from pel_core.hardware.lease import Lease
from pel_core.training.checkpoints import checkpoint_path
from pel_core.training.step import Step

SLUG = "toy-ir20.toy.adaptformer@2:4+vpt-shallow.s0"


@pytest.fixture
def quick(monkeypatch):
    """Intervals of tests."""
    for name, value in {"HEARTBEAT": 0.05, "STALE": 0.4, "POLL": 0.02, "CONFIRM_DELAY": 0.05}.items():
        monkeypatch.setattr(lease, name, value)


def foreign(path: Path, age: float = 0.0, **changes) -> None:
    record = {"host": "another", "pid": 1, "token": "theirs", "slug": "s", "time": time.time() - age} | changes
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record))


def test_a_second_process_waits_for_the_first(tmp_path, quick, capsys):
    path, order = tmp_path / "s.lease", []

    def second():
        with Lease(path, "s") as mine:
            order.append(("second", mine.waited))

    with Lease(path, "s"):
        other = threading.Thread(target=second)
        other.start()
        time.sleep(1.0)  # much longer than a lease that nobody renews would last
        order.append(("first", False))
    other.join(timeout=10)
    assert order == [("first", False), ("second", True)] and not list(tmp_path.iterdir())
    assert "is being trained by process" in capsys.readouterr().err


@pytest.mark.parametrize("state", ["old", "in the future", "dead", "torn"])
def test_a_lease_that_nobody_renews_is_taken_over(tmp_path, quick, state, capsys):
    path = tmp_path / "s.lease"
    gone = subprocess.Popen(["true"])
    gone.wait()
    here = {"host": lease.socket.gethostname(), "pid": gone.pid, **lease.pid_space()}
    foreign(path, {"old": 1000.0, "in the future": -1000.0}.get(state, 0.0), **(here if state == "dead" else {}))
    if state == "torn":
        path.write_text('{"host": "anoth')
    clock = time.monotonic()
    with Lease(path, "s") as mine:
        assert json.loads(path.read_text())["token"] == mine.token
        mine.check()
    assert "taking over from" in capsys.readouterr().err
    assert (time.monotonic() - clock < 0.3) == (state != "in the future")


@pytest.mark.parametrize("change", [{"boot": "another"}, {"pid_namespace": "pid:[1]"}, {"host": "another"}, {"boot": None}])
def test_a_process_that_cannot_be_asked_for_keeps_its_lease_while_it_is_renewed(tmp_path, quick, change):
    """Two containers with one host name: the other's process "is not there", and works."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    here = {"host": lease.socket.gethostname(), "pid": gone.pid, **lease.pid_space()}
    assert lease.dead(here) and not lease.dead(here | change)
    path, stop = tmp_path / "s.lease", threading.Event()
    foreign(path, **(here | change))

    def renew():
        while not stop.wait(0.05):
            draft = tmp_path / "draft"
            draft.write_text(json.dumps(here | change | {"token": "theirs", "time": time.time()}))
            draft.replace(path)
        path.unlink()

    other = threading.Thread(target=renew)
    other.start()
    threading.Timer(1.0, stop.set).start()  # longer than a lease that is not renewed lasts
    begun = time.monotonic()
    with Lease(path, "s") as mine:
        assert mine.waited and time.monotonic() - begun > 0.9
    other.join()


def test_a_process_of_another_namespace_that_stops_renewing_is_taken_over(tmp_path, quick):
    path = tmp_path / "s.lease"
    foreign(path, host=lease.socket.gethostname(), pid=1, boot=lease.pid_space().get("boot"), pid_namespace="pid:[1]")
    begun = time.monotonic()
    with Lease(path, "s"):
        assert time.monotonic() - begun > lease.STALE


def test_where_there_is_no_proc_the_host_alone_counts(monkeypatch, tmp_path):
    monkeypatch.setattr(lease, "BOOT_ID", tmp_path / "none")
    monkeypatch.setattr(lease, "PID_NAMESPACE", str(tmp_path / "none"))
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert lease.pid_space() == {} and lease.dead({"host": lease.socket.gethostname(), "pid": gone.pid})


def test_of_many_that_take_over_one_wins(tmp_path, quick):
    path, holders, most = tmp_path / "s.lease", [0], [0]
    foreign(path, age=1000)

    def claim():
        with Lease(path, "s"):
            holders[0] += 1
            most[0] = max(most[0], holders[0])
            time.sleep(0.02)
            holders[0] -= 1

    threads = [threading.Thread(target=claim) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert most == [1] and not list(tmp_path.iterdir())


@pytest.mark.parametrize("fate", ["taken", "gone"])
def test_a_holder_that_lost_its_lease_saves_nothing(tmp_path, quick, fate):
    path = tmp_path / "s.lease"
    with Lease(path, "s") as mine:
        if fate == "taken":
            foreign(path)
            time.sleep(0.2)
        else:
            path.unlink()
        with pytest.raises(PelError, match="lost its lease .*" + ("process 1 on another" if fate == "taken" else "is gone")):
            mine.check()
    assert path.exists() == (fate == "taken"), "another's lease is not removed"


def test_a_lease_without_hard_links(tmp_path, quick, monkeypatch):
    monkeypatch.setattr(lease.os, "link", lambda *_: (_ for _ in ()).throw(OSError(95, "not supported")))
    with Lease(tmp_path / "s.lease", "s") as mine:
        mine.check()
    assert not list(tmp_path.iterdir())


def test_progress_is_told_in_the_lease(tmp_path, quick):
    with Lease(tmp_path / "s.lease", "s", "cpu") as mine:
        Progress("s", 8, quiet=True, watchers=[mine.note]).step(3, 0.1, 0.5, epoch=0, epochs=2)
        time.sleep(0.3)
        record = json.loads((tmp_path / "s.lease").read_text())
    assert {"host", "pid", "job", "token", "slug", "started", "time", "device"} < record.keys()
    assert (record["step"], record["steps"], record["epoch"], record["epochs"], record["loss"]) == (3, 8, 0, 2, 0.5)


def test_a_run_trained_meanwhile_is_not_trained_again(toy_results, tmp_path, quick, monkeypatch, capsys):
    world = tmp_path
    for name in ("backbones", "data", "text"):
        (world / name).symlink_to(toy_results / name)
    assert main(["train", SLUG, "--results", str(world)]) == 0
    checkpoint_path(world, SLUG).unlink()
    foreign(world / "checkpoints" / f"{SLUG}.lease", slug=SLUG)
    held = world / "checkpoints" / f"{SLUG}.lease"
    monkeypatch.setattr(lease.time, "sleep", lambda _: held.unlink(missing_ok=True))  # it waits: the other one is done
    monkeypatch.setattr(Step, "__call__", lambda *_: pytest.fail("it trained again"))
    assert main(["train", SLUG, "--results", str(world)]) == 0
    assert "trained by the process that was waited for" in capsys.readouterr().err


def test_a_file_system_that_is_away_for_a_moment_costs_no_lease(tmp_path, quick, monkeypatch):
    with Lease(tmp_path / "s.lease", "s") as mine:
        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_text", lambda *_, **__: (_ for _ in ()).throw(OSError(116, "Stale file handle")))
            mine.check()
            time.sleep(0.2)
        mine.check()
