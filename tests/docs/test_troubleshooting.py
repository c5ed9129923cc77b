"""The messages that the page explains are those of the code."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / "docs/troubleshooting.md").read_text(encoding="utf-8")
MESSAGES = re.findall(r"^### (.+)$", PAGE, re.M)


@cache
def texts():
    """All text of the code, what is put into it as ``...``."""
    found = []
    for folder in ("ims3core", "stages"):
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    found.append("".join(v.value if isinstance(v, ast.Constant) else "..." for v in node.values))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return "\n".join(found).replace("%s", "...").replace("%d", "...").replace("`", "")


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_is_one_of_the_code(message):
    """Between its dots, every part stands in one text of the code, in this order."""
    parts = [part for piece in message.replace("`", "").split("...") if (part := piece.strip(" ():;,'"))]
    assert any(all(part in line for part in parts) for line in texts().splitlines()), parts
