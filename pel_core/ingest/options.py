"""What an entry of a configuration's ``datasets:`` says whatever its kind, as a pydantic model; each kind's own options join it.

Words that cannot be are ValueErrors of one sentence, to which `pel_core.ingest.entries` adds where they stand.
"""

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError


def one_of(known: Iterable[str], hint: str = "") -> Any:
    """The type of a text that is a word of ``known`` (read when it is checked), or empty where a ``hint`` says so."""

    def check(word: str) -> str:
        if word not in known and (word or not hint):
            raise PydanticCustomError("unknown_word", "{asked}", {"asked": word, "known": list(known), "hint": hint})
        return word

    return Annotated[str, AfterValidator(check)]


def _ratios(given: Any) -> tuple[float, ...]:
    ratios = given or []
    ratios = ratios if isinstance(ratios, list | tuple) else [ratios]
    for ratio in ratios:
        if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 1 <= ratio < 1e6:
            raise ValueError(f"ratio {ratio!r} is not a number of 1 or more")
    return tuple(map(float, ratios))


Ratios = Annotated[tuple[float, ...], BeforeValidator(_ratios, json_schema_input_type=list[float] | float | None)]


class Rooted(BaseModel):
    """Options of data that lie somewhere."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, defer_build=True)
    root: Annotated[str, Field(min_length=1, description="the image folder; $PEL_DATA stands for what DATA= says")]


def _texts(given: Any) -> tuple[str, ...]:
    given = [given] if isinstance(given, str | int) else given
    if not isinstance(given, list | tuple) or not all(isinstance(key, str | int) and not isinstance(key, bool) for key in given):
        raise ValueError(f"exclude is {given!r}, expected a list of classes, as folders or labels call them")
    return tuple(map(str, given))


class Excluding(Rooted):
    """Options of data whose classes a user may leave out."""

    exclude: Annotated[
        tuple[str, ...],
        BeforeValidator(_texts, json_schema_input_type=list[str | int]),
        Field(description="classes that are left out, as folders or labels call them"),
    ] = ()


class Declared(Rooted):
    """What an entry of any kind says."""

    kind: str
    ratios: Annotated[Ratios, Field(description="imbalance ratios, largest over smallest class")] = ()
    groups_from: Annotated[
        int | float | None,
        Field(description="the ratio whose training counts say which classes are head, medium and tail"),
    ] = None
    native_resolution: Annotated[int | None, Field(gt=0, description="pixels at which the images come, for what is printed")] = (
        None
    )

    @model_validator(mode="after")
    def _check_groups(self) -> "Declared":
        if self.groups_from is not None and self.groups_from not in self.ratios:
            raise ValueError(f"groups_from is {self.groups_from!r}, expected one of its ratios {list(self.ratios)}")
        return self
