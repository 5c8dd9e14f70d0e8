"""The declaration of a study of variance: how much of a run's spread is its training subset, its seed, its test images."""

from typing import Annotated

from pydantic import Field

from pel_core.studies.schema.selections import Rows, Selection
from pel_core.studies.schema.types import Declaration, Expected, Seeds, Text, Word, no_repeats


class Variance(Declaration):
    """Variance components: every subset is trained with every seed, and all runs are asked the same test images."""

    title: Text = Field(description="The title; {role} in it is the role's title, {data} the data set of `each`.")
    each: no_repeats("a list of data sets: one table each", Annotated[str, Expected("a text")], 1) = Field(
        default=[], description="Data sets of which one table each is made, called NAME-DATASET."
    )
    where: Selection = Field(default_factory=Selection, description="What all runs share; subsets are laid over it.")
    subsets: Rows = Field(description="The training subsets, at least two: selections with labels, such as a sweep of data.seed.")
    values: no_repeats("a list of accuracies, at least one", Word, 1) = Field(
        default=["overall"], description="The accuracies that are taken apart: overall, head, med, tail."
    )
    seeds: Seeds = Field(default=[], description="Seeds of its own, in place of the configuration's.")
    note: Text = Field(default="", description="A note below it.")
