"""dvc.yaml as the project reads it is dvc.yaml as DVC reads it, and what follows from it."""

import contextlib
import hashlib
import shutil
from pathlib import Path

import pytest
import yaml
from dvc.parsing import DataResolver
from dvc.repo import Repo
from hypothesis import given
from hypothesis import strategies as st

from ims3core.errors import CodeChangedError, ParameterError
from ims3core.params import tree_of
from ims3core.pipeline import graph, profiles
from ims3core.pipeline.graph import Graph, overlap, value_at

REPOSITORY = Path(__file__).resolve().parents[2]
PROFILES = profiles.names(REPOSITORY)


def plain(values):
    """Names of parameters, dependencies or outputs, without their options."""
    return [value if isinstance(value, str) else next(iter(value)) for value in values]


@pytest.fixture
def digits():
    return Graph(profiles.read(REPOSITORY, "digits").tree)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("profile", PROFILES)
def test_every_stage_of_every_profile_is_what_dvc_resolves(profile, tmp_path):
    """Names, arguments, parameters, dependencies and outputs, in DVC's order."""
    shutil.copyfile(REPOSITORY / "dvc.yaml", tmp_path / "dvc.yaml")
    params = profiles.read(REPOSITORY, profile)
    (tmp_path / "params.yaml").write_text(profiles.text(params, profile, []))
    with contextlib.chdir(tmp_path):
        repo = Repo.init(".", no_scm=True)
        templates = yaml.safe_load((tmp_path / "dvc.yaml").read_text())
        resolved = DataResolver(repo, str(tmp_path), templates).resolve()["stages"]
        repo.close()

    nodes = Graph(tree_of((tmp_path / "params.yaml").read_text())).nodes

    assert [node.address for node in nodes] == list(resolved)
    for node, stage in zip(nodes, resolved.values(), strict=True):
        assert stage["cmd"].split()[4:] == list(node.arguments), node.address
        assert plain(stage["params"]) == list(node.params), node.address
        assert plain(stage["deps"]) == list(node.deps), node.address
        assert plain([*stage.get("outs", []), *stage.get("metrics", [])]) == list(node.outs), node.address


def test_a_node_is_found_by_the_words_of_its_command(digits):
    """A row that dvc.yaml does not have is named."""
    node = digits.node("students", "ims3", 1, "convnet", "steps")
    assert node.address == "students@ims3-1-convnet-steps"
    assert "data/distilled/ims3/ipc-1" in node.data and "protocols.steps" in node.params
    with pytest.raises(ParameterError, match="select: dvc.yaml has no row moon"):
        digits.node("select", "moon")


@pytest.mark.parametrize(
    ("key", "first"),
    {
        "seed": "prepare", "s3.alpha": "select@s3", "im.lambda_im": "finetune@im", "report.grid_images": "report",
        "methods.random": "select@random", "centroids.real.real_per_class": "centroids@real",
    }.items(),
)  # fmt: skip
def test_a_key_changes_the_stages_that_name_it_and_what_follows(digits, key, first):
    """The first of them, and the report in any case."""
    changed = [node.address for node in digits.changed_by([key])]
    assert changed[0] == first and changed[-1] == "report"


def test_one_knob_of_s3_touches_no_pool_and_no_other_row(digits):
    """What `dvc exp run -S s3.alpha=0.5` runs."""
    changed = {node.address for node in digits.changed_by(["s3.alpha"])}
    cells = {f"students@{row}-{ipc}-convnet-steps" for row in ("s3", "ims3") for ipc in (1, 10)}
    assert changed == {"select@s3", "select@ims3", *cells, "coverage", "report"}


PATHS = st.lists(st.sampled_from("ab"), min_size=1, max_size=3).map("/".join)
PLACES = st.lists(PATHS, max_size=3, unique=True).map(tuple)


@given(st.lists(st.tuples(PLACES, PLACES), max_size=6))
def test_who_stands_on_whom_is_what_a_comparison_of_all_paths_says(stages):
    """Edges, what a target stands on and what a change outdates, each against every path held against every other."""
    found = Graph({}, {})
    found.nodes = [graph.Node(str(n), "", (), (f"k{n}",), deps, outs) for n, (deps, outs) in enumerate(stages)]

    def direct(node):
        return [
            other for other in found.nodes
            if other is not node and any(overlap(out, dep) for out in other.outs for dep in node.deps)
        ]  # fmt: skip

    edges = {node.address: [other.address for other in direct(node)] for node in found.nodes}
    assert found.edges() == edges
    for n, node in enumerate(found.nodes):
        needed, outdated = {node.address}, {node.address}
        for earlier in reversed(found.nodes):
            needed |= {name for name in edges[earlier.address] if earlier.address in needed}
        for later in found.nodes[n + 1 :]:
            if outdated & set(edges[later.address]):
                outdated.add(later.address)
        assert {one.address for one in found.upstream([str(n)])} == needed
        assert {one.address for one in found.changed_by([f"k{n}"])} == outdated


def test_what_a_target_stands_on(digits):
    """A row of real images stands on no generated pool."""
    needed = {node.address for node in digits.upstream(["students@random-1-convnet-steps"])}
    assert {"prepare", "features@real", "select@random"} <= needed
    assert not {"candidates@im", "select@s3", "students@random-10-convnet-steps", "report"} & needed


def test_code_of_a_row_is_that_of_its_entries(digits):
    """The digest changes with the row's own entry, not with another's."""
    random, s3 = digits.node("select", "random"), digits.node("select", "s3")
    differing = {f"ims3core/axes/selections/{name}.py" for name in ("random", "s3")}
    assert set(random.code) ^ set(s3.code) == differing
    assert random.code_digest != s3.code_digest


@pytest.fixture
def code(tmp_path, monkeypatch):
    """A project of two files, which this process has loaded."""
    for name in graph.CODE:
        (tmp_path / name).mkdir()
    (tmp_path / "ims3core/a.py").write_text("a = 1")
    (tmp_path / "stages/b.py").write_text("b = 1")
    monkeypatch.setattr(graph, "PROJECT", tmp_path)
    cached = (graph.loaded_code, graph.code_files, graph._digest)
    for one in cached:
        one.cache_clear()
    graph.loaded_code()
    yield tmp_path
    for one in cached:
        one.cache_clear()


def test_digests_of_code_are_of_what_was_loaded(code):
    """An edit while a process runs changes none of its digests: its units lie under those of the code that made them."""
    (code / "stages/b.py").write_text("b = 2")
    old = hashlib.sha256(b"stages/b.py\0b = 1").hexdigest()
    assert graph.Node("s", "", (), (), ("stages/b.py",), ()).code_digest == old


@pytest.mark.parametrize("change", ["edit", "new", "gone"])
def test_code_that_changed_is_named(code, change):
    """Whatever may have been loaded since is not what a run began with; what an editor leaves beside it is no change."""
    (code / "stages/.b.py.swp").write_text("")
    (code / "stages/.#b.py").write_text("")
    graph.require_loaded_code()
    name = {"edit": "stages/b.py", "new": "stages/c.py", "gone": "ims3core/a.py"}[change]
    (code / name).unlink() if change == "gone" else (code / name).write_text("b = 2")
    with pytest.raises(CodeChangedError, match=rf"^the code changed while ims3 repro ran \({name}\); start it again$"):
        graph.require_loaded_code()


def test_paths_and_keys_overlap_where_one_contains_the_other():
    """By whole parts of the name."""
    assert overlap("data/real", "data/real/train") and overlap("a.b.c", "a.b", ".")
    assert not overlap("data/real", "data/realism") and not overlap("a.b", "a.c", ".")
    assert value_at({"a": {1: {"b": 2}}}, "a.1.b") == 2 and value_at({"a": 1}, "a.b.c") is None


def test_without_a_dvc_yaml_there_is_no_row(monkeypatch):
    """An installed package has none; a stage then says so."""
    monkeypatch.setattr(graph, "read_stages", dict)
    with pytest.raises(ParameterError, match="prepare: dvc.yaml has no row without arguments"):
        Graph({}).node("prepare")


def test_stages_that_compile_depend_on_whether_they_may(digits):
    """As on the precision: both move last bits. Coverage computes in a precision and compiles nothing."""
    precise = {node.stage for node in digits.nodes if "compute.precision" in node.params}
    compiling = {node.stage for node in digits.nodes if "compute.compile" in node.params}
    assert {"generator", "encoder", "finetune", "candidates", "refine", "students", "full_data"} <= compiling
    assert precise - compiling == {"coverage"}
