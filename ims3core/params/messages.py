"""One line for each thing that is wrong with a section."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FORMS = ("train", "pretrained", "timm", "encoder")
NOISE = ("constrained-", "literal[", "list[", "function-")


def described(error: Mapping[str, Any], place: str = "") -> str:
    """One pydantic error as "key: found value, problem"; ``place`` is the section it was found in."""
    parts = [str(part) for part in error["loc"] if not str(part).startswith(NOISE)]
    if (
        len(parts) > 1
        and parts[0] in ("generator", "encoder", "teacher")
        and parts[1] in ("train", "pretrained", "timm", "encoder")
    ):
        del parts[1]  # which of the two forms of the section it is
    key = ".".join([*([place] if place else []), *parts])
    if error["type"] == "extra_forbidden":
        return f"{key}: unknown key (found value {error['input']!r})"
    if error["type"] == "missing":
        return f"{key}: missing"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error":
        return f"{key}: {message}" if key else message
    return f"{key}: found {error['input']!r}, {message[0].lower()}{message[1:]}"
