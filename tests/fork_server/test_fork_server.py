"""The fork server: jobs come out as they would alone, signals and deaths reach them, and without it everything runs itself."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pel_core.common.files import read_json
from pel_core.fork_server import client

SLUG = "toy-ir20.toy.adaptformer.s{}"
LONG = "toy-ir20.toy.adaptformer.s9.epochs=5000"


@pytest.fixture(autouse=True)
def no_lease_is_left(toy_results):
    """A job that is killed leaves its lease, which other tests of the same results would find."""
    yield
    for path in (toy_results / "checkpoints").glob(f"{LONG}.*"):
        path.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The environment in which commands share a fork server; it ends with the parent it is told of."""
    parent = subprocess.Popen(["sleep", "600"])
    socket = tmp_path_factory.mktemp("served") / "socket"
    yield {**os.environ, "PEL_FORK_SERVER": str(socket), "PEL_FORK_SERVER_PARENT": str(parent.pid)}
    parent.kill()
    parent.wait()
    wait(lambda: not socket.exists(), "the fork server outlives its parent")


def wait(condition, complaint: str, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, complaint
        time.sleep(0.02)


def start(environment, *words) -> subprocess.Popen:
    command = [sys.executable, "-m", "pel_core", *map(str, words)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(environment, *words) -> tuple[int, str]:
    process = start(environment, *words)
    _, error = process.communicate(timeout=120)
    return process.returncode, error


def test_a_job_comes_out_as_it_would_alone(toy_results, served):
    folder = toy_results / "runs" / SLUG.format(70)
    delta = []
    for environment in (served, os.environ):
        status, error = run(environment, "train", SLUG.format(70), "--results", toy_results)
        assert status == 0 and "epoch 1" in error
        delta.append((folder / "delta.safetensors").read_bytes())
        (folder / "delta.safetensors").unlink()
        for kept in (toy_results / "checkpoints").glob(f"{SLUG.format(70)}*"):
            kept.unlink()
    assert delta[0] == delta[1]


@pytest.mark.parametrize("command", ["data", "text"])
def test_what_is_prepared_there_is_the_same(toy_results, served, tmp_path, command):
    folders = "--backbone-dir", toy_results / "backbones" / "toy", "--data-dir", toy_results / "data" / "toy"
    words = ["data", "prepare", "toy"] if command == "data" else ["text", *folders]
    made = []
    for name, environment in {"served": served, "alone": os.environ}.items():
        status, error = run(environment, *words, "--out", tmp_path / name)
        assert status == 0, error
        paths = sorted((tmp_path / name).iterdir()) if command == "data" else [tmp_path / name]
        made.append({path.name if command == "data" else "text": path.read_bytes() for path in paths if path.suffix != ".json"})
    assert made[0] and made[0] == made[1]


def test_an_error_keeps_its_line_and_status(toy_results, served):
    status, error = run(served, "evaluate", SLUG.format(71), "--results", toy_results)
    assert status == 1 and error.startswith("error: ") and error.count("\n") == 1
    assert run(served, "train", "--no-such-option")[0] == 2


def running(toy_results, served) -> tuple[subprocess.Popen, Path]:
    lease = toy_results / "checkpoints" / f"{LONG}.lease"
    lease.unlink(missing_ok=True)  # of a job that another test has killed
    process = start(served, "train", LONG, "--results", toy_results)
    wait(lease.exists, "the job does not start")
    time.sleep(0.5)
    return process, lease


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 138)])
def test_a_signal_reaches_the_job(toy_results, served, number, status):
    process, lease = running(toy_results, served)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == status and "step" in error
    assert not lease.exists()


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 138)])
def test_a_signal_while_a_fork_server_starts_is_one_line(toy_results, tmp_path, number, status):
    process = start({**os.environ, "PEL_FORK_SERVER": str(tmp_path / "s")}, "evaluate", SLUG.format(76), "--results", toy_results)
    wait((tmp_path / "s.lock").exists, "no fork server starts")
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == status
    assert error == f"error: stopped by {signal.Signals(number).name}; nothing half-done was kept\n"
    for left in listeners(tmp_path / "s"):
        os.kill(left, signal.SIGTERM)


def test_a_job_dies_with_the_process_that_asked(toy_results, served):
    process, lease = running(toy_results, served)
    job = read_json(lease)["pid"]
    assert job != process.pid
    process.kill()
    process.wait()
    wait(lambda: not Path(f"/proc/{job}").exists(), "the job lives on")


def test_a_killed_job_is_told(toy_results, served):
    process, lease = running(toy_results, served)
    wait(lambda: read_json(lease)["pid"] not in (None, process.pid), "no lease of the job")
    os.kill(read_json(lease)["pid"], signal.SIGKILL)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 137 and error.splitlines()[-1].startswith("error: the job's process was killed")


def test_a_killed_fork_server_is_replaced(toy_results, tmp_path):
    environment = {**os.environ, "PEL_FORK_SERVER": str(tmp_path / "s"), "PEL_FORK_SERVER_PARENT": str(os.getpid())}
    words = ["evaluate", SLUG.format(72), "--results", toy_results]
    assert run(environment, *words)[0] == 1
    [first] = listeners(tmp_path / "s")
    os.kill(first, signal.SIGKILL)
    wait(lambda: first not in listeners(tmp_path / "s"), "the fork server lives on")
    assert run(environment, *words)[0] == 1
    [second] = listeners(tmp_path / "s")
    assert second != first
    os.kill(second, signal.SIGTERM)


def test_a_fork_server_is_replaced_while_a_job_of_its_own_still_runs(toy_results, tmp_path):
    """As after a minute without a new job: its lock must not live on in the job."""
    environment = {**os.environ, "PEL_FORK_SERVER": str(tmp_path / "s"), "PEL_FORK_SERVER_PARENT": str(os.getpid())}
    process, lease = running(toy_results, environment)
    wait(lambda: read_json(lease)["pid"] in listeners(tmp_path / "s"), "no lease of the job")
    [first] = [pid for pid in listeners(tmp_path / "s") if pid != read_json(lease)["pid"]]
    os.kill(first, signal.SIGKILL)
    wait(lambda: first not in listeners(tmp_path / "s"), "the fork server lives on")
    begun = time.monotonic()
    assert run(environment, "evaluate", SLUG.format(74), "--results", toy_results)[0] == 1
    assert len(listeners(tmp_path / "s")) == 2 and time.monotonic() - begun < 55
    process.kill()
    process.communicate(timeout=60)
    for left in listeners(tmp_path / "s"):
        os.kill(left, signal.SIGTERM)


def test_switched_off_nothing_is_offered_nor_asked(toy_results, tmp_path, monkeypatch):
    monkeypatch.setattr(client.os.path, "exists", lambda path: False)  # no GPU
    monkeypatch.setattr(client, "_connect", lambda where: pytest.fail("it asked"))
    monkeypatch.setenv("PEL_FORK_SERVER", "off")
    client.offer(str(tmp_path))
    assert os.environ["PEL_FORK_SERVER"] == "off" and client.ask(["train"]) is None
    monkeypatch.delenv("PEL_FORK_SERVER")
    assert client.ask(["train"]) is None
    client.offer(str(tmp_path))
    assert os.environ["PEL_FORK_SERVER"].startswith(str(tmp_path)) and os.environ["PEL_FORK_SERVER_PARENT"] == str(os.getpid())
    monkeypatch.delenv("PEL_FORK_SERVER_PARENT")


def test_nothing_is_offered_beside_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(client.os.path, "exists", lambda path: path == "/dev/nvidiactl")
    monkeypatch.delenv("PEL_FORK_SERVER", raising=False)
    client.offer(str(tmp_path))
    assert "PEL_FORK_SERVER" not in os.environ


def test_asking_imports_the_standard_library_alone():
    code = (
        "import sys, pel_core.fork_server.client; print([m for m in ('torch', 'numpy', 'snakemake', 'yaml') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_jobs_find_imported_what_they_need_and_no_thread_is_started():
    code = (
        "import sys, threading, pel_core.fork_server.server as server; server._import(); import torch; "
        "needed = 'pandas', 'torch._dynamo', 'pel_core.cli.main', 'pel_core.training.run', 'pel_core.evaluation.evaluate'; "
        "print([name for name in needed if name not in sys.modules], threading.active_count(), torch.cuda.is_initialized())"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[] 1 False"


def test_nothing_else_depends_on_it():
    """The Snakefile offers it, ``__main__`` asks it; the room could be deleted."""
    package = Path(client.__file__).parents[1]
    users = [
        path for path in package.rglob("*.py") if "pel_core.fork_server" in path.read_text() and path.parent.name != "fork_server"
    ]
    assert [path.name for path in users] == ["__main__.py"]


def test_a_process_of_torchrun_runs_itself(toy_results, tmp_path):
    environment = {**os.environ, "PEL_FORK_SERVER": str(tmp_path / "s"), "LOCAL_RANK": "0"}
    assert run(environment, "evaluate", SLUG.format(75), "--results", toy_results)[0] == 1
    assert not (tmp_path / "s.lock").exists()


def listeners(socket: Path) -> list[int]:
    """Fork servers of a socket, by their command lines."""
    found = subprocess.run(["pgrep", "-f", f"pel_core.fork_server.server {socket}$"], capture_output=True, text=True)
    return [int(line) for line in found.stdout.split()]


def test_where_none_can_listen_a_job_runs_itself(toy_results, tmp_path):
    far = tmp_path / ("long" * 40)
    status, error = run({**os.environ, "PEL_FORK_SERVER": str(far)}, "evaluate", SLUG.format(73), "--results", toy_results)
    assert status == 1 and error.startswith("error: ") and "train.json" in error
