"""Typed sections of params.yaml: field types with ranges, and the base classes of sections and of entries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ims3core.errors import ParameterError

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
OpenFraction = Annotated[float, Field(gt=0, lt=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Index = Annotated[int, Field(ge=0)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]  # names of files are made of them
Interval = Annotated[list[Fraction], Field(min_length=2, max_length=2)]

SOURCES_OF_UNIONS = ("train", "pretrained", "timm", "encoder", "none")
UNIONS = ("generator", "encoder", "teacher")
NOISE = ("constrained-", "literal[", "list[", "function-")
LONGEST = 120  # characters of a value that a message shows


class Section(BaseModel):
    """A group of keys: unknown keys are errors, values are not converted, objects are frozen."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @classmethod
    def checked(cls, tree: Any, place: str) -> Self:
        """The section in ``tree``, which stands at ``place`` of params.yaml.

        Raises:
            ParameterError: naming up to three offending keys, what was found and what is allowed.
        """
        try:
            return cls.model_validate(tree)
        except ValidationError as error:
            raise ParameterError("; ".join(described(e, place) for e in error.errors()[:3])) from error

    def overridden(self, values: Mapping[str, Any], place: str) -> Self:
        """This section with other ``values`` of some keys, as the row ``place`` wants them (``set:``)."""
        return self.checked(self.model_dump() | dict(values), place) if values else self


class Entry(Section):
    """One entry of an axis: its fields are the keys of its section in params.yaml, its methods do the work.

    The module it is defined in gives it its name, the first line of its docstring says what it is. An entry imports
    torch in its methods, so that checking params.yaml stays quick.
    """

    @classmethod
    def entry_name(cls) -> str:
        """The name of the entry in params.yaml: that of its module."""
        return cls.__module__.rpartition(".")[2]

    @property
    def facts(self) -> dict[str, Any]:
        """Name and values, JSON-able."""
        return {"entry": self.entry_name(), **self.model_dump()}


def described(error: Mapping[str, Any], place: str = "") -> str:
    """One pydantic error as "key: found value, problem"; ``place`` is the section it was found in."""
    parts = [str(part) for part in error["loc"] if not str(part).startswith(NOISE)]
    if len(parts) > 1 and parts[0] in UNIONS and parts[1] in SOURCES_OF_UNIONS:
        del parts[1]  # which of the two forms of the section it is
    key = ".".join([*([place] if place else []), *parts])
    found = repr(error["input"])
    found = found if len(found) <= LONGEST else f"{found[: LONGEST - 3]}..."
    if error["type"] == "extra_forbidden":
        return f"{key}: unknown key (found value {found})"
    if error["type"] == "missing":
        return f"{key}: missing"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error":
        return f"{key}: {message}" if key else message
    return f"{key}: found {found}, {message[0].lower()}{message[1:]}"
