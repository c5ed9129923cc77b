"""Finding the entries of an axis: the axis is a folder of this package, an entry a module in it.

Nothing is registered: the module's name is the name in params.yaml. What an entry must have is the tuple
``ENTRY`` of its folder's ``__init__``, whose docstring says what each means. Entries import nothing heavy until
they are called, so that checking params.yaml stays quick.
"""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from types import ModuleType

from ims3core.shell.errors import ParameterError

PACKAGE = Path(__file__).parents[1]
NAMES = ("sources", "adaptations", "guides", "samplers", "selections", "refinements", "probes")


def entries(axis: str) -> list[str]:
    """The names of all entries of ``axis``, without importing one."""
    return sorted(path.stem for path in (PACKAGE / axis).glob("*.py") if not path.stem.startswith("_"))


def load(axis: str, name: str, key: str) -> ModuleType:
    """The entry ``name`` of ``axis``, which params.yaml names at ``key``.

    Raises:
        ParameterError: there is no such module, or it lacks a part that entries of its axis have.
    """
    if name not in (known := entries(axis)):
        raise ParameterError(f"{key}: {name!r} is unknown; known: {', '.join(known)} (ims3core/{axis}/<name>.py)")
    folder, module = (importlib.import_module(f"ims3core.{axis}{part}") for part in ("", f".{name}"))
    for part in folder.ENTRY if name != "none" else ("Section",):
        if not hasattr(module, part):
            raise ParameterError(
                f"{key}: ims3core/{axis}/{name}.py has no {part!r}; an entry of {axis} has {', '.join(folder.ENTRY)}"
            )
    return module


def known_anywhere(name: str) -> bool:
    """Whether any axis has an entry ``name``."""
    return any(name in entries(axis) for axis in NAMES)


def summary(axis: str, name: str | None = None) -> str:
    """The first line of the docstring of an entry, or of the axis itself; nothing is imported."""
    path = PACKAGE / axis / f"{name or '__init__'}.py"
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.split("\n\n")[0].replace("\n", " ").strip()
