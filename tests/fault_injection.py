"""Faults at random points: kill, TERM, full disk, torn file, NaN, missing node, in training, evaluation, drawing and caches.

    python tests/fault_injection.py --faults 240 --seed 7           # prints each fault that was not survived, then the table
    python tests/fault_injection.py --write docs/reliability.md     # and puts the table there

A process that has torch imported forks a child for each fault. The child runs the command under a profiler that counts calls
and strikes at the chosen one: half of them anywhere, half beside a call that touches files. Then the command is started again,
and what it leaves is compared with what an undisturbed one left.
"""

import argparse
import gc
import importlib
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
from forks import Child, End, count_calls, full_disk, poison, strike_at
from worlds import AGGREGATE, CACHE, SLUG, ToyStudy, different

from pel_core.hardware import lease
from pel_core.training import checkpoints as checkpoint
from pel_core.training.checkpoints import checkpoint_path, read_checkpoint

KINDS = ("kill -9", "TERM", "disk full", "torn file", "NaN", "missing node")
WORDS = {"HEARTBEAT": 0.05, "STALE": 0.4, "POLL": 0.02, "CONFIRM_DELAY": 0.05}
PRELOADED = ("torch._dynamo", "pyarrow.parquet", "matplotlib.pyplot", "scipy.stats")
PRELOADED += ("pel_core.training.run", "pel_core.evaluation.evaluate", "pel_core.ingest.prepare", "pel_core.models.weights")
PRELOADED += tuple(f"pel_core.reporting.{name}" for name in ("tables", "claims"))
POISONS = ("images", "weights", "momentum", "loss")


class Harness:
    """Injects faults into the stages of a toy study and keeps the score."""

    def __init__(self, folder: Path, seed: int):
        torch.set_num_threads(1)
        for name in PRELOADED:  # once, not in every child
            importlib.import_module(name)
        gc.collect()
        gc.freeze()  # children's collections would copy every page
        for name, value in WORDS.items():
            setattr(lease, name, value)
        checkpoint.SHARE = 1e9  # save after every step, so that many faults fall into a save
        self.folder, self.rng = folder, random.Random(seed)
        self.base = ToyStudy.make(folder / "base", lambda words: Child(words).wait(120))
        self.calls: dict[str, tuple[int, list[int]]] = {}
        self.score = {kind: Counter() for kind in KINDS}
        self.failures: list[str] = []

    def point(self, stage: str) -> int:
        """A random call of a stage's command."""
        if stage not in self.calls:
            world = self.base.copy(self.folder / "count", stage)
            self.calls[stage] = count_calls(world.words(stage))
            shutil.rmtree(world.folder)
        calls, touching = self.calls[stage]
        near = self.rng.choice(touching) + self.rng.randrange(-2, 4)
        return max(1, min(near if self.rng.random() < 0.5 else self.rng.randrange(1, calls), int(0.99 * calls)))

    def inject(self, kind: str, stage: str) -> None:
        """One fault, the next start, and the comparison."""
        world = self.base.copy(self.folder / "world", stage)
        score, words = self.score[kind], world.words(stage)
        end, note = self._strike(kind, stage, world, words)
        struck = note != "missed"
        again = Child(words).wait()
        if end.status is None:  # the process of the lost node comes back
            os.kill(end.child.pid, signal.SIGCONT)
            back = end.child.wait()
            end = End(back.status, end.told + back.told)
        survived = end.clear and again.status == 0 and again.clear
        unequal = different(self.base, world, stage)
        if struck:
            score.update(injected=1, survived=survived, equal=survived and not unequal)
            score[stage.split()[0]] += 1
        if struck and (not survived or unequal):
            what = f"{kind} in {stage} ({note}): {end.status} {again.status} {unequal}"
            self.failures.append(f"{what}\n{end.told}\n{again.told}")
        shutil.rmtree(world.folder)

    def _strike(self, kind: str, stage: str, world: ToyStudy, words: list[str]) -> tuple[End, str]:
        draw, me = self.rng, os.getpid
        if kind == "NaN":
            how, step = draw.choice(POISONS), draw.randrange(1, 17)
            end = Child(words, poison(how, step)).wait()
            bad = end.status != 1 or not ("not finite" in end.told or "the loss became" in end.told)
            path = checkpoint_path(world.results, SLUG)
            if path.exists() and not all(value.isfinite().all() for value in read_checkpoint(path)[0].values()):
                bad = True
            return (End(70, f"Traceback: poison was not told: {end.told}") if bad else end), f"{how} at step {step}"
        point = self.point(stage)
        if kind == "torn file":
            return self._tear(stage, world, words, point)
        strikes = {
            "kill -9": lambda: os.kill(me(), signal.SIGKILL),
            "TERM": lambda: os.kill(me(), signal.SIGTERM),
            "disk full": full_disk(draw),
        }
        if kind == "missing node":
            number = draw.choice([signal.SIGKILL, signal.SIGSTOP])
            child = Child(words, strike_at(point, lambda: os.kill(me(), number)))
            end = child.wait()
            end.child = child
            if number == signal.SIGKILL:
                world.move_lease()
            missed = end.status is not None and end.status >= 0
            return end, "missed" if missed else f"{signal.Signals(number).name} at call {point}"
        end = Child(words, strike_at(point, strikes[kind])).wait()
        expected = {"kill -9": (-9,), "TERM": (143, 0), "disk full": (0, 1)}[kind]
        if end.status not in expected:
            end = End(end.status, f"Traceback: status {end.status}\n{end.told}")
        return end, f"call {point}"

    def _tear(self, stage: str, world: ToyStudy, words: list[str], point: int) -> tuple[End, str]:
        """Cut off a file that a killed or a finished command left; what reads it next must name it, or need not read it."""
        killed = self.rng.random() < 0.5
        prepare = strike_at(point, lambda: os.kill(os.getpid(), signal.SIGKILL)) if killed else (lambda: None)
        end = Child(words, prepare).wait()
        if not (own := world.own_files(stage)):  # killed before it wrote anything
            end, killed = Child(words).wait(), False
            own = world.own_files(stage)
        path = self.rng.choice(own)
        content = path.read_bytes()
        path.write_bytes(content[: self.rng.randrange(len(content))] if content else b"\0")
        note = f"tore {path.relative_to(world.folder)}"
        if not killed and (reader := world.reader(stage)):
            told = Child(reader).wait()
            named = path.name in told.told or path.parent.name in told.told
            if not told.clear or (told.status != 0 and not named):
                return End(70, f"Traceback: {note}, told {told.told}"), note
        return end, note


PLAN = {  # of each kind: how often each stage comes
    "NaN": ("train",),
    "missing node": ("train", "train", "train", "evaluate", "cache", "aggregate"),
}


def run(folder: Path, faults: int, seed: int) -> Harness:
    """Inject at least ``faults``, equally many of each kind, and no fewer than 30 of each where 180 or more are asked for."""
    harness, each = Harness(folder, seed), -(-faults // len(KINDS))
    for kind in KINDS:
        stages, turn = PLAN.get(kind, ("train", "evaluate", "aggregate", "cache")), 0
        while harness.score[kind]["injected"] < each and turn < 3 * each:
            stage = stages[turn % len(stages)]
            names = {"aggregate": (*AGGREGATE, "table", "claims"), "cache": CACHE}.get(stage, (stage,))
            harness.inject(kind, f"{stage} {harness.rng.choice(names)}" if stage in ("aggregate", "cache") else stage)
            turn += 1
    return harness


def table(harness: Harness) -> str:
    """The score in Markdown."""
    lines = ["| Fault | Injected | in training | evaluation | tables, figures | caches | Survived | Results equal |"]
    lines.append("|---|" + "---:|" * 7)
    total = Counter()
    for kind, score in [*harness.score.items(), ("all", total)]:
        counts = (score[key] for key in ("injected", "train", "evaluate", "aggregate", "cache", "survived", "equal"))
        lines.append(f"| {kind} | " + " | ".join(map(str, counts)) + " |")
        total.update(score)
    return "\n".join(lines)


def quick_folder() -> str | None:
    """A folder in memory if there is one: thousands of flushes to a disk take minutes."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def main_program() -> int:
    """From the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", type=int, default=240)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", type=Path, help="a document with the marks <!-- faults --> and <!-- /faults -->")
    arguments = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=quick_folder()) as folder:
        harness = run(Path(folder), arguments.faults, arguments.seed)
    print("\n\n".join(harness.failures))
    print(table(harness))
    print(f"seed {arguments.seed}, {time.monotonic() - started:.0f} s")
    if arguments.write:
        text = arguments.write.read_text()
        made = f"<!-- faults -->\nSeed {arguments.seed}:\n\n{table(harness)}\n<!-- /faults -->"
        arguments.write.write_text(re.sub(r"<!-- faults -->.*<!-- /faults -->", lambda _: made, text, flags=re.S))
    return bool(harness.failures)


if __name__ == "__main__":
    if os.environ.get("OMP_NUM_THREADS") != "1":  # a process with threads is not forked safely
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {"OMP_NUM_THREADS": "1"})
    status = main_program()
    sys.stdout.flush()
    os._exit(status)  # past the farewells of libraries that were imported for the children
