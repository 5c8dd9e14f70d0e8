"""``python -m pel_core.bench [step|input|evaluation|study|scaling|statistics|sweep|gpu|all] [--quick]``"""

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from pel_core.bench.compare import comparison
from pel_core.bench.parts import ON_GPU, PARTS
from pel_core.common.errors import PelError
from pel_core.common.files import read_json, write_json

FORMAT = 1
STORED = Path("docs/benchmarks")


def main(words: Sequence[str] | None = None) -> int:
    """Measure, say what got slower or larger than the stored figures of this kind of machine, write one JSON file for each part,
    draw the plots and fill in the tables of the README beside them."""
    parser = argparse.ArgumentParser(prog="python -m pel_core.bench", description=main.__doc__)
    parser.add_argument("part", nargs="?", default="all", choices=(*PARTS, "all", "draw"), help="draw: plots and tables alone")
    parser.add_argument("--out", type=Path, help="folder to write (docs/benchmarks; with --quick results/benchmarks)")
    parser.add_argument("--against", type=Path, default=STORED, help="folder of the figures to compare with (docs/benchmarks)")
    parser.add_argument(
        "--quick", action="store_true", help="the toy model and few images: shows that it works, says nothing of speed"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (0: torch's own choice)")
    parser.add_argument(
        "--patience", type=float, default=0, help="seconds of a part to wait for a quiet machine, and to measure again otherwise"
    )
    parser.add_argument("--batch", type=int, default=0, help="images of a training step (16, on a GPU 128)")
    parser.add_argument(
        "--clock",
        default="wall",
        choices=("wall", "processor"),
        help="processor: one thread, its processor time, where others keep the machine busy",
    )
    arguments = parser.parse_args(words)
    if arguments.clock == "processor":
        arguments.threads, arguments.device = 1, "cpu"
    out = arguments.out or (Path("results/benchmarks") if arguments.quick else STORED)
    try:
        for part in () if arguments.part == "draw" else PARTS if arguments.part == "all" else (arguments.part,):
            if arguments.part == "all" and part in ON_GPU and not on_gpu(arguments.device):
                continue
            path, record = measure(part, arguments)
            stored = arguments.against / path  # before it is replaced
            for line in comparison(read_json(stored, ("machine", "quick")) if stored.is_file() else None, record):
                print(f"{part}: {line}", flush=True)
            write_json(out / path, record)
        draw(out)
    except PelError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def measure(part: str, arguments: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """A part's file name and record."""
    threads = arguments.threads
    if threads:
        os.environ["OMP_NUM_THREADS"] = str(threads)  # before torch is imported, and for processes that are started
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    import torch

    from pel_core.bench.machine import Bench, machine
    from pel_core.bench.measure import rounded, use_clock
    from pel_core.hardware.devices import pick_device, tune_process

    torch.set_num_threads(threads or torch.get_num_threads())
    target = pick_device(arguments.device)
    tune_process(arguments.device)  # as a run does
    use_clock(arguments.clock)
    about = machine(target) | {"clock": arguments.clock}
    if about["busy"] and arguments.clock == "wall":
        print(
            f"warning: load average {about['load'][0]} before the start: the machine is busy; see --patience and --clock",
            file=sys.stderr,
        )
    say = partial(print, f"{part}:", flush=True)
    bench = Bench(target, arguments.quick, about["flags"], say, arguments.patience, arguments.batch)
    found = import_module(f"pel_core.bench.{PARTS[part]}").run(bench)
    record = {"format": FORMAT, "part": part, "quick": arguments.quick, "device": target.type, "machine": about, **found}
    return f"{part}.{target.type}.json", rounded(record)


def on_gpu(device: str) -> bool:
    """Whether a device's name says a GPU here."""
    from pel_core.hardware.devices import pick_device

    return pick_device(device).type == "cuda"


def draw(out: Path) -> None:
    """Plots and tables of every JSON file in a folder."""
    from pel_core.bench.plots import draw_all
    from pel_core.bench.readme import refresh

    draw_all(out)
    refresh(out)


if __name__ == "__main__":
    sys.exit(main())
