"""Writes what the documentation takes from code and committed results: ``python docs/generate.py``.

With ``--check`` it writes nothing and names what is out of date.

A page is Markdown written by hand. What stands in it between ``<!-- begin NAME -->`` and ``<!-- end NAME -->`` comes
from the function NAME of a module in ``docs/parts``; pictures in ``docs/images`` are made from those in ``metrics``.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS), str(DOCS.parent)]

from parts import methods, parameters, pictures, pipeline, results, studies  # noqa: E402

BLOCK = re.compile(r"(<!-- begin (\w+) -->\n).*?(<!-- end \2 -->)", re.S)
BLOCKS: dict[str, Callable[[], str]] = {
    function.__name__: function
    for function in (
        results.digits, results.digits_says, results.three_data_sets, results.all_systems, results.small_images,
        methods.axes, methods.axes_short, methods.rows, methods.systems,
        parameters.profiles, parameters.sections, parameters.protocols,
        studies.studies, pipeline.stages, pipeline.commands,
    )
}  # fmt: skip
PICTURES: dict[str, Callable[[], bytes]] = {
    "front.png": pictures.front, "front-narrow.png": pictures.front_narrow,
    "pipeline.svg": pictures.pipeline, "pipeline-narrow.svg": pictures.pipeline_narrow,
    "python.svg": pictures.python_badge, "licence.svg": pictures.licence_badge, "tests.svg": pictures.tests_badge,
}  # fmt: skip


def pages(root: Path) -> list[Path]:
    """The pages that may have generated blocks."""
    return [root / "README.md", *sorted((root / "docs").glob("*.md"))]


def filled(text: str) -> str:
    """A page with all its generated blocks made anew."""
    return BLOCK.sub(lambda found: f"{found[1]}{BLOCKS[found[2]]().strip()}\n{found[3]}", text)


def stale(root: Path) -> Iterator[tuple[Path, bytes]]:
    """The files that are not what they should be, and what they should be."""
    for page in pages(root):
        if (made := filled(page.read_text(encoding="utf-8")).encode()) != page.read_bytes():
            yield page, made
    for name, make in PICTURES.items():
        path, made = root / "docs/images" / name, make()
        if not path.is_file() or not _equal(path.read_bytes(), made):
            yield path, made


def _equal(one: bytes, other: bytes) -> bool:
    """Whether two files are the same, or two PNGs have the same pixels: their compression is a matter of versions."""
    if one == other or not other.startswith(b"\x89PNG"):
        return one == other
    first, second = (Image.open(io.BytesIO(content)).convert("RGB") for content in (one, other))
    return first.size == second.size and first.tobytes() == second.tobytes()


def main(arguments: list[str]) -> int:
    """Writes what is out of date, or with ``--check`` names it; the exit code says whether there was any to name."""
    root, check = DOCS.parent, arguments == ["--check"]
    changed = list(stale(root))
    for path, content in changed:
        if check:
            print(f"{path.relative_to(root)}: out of date; `python docs/generate.py` writes it", file=sys.stderr)
        else:
            path.write_bytes(content)
            print(path.relative_to(root))
    return int(check and bool(changed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
