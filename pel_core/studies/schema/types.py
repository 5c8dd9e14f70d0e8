"""The forms that values of a study or configuration have, each with the words in which an error asks for it."""

import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

KNOB = re.compile(r"[a-z][a-z0-9_-]*\.[a-z][a-z0-9_]*")  # of an entry: loss.gamma; RunSpec knows which there are


@dataclass(frozen=True)
class Expected:
    """What an error says is expected, e.g. ``a text that is not empty``. Metadata of a type; pydantic passes it by."""

    words: str


class Declaration(BaseModel):
    """A mapping with declared keys: no others, no conversion of one type into another, ``null`` only where it is a value.

    An absent key has an empty value (or the default that its description names).
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, defer_build=True)


def scalar(*kinds: type, words: str, schema: list[str]) -> Any:
    """A value of one of these types as it is: 6 stays 6, and true is not 1."""

    def check(value: Any) -> Any:
        if type(value) in kinds and value == value and value not in (float("inf"), float("-inf")):
            return value
        raise PydanticCustomError("expected", "expected {words}", {"words": words})

    return Annotated[Any, PlainValidator(check), WithJsonSchema({"type": schema}), Expected(words)]


def _different(values: list[Any]) -> list[Any]:
    if any(value in values[:i] for i, value in enumerate(values)):
        raise PydanticCustomError("repeated", "a value is repeated")
    return values


def no_repeats(words: str, item: Any, least: int = 0) -> Any:
    """A list of different values, at least so many."""
    unique = Field(min_length=least, json_schema_extra={"uniqueItems": True})
    return Annotated[list[item], unique, AfterValidator(_different), Expected(words)]


Text = Annotated[str, Field(min_length=1), Expected("a text that is not empty")]
Word = Annotated[str, Expected("a text")]
Name = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$"), Expected("letters, digits, - and _ (it becomes a file name)")
]
Role = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$"), Expected("letters, digits, - and _")]
DataName = Annotated[
    str, Field(pattern=r"^[a-z][a-z0-9_-]*$"), Expected("lower-case letters, digits, - and _, starting with a letter")
]
Natural = Annotated[int, Field(ge=0), Expected("a whole number of 0 or more")]
Seeds = no_repeats("a list of different whole numbers, at least one", Natural, 1)
Texts = no_repeats("a list of different texts", Text)
Digits = Annotated[int, Field(ge=0, le=6), Expected("a whole number from 0 to 6")]
Number = scalar(int, float, words="a number", schema=["number"])
Label = scalar(str, int, float, words="a text or a number", schema=["string", "number"])
Switch = Annotated[bool, Expected("true or false")]
Margin = Annotated[float, Field(gt=0), Expected("a number above 0, in the value's unit")]
