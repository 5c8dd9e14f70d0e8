"""The tables of docs/benchmarks/README.md, made from the JSON files beside it: text between marks is replaced, the rest stays."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from pel_core.bench.parts import ON_GPU
from pel_core.bench.plots import about
from pel_core.bench.study import ABOUT
from pel_core.common.files import read_json, write_text

Record = Mapping[str, Any]
NONE = "not measured"


def refresh(folder: Path) -> None:
    """Renew the tables of the folder's README; without one, write one that holds them alone."""
    path = folder / "README.md"
    text = path.read_text(encoding="utf-8") if path.is_file() else _empty()
    for part, table in TABLES.items():
        records = {
            kind: read_json(folder / f"{part}.{kind}.json") for kind in KINDS if (folder / f"{part}.{kind}.json").is_file()
        }
        lines = [f"Measured on the {KINDS[kind]}: {about(record)}." for kind, record in records.items()]
        absent = [kind for kind in KINDS if kind not in records and (kind == "cuda" or part not in ON_GPU)]
        lines += [f"On the {KINDS[kind]}: {NONE}." for kind in absent]
        made = table(records) if records else []
        picture = [f"![{part}]({part}.{kind}.png)" for kind in records]
        body = "\n".join([*(f"{line}  " for line in lines), "", *made, "", *picture])
        pattern = re.compile(f"(<!-- {part} -->\n).*?(\n<!-- /{part} -->)", re.DOTALL)
        text = pattern.sub(lambda match, body=body: match[1] + body.strip("\n") + match[2], text)
    write_text(path, text)


KINDS = {"cpu": "CPU", "cuda": "GPU"}


def _empty() -> str:
    blocks = [f"## {part.capitalize()}\n\n<!-- {part} -->\n\n<!-- /{part} -->\n" for part in TABLES]
    return "\n".join(["# Benchmarks\n", *blocks])


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def _range(value: Mapping[str, float]) -> str:
    return f"{value['median']:.2f} ({value['min']:.2f} to {value['max']:.2f})"


def step(records: Mapping[str, Record]) -> list[str]:
    """A row for each method, precision and device, and one for each that was not measured."""
    head = ["device, precision", "method", "baseline img/s", "ours img/s", "ratio (spread)", "baseline of peak", "ours of peak"]
    head += ["ratio at the peak", "memory, of the baseline's"]
    rows = []
    for kind, record in records.items():
        for row in record["rows"]:
            speed, part = row["images_per_second"], row["peak_fraction"]
            share = f"{row['memory_mb']['ours']:.0f} of {row['memory_mb']['baseline']:.0f} MB = {row['memory_ratio']['ours']:.0%}"
            cells = [
                f"{KINDS[kind]}, {row['precision']}",
                f"`{row['method']}`",
                f"{speed['baseline']:.2f}",
                f"{speed['ours']:.2f}",
            ]
            cells += [
                _range(row["ratio"]["ours"]),
                f"{part['baseline']:.0%}",
                f"{part['ours']:.0%}",
                f"{row['ratio_at_peak']:.2f}",
            ]
            rows.append([*cells, share])
    if "cuda" not in records:
        rows.append(["GPU", "all", *[NONE] * (len(head) - 2)])
    peaks = {
        f"{KINDS[kind]}, {row['precision']}: {row['peak_gflops']:,.0f} GFLOP/s"
        for kind, record in records.items()
        for row in record["rows"]
    }
    errors = max(row["logit_error_fp32"] for record in records.values() for row in record["rows"])
    lines = [f"Matrix peak measured in the same process: {'; '.join(sorted(peaks))}."]
    lines += [
        f"Before anything was timed, logits of baseline and ours were equal within {errors:.1g} (fp32, logits up to 25).",
        "",
    ]
    return lines + _table(head, rows)


def inputs(records: Mapping[str, Record]) -> list[str]:
    """A row for each way, a column for each source and device."""
    found: dict[str, dict[str, str]] = {}
    for kind, record in records.items():
        for row in record["rows"]:
            speed = f"{row['images_per_second']:,.0f}" if "seconds" in row else row["why"]
            found.setdefault(row["way"], {})[f"{row['source']} ({KINDS[kind]})"] = speed
    if "cuda" not in records:
        found["decode_jpeg on the GPU + v2"] = {}
    sources = list(dict.fromkeys(source for cells in found.values() for source in cells))
    sizes = {
        f"{row['source']}: {row['jpeg_kb']:.0f} kB" for record in records.values() for row in record["rows"] if "jpeg_kb" in row
    }
    rows = [[way, *(cells.get(source, NONE if not cells else "-") for source in sources)] for way, cells in found.items()]
    return [f"Images per second and core. Mean file sizes: {', '.join(sorted(sizes))}.", "", *_table(["way", *sources], rows)]


def evaluation(records: Mapping[str, Record]) -> list[str]:
    """Speed, then agreement."""
    head = [
        "device",
        "model, precision",
        "img/s (five crops each)",
        "against baseline fp32",
        "against baseline, same precision",
        "of peak",
    ]
    rows, same = [], []
    for kind, record in records.items():
        for row in record["rows"]:
            cells = [KINDS[kind], row["name"], f"{row['images_per_second']:.2f}", _range(row["ratio"])]
            rows.append([*cells, _range(row["ratio_same_precision"]), f"{row['peak_fraction']:.0%}"])
        for row in record["agreement"]:
            cells = [KINDS[kind], row["precision"], f"{row['max_logit_difference']:.3g}", f"{row['top1_agreement']:.2%}"]
            same.append([*cells, f"{row['accuracy']:.2f} of {row['images']} images"])
    rows += [] if "cuda" in records else [["GPU", "all", *[NONE] * 4]]
    about_data = next(iter(records.values()))["settings"]
    words = (
        f"Zero-shot of {about_data['agreement_backbone']} on {about_data['agreement_dataset']}, logits up to 100, against fp32:"
    )
    agree = _table(["device", "precision", "largest logit difference", "same top-1", "accuracy (%)"], same)
    return [*_table(head, rows), "", words, "", *agree]


def study(records: Mapping[str, Record]) -> list[str]:
    """Core-seconds by phase."""
    lines = []
    for kind, record in records.items():
        head = f"{record['settings']['study']}: {record['runs']} runs in {record['wall_seconds']:.0f} s"
        head += f" on {record['settings']['cores']} cores"
        lines += [f"{KINDS[kind]}, {head}.", ""]
        rows = [[ABOUT[row["phase"]], f"{row['core_seconds']:.1f}", f"{row['share']:.1%}"] for row in record["rows"]]
        lines += [*_table(["phase", "core-seconds", "share"], rows), ""]
    return lines


def scaling(records: Mapping[str, Record]) -> list[str]:
    """Four small tables."""
    lines = []
    for kind, record in records.items():
        for key, words in SCALING.items():
            head = list(record[key][0])
            rows = [
                [f"{row[name]:,}" if isinstance(row[name], int) else f"{row[name]:.3g}" for name in head] for row in record[key]
            ]
            lines += [f"{KINDS[kind]}: {words}", "", *_table([name.replace("_", " ") for name in head], rows), ""]
    return lines


def statistics(records: Mapping[str, Record]) -> list[str]:
    """A row for each test set."""
    head = ["test set", "classes", "images", "table", "seeds", "seconds", "reading", "comparing", "peak memory (MB)"]
    rows = []
    for record in records.values():
        for row in record["rows"]:
            counts = [f"{row['classes']:,}", f"{row['images']:,}", f"{row['rows']} x {row['columns']}", str(row["seeds"])]
            times = [f"{row[key]:.1f}" for key in ("seconds", "read_seconds", "compare_seconds")]
            rows.append([row["dataset"], *counts, *times, f"{row['peak_memory_mb']:.0f}"])
    columns = next(iter(records.values()))["settings"]["columns"]
    return [f"Columns: {', '.join(f'`{name}`' for name in columns)}. One core.", "", *_table(head, rows)]


def sweep(records: Mapping[str, Record]) -> list[str]:
    """A row for each method and source of images, with both stages; one for a network that was not measured."""
    head = ["device, network", "method", "images", "runs", "training together", "reading, of a training", "evaluating together"]
    head += ["reading, of an evaluation"]
    found: dict[tuple[str, ...], dict[str, list[str]]] = {}
    for kind, record in records.items():
        for row in record["rows"]:
            reading = median(row["reading_seconds"]) * row["reads"] / median(row["seconds"]["separate"])
            where = f"{KINDS[kind]}, {row['backbone']}", f"`{row['method']}`", row["source"], str(row["runs"])
            found.setdefault(where, {})[row["stage"]] = [_turns(row["ratio"]), f"{reading:.0%}"]
    rows = [[*where, *(cell for stage in STAGES for cell in cells.get(stage, [NONE] * 2))] for where, cells in found.items()]
    asked = {size["backbone"] for record in records.values() for size in record["settings"]["sizes"]}
    measured = {row["backbone"] for record in records.values() for row in record["rows"]}
    rows += [[f"CPU, {name}", *[NONE] * (len(head) - 1)] for name in sorted(asked - measured)]
    return ["Times as fast in one process as one by one (smallest to largest of the turns):", "", *_table(head, rows)]


STAGES = ("training", "evaluation")


def _turns(value: Mapping[str, float]) -> str:
    """A range, of one turn the number alone."""
    return _range(value) if value["min"] < value["max"] else f"{value['median']:.2f}"


def gpu(records: Mapping[str, Record]) -> list[str]:
    """A row for each way of a step, an evaluation, an epoch and of reading images; what could not be measured says why."""
    head = ["part", "what", "images/s", "of the matrix peak", "memory (MB)", "compiled in (s)"]
    rows = []
    for record in records.values():
        for row in record["rows"]:
            cells = [row["part"], row["name"]]
            if "why" in row:
                rows.append([*cells, f"{NONE}: {row['why']}", "", "", ""])
            elif row["part"] == "peak":
                rows.append([*cells, f"{row['peak_gflops'] / 1e3:,.0f} TFLOP/s", "", "", ""])
            else:
                part = f"{row['peak_fraction']:.0%}" if "peak_fraction" in row else ""
                more = [f"{row[key]:,.0f}" if row.get(key) else "" for key in ("memory_mb", "compile_seconds")]
                rows.append([*cells, f"{row['images_per_second']:,.0f}", part, *more])
    return _table(head, rows)


SCALING = {
    "tables": "an epoch's order, random numbers and crop boxes, before its first step",
    "trained": "an epoch of the demo's kind (batch 16, adaptformer, images held as an array)",
    "classes": "a training step with the automatic bottleneck, and the score of 5,000 test images",
    "runs": "planning, a process from start to end: `pel_core plan`, and a dry run of Snakemake",
}
TABLES: dict[str, Callable[[Mapping[str, Record]], list[str]]] = {
    "step": step,
    "input": inputs,
    "evaluation": evaluation,
    "study": study,
    "scaling": scaling,
    "statistics": statistics,
    "sweep": sweep,
    "gpu": gpu,
}
