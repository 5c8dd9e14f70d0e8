"""The declaration of a factorial design, and of a claim's contrast that is said by its factors and levels."""

from typing import Annotated, Literal

from pydantic import Field

from pel_core.studies.schema.selections import Rows, Selection
from pel_core.studies.schema.tune import AnyTune, tune_field
from pel_core.studies.schema.types import Declaration, Expected, Label, Margin, Natural, Seeds, Text, Word, no_repeats

Levels = Annotated[dict[Text, Label], Expected("a mapping of factor to the label of one of its levels")]
FactorName = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$"), Expected("letters, digits, - and _ (it becomes a part of file names)")
]
Factors = Annotated[
    dict[FactorName, Rows], Field(min_length=2), Expected("a mapping of at least two factors to their lists of levels")
]


class Fraction(Declaration):
    """A regular fraction: the cells whose level numbers (from 0) add up to ``offset``, up to multiples of ``one_in``."""

    one_in: Annotated[int, Field(ge=2), Expected("a whole number of 2 or more")] = Field(
        description="One cell in so many is run; it divides the number of levels of every factor."
    )
    offset: Natural = Field(default=0, description="Which of the fractions: 0 up to one_in - 1.")


class DesignCell(Selection):
    """A cell by its levels, with options of its own, which win over those of its levels."""

    levels: Levels = Field(description="The label of its level of every factor.")


class Factorial(Declaration):
    """A factorial design: every combination of its factors' levels is a cell. It makes a table of cell means, an analysis of
    variance (NAME-anova), and figures of main effects (NAME-main) and of interactions (NAME-FACTOR-FACTOR)."""

    title: Text = Field(description="The title; {role} in it is the role's title, {data} the data set of `each`.")
    each: no_repeats("a list of data sets: one design each", Annotated[str, Expected("a text")], 1) = Field(
        default=[], description="Data sets of which one design each is made, called NAME-DATASET."
    )
    where: Selection = Field(default_factory=Selection, description="What all cells share; levels are laid over it.")
    factors: Factors = Field(description="The factors by name, each with its levels: selections with labels.")
    cells: Annotated[list[DesignCell], Field(min_length=1), Expected("a list with at least one cell")] = Field(
        default=[], description="The cells there are, in place of all combinations, each with options of its own."
    )
    exclude: Annotated[list[Levels], Expected("a list of {factor: level}")] = Field(
        default=[], description="Combinations of levels, of some or all factors, that are not run."
    )
    fraction: Fraction = Field(default=None, description="A regular fraction of all combinations.")
    interactions: Annotated[int, Field(ge=1), Expected("a whole number of 1 or more")] = Field(
        default=2, description="How many factors an effect that is tested may join: 1 are main effects alone."
    )
    values: no_repeats("a list of different metrics, at least one", Word, 1) = Field(
        default=["overall"], description="The metrics whose effects are tested."
    )
    seeds: Seeds = Field(default=[], description="Seeds of its own, in place of the configuration's.")
    tune: AnyTune = tune_field()
    note: Text = Field(default="", description="A note below each of its tables and figures.")


class FactorContrast(Declaration):
    """One contrast of a claim by the levels of a factorial design: level `a` minus level `b`, the mean over all other levels."""

    factorial: Text = Field(description="The design; of one with `each` NAME-DATASET.")
    a: Levels = Field(description="The levels that are expected to be higher, lower or equal.")
    b: Levels = Field(description="The levels they are compared with, of the same factors.")
    over: Annotated[list[Levels], Field(min_length=1), Expected("a list of {factor: level}, at least one")] = Field(
        default=[], description="Levels of other factors at which the contrast is taken; left out: the mean over all."
    )
    minus: Annotated[list[Levels], Field(min_length=1), Expected("a list of {factor: level}, at least one")] = Field(
        default=[], description="Levels at which the same contrast is taken and taken off: an interaction."
    )
    value: Text = Field(description="The metric that is compared.")
    expect: Literal["higher", "lower", "equal"] = Field(description="On which side of zero the interval should lie.")
    margin: Margin = Field(default=0.0, description="How far from zero counts as equal, or has to be passed; 0.5 for equal.")
