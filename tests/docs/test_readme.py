"""The front page is short, its links lead somewhere, and its commands are there."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ims3core import cli
from ims3core.pipeline import profiles

REPOSITORY = Path(__file__).resolve().parents[2]
BASH = re.compile(r"^```bash\n(.*?)^```$", re.S | re.M)
DVC = ("repro", "exp", "metrics", "get", "commit", "config", "remote", "push", "pull", "import")
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def commands(text):
    """The commands in the bash blocks of a page, as lists of words."""
    lines = [line for block in BASH.findall(text) for line in block.splitlines()]
    parts = [part for line in lines for part in re.sub(r"(^|\s)#.*", "", line).split("&&")]
    return [shlex.split(part) for part in parts if part.strip()]


def test_it_is_read_in_two_minutes():
    """At most 150 lines of at most 120 characters."""
    lines = README.splitlines()
    assert len(lines) <= 150
    assert [line for line in lines if len(line) > 120] == []


def test_links_lead_somewhere(pages):
    """Files exist, and pages have the headings that links name; on every page of the documentation."""
    broken = [
        (page, path, anchor)
        for page in pages.texts
        for path, anchor in pages.links(page)
        if not (REPOSITORY / path).exists() or (anchor and path != "docs/api.md" and anchor not in pages.anchors(path))
    ]
    assert broken == []


def test_every_page_is_reached_from_it(pages):
    """Within two clicks."""
    first = {path for path, _ in pages.links("README.md") if path in pages.texts}
    second = {path for page in first for path, _ in pages.links(page)}
    assert pages.texts.keys() <= first | second | {"README.md"}


def test_commands_exist(pages):
    """Targets of make, stages and commands, keys behind -S, files that are called: all of them are there."""
    targets = set(re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), re.M)) | {".venv/installed"}
    tree = profiles.read(REPOSITORY, "digits").tree
    groups = cli.registered()
    for page, text in pages.texts.items():
        if page == "benchmarks/README.md":
            continue
        for words in commands(text):
            if words[0] == "make":
                assert set(words[1:]) <= targets, (page, words)
            elif words[0] == "ims3":
                assert words[1].startswith("--") or words[1] in groups, (page, words)
            elif words[0] == "python":
                assert (REPOSITORY / words[1]).is_file(), (page, words)
            elif words[0] == "dvc":
                assert words[1] in DVC, (page, words)
                for change in [word for word in words if "=" in word]:
                    section, _, key = change.partition("=")[0].partition(".")
                    assert key in tree[section], (page, words)
            else:
                assert words[0] in ("git", ".", "cp", "ln", "pip", "xdg-open", "cd"), (page, words)


def ims3(*words):
    """Runs ``ims3`` here."""
    command = [sys.executable, "-m", "ims3core", *words]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.parametrize("words", [c[1:] for c in commands(README) if c[:2] == ["ims3", "new"]], ids=" ".join)
def test_its_own_pictures_are_taken_with_options_that_exist(words):
    """The command itself, which measures the machine, is run in tests/planning/test_new.py."""
    said = ims3("new", "--help").stdout
    assert all(word in said for word in words if word.startswith("--"))


@pytest.mark.parametrize("words", [c[1:] for c in commands(README) if c[0] == "ims3" and c[1] != "new"], ids=" ".join)
def test_its_commands_run(toy, words):
    """In a toy project; the plan is made for another machine, as measuring this one takes a while."""
    toy()
    result = ims3(*words, *(["--tflops", "1"] if words == ["plan"] else []))
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout


@pytest.mark.parametrize("words", [c for c in commands(README) if c[0] == "dvc"], ids=" ".join)
def test_commands_of_dvc_are_known_to_it(words):
    """DVC knows the command and its options."""
    asked = [word for word in words[1:] if "=" not in word]
    result = subprocess.run([sys.executable, "-m", "dvc", *[w for w in asked if w != "-S"], "--help"],
                            capture_output=True, text=True, check=False)  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    assert all(word in result.stdout for word in asked if word.startswith("-"))


def test_the_paper_is_cited_as_it_is():
    """Title, authors and year stand in the text and in the entry for a bibliography."""
    entry = README.partition("```bibtex\n")[2].partition("```")[0]
    for author in ("Wang, Chenru", "Chen, Yunyi", "Yang, Zijun", "Zhou, Joey Tianyi", "Zhang, Chi"):
        assert author in entry
        assert " ".join(reversed(author.split(", "))) in README
    assert "Breaking Distributional Aggregation in Diffusion-Based Dataset Distillation" in entry
    assert entry.count("{") == entry.count("}")


def test_the_profile_of_ones_own_is_accepted(pages, tmp_path):
    """The few lines on the page about one's own images are a profile."""
    shutil.copytree(REPOSITORY / "profiles", tmp_path / "profiles")
    lines = re.search(r"^```yaml\n(extends: .*?)^```$", pages.texts["docs/own-images.md"], re.S | re.M)
    (tmp_path / "profiles/mine.yaml").write_text(lines[1])
    data = profiles.read(tmp_path, "mine").data
    assert (data.source, data.classes) == ("imagefolder", None)
