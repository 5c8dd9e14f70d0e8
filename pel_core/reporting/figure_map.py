"""The method map: per block and site what a method attaches and how many parameters train there, drawn from live models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pel_core.common.files import read_json
from pel_core.common.lazy import plt
from pel_core.data.datasets import split_name
from pel_core.models.methods import METHODS
from pel_core.reporting.figure_style import COLOURS, PAGE, footer, mark, save, style
from pel_core.spec.run_spec import RunSpec
from pel_core.studies.kinds import FIGURE, FIGURES, ArtefactKind
from pel_core.studies.study import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Sites from the input of a block to its output; "" is the block itself, before which prompts are put.
SITES = ("", "attn.norm", "attn.qkv", "attn.proj", "attn", "ffn.norm", "ffn.fc1", "ffn.fc2", "ffn")
LIGHT = (1, 4, 6)  # colours of the palette on which black is easier to read than white
SITE_NAMES = {"": "tokens", "ffn": "MLP branch", "attn": "attention branch"}


@dataclass(frozen=True)
class CensusRow:
    """One row of a census: a ``kind`` (part of a method) trains ``parameters`` numbers at a site of a block."""

    method: str
    block: int
    site: str
    kind: str
    parameters: int


def census(label: str, spec: RunSpec, results: str | Path) -> list[CensusRow]:
    """Build a run's model as training does and list what trains where, the head left out.

    Raises:
        PelError: the backbone or the data set is not prepared.
    """
    import torch

    from pel_core.models.weights import load_vit
    from pel_core.training.classifier import build

    folder = Path(results)
    classes = len(read_json(folder / "data" / split_name(spec.dataset)[0] / "data.json")["class_names"])
    vit, text, _ = load_vit(folder / "backbones" / spec.backbone, spec.resolution)
    # The head is not drawn, so that class-text features need not be there.
    with torch.no_grad():
        tuned = build(replace(spec, init="random"), vit, classes, text).tuned if spec.trains else []
    found: dict[tuple[int, str, str], int] = {}
    for entry in tuned:
        key = (entry.block, entry.site, entry.method)
        found[key] = found.get(key, 0) + entry.parameter.numel()
    return [CensusRow(label, block, site, kind, count) for (block, site, kind), count in found.items()]


def draw_map(
    rows: Sequence[CensusRow], methods: Sequence[str], layers: int, title: str, notes: Iterable[str], banner: tuple[str, str]
) -> Figure:
    """Draw a census, one panel per method of ``methods``, blocks across and sites up. Call it inside ``style()``."""
    sites = sorted({row.site for row in rows}, key=lambda site: (SITES.index(site) if site in SITES else len(SITES), site))
    kinds = [name for name in METHODS if any(row.kind == name for row in rows)]
    kinds += sorted({row.kind for row in rows} - set(kinds))
    across = min(2, len(methods))
    down = -(-len(methods) // across)
    height = 0.9 + down * (0.42 + 0.21 * max(len(sites), 1)) + 0.35
    figure, grid = plt.subplots(down, across, figsize=(PAGE, height), layout="constrained", squeeze=False, sharex=True)
    panels = list(grid.flat)
    for axes, method in zip(panels, methods, strict=False):
        _panel(axes, [row for row in rows if row.method == method], method, sites, kinds, layers)
    for axes in panels[len(methods) :]:
        axes.set_axis_off()
    for axes in panels[max(0, len(methods) - across) : len(methods)]:  # the lowest of each column
        axes.set_xlabel("block")
        axes.tick_params(labelbottom=True)
    squares = [plt.Rectangle((0, 0), 1, 1, facecolor=COLOURS[i % len(COLOURS)]) for i in range(len(kinds))]
    squares.append(plt.Rectangle((0, 0), 1, 1, facecolor="#F0F0F0", edgecolor="#CCCCCC"))
    # The title's empty second line makes room for the legend.
    figure.suptitle(f"{title}\n", fontsize=8, x=0.01, ha="left", linespacing=1.6)
    anchor = {"loc": "upper left", "bbox_to_anchor": (0.01, 1 - 0.19 / height), "borderaxespad": 0}
    figure.legend(squares, [*kinds, "frozen"], ncols=len(squares), fontsize=6.5, frameon=False, **anchor)
    footer(figure, [*notes, banner[1]], int(26 * PAGE))
    mark(figure, banner[0])
    return figure


def _panel(axes: Axes, rows: list[CensusRow], method: str, sites: list[str], kinds: list[str], layers: int) -> None:
    total = sum(row.parameters for row in rows)
    axes.set_title(f"{method}: {total:,} parameters", loc="left", fontsize=7)
    for y in range(len(sites)):
        for block in range(layers):
            axes.add_patch(
                plt.Rectangle((block - 0.46, y - 0.44), 0.92, 0.88, facecolor="#F0F0F0", edgecolor="#CCCCCC", linewidth=0.4)
            )
    for y, site in enumerate(sites):
        here = [row for row in rows if row.site == site]
        for block in range(layers):
            stack = [row for row in here if row.block == block]
            for i, row in enumerate(stack):  # methods stacked at one site share its cell
                width = 0.92 / len(stack)
                colour = COLOURS[kinds.index(row.kind) % len(COLOURS)]
                axes.add_patch(plt.Rectangle((block - 0.46 + i * width, y - 0.44), width, 0.88, facecolor=colour, linewidth=0))
            if stack:
                count = short(sum(row.parameters for row in stack))
                ink = "black" if stack[0].kind in kinds and kinds.index(stack[0].kind) in LIGHT else "white"
                axes.text(block, y, count, ha="center", va="center", fontsize=4.4 if layers <= 12 else 3, color=ink)
        if here:
            axes.text(layers - 0.4, y, f"{sum(row.parameters for row in here):,}", ha="left", va="center", fontsize=5.5)
    axes.set_xlim(-0.6, layers + 1.3)
    axes.set_ylim(-0.6, len(sites) - 0.4)
    axes.set_xticks(range(layers), [str(block) for block in range(layers)], fontsize=5.5)
    axes.set_yticks(range(len(sites)), [SITE_NAMES.get(site, site) for site in sites], fontsize=6)
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)


def short(count: int) -> str:
    """A count in at most four letters: 8453 -> 8.5k."""
    for size, letter in ((10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.{0 if count >= 9.95 * size else 1}f}{letter}"
    return str(count)


def save_map(study: Study, name: str, folder: str | Path) -> None:
    """Draw a declared method map into ``folder`` as pdf, svg and png.

    Raises:
        PelError: a backbone or data set is not prepared.
    """
    artefact = study.artefact(name)
    labels = [str(entry["label"]) for entry in artefact.declaration["methods"]]
    specs = [cell.specs[0] for cell in artefact.cells]
    rows = [row for label, spec in zip(labels, specs, strict=True) for row in census(label, spec, study.results)]
    named = ", ".join(dict.fromkeys(f"{spec.vit.label}, {spec.dataset}" for spec in specs))
    notes = [
        f"Numbers: parameters that train, counted in the built model ({named}); the classification head is left out.",
        artefact.declaration.get("note", ""),
    ]
    layers = max(spec.vit.layers for spec in specs)
    with style():
        save(draw_map(rows, labels, layers, artefact.title, notes, artefact.banner), folder, name)


FIGURES.register(
    "map",
    ArtefactKind(FIGURE, save_map, rows="methods", from_models=True),
    about="which sites of which block carry what, counted in the built models",
)
