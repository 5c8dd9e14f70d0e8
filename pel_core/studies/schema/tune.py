"""``tune``: which settings of a row are tried on the validation split, and how the best are chosen."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from pel_core.studies.schema.types import Declaration, Expected, Natural, Number, Seeds, Text, Word, scalar

Value = scalar(str, int, float, bool, words="a text, a number, or true or false", schema=["string", "number", "boolean"])
Count = Annotated[int, Field(ge=1), Expected("a whole number of 1 or more")]


class Range(Declaration):
    """A range that `kind: random` draws from: whole numbers where both ends are."""

    low: Number = Field(description="The lowest value.")
    high: Number = Field(description="The highest value.")
    scale: Literal["log", "linear"] = Field(default="log", description="Whether the logarithm is drawn evenly, or the value.")


Values = Annotated[
    Annotated[list[Value], Field(min_length=1), Expected("a list with at least one value"), Tag("list")]
    | Annotated[Range, Tag("range")],
    Discriminator(lambda entry: "range" if isinstance(entry, dict) else "list"),
]
GRID = "a mapping of field, or knob, to the values that are tried, at least one"
Epochs = Annotated[
    Annotated[Literal["same"], Tag("word")] | Annotated[Count, Tag("count")],
    Discriminator(lambda entry: "word" if isinstance(entry, str) else "count"),
]


class Tune(Declaration):
    """Settings that are tried on the validation split over seeds of their own; the row is made with those that are chosen."""

    kind: Literal["grid", "random", "halving"] = Field(
        default="grid",
        description="Whether every combination is tried, or `draws` of them, or either on rungs of more and more epochs.",
    )
    grid: Annotated[dict[Text, Values], Field(min_length=1), Expected(GRID)] = Field(
        description="Fields of RunSpec, and knobs, with the values that are tried; where they are drawn also {low, high, scale}."
    )
    draws: Count = Field(default=None, description="How many different settings are drawn; `kind: halving` may do without.")
    rungs: Annotated[list[Count], Field(min_length=1), Expected("a list of numbers of epochs")] = Field(
        default=None, description="Of `kind: halving` the epochs of a candidate on each rung, fewest first."
    )
    factor: Annotated[int, Field(ge=2), Expected("a whole number of 2 or more")] = Field(
        default=None,
        description="Of `kind: halving`: one of so many candidates goes on to the next rung (2 where not given).",
    )
    draw_seed: Natural = Field(default=0, description="The seed that they are drawn by.")
    split: Word = Field(default="val", description="The split that candidates are scored on: val.")
    hold_out: Annotated[float, Field(gt=0, lt=1), Expected("a fraction above 0 and below 1")] = Field(
        default=None,
        description="The fraction of training images on which candidates are scored, and not trained, of a data set without a "
        "validation split; the row trains on all.",
    )
    by: Text = Field(default="mean_class", description="The metric that is compared.")
    seeds: Seeds = Field(description="The candidates' seeds; none of the row's own.")
    epochs: Epochs = Field(default="same", description="Epochs of a candidate: the row's own (same), or fewer.")
    select: Text = Field(default="best_mean", description="How one is chosen: best_mean, or one_se (docs/studies.md).")


AnyTune = Annotated[
    Annotated[Tune, Tag("tune")] | Annotated[Literal[False], Tag("off")],
    Discriminator(lambda entry: "off" if entry is False else "tune"),
]
TUNE = "Settings that are chosen on the validation split (docs/studies.md); false: none, whatever the study or artefact says."


def tune_field() -> Any:
    """The key ``tune`` of a selection, artefact or study."""
    return Field(default=None, description=TUNE)
