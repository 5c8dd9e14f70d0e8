"""A study file: its tables, figures of each kind, and claims. The kinds of figure come from the registry FIGURES."""

from functools import cache
from typing import Annotated, Any, Literal, Union

from pydantic import AfterValidator, Discriminator, Field, Tag, create_model
from pydantic_core import PydanticCustomError

from pel_core.common.registry import ANYTHING, Entry, Knob
from pel_core.studies.kinds import FIGURES, REQUIRED, ArtefactKind
from pel_core.studies.schema.factorial import FactorContrast, Factorial
from pel_core.studies.schema.selections import Points, Rows, Selection, Selections
from pel_core.studies.schema.tune import AnyTune, Count, tune_field
from pel_core.studies.schema.types import (
    Declaration,
    Digits,
    Expected,
    Margin,
    Name,
    Number,
    Role,
    Seeds,
    Switch,
    Text,
    no_repeats,
)
from pel_core.studies.schema.variance import Variance

DATA_SETS = no_repeats("a list of data sets: one artefact each", Annotated[str, Expected("a text")], 1)


class Artefact(Declaration):
    """What tables and figures of every kind have."""

    title: Text = Field(description="The title; {role} in it is the role's title, {data} the data set of `each`.")
    each: DATA_SETS = Field(default=[], description="Data sets of which one artefact each is made, called NAME-DATASET.")
    where: Selection = Field(default_factory=Selection, description="What all cells share; rows and columns are laid over it.")
    note: Text = Field(default="", description="A note below it.")
    tune: AnyTune = tune_field()


class InfoColumn(Declaration):
    """A leading column that a table declares."""

    label: Text = Field(description="The column's heading.")
    value: Text = Field(description="A path in metrics.json, such as parameters.learnable.")


INFO = ("backbone", "parameters", "parameters_with_head", "epochs")
Info = Annotated[
    Annotated[Literal[INFO], Tag("word")] | Annotated[InfoColumn, Tag("column")],
    Discriminator(lambda entry: "column" if isinstance(entry, dict) else "word"),
]
SEEDS = "Seeds of its own, in place of the configuration's."
DIGITS = "How many digits after the decimal point."


class Table(Artefact):
    """A table: rows x columns of numbers over seeds."""

    seeds: Seeds = Field(default=[], description=SEEDS)
    rows: Rows = Field(description="The rows: selections with labels.")
    columns: Rows = Field(description="The columns: selections with labels, laid over the rows.")
    info: Annotated[list[Info], Expected(f"a list of {', '.join(INFO)} or {{label, value}}")] = Field(
        default=[], description="Leading columns about the row itself, in place of the usual one."
    )
    digits: Digits = Field(default=1, description=DIGITS)
    baseline: Text = Field(default=None, description="The label of the row that arrows compare the others with.")
    spread: Literal["sd", "se", "ci"] = Field(
        default="sd", description="What is printed behind ±: standard deviation, standard error, half of the interval over seeds."
    )
    intervals: Switch = Field(
        default=False, description="Whether cells print the interval of another run on other test images in place of ±."
    )
    corner: Text = Field(default="", description="The heading of the column of row labels.")


Whole = Annotated[int, Expected("a whole number")]
FORMS: dict[type, Any] = {bool: Switch, int: Whole, float: Number, str: Text, tuple: Annotated[list[Number], Expected("numbers")]}


def figure_model(entry: Entry[ArtefactKind]) -> type[Artefact]:
    """The model of a kind of figure: the keys of every artefact, its lists, and its knobs."""
    kind = entry.value
    keys: dict[str, Any] = {"kind": (Literal[entry.name], Field(description="The kind of figure."))}
    if not kind.from_models:
        keys["seeds"] = (Seeds, Field(default=[], description=SEEDS))
    at = " with a place `at`, or a sweep of numbers" if kind.places else " with labels"
    keys[kind.rows] = (Points if kind.places else Rows, Field(description=f"The {kind.rows}: selections{at}."))
    if kind.columns:
        about = f"The {kind.columns}: selections with labels, laid over the {kind.rows}."
        keys[kind.columns] = (Rows, Field(default=[], description=about))
    keys |= {knob.name: _key(knob) for knob in entry.knobs}
    about = f"A figure of {entry.about}."
    return create_model(entry.name.title(), __base__=Artefact, __doc__=about, __module__=__name__, **keys)


def _key(knob: Knob) -> tuple[Any, Any]:
    """A knob as a field: its type with its check, and its meaning."""

    def holds(value: Any) -> Any:
        if not knob.check.holds(value):
            raise PydanticCustomError("expected", "expected {words}", {"words": knob.check.expected})
        return value

    form = FORMS[knob.kind or type(knob.default)]
    if knob.check is not ANYTHING:
        form = Annotated[form, AfterValidator(holds), Expected(knob.check.expected)]
    also = f": {knob.check.expected}" if knob.check is not ANYTHING else ""
    default = list(knob.default) if isinstance(knob.default, tuple) else knob.default
    about = f"{knob.meaning[0].upper()}{knob.meaning[1:]}{also}."
    return form, Field(**({} if knob.default is REQUIRED else {"default": default}), description=about)


SETS = "a mapping of what it sets, e.g. {loss: ce}: a claim has no rows to name"


class Contrast(Declaration):
    """One contrast of a claim: `a` minus `b`, paired by seed, averaged over data sets."""

    a: Annotated[Selection, Expected(SETS)] = Field(description="What is expected to be higher, lower or equal.")
    b: Annotated[Selection, Expected(SETS)] = Field(description="What it is compared with.")
    over: Selections = Field(description="Selections, usually data sets, over which the contrast is averaged.")
    value: Text = Field(description="The metric, or path in metrics.json, that is compared.")
    expect: Literal["higher", "lower", "equal"] = Field(description="On which side of zero the interval over seeds should lie.")
    margin: Margin = Field(default=0.0, description="How far from zero counts as equal, or has to be passed; 0.5 for equal.")
    minus: Annotated[
        list[Selection], Field(min_length=1), Expected("the selections whose contrast is taken off, at least one")
    ] = Field(default=[], description="Selections at which the same contrast is measured and taken off.")


AnyContrast = Annotated[
    Annotated[Contrast, Tag("options")] | Annotated[FactorContrast, Tag("levels")],
    Discriminator(lambda entry: "levels" if isinstance(entry, dict) and "factorial" in entry else "options"),
]


class Claim(Declaration):
    """A conclusion, and the contrasts that test it."""

    statement: Text = Field(description="The conclusion, in words.")
    source: Text = Field(default="", description="Who says so, and where.")
    seeds: Seeds = Field(default=[], description=SEEDS)
    parts: Annotated[list[AnyContrast], Field(min_length=1), Expected("a list with at least one entry")] = Field(
        description="The contrasts; the claim holds if all of them do."
    )


class Reported(Declaration):
    """Published values that are shown beside the measured ones."""

    file: Text = Field(description="A CSV file beside the study: artifact, dataset, method, column, value.")
    methods: dict[str, Text] = Field(default={}, description="The study's name of a method: the file's name, where they differ.")


class StudyFile(Declaration):
    """A study: which tables, figures and claims there are. A configuration says on which data."""

    title: Text = Field(description="The study's title.")
    roles: Annotated[dict[Role, Text], Field(min_length=1), Expected("a mapping of role to title, at least one")] = Field(
        description="The data sets' roles in the study: how titles call them, unless the configuration gives a title of its own. "
        "A configuration names the data sets."
    )
    reported: Reported = Field(default=None, description="Published values to put beside the measured ones.")
    tune: AnyTune = tune_field()
    seal: Literal["test"] = Field(
        default=None, description="The split on which no candidate of `tune` may be scored, by this study or by another."
    )
    max_runs: Count = Field(default=None, description="The most runs that the study may come to, candidates among them.")
    shared: Any = Field(default=None, description="Anything; a place for YAML anchors.")
    tables: dict[Name, Table] = Field(default={}, description="The tables by name.")
    figures: dict[Name, Artefact] = Field(default={}, description="The figures by name.")
    factorial: dict[Name, Factorial] = Field(default={}, description="The factorial designs by name.")
    variance: dict[Name, Variance] = Field(default={}, description="The studies of variance by name.")
    claims: dict[Name, Claim] = Field(default={}, description="The claims by name.")


def study_model() -> type[StudyFile]:
    """The model of a study with the kinds of figure that there are now, a plugin's among them."""
    return _study_model(FIGURES.entries())


@cache
def _study_model(kinds: tuple[Entry[ArtefactKind], ...]) -> type[StudyFile]:
    figure = Annotated[Union[tuple(map(figure_model, kinds))], Field(discriminator="kind")]  # noqa: UP007  of a tuple
    field = (dict[Name, figure], StudyFile.model_fields["figures"])
    return create_model("StudyFile", __base__=StudyFile, __doc__=StudyFile.__doc__, __module__=__name__, figures=field)
