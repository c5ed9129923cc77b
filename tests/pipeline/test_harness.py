"""The stage harness: what a fingerprint covers, what units serve for, what nobody may open."""

from copy import deepcopy
from fnmatch import fnmatchcase
from pathlib import Path
from types import SimpleNamespace

import pytest

from ims3core.base import files
from ims3core.params import checked
from ims3core.pipeline import executors, graph, harness, profiles
from ims3core.pipeline import stage as stages
from ims3core.pipeline.graph import Graph, value_at
from ims3core.pipeline.stage import Stage, Unit

REPOSITORY = Path(__file__).resolve().parents[2]
TREE = profiles.read(REPOSITORY, "digits").tree
TREE["diagnostics"] = {"mine": {"type": "instability", "adaptation": "im"}}
TREE["instability"] = {"images": 1, "steps": 1, "level": 0.5}
PARAMS = checked(deepcopy(TREE))
NODES = Graph(TREE).nodes
KINDS = list({(node.stage, node.code): node for node in NODES}.values())  # rows of the same code are one kind


def open_node(node, root=Path("nowhere"), tree=TREE):
    """The stage of a node, on a machine whose precision is that of ``tree``."""
    stage = harness.find_stage(node.stage)(PARAMS, root, node, tree)
    stage.__dict__["machine"] = SimpleNamespace(precision=tree["compute"]["precision"])
    return stage


def leaves(key, value):
    """The dotted keys of the values below ``key``."""
    if isinstance(value, dict) and value:
        return [leaf for name, inner in value.items() for leaf in leaves(f"{key}.{name}", inner)]
    return [key]


def with_changed(tree, key):
    """A copy of ``tree``, as far as need be, with another value at ``key``."""
    name, _, rest = key.partition(".")
    name = name if name in tree else int(name)
    return tree | {name: with_changed(tree[name], rest) if rest else "changed"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder in which every dependency of every stage is a finished artefact."""
    folder = tmp_path_factory.mktemp("root")
    for dep in {dep for node in NODES for dep in node.data}:
        if Path(dep).suffix:
            files.write_json(folder / dep, dep)
        else:
            files.write_json(folder / dep / files.MANIFEST, dep)
    return folder


@pytest.mark.parametrize("node", KINDS, ids=lambda node: node.address)
def test_every_declared_parameter_is_in_the_fingerprint_and_no_other(node, root, monkeypatch):
    """Every value below a declared key changes it, but for those that only say how many units there are."""
    monkeypatch.setattr(stages, "artifact_digest", str)
    stage, every = open_node(node, root), [leaf for name, value in TREE.items() for leaf in leaves(name, value)]
    before = stage.fingerprint()
    for key in every:
        declared = any(graph.overlap(param, key, ".") for param in node.params)
        amount = any(fnmatchcase(part, a) for a in stage.amounts for part in prefixes(key))
        after = open_node(node, root, with_changed(TREE, key)).fingerprint()
        assert (after != before) == (declared and not amount), key


def prefixes(key):
    """A dotted key and the sections it is in."""
    parts = key.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts) + 1)]


@pytest.mark.parametrize("node", KINDS, ids=lambda node: node.address)
def test_every_declared_dependency_is_in_the_fingerprint_or_in_the_names_of_units(node, root):
    """But for those that other rows of the stage open."""
    stage = open_node(node, root)
    before, apart = stage.fingerprint(), (*stage.named, *stage.unread())
    for dep in node.data:
        path = root / dep if Path(dep).suffix else root / dep / files.MANIFEST
        content = path.read_bytes()
        files.write_json(path, "changed")
        covered = not any(fnmatchcase(dep, pattern) for pattern in apart)
        assert (open_node(node, root).fingerprint() != before) == covered, dep
        path.write_bytes(content)
    assert open_node(node, root).fingerprint() == before


@pytest.mark.parametrize("stage", sorted({node.stage for node in NODES}))
def test_amounts_and_named_dependencies_are_declared(stage):
    """A pattern that matches nothing would be a promise about nothing."""
    nodes = [node for node in NODES if node.stage == stage]
    kind = harness.find_stage(stage)
    keys = [leaf for node in nodes for param in node.params for leaf in prefixes_below(param)]
    for pattern in kind.amounts:
        assert any(fnmatchcase(key, pattern) for key in keys) or pattern == "pools.*.set.per_class", pattern
    for pattern in kind.named:
        assert any(fnmatchcase(dep, pattern) for node in nodes for dep in node.data), pattern
    for node in nodes:
        for pattern in open_node(node).unread():
            assert any(fnmatchcase(dep, pattern) for dep in node.data), (node.address, pattern)


def prefixes_below(param):
    """A declared key and every key below it."""
    return [part for leaf in leaves(param, value_at(TREE, param)) for part in prefixes(leaf)]


def test_code_is_in_the_fingerprint(monkeypatch, root):
    """Of the files that a stage depends on, and of no other."""
    before = {node.address: open_node(node, root).fingerprint() for node in NODES}
    changed = "ims3core/axes/samplers/dpm_solver.py"
    digest = graph._digest
    monkeypatch.setattr(graph, "_digest", lambda names: digest(names) + "x" * (changed in names))
    for node in NODES:
        assert (open_node(node, root).fingerprint() != before[node.address]) == (changed in node.code), node.address
    assert any(changed in node.code for node in NODES) and not all(changed in node.code for node in NODES)


def test_a_missing_dependency_is_named(root, tmp_path):
    """By its path, before anything is made."""
    node = next(node for node in NODES if node.stage == "features")
    with pytest.raises(files.ArtifactError, match=r"data/encoder/manifest\.json: no such file; `dvc repro` makes it"):
        open_node(node, tmp_path).fingerprint()


def test_what_is_not_declared_cannot_be_opened(root):
    """Nor what a row is said not to read."""
    node = next(node for node in NODES if node.address == "select@s3")
    stage = open_node(node, root)
    assert stage.input("data/real/classes.json") == root / "data/real/classes.json"
    for path in ("data/latents", "metrics/accuracy.csv"):
        with pytest.raises(LookupError, match="is no dependency in dvc.yaml"):
            stage.input(path)
    for path in ("data/teacher", "data/teacher/weights.safetensors"):
        with pytest.raises(LookupError, match=f"{path} is said to be unread"):
            stage.input(path)


class Numbers(Stage):
    """Writes the squares of numbers, one unit each."""

    name = "numbers"
    artifact = "numbers"
    many = 3
    fails_at: int | None = None

    def fingerprint(self, *, whole=False):
        return "f"

    def units(self):
        return [Unit(f"n{number}", number) for number in range(self.many)]

    def make(self, unit, path):
        executors.stop_if_cancelled(self.stopped)
        if unit.task == self.fails_at:
            raise ValueError("no such number")
        self.made.append(unit.task)
        files.write_json(path, unit.task**2)

    def assemble(self, units):
        for unit in units:
            self.workspace.link(unit.name, f"{unit.task}.json")
        return {"sum": sum(files.read_json(self.unit_path(unit)) for unit in units)}


@pytest.fixture
def numbers(tmp_path):
    """A function that runs Numbers with some attributes; returns the units that were made, in order."""

    def run(**attributes):
        node = SimpleNamespace(address="numbers@a", row="a", place="numbers-a", outs=("data/numbers",), data=())
        stage = type("Numbers", (Numbers,), attributes)(PARAMS, tmp_path, node, TREE)
        stage.made = []
        try:
            harness.execute(stage)
        finally:
            run.made = stage.made
        return files.read_manifest(tmp_path / "data/numbers", "numbers")

    return run


def test_units_become_an_output_and_serve_a_larger_one(numbers):
    """Only what is new is made; a smaller output drops units."""
    assert numbers() == {"sum": 5} and numbers.made == [0, 1, 2]
    assert numbers(many=5) == {"sum": 30} and numbers.made == [3, 4]
    assert numbers(many=2) == {"sum": 1} and numbers.made == []
    assert numbers(many=3) == {"sum": 5} and numbers.made == [2]


def test_units_that_are_not_kept_are_made_again(numbers, tmp_path):
    """Their space is free after the output is there."""
    numbers(keeps_units=False)
    assert not list((tmp_path / "scratch/numbers-a").glob("f/*"))
    numbers(keeps_units=False)
    assert numbers.made == [0, 1, 2]


@pytest.mark.parametrize("threads", [1, 2])
def test_a_unit_that_fails_leaves_the_finished_ones(numbers, tmp_path, threads):
    """The output before is untouched, and the next run makes what is missing."""
    numbers(many=1)
    with pytest.raises(ValueError, match="no such number"):
        numbers(fails_at=2, many=4, threads=lambda self: threads)
    assert files.read_manifest(tmp_path / "data/numbers", "numbers") == {"sum": 0}
    finished = set(numbers.made)
    assert 2 not in finished
    assert numbers(many=4) == {"sum": 14} and set(numbers.made) == {1, 2, 3} - finished


@pytest.mark.parametrize("threads", [1, 3])
def test_the_way_units_are_run_does_not_change_the_output(numbers, tmp_path, threads):
    """One after the other or on threads."""
    assert numbers(many=7, threads=lambda self: threads) == {"sum": 91}
    assert sorted(numbers.made) == list(range(7))
