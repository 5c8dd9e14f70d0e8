"""GPU slots with made-up devices and real processes: no overlap, shares, kills, and nothing left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from pel_core.cli.main import main, parser
from pel_core.common.errors import PelError
from pel_core.hardware import devices, gpu_slots
from pel_core.studies import job_options

# Takes its devices, says which and when, holds them until told to end, says when again.
JOB = """
import json, sys, time
from pathlib import Path
from pel_core.hardware.gpu_slots import take
folder, devices, count, share, seconds = sys.argv[1:]
chosen = take(devices.split(","), int(count), float(share), Path(folder), poll=0.01)
start = time.monotonic()
print(json.dumps({"chosen": chosen, "start": start}), flush=True)
time.sleep(float(seconds))
print(json.dumps({"end": time.monotonic()}), flush=True)
"""


def job(folder: Path, devices: str, count: int = 1, share: float = 1.0, seconds: float = 60) -> subprocess.Popen:
    words = [sys.executable, "-c", JOB, str(folder), devices, str(count), str(share), str(seconds)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def chosen(process: subprocess.Popen) -> list[int]:
    """The devices of a job, once it has them."""
    return json.loads(process.stdout.readline())["chosen"]


def waits(process: subprocess.Popen) -> bool:
    """Whether a job says that it waits, and still does."""
    return process.stderr.readline().startswith("waiting for a free GPU") and process.poll() is None


@pytest.fixture
def jobs():
    """Starts jobs and ends those that are left."""
    started: list[subprocess.Popen] = []

    def start(*words, **options) -> subprocess.Popen:
        started.append(job(*words, **options))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def spans(process: subprocess.Popen) -> tuple[list[int], float, float]:
    out = process.communicate(timeout=60)[0].splitlines()
    assert process.returncode == 0
    return json.loads(out[0])["chosen"], json.loads(out[0])["start"], json.loads(out[1])["end"]


def busiest(held: list[tuple[float, float, float]]) -> float:
    """The largest sum of shares held at one time; each is (start, end, share)."""
    return max(sum(share for start, end, share in held if start <= at < end) for at, _, _ in held)


def test_eight_jobs_on_three_devices_never_overlap(tmp_path, jobs):
    done = [spans(process) for process in [jobs(tmp_path, "a,b,c", seconds=0.3) for _ in range(8)]]
    used = Counter(device for devices, _, _ in done for device in devices)
    assert set(used) == {0, 1, 2} and sum(used.values()) == 8
    for device in used:
        assert busiest([(start, end, 1) for devices, start, end in done if device in devices]) == 1


def test_shares_fill_a_device_and_no_more(tmp_path, jobs):
    asked = [0.25, 0.5, 0.25, 1.0, 0.4, 0.3, 0.3, 1 / 3]
    done = [spans(process) for process in [jobs(tmp_path, "a,b", share=share, seconds=0.3) for share in asked]]
    for device in (0, 1):
        held = [(start, end, share) for (devices, start, end), share in zip(done, asked, strict=True) if device in devices]
        assert busiest(held) <= 1.001


def test_four_quarters_run_side_by_side_and_a_fifth_waits(tmp_path, jobs):
    four = [jobs(tmp_path, "a", share=0.25) for _ in range(4)]
    assert [chosen(process) for process in four] == [[0]] * 4
    fifth = jobs(tmp_path, "a", share=0.25)
    assert waits(fifth)
    four[2].kill()
    assert chosen(fifth) == [0]


def test_the_emptiest_device_first(tmp_path, jobs):
    assert chosen(jobs(tmp_path, "a,b", share=0.2)) == [0]
    assert chosen(jobs(tmp_path, "a,b", share=0.2)) == [1]
    assert chosen(jobs(tmp_path, "a,b", share=0.5)) == [0]
    assert chosen(jobs(tmp_path, "a,b", share=0.2)) == [1]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_locks_die_with_their_holder(tmp_path, jobs, how):
    first = jobs(tmp_path, "a")
    assert chosen(first) == [0]
    second = jobs(tmp_path, "a")
    assert waits(second)
    first.send_signal(how)
    clock = time.monotonic()
    assert chosen(second) == [0]
    assert time.monotonic() - clock < 5


def test_twenty_killed_holders_leave_every_device_free(tmp_path, jobs):
    for _ in range(20):
        process = jobs(tmp_path, "a,b", count=2)
        assert sorted(chosen(process)) == [0, 1]
        process.kill()
        process.wait()


def test_two_jobs_of_two_devices_do_not_wait_for_each_other(tmp_path, jobs):
    done = [spans(process) for process in [jobs(tmp_path, "a,b", count=2, seconds=0.1) for _ in range(4)]]
    assert all(sorted(devices) == [0, 1] for devices, _, _ in done)
    assert busiest([(start, end, 1) for _, start, end in done]) == 1


def test_the_same_device_by_another_position(tmp_path, jobs):
    """CUDA_VISIBLE_DEVICES may show the devices in another order or hide some: the name decides."""
    assert chosen(jobs(tmp_path, "GPU-a,GPU-b")) == [0]
    assert chosen(jobs(tmp_path, "GPU-b,GPU-a")) == [0]  # b, since a is taken
    assert waits(jobs(tmp_path, "GPU-b"))


def test_more_devices_than_there_are(tmp_path):
    with pytest.raises(PelError, match="2 GPUs were asked for, 1 can be seen"):
        gpu_slots.take(["a"], 2, folder=tmp_path)


@pytest.mark.parametrize("share", [0, -1, 1.5, float("nan")])
def test_a_share_that_is_none(share):
    with pytest.raises(PelError, match="share"):
        gpu_slots.parts(share)


@pytest.mark.parametrize(
    ("devices", "share", "jobs"), [(3, 1, 3), (2, 0.25, 8), (1, 1 / 3, 3), (1, 0.29, 3), (1, 0.6, 1), (1, 0.001, 100)]
)
def test_jobs_at_once(devices, share, jobs):
    assert gpu_slots.at_once(devices, share) == jobs


@pytest.mark.parametrize(
    ("environment", "asked", "visible", "expected"),
    [
        ({}, 1, 1, False),  # a workstation with one GPU: two Snakemakes may run
        ({"CUDA_VISIBLE_DEVICES": "1"}, 1, 1, False),
        ({"SLURM_JOB_ID": "7"}, 1, 1, True),
        ({"SLURM_JOB_ID": "7"}, 2, 2, True),
        ({"SLURM_JOB_ID": "7"}, 1, 4, False),  # an interactive allocation that Snakemake fills
        ({"PBS_JOBID": "7"}, 1, 1, True),
    ],
)
def test_inside_an_allocation_the_scheduler_has_chosen(environment, asked, visible, expected):
    assert gpu_slots.assigned(asked, visible, environment) is expected


def test_the_folder_is_this_users_and_on_this_machine():
    folder = gpu_slots.lock_folder()
    assert folder.stat().st_uid == os.getuid() and str(os.getuid()) in folder.name


class FakeCuda:
    """What `claim` asks of torch.cuda, on a machine with so many GPUs."""

    def __init__(self, count: int):
        self.count, self.current = count, None

    def is_available(self) -> bool:
        return self.count > 0

    def device_count(self) -> int:
        return self.count

    def get_device_properties(self, index: int) -> SimpleNamespace:
        return SimpleNamespace(uuid=f"uuid-{index}")

    def set_device(self, index: int) -> None:
        self.current = index


@pytest.fixture
def cuda(monkeypatch, tmp_path):
    """Gives a machine GPUs and takes a clean environment and lock folder."""
    for name in (*gpu_slots.ALLOCATIONS, "LOCAL_RANK", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(gpu_slots, "lock_folder", lambda: tmp_path)

    def give(count: int) -> FakeCuda:
        fake = FakeCuda(count)
        monkeypatch.setattr(devices.torch, "cuda", fake)
        return fake

    return give


def test_a_job_takes_the_device_that_another_left(cuda, tmp_path, jobs):
    fake = cuda(2)
    assert chosen(jobs(tmp_path, "uuid-0,uuid-1")) == [0]
    assert devices.claim("auto") == ["cuda:1"] and fake.current == 1


@pytest.mark.parametrize(("name", "gpus", "expected"), [("auto", 0, "auto"), ("cpu", 2, "cpu"), ("cuda:1", 2, "cuda:1")])
def test_nothing_is_locked_without_a_gpu_or_by_name(cuda, tmp_path, name, gpus, expected):
    cuda(gpus)
    assert devices.claim(name) == [expected]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("variable", "value", "count", "expected"), [
    ("LOCAL_RANK", "1", 1, ["cuda:1"]), ("SLURM_JOB_ID", "7", 2, ["cuda:0", "cuda:1"]),
])  # fmt: skip
def test_what_torchrun_or_a_scheduler_gave_is_not_locked(cuda, tmp_path, monkeypatch, variable, value, count, expected):
    cuda(2)
    monkeypatch.setenv(variable, value)
    assert devices.claim("auto", count=count) == expected
    assert not list(tmp_path.iterdir())


def test_an_allocation_that_is_too_small(cuda, monkeypatch):
    cuda(1)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with pytest.raises(PelError, match="2 GPUs were asked for, 1 can be seen"):
        devices.claim("auto", count=2)


@pytest.mark.parametrize(
    ("config", "train", "evaluate"),
    [
        ({}, "", ""),
        ({"resources": {"threads": 2}, "tensorboard": True, "wandb": False}, "", ""),
        ({"resources": {"gpu_share": 0.25}}, "--gpu-share 0.25", "--gpu-share 0.25"),
        ({"resources": {"gpus": 2}}, "--gpus 2", ""),
        ({"resources": {"compile": "auto"}}, "--compile auto", ""),
        ({"resources": {"compile": False}}, "", ""),
        ({"tensorboard": False, "wandb": True}, "--no-tensorboard --wandb", "--no-tensorboard --wandb"),
    ],
)
def test_what_a_configuration_tells_its_jobs(config, train, evaluate):
    assert job_options.train_options(config) == train and job_options.evaluate_options(config) == evaluate
    parser().parse_args(["train", "x", *train.split()])
    parser().parse_args(["evaluate", "x", *evaluate.split()])


@pytest.mark.parametrize(
    ("listed", "visible", "share", "jobs"),
    [
        ("", None, 1.0, 6),  # no GPU: a job per core
        ("GPU 0: A (UUID: GPU-1)\nGPU 1: A (UUID: GPU-2)\n", None, 1.0, 2),
        ("GPU 0: A (UUID: GPU-1)\nGPU 1: A (UUID: GPU-2)\n", None, 0.25, 8),
        ("GPU 0: A (UUID: GPU-1)\nGPU 1: A (UUID: GPU-2)\n", "1", 0.5, 2),
        ("GPU 0: A (UUID: GPU-1)\n", "", 1.0, 6),
        ("GPU 0: A (UUID: GPU-1)\n  MIG 1g Device 0: (UUID: MIG-1)\n  MIG 1g Device 1: (UUID: MIG-2)\n", None, 1.0, 2),
    ],
)
def test_jobs_that_may_train_at_once(tmp_path, monkeypatch, capsys, listed, visible, share, jobs):
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\nprintf '{listed}'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    config = tmp_path / "config.yaml"
    config.write_text(f"title: T\nbackbone: toy\nseeds: [0]\ndata: {{a: toy}}\nresources: {{gpu_share: {share}}}\n")
    assert main(["slots", "6", "--config", str(config)]) == 0
    assert capsys.readouterr().out.strip() == str(jobs)


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        ("{gpus: 2, gpu_share: 0.5}", "give one of the two"),
        ("{gpu_share: 1.5}", "at most 1"),
        ("{gpu_share: 0}", "above 0"),
        ("{gpus: 0}", "1 or more"),
    ],
)
def test_resources_that_cannot_be(tmp_path, capsys, resources, words):
    config = tmp_path / "config.yaml"
    config.write_text(f"title: T\nbackbone: toy\nseeds: [0]\ndata: {{a: toy}}\nresources: {resources}\n")
    assert main(["slots", "6", "--config", str(config)]) == 1
    assert words in capsys.readouterr().err


def test_a_device_may_be_given_back_before_the_process_ends(tmp_path):
    """As between the forward pass of an evaluation and its scores."""
    code = "import pathlib, sys; from pel_core.hardware.gpu_slots import _try"
    code += "; print(_try(['a'], 1, 100, pathlib.Path(sys.argv[1])))"

    def other() -> str:
        return subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
        ).stdout.strip()

    assert gpu_slots.take(["a"], folder=tmp_path) == [0] and other() == "[]"
    gpu_slots.release()
    assert other() == "[0]"
