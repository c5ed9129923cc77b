"""Finds the entries of an axis: an axis is a folder of ``ims3core/axes``, an entry the one class in a module of it."""

from __future__ import annotations

import ast
import importlib
import inspect
from functools import cache
from pathlib import Path

from ims3core.base.schema import Entry
from ims3core.errors import ParameterError

FOLDER = Path(__file__).parents[1] / "axes"
AXES = ("sources", "adaptations", "guides", "samplers", "selections", "refinements", "diagnostics")


@cache
def names(axis: str) -> tuple[str, ...]:
    """The names of all entries of ``axis``, without importing one."""
    return tuple(sorted(path.stem for path in (FOLDER / axis).glob("*.py") if not path.stem.startswith("_")))


def is_entry(name: str) -> bool:
    """Whether any axis has an entry ``name``."""
    return any(name in names(axis) for axis in AXES)


def base_class(axis: str) -> type[Entry]:
    """The base class of ``axis``: the first subclass of Entry that its folder defines."""
    module = importlib.import_module(f"ims3core.axes.{axis}")
    classes = [value for value in vars(module).values() if inspect.isclass(value) and issubclass(value, Entry)]
    return next(value for value in classes if value.__module__ == module.__name__)


def entry_class(axis: str, name: str, key: str) -> type[Entry]:
    """The class of the entry ``name`` of ``axis``, which params.yaml names at ``key``.

    Raises:
        ParameterError: there is no such module, it has not exactly one class of its axis, or that lacks a method or a
            class attribute.
    """
    if name not in (known := names(axis)):
        raise ParameterError(f"{key}: {name!r} is unknown; known: {', '.join(known)} (ims3core/axes/{axis}/<name>.py)")
    base, module = base_class(axis), importlib.import_module(f"ims3core.axes.{axis}.{name}")
    classes = [
        value for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, base) and value.__module__ == module.__name__
    ]  # fmt: skip
    place = f"{key}: ims3core/axes/{axis}/{name}.py"
    if len(classes) != 1:
        listed = ", ".join(value.__name__ for value in classes) or "none"
        raise ParameterError(f"{place} has {listed}, wanted exactly one subclass of {base.__name__}")
    absent = [name for name in classes[0].__class_vars__ if not hasattr(classes[0], name)]
    if missing := sorted([*classes[0].__abstractmethods__, *absent]):
        raise ParameterError(f"{place}: {classes[0].__name__} has no {' and no '.join(missing)}")
    return classes[0]


def summary(axis: str, name: str | None = None) -> str:
    """The first line of the docstring of an entry, or of the axis itself; nothing is imported."""
    path = FOLDER / axis / f"{name or '__init__'}.py"
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.split("\n\n")[0].replace("\n", " ").strip()
