"""Every key of params.yaml from the schema: type, range, values of the profiles, what it is, where the paper has it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, get_args, get_origin

from ims3core.base.schema import Section
from ims3core.params import Params, entries, tables
from ims3core.students.settings import Protocol
from ims3core.studies.definitions import Study
from parts.common import anchored, code, names, profile, summaries, table, trees, value

PAPER = re.compile(r"(?:Eq\.|Table|Fig\.|Algorithm) [\dA-Z][\d-]*|\bD\d+\b")
SYMBOL = re.compile(r"^(alpha|beta|lambda_IM|lambda|K_i|m)\b(?=[,: (])")
ROWS = {
    "adaptations": tables.Adaptation, "guides": tables.Guide, "pools": tables.Pool, "centroids": tables.Centroids,
    "methods": tables.Method, "refinements": tables.Refinement, "diagnostics": tables.Diagnostic,
}  # fmt: skip
NAME = r"^[a-z][a-z0-9_]{0,39}$"  # the pattern of names of rows and entries
LONGEST = 60  # characters of a value that a table shows
HEAD = ("key", "type, range", "value", "what it is", "paper")


def profiles() -> str:
    """The profiles and what they are."""
    return table(("profile", "what it is"), [(code(name), text) for name, text in summaries().items()])


def protocols() -> str:
    """Every protocol of the digits and those that CIFAR-10 has beside them, side by side."""
    shown = profile("digits").protocols | {name: profile("cifar10").protocols[name] for name in ("dc", "dsa")}
    written = trees()["cifar10"]["protocols"] | trees()["digits"]["protocols"]
    lines = [
        (code(key), *(code(value(written[name].get(key))) for name in shown), anchored(field.description or ""))
        for key, field in Protocol.model_fields.items()
    ]
    return table(("key", *shown, "what it is"), lines)


def sections() -> str:
    """Every section with a table of its keys: the fixed ones, the tables of rows, then the entries of the axes."""
    return "\n\n".join([*_fixed(), *_tables(), *_entries()])


def _fixed() -> Iterator[str]:
    yield "## Fixed sections"
    yield "One of each, in every profile."
    lines = [
        _line(
            "seed",
            Params.model_json_schema()["properties"]["seed"],
            {},
            "seed",
            "root seed; every random draw derives its own",
        )
    ]
    yield "### seed\n\n" + table(HEAD, lines)
    for name, field in Params.model_fields.items():
        forms = (field.annotation, *get_args(field.annotation)) if get_origin(field.annotation) is not dict else ()
        kinds = [kind for kind in forms if _is_section(kind)]
        for n, kind in enumerate(kinds):
            heading = f"### {name}\n\n" if n == 0 else ""
            form = f"`source: {_form(kind)}`: " if len(kinds) > 1 else ""
            yield f"{heading}{form}{anchored(_about(kind))}\n\n{table(HEAD, _lines(kind, name, form=_form(kind)))}"


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Section)


def _form(kind: type[Section]) -> str:
    """The value of ``source`` that chooses this form of a section."""
    field = kind.model_fields.get("source")
    choices = get_args(field.annotation) if field else ()
    return str(choices[0]) if len(choices) == 1 else ""


def _tables() -> Iterator[str]:
    yield "## Tables of rows"
    yield (
        "A table has rows of names of your own. The rows that there are: [Methods](methods.md). "
        "`set` overrides keys of the sections that a row uses."
    )
    for name, kind in ROWS.items():
        yield f"### {name}\n\n{_about(kind)}\n\n{table(HEAD, _lines(kind, None))}"
    yield f"### protocols\n\n{_about(Protocol)} Values: [Protocols](protocols.md).\n\n" + table(
        HEAD, _lines(Protocol, None)
    )
    students = next(iter(get_args(Params.model_fields["students"].annotation)[1:]))
    yield f"### students\n\n{_about(students)}\n\n{table(HEAD, _lines(students, None))}"
    about = " ".join((Study.__doc__ or "").split()).replace("``", "`")
    text = f"{about} They stand in `studies.yaml`: [Studies](studies.md)."
    yield f"### studies\n\n{text}\n\n{table(HEAD, _lines(Study, None))}"


def _entries() -> Iterator[str]:
    yield "## Sections of entries"
    yield (
        "An entry that a row names has a section of its own name. Entries without keys stand as `{}`:\n"
        + ", ".join(sorted({code(name) for axis in entries.AXES for name in _named(axis) if not _fields(axis, name)}))
        + "."
    )
    for axis in entries.AXES:
        for name in _named(axis):
            if _fields(axis, name) and name not in Params.model_fields:
                kind = entries.entry_class(axis, name, axis)
                about = anchored(entries.summary(axis, name))
                yield f"### {name}\n\nOf `{axis}`. {about}\n\n{table(HEAD, _lines(kind, name))}"


def _named(axis: str) -> list[str]:
    return entries.names(axis)


def _fields(axis: str, name: str) -> list[str]:
    return list(entries.entry_class(axis, name, axis).model_fields)


def _about(kind: type[Section]) -> str:
    return (kind.__doc__ or "").strip().splitlines()[0]


def _lines(kind: type[Section], place: str | None, *, form: str = "") -> list[tuple[str, ...]]:
    """The keys of a section; those of a section inside it with a dot. ``place``: where profiles have its values."""
    schema, lines = kind.model_json_schema(), []
    for key, field in kind.model_fields.items():
        if _is_section(field.annotation):
            inner: Any = field.annotation
            where = f"{place}.{key}" if place else None
            lines += [(f"`{key}.{name[1:]}", *rest) for name, *rest in _lines(inner, where, form=form)]
        else:
            key_schema = schema["properties"][key]
            lines.append(
                _line(key, key_schema, schema.get("$defs", {}), f"{place}.{key}" if place else None, form=form)
            )
    return lines


def _line(
    key: str, schema: dict[str, Any], defs: dict[str, Any], place: str | None, about: str = "", form: str = ""
) -> tuple[str, ...]:
    text = schema.get("description", about)
    found = [*SYMBOL.findall(text), *dict.fromkeys(PAPER.findall(text))]
    default = f"; default `{value(schema['default'])}`" if "default" in schema and schema["default"] is not None else ""
    kind = _kind(schema, defs)
    return (
        code(key), kind + default, _values(place, form) if place else "", anchored(text).replace("|", "\\|"),
        ", ".join(found),
    )  # fmt: skip


def _values(place: str, form: str) -> str:
    """What the profiles have at a dotted key: the value of the first, then others with the names of their profiles.

    Where some leave the key out, and so have its default, all that have it are named.
    """
    found: dict[str, list[str]] = {}
    *path, key = place.split(".")
    left_out = False
    for name, tree in trees().items():
        section: Any = tree
        if form and tree.get(place.split(".")[0], {}).get("source") != form:
            continue
        for part in path:
            section = section.get(part, ...) if isinstance(section, dict) else ...
        if isinstance(section, dict) and key in section:
            found.setdefault(value(section[key]), []).append(name)
        left_out |= isinstance(section, dict) and key not in section
    if any(len(text) > LONGEST for text in found):
        return "by profile"
    first, *others = found.items() or [("", [])]
    if left_out:
        return "; ".join(f"{code(text)} in {names(holders)}" for text, holders in found.items())
    said = [code(first[0]), *(f"{code(text)} in {names(holders)}" for text, holders in others)]
    return "; ".join(part for part in said if part)


def _kind(schema: dict[str, Any], defs: dict[str, Any]) -> str:
    """A type with its range, in words."""
    if "$ref" in schema:
        target = defs[schema["$ref"].rpartition("/")[2]]
        return (
            f"table of {', '.join(code(key) for key in target['properties'])}"
            if "properties" in target
            else _kind(target, defs)
        )
    if "anyOf" in schema:
        return " or ".join(_kind(one, defs) for one in schema["anyOf"])
    if "const" in schema:
        return code(value(schema["const"]))
    if "enum" in schema:
        return ", ".join(code(value(one)) for one in schema["enum"])
    kind = schema.get("type")
    if kind == "array":
        return _list(schema, defs)
    if kind == "object":
        return _mapping(schema, defs)
    if kind in ("integer", "number"):
        return f"{'whole number' if kind == 'integer' else 'number'}{_range(schema)}"
    word = "name" if schema.get("pattern") == NAME else "text"
    return {"boolean": "`true`, `false`", "null": "`null`", "string": word, None: "any"}[kind]


def _list(schema: dict[str, Any], defs: dict[str, Any]) -> str:
    inner, least, most = _kind(schema.get("items", {}), defs), schema.get("minItems", 0), schema.get("maxItems")
    return f"{least} values: {inner}" if least == most else f"list: {inner}"


def _mapping(schema: dict[str, Any], defs: dict[str, Any]) -> str:
    inner = schema.get("additionalProperties")
    return f"table: {_kind(inner, defs)}" if isinstance(inner, dict) and inner else "table"


def _range(schema: dict[str, Any]) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    parts = [f"{sign} {schema[key]:g}" for key, sign in signs.items() if key in schema]
    if "multipleOf" in schema:
        parts.append(f"a multiple of {schema['multipleOf']}")
    return f" {' and '.join(parts)}".replace("<", "&lt;") if parts else ""
