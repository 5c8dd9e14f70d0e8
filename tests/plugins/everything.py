"""One entry of every kind, in one file outside the package: what docs/extending.md walks through.

Named with ``--plugins tests/plugins/everything.py`` or ``snakemake --config plugins=tests/plugins/everything.py``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import BaseModel

from pel_core.common.lazy import F, Module, nn, plt, torch
from pel_core.common.registry import Knob, above, at_least, between
from pel_core.common.seeds import generator
from pel_core.data.augmentations import AUGMENTATIONS, Augmentation
from pel_core.data.datasets import DATASETS, LongTailed
from pel_core.data.ensembling import TTE, Ensemble
from pel_core.evaluation.scored import Scored
from pel_core.export.formats import FORMATS, Card, Opened
from pel_core.ingest.content import Content
from pel_core.ingest.sources import Source, register
from pel_core.models.backbones import BACKBONES, Backbone
from pel_core.models.deltas import DELTAS, SiteContext
from pel_core.models.heads import HEADS
from pel_core.models.inits import INITS, Init
from pel_core.models.methods import Attach, Method, add_method
from pel_core.models.prompts import Prompt, add_prompt
from pel_core.reporting.figure_style import save, style
from pel_core.reporting.runs import read_runs
from pel_core.reporting.tables import statistic
from pel_core.spec.choices import AVERAGES, LOSSES, OPTIMIZERS, SAMPLERS, SCHEDULES, SHARPNESS, SOUPS, metric
from pel_core.spec.posthoc import POSTHOC, step_knob
from pel_core.studies.kinds import FIGURE, FIGURES, ArtefactKind
from pel_core.studies.selection_rules import SELECTION_RULES
from pel_core.training.averages import shared
from pel_core.training.losses import Prior
from pel_core.training.mixing import WHEN, Pair, add_mix
from pel_core.training.reweights import add_reweight
from pel_core.training.schedules import WARMUP, Position
from pel_core.training.sharpness import away
from pel_core.training.soups import Soup


# delta: a module that a method attaches
@DELTAS.register("my-gate")
class Gate(Module):
    """x * (1 + strength * tanh(gate)) per channel: the identity at initialisation."""

    def __init__(self, site: SiteContext):
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(site.width_out))
        self.strength = site.knobs["strength"]

    def forward(self, x_BND):
        return x_BND * (1 + self.strength * torch.tanh(self.gate))


# method: what is attached where, with a knob of its own (`my-gate.strength` in a study)
STRENGTH = Knob("strength", 1.0, "largest relative change of a channel", above(0))
add_method(
    "my-gate",
    Method("a gate on the MLP's hidden units", attach=(Attach("ffn.fc1", "after", "my-gate"),), knobs=(STRENGTH,)),
)


# loss: built from the training counts and its knobs (`loss.power`)
@LOSSES.register("my-loss", knobs=(Knob("power", 0.5, "images count n^-power", at_least(0)),))
class MyLoss(Module):
    """Cross-entropy whose images count n^-power of their class."""

    decomposable = True

    def __init__(self, prior: Prior, power: float):
        super().__init__()
        self.register_buffer("weights", (prior.counts.double() ** -power).float())

    def forward(self, logits_BC, labels_B, reduction: str = "mean"):
        each_B = self.weights[labels_B] * F.cross_entropy(logits_BC.float(), labels_B, reduction="none")
        return each_B.mean() if reduction == "mean" else each_B

    def per_class(self, logits_BC):
        return -self.weights * logits_BC.log_softmax(1)


# head: features (B, D) -> logits (B, C)
@HEADS.register("my-head", knobs=(Knob("temperature", 0.1, "the cosine is divided by it", above(0)),))
class MyHead(Module):
    """cos(f, w) / temperature, with a bias."""

    def __init__(self, width: int, classes: int, scale: float, generator: torch.Generator, temperature: float):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, width).normal_(generator=generator))
        self.bias = nn.Parameter(torch.zeros(classes))
        self.temperature = temperature

    def forward(self, f_BD):
        return F.linear(F.normalize(f_BD, dim=-1), F.normalize(self.weight, dim=-1)) / self.temperature + self.bias


# init: head rows (C, D) from the untuned features (N, D) of training images
def class_median(features_ND, labels_N, classes: int):
    """The median feature of each class."""
    return F.normalize(torch.stack([features_ND[labels_N == label].median(0).values for label in range(classes)]), dim=-1)


INITS.register("my-init", Init("images", class_median), about="the median feature of each class's training images")

# prompt: sentences about a class, for every data set or for one
add_prompt(
    "my-words",
    Prompt(("a drawing of {}.", "{} on paper."), by_dataset={"my-images": ("{} side by side.",)}, source="nobody else's"),
    about="drawings; of my-images other words",
)


# optimizer: of parameter groups, each with its own rate and weight decay (`optimizer.dampening`)
@OPTIMIZERS.register("my-sgd", knobs=(Knob("dampening", 0.1, "of the momentum", between(0, 1)),), reads=("momentum",))
def my_sgd(groups, spec, fused: bool, dampening: float):
    """SGD whose momentum is dampened."""
    return torch.optim.SGD(groups, momentum=spec.momentum, dampening=dampening)


# schedule: the factor of every rate at a position; the warm-up is common to all that have its knobs
@SCHEDULES.register("my-steps", knobs=WARMUP)
def my_steps(at: Position) -> float:
    """A tenth of the rate in the second half."""
    return 1.0 if at.epoch < at.epochs / 2 else 0.1


# sampler: N positions of training images that make an epoch
@SAMPLERS.register("my-balanced")
def my_balanced(generator: np.random.Generator, labels_N: np.ndarray) -> np.ndarray:
    """Every class as often as every other, with replacement."""
    counts = np.bincount(labels_N)
    return generator.choice(len(labels_N), len(labels_N), p=1 / (counts[labels_N] * (counts > 0).sum()))


# average: the means of trained parameters over the training, changed in place at each new value
@AVERAGES.register("my-middle", knobs=shared(0.0, "step"))
def my_middle(means: list, values: list, count: int) -> None:
    """Half of the mean so far and half of the new value."""
    torch._foreach_lerp_(means, values, 0.5)


# soup: which of several runs are averaged, by their positions; `score` asks the validation split, for one that `validates`
def ends(count: int, score) -> list[int]:
    """The first and the last."""
    return [0, count - 1]


SOUPS.register("my-ends", Soup(ends), about="the mean of the first run and the last")


# class weights: how much an image of each class counts in the loss (with `reweight.defer`)
@add_reweight("my-rarer")
def my_rarer(counts_C: np.ndarray) -> np.ndarray:
    """One over the logarithm of the class's images."""
    return 1 / np.log(counts_C + 1)


# sharpness: where the gradient that a step follows is taken (`sharpness.rho`)
@SHARPNESS.register("my-lookout", knobs=(Knob("rho", 0.05, "length of the look ahead", above(0)),))
class Lookout:
    """The gradient a step further down: two passes over the batch."""

    passes = 2

    def __init__(self, counts_C, rho: float):
        self.rho = rho

    def gradients(self, step, images, labels, count: int):
        sums = step.accumulate(images, labels, count)
        with away(step.parameters, -self.rho):
            step.accumulate(images, labels, count)
        return sums


# post-hoc step: what is done to stored logits before they are scored (`posthoc.my_power`); N images, C classes
@POSTHOC.register("my_power", knobs=(step_knob("my_power", "p of logits * (n / largest n)^-p"),))
class Power:
    """Logits of rare classes made larger: times (training images / those of the largest class) to the power of -p."""

    @staticmethod
    def apply(logits_NC: np.ndarray, counts_C: np.ndarray, value: float) -> np.ndarray:
        """The logits after it."""
        return logits_NC * (counts_C / counts_C.max()) ** -value

    @staticmethod
    def fit(logits_NC: np.ndarray, labels_N: np.ndarray, counts_C: np.ndarray) -> float:
        """The most accurate of 0, 0.1, ..., 1."""
        powers = [p / 10 for p in range(11)]
        return max(powers, key=lambda p: np.mean(Power.apply(logits_NC, counts_C, p).argmax(1) == labels_N))


# augmentation: crop boxes (n, 4) and flips (n,) from uniforms u (n, draws)
def whole(u: np.ndarray, height: int, width: int, smallest: float) -> tuple[np.ndarray, np.ndarray]:
    """The whole image, mirrored or not."""
    return np.tile([0, 0, height, width], (len(u), 1)), u[:, -1] < 0.5


AUGMENTATIONS.register("my-flips", Augmentation(whole), about="the whole image, mirrored or not")


# mixed images: of images (B, 3, R, R) and others, new images, and the share that the first one's label keeps
def halves(pair: Pair, draw: np.random.Generator):
    """The left half of an image beside the right half of another."""
    middle = pair.images.shape[-1] // 2
    return torch.cat([pair.images[..., :middle], pair.others[..., middle:]], -1), middle / pair.images.shape[-1]


add_mix("my-halves", halves, "two halves of two images", *WHEN)


# test-time ensembling: where the crops lie
def mirrored(height: int, width: int, resolution: int) -> list[tuple[int, int, bool]]:
    """The central crop and its mirror image."""
    top, left = (height - resolution) // 2, (width - resolution) // 2
    return [(top, left, False), (top, left, True)]


TTE.register("my-mirror", Ensemble(2, lambda resolution, expand: resolution, mirrored), about="central crop and its mirror image")

# backbone: where weights come from (here: random ones)
BACKBONES.register("my-toy", Backbone("My toy", "random", "toy", 3, 32, 8, 16, quick_gelu=True), about="three random blocks")


# source: a kind of data; what its data sets tell it, and how it reads them
class StripesOptions(BaseModel):
    """``classes``: how many there are; ``each``: training images of each."""

    classes: int
    each: int


@register
class Stripes(Source):
    """Noisy stripes of 20 x 20 pixels, as many as the class's number; 10 test images of each class."""

    kind = "my-stripes"
    Options = StripesOptions

    def read(self, out: Path, check_images: str = "sample", problems=None) -> Content:
        """The stripes, balanced; ratios are drawn from them."""
        names = [f"{number} stripes" for number in range(1, self.options.classes + 1)]
        content = Content(names, {"": [self.options.each] * self.options.classes})
        for split, each in (("train", self.options.each), ("test", 10)):
            labels = np.repeat(np.arange(self.options.classes), each)
            noise = generator(0, self.base, split).integers(0, 100, (len(labels), 20, 20, 3))
            bright = np.arange(20)[None] * (labels[:, None] + 1) // 10 % 2  # of each column
            content.add_images(split, noise + 150 * bright[:, None, :, None], labels)
        return content


# data set: of a kind of source, with what it has to be told, and its own recipe
DATASETS.register(
    "my-images",
    LongTailed(
        kind="my-stripes", options={"classes": 6, "each": 60}, held_as="pixels", synthetic=True, native_resolution=20,
        ratios="any", pool=(6, 60), groups_from=20, recipe={"epochs": 2, "batch_size": 32, "precision": "fp32"},
    ),
    about="one to six stripes",
)  # fmt: skip


# metric: of what a network said of the test images
@metric("my-median", "Median class accuracy (%)", definition="median of A_c over classes", absent="left out")
def median_class(scored: Scored) -> float:
    """The median of the accuracies of classes that have test images."""
    return float(np.median(scored.seen))


# figure: its list in a study is called `dots`; `size` is a key of its own
def draw_dots(study, name: str, folder: Path) -> None:
    """A dot for each of the declared runs: its mean over seeds."""
    artefact = study.artefact(name)
    runs, labels = read_runs(study, artefact), [item["label"] for item in artefact.declaration["dots"]]
    with style():
        figure, axes = plt.subplots(figsize=(3, 2), layout="constrained")
        means = [statistic(cell, runs).mean for cell in artefact.cells]
        axes.plot(range(len(means)), means, "o", markersize=artefact.knobs["size"])
        axes.set_xticks(range(len(means)), [labels[cell.row] for cell in artefact.cells])
        axes.set_title(artefact.title)
        save(figure, folder, name, [artefact.title, "A dot: the mean over seeds."])


FIGURES.register(
    "my-dots",
    ArtefactKind(FIGURE, draw_dots, rows="dots"),
    about="a dot for each run",
    knobs=(Knob("size", 4.0, "diameter of a dot in points", above(0)),),
)


# selection rule: how one of the settings that `tune` tries is chosen
@SELECTION_RULES.register("my-cautious")
class Cautious:
    """The highest mean less its standard error."""

    least_seeds = 2

    def choose(self, scored):
        """The first of the best."""
        return max(scored, key=lambda each: each.mean - each.error)


# format: what `export RUN --as my-arrays` writes into a new folder; the card's code says how it is read
@FORMATS.register("my-arrays")
def my_arrays(folder: Path, opened: Opened) -> Card:
    """What was trained, as NumPy arrays."""
    np.savez(folder / "trained.npz", **{name: value.numpy() for name, value in opened.classifier.trainable_state().items()})
    code = 'import numpy as np\n\ntrained = np.load("FOLDER/trained.npz")\n'
    return Card("numpy", opened.spec.vit.arch, None, {"pixels": opened.spec.pixels}, code)
