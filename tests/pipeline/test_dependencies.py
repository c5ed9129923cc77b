"""dvc.yaml is honest: every stage depends on the code it runs, and on no code it does not need to."""

import ast
import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

from ims3core.params import entries
from ims3core.pipeline import profiles
from ims3core.pipeline.graph import Graph, read_stages

REPOSITORY = Path(__file__).resolve().parents[2]
STAGES = {name: entry.get("do", entry) for name, entry in read_stages().items()}
# What can change no result.
FREE = (
    "ims3core/errors.py", "ims3core/params/", "ims3core/pipeline/", "ims3core/planning/", "ims3core/cli/",
    "ims3core/export.py", "ims3core/__main__.py", "ims3core/__init__.py", "stages/__init__.py",
)  # fmt: skip
OF_REPORT = {f"ims3core/studies/{name}.py" for name in ("definitions", "figures", "results", "sentences")}
# Where the schema of params.yaml comes from; a stage that uses more of these than names and ranges declares them.
SCHEMA = {
    "ims3core/students/settings.py", "ims3core/students/plans.py", "ims3core/data/keys.py", "ims3core/data/__init__.py",
}  # fmt: skip
ROWS = {
    "finetune": "adaptations", "guides": "guides", "candidates": "sources samplers", "select": "selections",
    "refine": "refinements", "diagnose": "diagnostics",
}  # fmt: skip
RUNS = {
    "prepare": ["prepare"], "generator": ["generator"], "encoder": ["encoder"], "teacher": ["teacher"],
    "latents": ["latents"], "finetune": ["finetune none", "finetune im"], "guides": ["guides none", "guides statistics"],
    "candidates": ["candidates real", "candidates dit"], "features": ["features real", "features dit"],
    "centroids": ["centroids real"], "select": ["select s3", "select confidence"],
    "refine": ["refine ims3_plus", "refine sre2l", "refine cao2"], "labels": ["labels steps_soft"],
    "students": ["students s3 1 convnet steps_soft", "students ims3_plus 1 convnet steps_soft"],
    "full_data": ["full-data convnet steps_soft"], "diagnose": ["diagnose mine"], "coverage": ["coverage"],
    "report": ["report"],
}  # fmt: skip
LINES = {line: stage for stage, lines in RUNS.items() for line in lines}
# Each line runs in a process of its own; the libraries are loaded once, before.
RECORD = """if True:
    import json, os, pathlib, sys
    import accelerate, diffusers, kornia, matplotlib.pyplot, pandas, scipy.stats, sklearn.manifold, timm, torch, torchvision
    from diffusers import AutoencoderKL
    import sklearn.datasets, sklearn.model_selection, torch._dynamo
    root = pathlib.Path(sys.argv[1])
    def loaded():
        files = {pathlib.Path(m.__file__) for n, m in list(sys.modules.items())
                 if n.split(".")[0] in ("ims3core", "stages") and getattr(m, "__file__", None)}
        return sorted(str(f.relative_to(root)) for f in files)
    for line in sys.argv[2:]:
        if pid := os.fork():
            assert os.waitpid(pid, 0)[1] == 0, line
            continue
        from ims3core import cli
        from ims3core.params import load
        load(pathlib.Path("params.yaml"))
        checked, code = loaded(), 0
        try:
            cli.main(line.split())
        except SystemExit as stop:
            code = stop.code or 0
        pathlib.Path(f"{line}.json").write_text(json.dumps([loaded(), checked]))
        os._exit(code)
"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory, toy_text):
    """Per command: the project's files that were loaded when it ran, and those loaded to check the parameters."""
    folder = tmp_path_factory.mktemp("recorded")
    tree = yaml.safe_load(toy_text)
    every = profiles.read(REPOSITORY, "digits-all").tree
    names = ("confidence", "statistics", "batchnorm_inversion", "conditional_likelihood")
    tree |= {name: every[name] for name in names}
    tree["statistics"] |= {"steps": 4, "sets": 5}
    tree["guides"]["statistics"] = {"type": "statistics", "adaptation": "none"}
    tree["methods"] = {"s3": tree["methods"]["s3"], "confidence": tree["methods"]["s3"] | {"type": "confidence"}}
    tree["refinements"]["ims3_plus"]["start"] = "s3"
    tree["refinements"]["sre2l"] = {"start": "s3", "type": "batchnorm_inversion", "set": {"iterations": 1}}
    tree["refinements"]["cao2"] = {"start": "s3", "type": "conditional_likelihood", "set": {"iterations": 1}}
    del tree["pools"]["im"]
    tree["diagnostics"] = {"mine": {"type": "instability", "adaptation": "im"}}
    tree["instability"] = {"images": 1, "steps": 1, "level": 0.5}
    tree["teacher"] = tree["encoder"] | {"norm": "batch"}  # trained: loads the most
    tree["eval"] |= {"protocols": ["steps_soft"], "methods": ["s3", "ims3_plus"], "ipc": [1]}
    tree["report"]["tsne_method"] = "s3"
    (folder / "params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RECORD, str(REPOSITORY), *LINES], cwd=folder, check=False,
        env={"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin", "HOME": str(folder), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    nodes = {node.address: node for node in Graph(tree).nodes}
    return {
        line: (address(line, nodes), *map(set, json.loads((folder / f"{line}.json").read_text()))) for line in LINES
    }


def address(line, nodes):
    """The node of dvc.yaml that a command runs."""
    return next(n for n in nodes.values() if [n.stage.replace("_", "-"), *n.arguments] == line.split())


@cache
def says_nothing(file):
    """Whether a module has nothing but its docstring."""
    return len(ast.parse((REPOSITORY / file).read_text()).body) < 2


def counted(files):
    """Those of ``files`` that can change a result."""
    return {file for file in files if not file.startswith(FREE) and not says_nothing(file)}


@pytest.mark.parametrize("line", LINES)
def test_a_stage_depends_on_every_module_it_loads(line, recorded):
    """Recorded while it runs; entries and schemas that only the check of params.yaml loaded do not count."""
    node, files, checked = recorded[line]
    free = {file for file in checked if file in SCHEMA or file.startswith("ims3core/axes/")}
    assert counted(files) - set(node.code) - free == set()


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_no_code_of_which_it_loads_nothing(stage, recorded):
    """Some row of every stage loads something of every file and folder in its list."""
    runs = [recorded[line] for line in RUNS[stage]]
    files = {file for _, loaded, _ in runs for file in loaded}
    for dep in {dep for node, _, _ in runs for dep in node.deps if dep not in node.data}:
        assert dep in files or any(file.startswith(f"{dep}/") for file in counted(files)), dep


def imported(file):
    """The project's modules that a file imports, but for type checkers, by path."""
    skipped, found = set(), set()
    for node in ast.walk(tree := ast.parse((REPOSITORY / file).read_text())):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            skipped |= {id(inner) for part in node.body for inner in ast.walk(part)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("ims3core."):
            found.add(node.value.rstrip("."))
    places = [name.replace(".", "/") for name in found if name.split(".")[0] in ("ims3core", "stages")]
    paths = [path for place in places for path in (f"{place}.py", f"{place}/__init__.py")]
    return {path for path in paths if (REPOSITORY / path).is_file()}


@cache
def reached(file):
    """All modules behind a file that can change a result, its own included."""
    todo, files = [file], set()
    while todo:
        if (one := todo.pop()) not in files and not one.startswith(FREE):
            files.add(one)
            todo += imported(one)
    return files


@pytest.mark.parametrize("profile", profiles.names(REPOSITORY))
def test_every_row_of_every_profile_depends_on_all_code_it_can_reach(profile):
    """Followed through the import statements of its stage and its entries, whether a test runs the row or not."""
    tree = profiles.read(REPOSITORY, profile).tree
    for node in Graph(tree).nodes:
        starts = [dep for dep in node.deps if dep.endswith(".py")]
        files = {file for start in starts for file in reached(start)}
        assert counted(files) - set(node.code) == set(), node.address


@pytest.mark.parametrize("axis", entries.AXES)
def test_no_entry_uses_another(axis):
    """Else a row would have to depend on an entry that it does not name."""
    for name in entries.names(axis):
        others = {f"ims3core/axes/{a}/{entry}.py" for a in entries.AXES for entry in entries.names(a)}
        path = f"ims3core/axes/{axis}/{name}.py"
        assert reached(path) & others == {path}


@pytest.mark.parametrize("name", STAGES)
def test_dependencies_exist_and_none_is_of_what_changes_no_result(name):
    """Every listed file is there; messages, checks, bookkeeping and costs can change without outdating a stage."""
    code = [dep for dep in STAGES[name]["deps"] if dep.startswith(("ims3core", "stages"))]
    assert len(code) == len(set(code))
    assert not [dep for dep in code if f"{dep}/".startswith(FREE) or dep.startswith(FREE)]
    assert {dep for dep in code if dep.startswith("ims3core/studies")} == (OF_REPORT if name == "report" else set())
    for dep in code:
        assert list(REPOSITORY.glob(re.sub(r"\$\{.*?\}", "*", dep))), dep
    assert f"stages/{'students' if name == 'full_data' else name}.py" in code


@pytest.mark.parametrize("name", STAGES)
def test_a_row_depends_on_the_entries_it_names_and_on_no_folder_of_them(name):
    """By template, with the contract of their axis: one more entry outdates no row that does not name it.

    The report alone depends on all of them: its table of costs asks every one.
    """
    deps = {dep for dep in STAGES[name]["deps"] if dep.startswith("ims3core/axes")}
    axes = ROWS.get(name, "").split()
    key = {"sources": "source", "samplers": "sampler"}
    expected = {f"ims3core/axes/{axis}/__init__.py" for axis in axes}
    expected |= {f"ims3core/axes/{axis}/${{item.{key.get(axis, 'type')}}}.py" for axis in axes}
    measures = {f"ims3core/axes/diagnostics/{module}.py" for module in ("__init__", "coverage")}
    assert deps == {"coverage": measures, "report": {"ims3core/axes"}}.get(name, expected)


def test_what_no_stage_depends_on_imports_no_numerics():
    """The bookkeeping of the pipeline cannot decide a result."""
    for path in (REPOSITORY / "ims3core/pipeline").glob("*.py"):
        names = {file.split("/")[1] for file in imported(path.relative_to(REPOSITORY)) if file.startswith("ims3core")}
        assert names <= {"errors.py", "base", "params", "pipeline", "__init__.py"}, path


def test_code_of_a_row_is_that_of_its_entries():
    """The digest that names unfinished work changes with the row's own entry, not with another's."""
    nodes = Graph(profiles.read(REPOSITORY, "digits").tree)
    random, s3, ims3 = (nodes.node("select", name) for name in ("random", "s3", "ims3"))
    assert set(random.code) ^ set(s3.code) == {f"ims3core/axes/selections/{name}.py" for name in ("random", "s3")}
    assert random.code_digest != s3.code_digest == ims3.code_digest
