"""dvc.yaml is honest: every stage depends on the code it runs, and on no code it does not need to."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ims3core.shell import axes, code

REPOSITORY = Path(__file__).resolve().parents[1]
STAGES = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
FREE = (
    "ims3core/shell/",
    "ims3core/params/",
    "ims3core/cli.py",
    "ims3core/tools.py",
    "ims3core/__main__.py",
    "ims3core/__init__.py",
)
# What params.yaml names where dvc.yaml has ${item.<axis or key>}: the entries of the toy profile that do the most.
ITEM = {
    "loss": "im", "by": "none", "source": "generated", "sampler": "dpm_solver", "guide": "none", "selection": "s3",
    "key": "row", "pool": "dit", "adaptation": "im",
}  # fmt: skip
OTHER = {"probe": {"by": "instability"}}
RUNS = {
    "prepare": "prepare", "generator": "generator", "encoder": "encoder", "teacher": "teacher", "latents": "latents",
    "finetune": "finetune im", "guides": "guides none", "candidates": "candidates dit", "features": "features dit",
    "centroids": "centroids real", "select": "select s3", "labels": "labels steps_soft",
    "students": "students s3 1 convnet steps_soft", "full_data": "full-data convnet steps_soft", "coverage": "coverage",
    "probe": "probe mine",
}  # fmt: skip
BEFORE = {"finetune": ["finetune none"], "candidates": ["candidates real"], "features": ["features real"]}
RECORD = """if True:
    import json, sys, pathlib
    from ims3core import cli
    from ims3core.params import load
    load(pathlib.Path("params.yaml"))
    checked = set(sys.modules)
    try:
        cli.main(sys.argv[2:])
    except SystemExit as stop:
        assert not stop.code, stop.code
    root = pathlib.Path(cli.__file__).parents[1]
    found = {m: getattr(sys.modules[m], "__file__", None) for m in list(sys.modules)}
    files = sorted(str(pathlib.Path(f).relative_to(root)) for m, f in found.items()
                   if f and f.startswith(str(root)) and m.split(".")[0] in ("ims3core", "stages"))
    entries = sorted(str(pathlib.Path(found[m]).relative_to(root)) for m in checked & found.keys() if found[m]
                     and m.split(".")[0] == "ims3core")
    pathlib.Path(sys.argv[1]).write_text(json.dumps([files, entries]))
"""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory, toy_text):
    """Per stage: the project's files that were loaded when it ran, and those loaded to check the parameters."""
    folder = tmp_path_factory.mktemp("loaded")
    tree = yaml.safe_load(toy_text)
    tree["eval"]["protocols"] = ["steps_soft"]
    tree["eval"]["methods"], tree["report"]["tsne_method"] = ["s3"], "s3"
    tree["methods"] = {"s3": tree["methods"]["s3"]}
    tree["refined"] = {}
    del tree["pools"]["im"]
    tree["probes"] = {"mine": {"by": "instability", "adaptation": "im"}}
    tree["instability"] = {"images": 1, "steps": 1, "level": 0.5}
    tree["teacher"] = tree["encoder"] | {"norm": "batch"}  # trained: loads the most
    (folder / "params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    found = {}
    for name, command in RUNS.items():
        for line in [*BEFORE.get(name, []), command]:
            result = subprocess.run(
                [sys.executable, "-c", RECORD, f"{name}.json", *line.split()], cwd=folder, check=False,
                env={"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin", "HOME": str(folder)},
                capture_output=True, text=True,
            )  # fmt: skip
            assert result.returncode == 0, result.stderr
        found[name] = json.loads((folder / f"{name}.json").read_text())
    return found


@pytest.mark.parametrize("name", RUNS)
def test_a_stage_depends_on_every_module_it_loads(name, loaded):
    """Recorded while it runs, dynamic imports included; entries that only the check of params.yaml loaded do not count."""
    files, checked = loaded[name]
    declared = set(code.dependencies(name, **ITEM | OTHER.get(name, {})))
    entries = {f"ims3core/{axis}/{entry}.py" for axis in axes.NAMES for entry in [*axes.entries(axis), "__init__"]}

    used = {f for f in files if not f.startswith(FREE) and len(ast.parse((REPOSITORY / f).read_text()).body) > 1}
    missing = used - declared - (set(checked) & entries)
    assert missing == set()


@pytest.mark.parametrize("name", RUNS)
def test_a_stage_depends_on_no_module_it_never_loads(name, loaded):
    """A list that grew too long would make stages run again for nothing; what only some rows load is named here."""
    some_rows = {
        "generator": {"pretrained", "difffit"}, "guides": {"inversion", "sampling", "difffit", "dit", "dit_layout",
        "generator", "schedule", "latents", "decode"}, "finetune": {"none"}, "candidates": {"none"},
        "prepare": {"huggingface", "imagefolder", "npz", "torchvision"}, "encoder": {"weights"}, "teacher": {"weights"},
        "select": {"images", "encoders", "teachers", "networks"},
    }.get(name, set())  # fmt: skip
    files, _ = loaded[name]
    named = code.dependencies(name, **ITEM | OTHER.get(name, {}))
    declared = {f for f in named if not f.startswith("ims3core/base/")}
    unused = {f for f in declared - set(files) if len(ast.parse((REPOSITORY / f).read_text()).body) > 1}
    assert {Path(f).stem for f in unused} <= some_rows


@pytest.mark.parametrize("name", STAGES)
def test_dependencies_exist_and_none_is_of_the_shell(name):
    """Every listed file is there; shell and params can change without outdating a stage."""
    entry = STAGES[name].get("do", STAGES[name])
    own = [dep for dep in entry["deps"] if dep.startswith(("ims3core", "stages"))]
    assert len(own) == len(set(own))
    assert not [dep for dep in own if dep.startswith(FREE)]
    for dep in own:
        pattern = re.sub(r"\$\{.*?\}", "*", dep)
        assert list(REPOSITORY.glob(pattern)) or "refinements" in dep, dep
    assert [dep for dep in own if dep.startswith("stages/")] == [own[0]] or own[0] == "stages/labels.py"


@pytest.mark.parametrize(
    ("name", "templates"),
    {
        "finetune": ["adaptations/${item.loss}"], "guides": ["guides/${item.by}"], "refine": ["refinements/${item.by}"],
        "candidates": ["sources/${item.source}", "samplers/${item.sampler}"], "select": ["selections/${item.selection}"], "probe": ["probes/${item.by}"],
    }.items(),
)  # fmt: skip
def test_a_row_depends_on_the_entries_it_names(name, templates):
    """By template, with the contract of their axis."""
    deps = STAGES[name]["do"]["deps"]
    for template in templates:
        assert f"ims3core/{template}.py" in deps
        assert f"ims3core/{template.split('/')[0]}/__init__.py" in deps


def test_no_stage_depends_on_a_folder_of_entries():
    """One more entry in a folder must outdate no row that does not name it."""
    for entry in STAGES.values():
        for dep in entry.get("do", entry)["deps"]:
            assert dep not in {f"ims3core/{axis}" for axis in axes.NAMES}


def test_the_shell_imports_no_numerics():
    """What no stage depends on must not decide a result: no module of it is imported for its values by numerics."""
    for path in (REPOSITORY / "ims3core/shell").glob("*.py"):
        names = [
            node.module for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("ims3core")
        ]  # fmt: skip
        assert all(name.startswith(("ims3core.shell", "ims3core.base", "ims3core.params")) for name in names), path


def test_code_of_a_row_is_that_of_its_entries():
    """The digest that names unfinished work changes with the row's own entry, not with another's."""
    random, s3 = (set(code.dependencies("select", **ITEM | {"selection": name})) for name in ("random", "s3"))
    assert random ^ s3 == {"ims3core/selections/random.py", "ims3core/selections/s3.py"}
    assert code.digest("select", **ITEM) != code.digest("select", **ITEM | {"selection": "random"})
    assert len(code.dependencies("no such stage")) > 60  # without a list: the whole package
