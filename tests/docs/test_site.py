"""The site builds without a warning, asks no network for anything, and finds its search when it is opened from disk."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
LOADED = re.compile(r"<(?:script|img|link|source|iframe)\b[^>]*?\b(?:src|href|srcset)=[\"']?([^\"'\s>]+)")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built strictly."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False,
                            env=os.environ | {"NO_MKDOCS_2_WARNING": "1"})  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    return folder


def test_nothing_comes_from_the_network(site):
    """Whatever a page loads lies beside it; links for people may lead anywhere."""
    for page in site.glob("*.html"):
        loaded = LOADED.findall(page.read_text(encoding="utf-8"))
        assert loaded, page
        for target in loaded:
            assert not target.startswith(("http", "//")), (page.name, target)
            if not target.startswith("data:") and page.name != "404.html":
                assert (page.parent / target.partition("#")[0].partition("?")[0]).exists(), (page.name, target)


def test_search_needs_no_server(site):
    """The index is a script, and so is the worker that browsers refuse to start from disk."""
    assert (site / "search/search_index.js").read_text().startswith("var __index = ")
    assert "assets/iframe-worker.js" in (site / "index.html").read_text()


def test_nothing_is_in_it_that_is_no_page(site):
    """Neither the code that generates nor the texts it reads."""
    assert [path for path in site.rglob("*") if path.suffix in (".py", ".yaml")] == []
