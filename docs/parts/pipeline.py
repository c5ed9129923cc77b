"""The stages from dvc.yaml, the commands from the command line."""

from __future__ import annotations

import re
from typing import Any

import typer
import yaml

from ims3core import cli
from parts.common import ROOT, code, table


def read() -> dict[str, dict[str, Any]]:
    """The stages of dvc.yaml."""
    stages: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    return stages


def stages() -> str:
    """What every stage is for, how many of it there are, and what it writes."""
    rows = []
    for name, entry in read().items():
        body = entry.get("do", entry)
        per = entry["foreach"].strip("${}") if "foreach" in entry else " × ".join(entry.get("matrix", {}))
        outs = [next(iter(out)) if isinstance(out, dict) else out for out in [*body["outs"], *body.get("metrics", [])]]
        written = ", ".join(code(re.sub(r"\$\{(?:item\.)?(\w+)\}", r"<\1>", out)) for out in outs)
        rows.append((code(name), body["desc"], per, written.replace("<key>", "<row>")))
    return table(("stage", "what it makes", "one per", "writes"), rows)


def commands() -> str:
    """Every command with what its help says, in the groups of the help page."""
    group: Any = typer.main.get_command(cli.app)
    panels: dict[str, list[tuple[str, str]]] = {}
    for name, command in group.commands.items():
        panel = getattr(command, "rich_help_panel", None) or "Other"
        inner = getattr(command, "commands", None)
        lines = [(f"{name} {sub}", one) for sub, one in inner.items()] if inner else [(name, command)]
        for words, one in lines:
            asked = [p for p in one.params if p.param_type_name == "argument"]
            usage = " ".join(p.name.upper() if p.required else f"[{p.name.upper()}]" for p in asked)
            panels.setdefault(panel, []).append(
                (code(f"ims3 {words} {usage}".strip()), " ".join((one.help or "").split("\n\n")[0].split()))
            )
    return "\n\n".join(f"**{panel}**\n\n{table(('command', 'what it does'), rows)}" for panel, rows in panels.items())
