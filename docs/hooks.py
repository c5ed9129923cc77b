"""What the site adds to the pages in docs: results and benchmarks from beside it, short names for cross-references."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = re.compile(r"\]\(\.\./((?:metrics|benchmarks)/[^)\s]+)\)")
BENCHMARKS = "benchmarks.md"
ROLE = re.compile(r":(?:func|class|meth|data|attr|mod):<code>~?([^<]+)</code>")


def on_files(files: Files, config: Any) -> Files:
    """Adds the pictures that pages show of ``metrics``, and benchmarks/README.md as a page."""
    for page in list(files.documentation_pages()):
        for target in OUTSIDE.findall(page.content_string):
            path = ROOT / target.partition("#")[0]
            name = _name(target.partition("#")[0])
            if path.is_file() and files.get_file_from_path(name) is None:
                files.append(File.generated(config, name, content=path.read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links that lead out of docs in the repository lead to the copies inside the site."""
    if page.file.src_uri == BENCHMARKS:
        return markdown.replace("](../docs/", "](")
    return OUTSIDE.sub(lambda found: f"]({_moved(found[1])})", markdown)


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Cross-references in docstrings are shown by their last name."""
    return ROLE.sub(lambda found: f"<code>{found[1].rpartition('.')[2]}</code>", html)


def _moved(target: str) -> str:
    path, hash_sign, anchor = target.partition("#")
    return _name(path) + hash_sign + anchor


def _name(path: str) -> str:
    return BENCHMARKS if path == "benchmarks/README.md" else path
