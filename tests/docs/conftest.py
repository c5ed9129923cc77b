"""Fixtures of the tests of the documentation: its generator, its pages, their headings and links."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^```.*?^```$", re.S | re.M)
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"")
HEADING = re.compile(r"^#{1,6} (.+)$", re.M)


class Pages:
    """README.md, the pages of docs and the benchmarks' README: paths are relative to the repository."""

    def __init__(self):
        places = [
            REPOSITORY / "README.md",
            *sorted((REPOSITORY / "docs").glob("*.md")),
            REPOSITORY / "benchmarks/README.md",
        ]
        self.texts = {str(path.relative_to(REPOSITORY)): path.read_text(encoding="utf-8") for path in places}

    def links(self, page):
        """Where a page leads: (path relative to the repository, anchor or nothing), those of the web left out."""
        found = [a or b for a, b in LINK.findall(FENCE.sub("", self.texts[page]))]
        home = (REPOSITORY / page).parent
        for target in found:
            if not target.startswith(("http:", "https:")):
                path, _, anchor = target.partition("#")
                resolved = (home / path).resolve() if path else REPOSITORY / page
                yield str(resolved.relative_to(REPOSITORY)), anchor

    def anchors(self, page):
        """The anchors of a page's headings, as GitHub and the site make them."""
        headings = HEADING.findall(FENCE.sub("", self.texts[page]))
        return {slug(re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", heading)) for heading in headings}


def slug(heading):
    """The anchor of a heading."""
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip())


@pytest.fixture(scope="session")
def pages():
    """All pages."""
    return Pages()


@pytest.fixture(scope="session")
def generate():
    """The module docs/generate.py."""
    spec = importlib.util.spec_from_file_location("generate_docs", REPOSITORY / "docs/generate.py")
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = before
