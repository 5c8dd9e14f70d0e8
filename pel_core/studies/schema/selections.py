"""Selections: which run, and which of its values, a row, column, bar, point or side of a claim means.

Their keys are ``dataset``, ``backbone``, ``method``, ``value``, every field of RunSpec (whose list they are made from), and knobs
of entries such as ``loss.gamma``, which RunSpec checks.
"""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, PlainValidator, Tag, WithJsonSchema, create_model, model_validator
from pydantic_core import PydanticCustomError

from pel_core.spec.run_spec import DEFAULTS
from pel_core.studies.schema.tune import AnyTune, tune_field
from pel_core.studies.schema.types import KNOB, Declaration, Expected, Label, Number, Text, Word, scalar

FIELDS = tuple(name for name in DEFAULTS if name != "parents")  # which a study says by `from`


class Fields(Declaration):
    """Fields of RunSpec, and knobs: not declared one by one, so that RunSpec's own list is the only one."""

    model_config = ConfigDict(extra="allow")

    @model_validator(mode="before")
    @classmethod
    def _fields(cls, given: Any) -> Any:
        """Refuse other keys, before what is declared is looked at: a key that is not known may be the one that is missing."""
        others = [key for key in given if key not in cls.model_fields] if isinstance(given, dict) else []
        for key in others:
            if key not in FIELDS and not (isinstance(key, str) and KNOB.fullmatch(key)):
                known = list(dict.fromkeys((*cls.model_fields, *FIELDS)))
                raise PydanticCustomError("unknown_key", "unknown key", {"key": str(key), "known": known})
        for key in others:
            if key in DEFAULTS and type(given[key]) not in _types(key):
                expected = f"a text or a number{' or true or false' * isinstance(DEFAULTS[key], bool)} or nothing"
                told = {"key": key, "expected": expected, "found": given[key]}
                raise PydanticCustomError("field_value", "not a field's value", told)
        return given


TestSets = Annotated[
    Annotated[Text, Tag("one")]
    | Annotated[list[Text], Field(min_length=1), Expected("a role, or a list of them"), Tag("several")],
    Discriminator(lambda given: "several" if isinstance(given, list) else "one"),
]
PosthocValue = scalar(str, int, float, words="a number, or val, none or seeds", schema=["string", "number"])


def _types(field: str) -> tuple[type, ...]:
    """What a field's value may be in YAML; RunSpec says which values are possible."""
    return (str, int, float, type(None), *[bool] * isinstance(DEFAULTS[field], bool))


class _Origin(Fields):
    """A run that others start from. Its training alone counts."""

    dataset: Word = Field(default="", description="A role of the study, in place of the data set of the run that starts from it.")
    backbone: Word = Field(default="", description="The backbone of the run that starts from it, which it has anyway.")
    method: Word = Field(default="", description="Its method.")
    tune: Literal[False] = Field(default=None, description="false: what it trains by is given here, whatever the study says.")


class _Selection(Fields):
    """Which data set, method, backbone and value, and with which fields of RunSpec."""

    dataset: Word = Field(default="", description="A role of the study, with -irN for an imbalance ratio: cifar100-ir100.")
    backbone: Word = Field(default="", description="A backbone by name, in place of the configuration's.")
    method: Word = Field(default="", description="A method, perhaps of several parts on ranges of blocks: ln+adaptformer@-6:.")
    value: Word = Field(
        default="",
        description="What is shown: a metric or a path in metrics.json (parameters.head); docs/studies.md has a table of both.",
    )
    evaluate_on: TestSets = Field(
        default="",
        description="A role of the study whose images the run is evaluated on, in place of its own test images; in rows and "
        "columns a list: one each, `test` for its own (docs/studies.md).",
    )
    tune: AnyTune = tune_field()
    posthoc: dict[Word, PosthocValue] = Field(
        default_factory=dict,
        description="What is done to the stored logits before they are scored: {la: 1.0}, {la: val, temperature: val}, "
        "{ensemble: seeds} (docs/studies.md).",
    )


# ``from`` is no name that Python lets a class body declare.
SEEDS = "all: the runs that it starts from are those of every seed of the study, of which a soup makes one; own: of its own seed."
ORIGIN = "What the runs start from: the label of a row beside this one, a run in that row's place, a list of these, or false."
Origin = create_model(
    "Origin",
    __base__=_Origin,
    __module__=__name__,
    __doc__=_Origin.__doc__,
    from_seeds=(Literal["own", "all"], Field(default=None, description=SEEDS)),
    **{"from": ("AnyOrigin", Field(default=None, description=ORIGIN))},
)
OneOrigin = Annotated[
    Annotated[Text, Tag("label")] | Annotated[Origin, Tag("run")],
    Discriminator(lambda each: "run" if isinstance(each, dict) else "label"),
]


def _origin_form(given: Any) -> str:
    return {list: "runs", dict: "run", bool: "none"}.get(type(given), "label")


Called = Annotated[str, Field(min_length=1), Expected("the label of a row, a mapping, a list of these, or false")]
AnyOrigin = Annotated[
    Annotated[Called, Tag("label")]
    | Annotated[Origin, Tag("run")]
    | Annotated[list[OneOrigin], Field(min_length=1), Expected("a list with at least one label or mapping"), Tag("runs")]
    | Annotated[Literal[False], Tag("none")],
    Discriminator(_origin_form),
]
Selection = create_model(
    "Selection",
    __base__=_Selection,
    __module__=__name__,
    __doc__=_Selection.__doc__,
    from_seeds=(Literal["own", "all"], Field(default=None, description=SEEDS)),
    **{"from": (AnyOrigin, Field(default=None, description=ORIGIN))},
)


class Row(Selection):
    """A selection with a label: a row, column, bar, line or method map."""

    label: Label = Field(description="How the artefact calls it.")


class Point(Selection):
    """A selection with a place on a curve's axis."""

    at: Number = Field(description="Its place on the x axis.")
    label: Label = Field(default="", description="How an error or a legend calls it.")


def _swept(name: Any) -> Any:
    if isinstance(name, str) and (name in SWEPT or KNOB.fullmatch(name)):
        return name
    raise PydanticCustomError("unknown", "unknown field {name}", {"name": str(name), "known": SWEPT})


SWEPT = ["dataset", "backbone", "method", "value", *FIELDS]
SWEPT_SCHEMA = {"anyOf": [{"enum": SWEPT}, {"type": "string", "pattern": f"^{KNOB.pattern}$"}]}
SweptField = Annotated[str, PlainValidator(_swept), WithJsonSchema(SWEPT_SCHEMA)]


class Sweep(Selection):
    """A short form of one selection per value."""

    sweep: SweptField = Field(description="The field, or knob, that takes each of the values.")
    values: Annotated[list[Any], Expected("a list of values")] = Field(description="The values, in the order they are shown.")
    label: Text = Field(default="{}", description="The label of each; {} is the value.")


def _sweep_or(other: str) -> Discriminator:
    return Discriminator(lambda entry: "sweep" if isinstance(entry, dict) and "sweep" in entry else other)


AnyRow = Annotated[Annotated[Row, Tag("row")] | Annotated[Sweep, Tag("sweep")], _sweep_or("row")]
AnyPoint = Annotated[Annotated[Point, Tag("point")] | Annotated[Sweep, Tag("sweep")], _sweep_or("point")]
Rows = Annotated[list[AnyRow], Field(min_length=1), Expected("a list with at least one entry")]
Points = Annotated[list[AnyPoint], Field(min_length=1), Expected("a list with at least one entry")]
Selections = Annotated[list[Selection], Field(min_length=1), Expected("a list with at least one entry")]
