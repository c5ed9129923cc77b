"""The worked examples of "Add a method" work as they stand: one file and a profile of a few lines each."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ims3core.params import entries

REPOSITORY = Path(__file__).resolve().parents[2]
SECTION = re.compile(r"^## (An? .+?)$(.*?)(?=^## )", re.S | re.M)
BLOCK = re.compile(r"^```(?:python|yaml) title=\"([^\"]+)\"\n(.*?)^```$", re.S | re.M)
EXAMPLES = {title: dict(BLOCK.findall(text)) for title, text in SECTION.findall((REPOSITORY / "docs/add-a-method.md").read_text())}  # fmt: skip
BASE = [
    "prepare", "generator", "encoder", "teacher", "latents", "finetune none", "guides none", "candidates real",
    "features real", "centroids real", "candidates dit", "features dit", "select dit", "labels steps",
]  # fmt: skip
ROWS = {
    "A selection": "spread", "A source": "mixed", "An adaptation": "huber", "A guide": "moments", "A sampler": "tempered",
    "A refinement": "sharp",
}  # fmt: skip
RUNS = {
    "A selection": ["select spread", "students spread 1 convnet steps"],
    "A source": ["candidates mixed", "features mixed", "select mixed"],
    "An adaptation": ["finetune huber", "candidates huber", "features huber", "select huber"],
    "A guide": ["guides moments", "candidates moments", "features moments", "select moments"],
    "A sampler": ["candidates tempered", "features tempered", "select tempered"],
    "A refinement": ["refine sharp"],
    "A diagnostic": ["diagnose noise_error"],
}
DRIVER = """
import sys
from ims3core.cli.stages import parameters, run_stage
for line in sys.argv[1:]:
    stage, *row = line.split()
    run_stage(stage, parameters(), *row)
"""


def merged(tree, rows):
    """A params.yaml with the rows of an example in it."""
    for name, value in rows.items():
        tree[name] = (
            merged(dict(tree[name]), value) if isinstance(value, dict) and isinstance(tree.get(name), dict) else value
        )
    return tree


@pytest.fixture(scope="module")
def project(tmp_path_factory, toy_text):
    """A copy of the package with every example in it, and everything they need and make."""
    root = tmp_path_factory.mktemp("examples")
    for name in ("ims3core", "stages", "profiles"):
        shutil.copytree(REPOSITORY / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "dvc.yaml", root)
    tree = yaml.safe_load(toy_text)
    for files in EXAMPLES.values():
        for path, text in files.items():
            (root / path).write_text(text)
            if path.endswith(".yaml"):
                merged(tree, {key: value for key, value in yaml.safe_load(text).items() if key != "extends"})
    tree["eval"]["methods"] = ["random", "dit", *ROWS.values()]
    tree["report"]["tsne_method"] = "dit"
    for name in ("tempered", "prototype"):
        tree[name]["steps"] = 2
    (root / "params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    run(root, DRIVER, *BASE, *(line for name in EXAMPLES for line in RUNS[name]))
    return root


def run(root, code, *arguments):
    """Runs Python in the copy."""
    result = subprocess.run([sys.executable, "-c", code, *arguments], cwd=root, capture_output=True, text=True,
                            check=False, env=os.environ | {"PYTHONPATH": str(root)})  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def test_there_is_one_example_for_every_axis():
    """Each with one file in the folder of its axis, and rows that name it."""
    places = [path for files in EXAMPLES.values() for path in files if path.endswith(".py")]
    assert sorted(path.split("/")[2] for path in places) == sorted(entries.AXES)
    assert EXAMPLES.keys() == RUNS.keys()
    assert all({Path(path).suffix for path in files} == {".py", ".yaml"} for files in EXAMPLES.values())


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_stands_alone(project, example):
    """`ims3 use` takes its profile, which has its lines and nothing else; the entry is found and says what it is."""
    code, profile = sorted(EXAMPLES[example], key=lambda path: path.endswith(".yaml"))
    called = "import sys; from ims3core.cli import main; main(['use', sys.argv[1], '--print'])"
    used = yaml.safe_load(run(project, called, Path(profile).stem))
    assert Path(code).stem in used or Path(code).stem == "noise_error"
    listed = "import sys; from ims3core.params import entries; print(entries.summary(*sys.argv[1:]))"
    assert run(project, listed, Path(code).parent.name, Path(code).stem).strip().endswith(".")


@pytest.mark.parametrize("example", ROWS)
def test_an_example_makes_sets(project, example):
    """Of every IPC and draw, with as many images of each class."""
    for ipc in (1, 2):
        for draw in (0, 1):
            images = list((project / "data/distilled" / ROWS[example] / f"ipc-{ipc}/draw-{draw}/train").glob("*/*.png"))
            assert len(images) == 10 * ipc


def test_a_refined_set_is_another(project):
    """The example of a refinement changes the pixels of the set it starts from."""

    def first(row):
        return next(iter(sorted((project / f"data/distilled/{row}/ipc-1/draw-0/train").glob("*/*.png")))).read_bytes()

    assert first("sharp") != first("dit")


def test_a_diagnostic_is_measured(project):
    """One value for each of its images."""
    lines = (project / "metrics/diagnostics/noise_error.csv").read_text().splitlines()
    assert len(lines) == 1 + 20 and all("noise_error" in line for line in lines[1:])


def test_students_are_trained_on_a_new_row(project):
    """As on any other."""
    assert (project / "metrics/cells/spread-1-convnet-steps.json").is_file()
