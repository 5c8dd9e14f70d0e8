"""``python -m pel_core.bench.counters [--write]``: what a step and an evaluation cost, counted, and so the same on every machine.

Operations (FLOP) and operator calls of a training step and of an evaluation's batch, for some methods on the toy network; files
opened and bytes read by an epoch of the input pipeline. A test holds them equal to tests/golden/counters.json: what grows is
seen, and what shrinks is renewed, or it could grow back unseen. ``--write`` says what changed and renews the file.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pel_core.bench.inputs import decoded, make_files
from pel_core.bench.measure import gflop
from pel_core.bench.models import make_ours, make_step, make_tower
from pel_core.common.files import read_json, write_json
from pel_core.common.seeds import generator, torch_generator
from pel_core.data.batches import EvalBatches, TrainBatches
from pel_core.data.split import Split
from pel_core.spec.run_spec import RunSpec
from pel_core.training.classifier import cast_frozen_weights
from pel_core.training.loop import predict
from pel_core.training.step import PRECISIONS

FILE = Path(__file__).parents[2] / "tests" / "golden" / "counters.json"
METHODS = ("adaptformer", "adaptformer@2:4", "vpt-deep", "ln+lora", "ssf-attn", "full", "head-only")
CLASSES, BATCH, CROPS, FILES = 10, 8, 5, 12
CPU = torch.device("cpu")
Counts = dict[str, Any]


class OperatorCalls(TorchDispatchMode):
    """Counts what reaches a device's kernels, views too: each costs a call on a CPU and a launch on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Pass it on."""
        self.calls += 1
        return func(*args, **(kwargs or {}))


def count_all() -> Counts:
    """Every count, as the file holds them; the operator calls are those of its version of torch."""
    found: Counts = {"torch": torch_version(), "flop": {}, "operators": {}, "files": {}}
    for method in METHODS:
        for precision in ("fp32", "bf16") if method == "adaptformer" else ("fp32",):
            for stage, work in _works(method, precision):
                name = f"{stage}, {method}, {precision}"
                found["flop"][name] = round(gflop(work) * 1e9)
                found["operators"][name] = operator_calls(work)
    for name, work in _array_epochs():
        found["operators"][f"input, {name}"] = operator_calls(work)
    with tempfile.TemporaryDirectory() as folder:
        for name, size, work in _file_epochs(Path(folder)):
            found["files"][name] = files_and_bytes(work, size)
    return found


def torch_version() -> str:
    """Without its build."""
    return torch.__version__.partition("+")[0]


def operator_calls(work: Callable[[], object]) -> int:
    """The operator calls of a call."""
    with OperatorCalls() as mode:
        work()
    return mode.calls


def files_and_bytes(work: Callable[[], object], size: int) -> dict[str, float] | None:
    """Files that a call opens, and bytes that it reads as a part of ``size``, once it is warm; None where the system does not
    tell (Linux does: /proc/self/io counts what went through read calls, a file's map not)."""
    work()
    if not Path("/proc/self/io").exists():
        return None
    with opened() as paths:
        before = _bytes_read()
        work()
        read = _bytes_read() - before
    return {"opened": len([path for path in paths if path != "/proc/self/io"]), "read": round(read / size, 2)}


@contextmanager
def opened() -> Iterator[list[str]]:
    """The paths that this process opens meanwhile, from all of its threads."""
    if not _hooked:
        _hooked.append(True)
        sys.addaudithook(_note)  # cannot be taken back
    paths: list[str] = []
    _listening.append(paths)
    try:
        yield paths
    finally:
        _listening.remove(paths)


_listening: list[list[str]] = []
_hooked: list[bool] = []


def _note(event: str, words: tuple[Any, ...]) -> None:
    if event == "open":
        for paths in _listening:
            paths.append(str(words[0]))


def _bytes_read() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["rchar"])


def _works(method: str, precision: str) -> list[tuple[str, Callable[[], object]]]:
    """A training step that is not the first, and an evaluation's batch."""
    choice = {"init": "random", "precision": precision, "batch_size": BATCH}
    spec = RunSpec.make("cifar100-ir100", "toy", method, 0, **choice)
    classifier = make_ours(spec, make_tower("toy"), CLASSES)
    cast_frozen_weights(classifier, PRECISIONS[precision])
    draw, side = torch_generator(0, "bench", "counters"), spec.pixels
    images, labels = torch.randn(BATCH, 3, side, side, generator=draw), torch.arange(BATCH)
    crops, step = images[:, None].expand(-1, CROPS, -1, -1, -1), make_step(classifier, spec, CLASSES, CPU)
    step(images, labels)
    predicted = [("evaluation", lambda: predict(classifier, [(crops, labels)], precision=precision))]
    return [("training", lambda: step(images, labels)), *predicted]


def _batches(split: Split) -> tuple[TrainBatches, EvalBatches]:
    spec = RunSpec.make("cifar100-ir100", "toy", "head-only", 0, init="random", batch_size=4)
    how = spec.pixels, spec.vit.mean, spec.vit.std, CPU
    return TrainBatches(split, spec, *how), EvalBatches(split, "fivecrop", 4, *how, batch_size=4)


def _array_epochs() -> list[tuple[str, Callable[[], object]]]:
    pixels = generator(0, "bench", "counters").integers(0, 256, (FILES, 20, 24, 3), np.uint8)
    train, test = _batches(Split(np.arange(FILES) % CLASSES, pixels))
    return [("training epoch of an array", lambda: list(train.epoch(0))), ("evaluation of an array", lambda: list(test))]


def _file_epochs(folder: Path) -> Iterator[tuple[str, int, Callable[[], object]]]:
    """Name, bytes of all files, and an epoch of training or evaluation from them."""
    paths = make_files(folder, FILES, 160, 120)
    size, labels, names = sum(path.stat().st_size for path in paths), np.arange(FILES) % CLASSES, [str(path) for path in paths]
    for source, cache in (("JPEG files", None), ("image cache", decoded(paths, folder))):
        train, test = _batches(Split(labels, None, names, cache=cache))
        yield f"training epoch, {source}", size, lambda train=train: list(train.epoch(0))
        yield f"evaluation, {source}", size, lambda test=test: list(test)


def changes(stored: Counts, found: Counts) -> list[str]:
    """Lines on what differs, without operator calls of another version of torch and counts that the system does not tell."""
    kinds = ("flop", "operators", "files") if stored["torch"] == found["torch"] else ("flop", "files")
    lines = []
    for kind in kinds:
        for name in dict.fromkeys([*stored[kind], *found[kind]]):
            before, now = stored[kind].get(name, "nothing"), found[kind].get(name, "nothing")
            if before != now and now is not None:
                part = f" ({now / before - 1:+.1%})" if isinstance(before, int) and isinstance(now, int) else ""
                lines.append(f"{kind}, {name}: {before} -> {now}{part}")
    return lines


def main(words: Sequence[str] | None = None) -> int:
    """Count, and say what differs from the stored counts; the status is 1 where something does, unless it was renewed."""
    parser = argparse.ArgumentParser(prog="python -m pel_core.bench.counters", description=main.__doc__)
    parser.add_argument("--write", action="store_true", help="renew tests/golden/counters.json")
    write, found = parser.parse_args(words).write, count_all()
    stored = read_json(FILE, ("torch", "flop", "operators", "files")) if FILE.is_file() else None
    lines = changes(stored, found) if stored else ["there was nothing to compare with"]
    if stored and stored["torch"] != found["torch"]:
        told = "all are new" if write else "they were not compared"
        lines.append(f"operator calls are those of torch {stored['torch']}, and this is {found['torch']}: {told}")
    print("\n".join(lines or ["every count is as it was"]))
    if write:
        write_json(FILE, found)
    return int(bool(lines) and not write)


if __name__ == "__main__":
    sys.exit(main())
