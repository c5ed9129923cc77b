"""The package and the habits of the project: the wheel, one version, files that forges and tools read."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this tree, unpacked; built without network by the build backend itself."""
    tree, site = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("site")
    for name in ("ims3core", "stages"):
        shutil.copytree(REPOSITORY / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, tree / name)
    build = "from setuptools.build_meta import build_wheel; build_wheel('.')"
    subprocess.run([sys.executable, "-W", "ignore", "-c", build], cwd=tree, check=True, capture_output=True)
    [archive] = tree.glob("*.whl")
    zipfile.ZipFile(archive).extractall(site)
    return site


def installed(wheel, *words, cwd):
    """Runs the command line of an unpacked wheel and nothing else."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "ims3core", *words], cwd=cwd, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(wheel)},
    )  # fmt: skip


def test_a_wheel_has_its_version_and_says_that_it_is_used_from_a_checkout(wheel, tmp_path):
    """The pipeline is dvc.yaml, profiles and results; a wheel alone holds none of them, and one line says so."""
    assert installed(wheel, "--version", cwd=tmp_path).stdout == PROJECT["version"] + "\n"
    done = installed(wheel, "select", cwd=tmp_path)
    assert done.returncode == 2
    assert re.fullmatch(r"ims3: no params.yaml, dvc.yaml or profiles/ in this folder: [^\n]+\n", done.stderr)


def test_a_wheel_holds_every_module_the_data_files_and_the_mark_of_types(wheel, tmp_path):
    """Every module of the packages can be found in it, and the tables they read."""
    for package in ("ims3core", "stages"):
        for path in (REPOSITORY / package).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert (wheel / path.relative_to(REPOSITORY)).is_file(), path
    code = "import stages.select, ims3core.report.page, ims3core.ingest.classes; print(stages.__file__)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(wheel)},
    )  # fmt: skip
    assert done.stdout.startswith(str(wheel))


def test_tests_leave_nothing_in_the_temporary_folder(tmp_path):
    """Nor do they tell DVC's makers that they ran: this one, run alone, sees a folder of its own that goes with it."""
    assert os.environ["DVC_NO_ANALYTICS"] == "1"
    if "ims3-tests-inner" in os.environ:
        (tmp_path / "left").write_text("behind")
        subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "-q"], cwd=tmp_path, check=True)
        return
    me = f"{Path(__file__)}::test_tests_leave_nothing_in_the_temporary_folder"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", me], cwd=REPOSITORY, capture_output=True,
        text=True, check=False, env=os.environ | {"TMPDIR": str(tmp_path), "ims3-tests-inner": "1"},
    )  # fmt: skip
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_version_stands_in_one_place_and_its_copies_agree():
    """pyproject.toml; the change log's latest entry and the citation say the same, and no module says any."""
    version = PROJECT["version"]
    assert yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())["version"] == version
    log = (REPOSITORY / "CHANGELOG.md").read_text()
    assert re.findall(r"^## \[(\d[^]]*)\]", log, re.MULTILINE)[0] == version
    for path in (*(REPOSITORY / "ims3core").rglob("*.py"), *(REPOSITORY / "stages").glob("*.py")):
        assert "__version__ =" not in path.read_text(), path


def test_forms_workflows_and_hooks_are_valid_and_name_what_exists():
    """Every issue form about a fault asks for `ims3 doctor`; CI runs targets of the Makefile on the stated Pythons."""
    for path in (REPOSITORY / ".github/ISSUE_TEMPLATE").glob("*.yml"):
        form = yaml.safe_load(path.read_text())
        if path.stem == "config":
            continue
        assert {"name", "description", "body"} <= set(form)
        assert "ims3 doctor" in path.read_text()
        for field in form["body"]:
            assert field["type"] in {"textarea", "input", "dropdown", "markdown"} and field["attributes"]
    workflow = yaml.safe_load((REPOSITORY / ".github/workflows/ci.yml").read_text())
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    steps = [step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"]]
    called = {step.split()[1] for step in steps if step.startswith("make ")}
    assert {"lint", "test"} <= called <= targets | {"docs"}
    pythons = workflow["jobs"]["tests"]["strategy"]["matrix"]["python"]
    stated = [text.rsplit(" ", 1)[1] for text in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", text)]
    assert pythons == stated and PROJECT["requires-python"] == f">={pythons[0]}"
    hooks = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert [hook["entry"].split()[:2] for hook in hooks] == [[".venv/bin/ruff", "check"], [".venv/bin/ruff", "format"]]


def test_what_the_guide_for_contributors_names_exists():
    """Paths in backticks, targets of `make`, and commands of `ims3`."""
    text = (REPOSITORY / "CONTRIBUTING.md").read_text()
    for path in re.findall(r"`((?:tests|stages|ims3core|profiles|metrics|docs|benchmarks|\.ci)/[\w./-]*)`", text):
        assert (REPOSITORY / path).exists(), path
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)) | {"docs"}
    assert set(re.findall(r"make ([a-z-]+)", text)) <= targets
    from ims3core import cli

    assert set(re.findall(r"`ims3 ([a-z][a-z-]*)", text)) <= set(cli.registered())
