"""Plots of the benchmarks' JSON files, in the house style."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pel_core.bench.machine import DISTURBED
from pel_core.common.errors import PelError
from pel_core.common.files import read_json, replace_file
from pel_core.reporting.figure_style import COLOURS, COLUMN, PAGE, footer, plt, style

Record = Mapping[str, Any]
LIMITS = {"seconds": 10, "peak_memory_mb": 1000}  # of a table's statistics
SERIES = {"baseline": COLOURS[7], "ours": COLOURS[0]}


def draw_all(folder: Path) -> list[Path]:
    """A PNG beside every JSON file that there is a plot for.

    Raises:
        PelError: there is no such file.
    """
    drawn = []
    for path in sorted(folder.glob("*.json")):
        record = read_json(path, ("part", "machine"))
        with style():
            figure = PLOTS[record["part"]](record)
            footer(figure, [about(record)], 150 if figure.get_figwidth() > COLUMN else 70)
            with replace_file(path.with_suffix(".png")) as temporary:
                figure.savefig(temporary, dpi=200, metadata={"Software": None})
        drawn.append(path.with_suffix(".png"))
    if not drawn:
        raise PelError(f"{folder} holds no results: run `make bench`")
    return drawn


def about(record: Record) -> str:
    """The machine in one line."""
    found = record["machine"]
    where = found.get("gpu") or f"{found['cpu']}, {found['cores']} cores, {', '.join(found['flags']) or 'no known flags'}"
    quick = "QUICK: says nothing of speed. " if record["quick"] and record["part"] != "study" else ""
    share = others(record)
    load = f"load {found['load'][0]} before" if share is None else f"others took {share:.0%} of the cores at most"
    busy = found["busy"] if share is None else share > DISTURBED
    if found["clock"] == "processor" and record["part"] != "study":
        load, busy = f"processor time of one thread ({load})", False
    load += " (BUSY)" if busy else ""
    commit = (found["commit"] or "unknown")[:9] + ("+" if (found["commit"] or "").endswith("+") else "")
    return f"{quick}{where}; torch {found['torch']}; {load}; commit {commit}; {found['started'][:10]}"


def others(record: Record) -> float | None:
    """The largest share of the cores that others took while something was measured; None where it is not known."""
    whole = record.get("others")
    shares = (
        list(whole.values()) if isinstance(whole, Mapping) else [whole, *(row.get("others") for row in record.get("rows", ()))]
    )
    return max((share for share in shares if share is not None), default=None)


def _axes(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    figure, axes = plt.subplots(1, columns, figsize=(width, height), layout="constrained", squeeze=False)
    return figure, list(axes[0])


def step(record: Record) -> Figure:
    """Images per second of each method and what it needs in memory, against the baseline; ticks: the matrix peak."""
    rows = [row for row in record["rows"] if row["precision"] == _main_precision(record)]
    figure, (speed, memory) = _axes(PAGE, 2.4, 2)
    for axes, key, label in (
        (speed, "images_per_second", "Images per second"),
        (memory, "memory_mb", "MB above the model's own"),
    ):
        names = list(rows[0][key])
        for place, name in enumerate(names):
            at = [i + (place - (len(names) - 1) / 2) * 0.8 / len(names) for i in range(len(rows))]
            axes.barh(at, [row[key][name] for row in rows], 0.8 / len(names), color=SERIES[name], label=name)
            if axes is speed:
                for y, row in zip(at, rows, strict=True):
                    most = row["peak_gflops"] / row["gflop_per_image"][name]
                    axes.plot([most, most], [y - 0.2, y + 0.2], color=COLOURS[5], linewidth=1.2)
        axes.set_yticks(range(len(rows)), [row["method"] for row in rows] if axes is speed else [])
        axes.invert_yaxis()
        axes.set_xlabel(label)
    speed.plot([], [], color=COLOURS[5], label="at the matrix peak")
    speed.legend(frameon=False, fontsize=6)
    figure.suptitle(f"Training step, {_main_precision(record)}, batch {rows[0]['batch']}", fontsize=8)
    return figure


def _main_precision(record: Record) -> str:
    return "bf16" if record["device"] == "cuda" else "fp32"


def inputs(record: Record) -> Figure:
    """Images per second and core of each way."""
    rows = [row for row in record["rows"] if "seconds" in row]
    figure, (axes,) = _axes(PAGE, 0.8 + 0.17 * len(rows))
    bars = axes.barh(range(len(rows)), [row["images_per_second"] for row in rows], color=COLOURS[0])
    axes.bar_label(bars, fmt="{:,.0f}", fontsize=5.5, padding=2)
    axes.set_yticks(range(len(rows)), [f"{row['way']}, {row['source']}" for row in rows])
    axes.set_xscale("log")
    axes.invert_yaxis()
    axes.set_xlabel("Images per second and core")
    return figure


def evaluation(record: Record) -> Figure:
    """Images per second, five crops each."""
    rows = record["rows"]
    figure, (axes,) = _axes(COLUMN, 1.7)
    axes.barh(range(len(rows)), [row["images_per_second"] for row in rows], color=[SERIES[row["model"]] for row in rows])
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("Images of five crops per second")
    return figure


def study(record: Record) -> Figure:
    """The study's core-seconds by phase."""
    rows = record["rows"]
    figure, (axes,) = _axes(COLUMN, 1.9)
    axes.barh(range(len(rows)), [row["core_seconds"] for row in rows], color=COLOURS[0])
    axes.set_yticks(range(len(rows)), [row["phase"] for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel(f"Core-seconds ({record['settings']['study']})")
    return figure


def scaling(record: Record) -> Figure:
    """Cost against images, classes and runs."""
    figure, (images, classes, runs) = _axes(PAGE, 2.1, 3)
    _line(images, record["tables"], "images", "seconds", "order and boxes of an epoch")
    _line(images, record["trained"], "images", "seconds", f"epoch of {record['settings']['trained_backbone']}")
    _line(classes, record["classes"], "classes", "images_per_second", "training step")
    _line(runs, record["runs"], "runs", "plan_seconds", "plan")
    _line(runs, record["runs"], "runs", "snakemake_seconds", "Snakemake")
    for axes, label in ((images, "Seconds"), (classes, "Images per second"), (runs, "Seconds")):
        axes.set_ylabel(label)
        axes.legend(frameon=False, fontsize=5.5)
    classes.set_ylim(bottom=0)
    images.set_yscale("log")
    return figure


def statistics(record: Record) -> Figure:
    """Seconds and memory of a table's statistics, and what they may be at most."""
    rows = record["rows"]
    figure, (seconds, memory) = _axes(PAGE, 0.9 + 0.3 * len(rows), 2)
    names = [f"{row['dataset']}: {row['rows']} x {row['columns']}, {row['seeds']} seeds" for row in rows]
    for axes, key, limit, label in (
        (seconds, "seconds", LIMITS["seconds"], "Seconds on one core"),
        (memory, "peak_memory_mb", LIMITS["peak_memory_mb"], "Peak memory of the process (MB)"),
    ):
        axes.barh(range(len(rows)), [row[key] for row in rows], color=COLOURS[0])
        axes.axvline(limit, color=COLOURS[5], linewidth=1.2)
        axes.set_yticks(range(len(rows)), names if axes is seconds else [])
        axes.invert_yaxis()
        axes.set_xlabel(f"{label}; line: the most it may take")
    return figure


def sweep(record: Record) -> Figure:
    """How many times as fast runs are that share a process; line: what was wanted of partial methods."""
    figure, panels = _axes(PAGE, 2.4, 2)
    for axes, stage in zip(panels, ("training", "evaluation"), strict=True):
        rows = [row for row in record["rows"] if row["stage"] == stage]
        axes.barh(range(len(rows)), [row["ratio"]["median"] for row in rows], color=COLOURS[0])
        axes.axvline(2, color=COLOURS[5], linewidth=1.2)
        names = [f"{row['backbone']}, {row['method']}, {row['source']}" for row in rows]
        axes.set_yticks(range(len(rows)), names if axes is panels[0] else [])
        axes.invert_yaxis()
        axes.set_xlabel(f"{stage.capitalize()}: together, times as fast as one by one")
    return figure


def gpu(record: Record) -> Figure:
    """Images per second of every way to take the training step; ticks: the matrix peak."""
    rows = [row for row in record["rows"] if row["part"] == "step" and "images_per_second" in row]
    figure, (axes,) = _axes(PAGE, 0.8 + 0.19 * max(len(rows), 1))
    for y, row in enumerate(rows):
        axes.barh(y, row["images_per_second"], color=SERIES["baseline" if row["way"] == "reference" else "ours"])
        most = row["peak_gflops"] / row["gflop_per_image"]
        axes.plot([most, most], [y - 0.4, y + 0.4], color=COLOURS[5], linewidth=1.2)
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("Images per second; line: at the matrix peak")
    return figure


def _line(axes: Axes, rows: list[Record], x: str, y: str, label: str) -> None:
    number = len(axes.lines)
    axes.plot(
        [row[x] for row in rows], [row[y] for row in rows], "os"[number], linestyle="-", color=COLOURS[number], label=label, ms=3
    )
    axes.set_xscale("log")
    axes.set_xlabel(x.capitalize())


PLOTS: dict[str, Callable[[Record], Figure]] = {
    "step": step,
    "input": inputs,
    "evaluation": evaluation,
    "study": study,
    "scaling": scaling,
    "statistics": statistics,
    "sweep": sweep,
    "gpu": gpu,
}
