"""The method map: per block and site what a method attaches and how many parameters train there, drawn from live models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pel_core.common.files import read_json
from pel_core.common.lazy import plt
from pel_core.data.datasets import split_name
from pel_core.models.methods import METHODS
from pel_core.reporting.figure_sheet import Sheet, frame, saves
from pel_core.reporting.figure_style import COLOURS, PAGE
from pel_core.reporting.figure_text import line_height, text_width, wrapped
from pel_core.spec.run_spec import RunSpec
from pel_core.studies.kinds import FIGURE, FIGURES, ArtefactKind
from pel_core.studies.study import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Sites from the input of a block to its output; "" is the block itself, before which prompts are put.
SITES = ("", "attn.norm", "attn.qkv", "attn.proj", "attn", "ffn.norm", "ffn.fc1", "ffn.fc2", "ffn")
FROZEN, EDGE = "#F0F0F0", "#CCCCCC"
SITE, UNDER = 0.21, 0.32  # inches: the height of a site's row, and of what is under the lowest panels
LEGIBLE = 2.8  # points: a smaller count is not put into its cell; the sum beside the row has it
LIGHT = (1, 4)  # colours of the palette on which black is easier to read than white
SITE_NAMES = {"": "tokens", "ffn": "MLP branch", "attn": "attention branch"}


@dataclass(frozen=True)
class Panel:
    """What is drawn of one method: its rows of the census, and the sites, kinds and number of blocks of the whole map."""

    title: str
    rows: list[CensusRow]
    sites: list[str]
    kinds: list[str]
    layers: int


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
    classes = classes if spec.factors.classes == "all" else int(spec.factors.classes)
    vit, text, _ = load_vit(folder / "backbones" / spec.backbone, spec.resolution)
    # The head is not drawn, so that neither class-text features nor a text tower need be there.
    kept = tuple(pair for pair in spec.knobs if not pair[0].startswith("head."))
    with torch.no_grad():
        tuned = build(replace(spec, head="cosine", init="random", knobs=kept), vit, classes, text).tuned if spec.trains else []
    found: dict[tuple[int, str, str], int] = {}
    for entry in (entry for entry in tuned if not entry.carried):
        key = (entry.block, entry.site, entry.method)
        found[key] = found.get(key, 0) + entry.parameter.numel()
    return [CensusRow(label, block, site, kind, count) for (block, site, kind), count in found.items()]


@dataclass(frozen=True)
class MapFigure:
    """A census before it is drawn: a panel for each of ``methods``, of ``layers`` blocks."""

    sheet: Sheet
    rows: Sequence[CensusRow]
    methods: Sequence[str]
    layers: int


def map_figure(study: Study, name: str) -> MapFigure:
    """Fill a declared method map from the prepared models.

    Raises:
        PelError: a backbone or data set is not prepared.
    """
    artefact = study.artefact(name)
    labels = [str(entry["label"]) for entry in artefact.declaration["methods"]]
    specs = [cell.specs[0] for cell in artefact.cells]
    rows = [row for label, spec in zip(labels, specs, strict=True) for row in census(label, spec, study.results)]
    named = ", ".join(dict.fromkeys(f"{spec.vit.label}, {spec.dataset}" for spec in specs))
    about = f"Numbers: parameters that train, counted in the built model ({named}); the classification head is left out."
    caption = [about, artefact.declaration.get("note", ""), artefact.banner[1]]
    sheet = Sheet(artefact.title, caption, artefact.banner[0], PAGE)
    return MapFigure(sheet, rows, labels, max(spec.vit.layers for spec in specs))


def draw_map(made: MapFigure) -> Figure:
    """Draw a census, one panel for each method, blocks across and sites up. Call it inside ``style()``."""
    rows, methods, layers = made.rows, made.methods, made.layers
    sites = sorted({row.site for row in rows}, key=lambda site: (SITES.index(site) if site in SITES else len(SITES), site))
    kinds = [name for name in METHODS if any(row.kind == name for row in rows)]
    kinds += sorted({row.kind for row in rows} - set(kinds))
    across = min(2, len(methods))
    down = -(-len(methods) // across)
    gutter = max(text_width(_name(site), 6) for site in ["", *sites]) + 0.12
    titles = {method: wrapped(_title(rows, method), PAGE / across - gutter - 0.1, 7) for method in methods}
    top, cells = 0.08 + max(map(len, titles.values())) * line_height(7), SITE * max(len(sites), 1)
    squares = [plt.Rectangle((0, 0), 1, 1, facecolor=COLOURS[i % len(COLOURS)]) for i in range(len(kinds))]
    squares.append(plt.Rectangle((0, 0), 1, 1, facecolor=FROZEN, edgecolor=EDGE))
    body = down * (top + cells) + UNDER
    figure = frame(made.sheet, body, list(zip(squares, [*kinds, "frozen"], strict=True)))
    height, end = figure.get_figheight(), sum(figure.get_layout_engine().get()["rect"][1::2])
    figure.set_layout_engine("none")  # a panel's place is known, and a hundred of them would take minutes to lay out
    width = PAGE / across - gutter - 0.06
    for i, method in enumerate(methods):
        low = height * end - (i // across + 1) * (top + cells)
        place = ((i % across * PAGE / across + gutter) / PAGE, low / height, width / PAGE, cells / height)
        panel = Panel("\n".join(titles[method]), [row for row in rows if row.method == method], sites, kinds, layers)
        _draw_panel(figure.add_axes(place), panel, width, lowest=i + across >= len(methods))
    return figure


def _title(rows: Sequence[CensusRow], method: str) -> str:
    return f"{method}: {sum(row.parameters for row in rows if row.method == method):,} parameters"


def _name(site: str) -> str:
    return SITE_NAMES.get(site, site)


def _draw_panel(axes: Axes, panel: Panel, width: float, lowest: bool) -> None:
    """A method's cells, the counts in them and beside each row; ``width`` of the axes in inches."""
    sites, layers = panel.sites, panel.layers
    totals = [sum(row.parameters for row in panel.rows if row.site == site) for site in sites]
    room = max((text_width(f"{total:,}", 5.5) for total in totals), default=0) + 0.05
    cell = (width - room) / (layers + 0.2)
    axes.set_title(panel.title, loc="left", fontsize=7, pad=3)
    blank = [((block - 0.46, y - 0.44), 0.92) for y in range(len(sites)) for block in range(layers)]
    _rectangles(axes, blank, [FROZEN] * len(blank), edgecolor=EDGE, linewidth=0.4)
    places, colours = [], []
    for y, site in enumerate(sites):
        for block in range(layers):
            stack = [row for row in panel.rows if row.site == site and row.block == block]
            for i, row in enumerate(stack):  # methods stacked at one site share its cell
                part = 0.92 / len(stack)
                places.append(((block - 0.46 + i * part, y - 0.44), part))
                colours.append(COLOURS[panel.kinds.index(row.kind) % len(COLOURS)])
            if stack:
                count = short(sum(row.parameters for row in stack))
                size = min(4.4, 0.9 * cell / text_width(count, 1))
                ink = "black" if panel.kinds.index(stack[0].kind) % len(COLOURS) in LIGHT else "white"
                if size >= LEGIBLE:
                    axes.text(block, y, count, ha="center", va="center", fontsize=size, color=ink)
        if totals[y]:
            axes.text(layers - 0.4, y, f"{totals[y]:,}", ha="left", va="center", fontsize=5.5)
    _rectangles(axes, places, colours, linewidth=0)
    axes.set_xlim(-0.6, layers - 0.4 + room / cell)
    axes.set_ylim(-0.6, len(sites) - 0.4)
    step = -int(-1.3 * text_width(str(layers), 5.5) // cell)
    shown = range(0, layers, step) if lowest else ()
    axes.set_xticks(shown, [str(block) for block in shown], fontsize=5.5)
    axes.set_yticks(range(len(sites)), [_name(site) for site in sites], fontsize=6)
    axes.tick_params(length=0)
    axes.set_xlabel("block" if lowest else "", labelpad=1)
    for side in axes.spines.values():
        side.set_visible(False)


def _rectangles(axes: Axes, places: list[tuple[tuple[float, float], float]], colours: list[str], **look: Any) -> None:
    """Cells by corner and width, as one artist."""
    from matplotlib.collections import PatchCollection

    boxes = [plt.Rectangle(corner, width, 0.88) for corner, width in places]
    axes.add_collection(PatchCollection(boxes, facecolors=colours, **look), autolim=False)


def short(count: int) -> str:
    """A count in at most four letters: 8453 -> 8.5k."""
    for size, letter in ((10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.{0 if count >= 9.95 * size else 1}f}{letter}"
    return str(count)


FIGURES.register(
    "map",
    ArtefactKind(FIGURE, saves(map_figure, draw_map), rows="methods", from_models=True, version=2),
    about="which sites of which block carry what, counted in the built models",
)
