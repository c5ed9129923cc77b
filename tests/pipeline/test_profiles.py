"""Profiles in layers: what they merge to, what is refused, what `ims3 use` and `ims3 diff` do with params.yaml."""

import shutil
from pathlib import Path

import pytest
import yaml

from ims3core import cli
from ims3core.errors import ParameterError
from ims3core.params import entries, load
from ims3core.pipeline import profiles
from ims3core.pipeline.graph import Graph

REPOSITORY = Path(__file__).resolve().parents[2]
VALUES = {  # of every published profile; a change of one is a change of results
    "cifar10": "4fe7e0efa79195bc",
    "cifar10-gpu": "18118ded38b91675",
    "digits-all": "848245b8a489c130",
    "digits": "e1968e5d028762e5",
    "fashion": "ec1fa3d160caeb3d",
    "fashion-dsa": "4080ae15ef1bf222",
    "imageidc": "0800208cd877ba47",
    "imagenet100": "b846e049bd7cebc9",
    "imagenet1k": "3a492b48bbbec324",
    "imagenette-small": "eec99f349ceced51",
    "imagenette": "615bb5f46bef1a3e",
    "imagenette64": "8d97c359139fdb78",
    "imagewoof-512": "94af2c0b1e037761",
    "imagewoof-ddvlcp": "cf20dd755ca5cbbc",
    "imagewoof": "4834bd25b83fe40a",
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with the profiles of the repository, and nothing else."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(REPOSITORY / "profiles", tmp_path / "profiles")
    return tmp_path


def add(project, name, text):
    (project / f"profiles/{name}.yaml").write_text(text)


def ims3(*arguments):
    with pytest.raises(SystemExit) as stop:
        cli.main(list(arguments))
    return stop.value.code


def test_merged_profiles_have_the_values_they_had():
    """Layers changed how profiles are written, not what they say."""
    assert {name: profiles.values_digest(profiles.read(REPOSITORY, name).tree) for name in VALUES} == VALUES
    assert set(VALUES) == set(profiles.names(REPOSITORY))


@pytest.mark.parametrize("name", ["cifar10", "cifar10-gpu", "fashion-dsa"])
def test_soft_labels_under_dsa_are_all_that_differs(name):
    """Nobody publishes under them, so they have a protocol of their own beside the published one."""
    hard, soft = (profiles.read(REPOSITORY, name).tree["protocols"][protocol] for protocol in ("dsa", "dsa_soft"))
    assert {key for key in hard.keys() | soft.keys() if hard[key] != soft[key]} - {"full_epochs"} == {
        "labels", "temperature"
    }  # fmt: skip


def test_profiles_are_short():
    """A leaf says what is its own; a default stands in one line of one file."""
    lines = {path.stem: len(path.read_text().splitlines()) for path in (REPOSITORY / "profiles").glob("*.yaml")}
    assert max(lines[name] for name in VALUES) <= 45 and sum(lines.values()) <= 700


def test_layers_merge_by_section_row_and_key(project):
    """Lists and mappings behind a key are replaced, null takes a row out, another source replaces a section."""
    add(
        project,
        "mine",
        """
extends: digits
eval: {methods: [random, s3]}
methods: {im: null, random: {centroids: real}, first_ten: {pool: dit, type: first, centroids: real}}
protocols: {steps: {steps: 7}}
refinements: {ims3_plus: {set: {networks: 3}}}
generator: {source: pretrained, model: x, revision: null, sha256: null, heads: null, vae: null, time_features: auto}
""",
    )
    below, tree = profiles.merged(project, "digits"), profiles.merged(project, "mine")
    assert tree["eval"] == below["eval"] | {"methods": ["random", "s3"]}
    assert "im" not in tree["methods"] and tree["methods"]["random"] == below["methods"]["random"]
    assert tree["protocols"]["steps"] == below["protocols"]["steps"] | {"steps": 7}
    assert tree["refinements"]["ims3_plus"]["set"] == {"networks": 3}
    assert set(tree["generator"]) == {"source", "model", "revision", "sha256", "heads", "vae", "time_features"}


REAL_ROWS = {"eval.methods": ["random", "k_center", "herding"]}


@pytest.mark.parametrize("name", sorted(VALUES))
def test_only_the_stages_of_the_rows_that_are_asked_for_are_in_the_graph(name):
    """Three rows of real images: one pool, their selections and cells, and neither generator nor refinement."""
    if "herding" not in profiles.merged(REPOSITORY, name)["methods"]:
        return
    params = profiles.read(REPOSITORY, name, REAL_ROWS)
    stages = {node.address for node in Graph(params.tree).nodes if node.stage not in ("students", "full_data")}
    assert stages == {
        "prepare", "generator", "encoder", "teacher", "latents", "finetune@none", "guides@none", "candidates@real",
        "features@real", "centroids@real", *(f"select@{row}" for row in REAL_ROWS["eval.methods"]), "coverage", "report",
        *(f"labels@{protocol}" for protocol in params.eval.protocols),
    }  # fmt: skip
    assert params.generator.source == "none" and params.report.tsne_method == "herding"


@pytest.mark.parametrize("name", sorted(VALUES))
def test_no_profile_has_a_stage_that_its_table_does_not_need(name):
    """Every stage is under what the cells of eval.methods, coverage and the report stand on."""
    params = profiles.read(REPOSITORY, name)
    graph = Graph(params.tree)
    cells = [node.address for node in graph.nodes if node.stage in ("students", "full_data")]
    needed = {node.address for node in graph.upstream(cells)} | {"coverage", "report", "features@real"}
    assert {node.address for node in graph.nodes} == needed


def test_a_row_that_draws_wants_a_generator(project):
    """Refused in one line that says how to keep the rows that are asked for."""
    with pytest.raises(ParameterError, match=r"generator\.source: found 'none', but there are rows that draw"):
        profiles.read(project, "digits", {"generator": {"source": "none"}})


def test_a_row_that_is_asked_for_and_missing_is_named(project):
    """With the rows that there are."""
    with pytest.raises(ParameterError, match=r"eval\.methods: 'moon' is unknown; known: dit, herding, "):
        profiles.read(project, "digits", {"eval.methods": ["moon"]})


def test_sections_of_entries_that_no_row_names_are_left_out():
    """A profile is what it runs; a new row that names one brings it back."""
    tree = profiles.read(REPOSITORY, "digits").tree
    assert "ddpm" not in tree and "ddpm" in profiles.merged(REPOSITORY, "digits")
    assert all(name in entries.names("samplers") for name in ("ddpm", "dpm_solver"))
    more = profiles.read(REPOSITORY, "digits", {"pools.dit.sampler": "ddpm"}).tree
    assert "ddpm" in more


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: moon\n", r"profiles/mine\.yaml: extends: found 'moon', no such file"),
        ("extends: ../secret\n", r"profiles/mine\.yaml: extends: found '\.\./secret', no such file"),
        ("extends: mine\n", r"extends goes round in circles \(mine <- mine\)"),
        (
            "extends: digits\neval: {draws: three}\n",
            r"mine\.yaml: eval\.draws: found 'three', a word, where .* 3, a num",
        ),
        (
            "extends: digits\neval: [1]\n",
            r"mine\.yaml: eval: found \[1\], a list, where a layer below has .*, a mapping",
        ),
        ("extends: digits\ns3: {alhpa: 1.0}\n", r"profiles/mine\.yaml: s3\.alhpa: unknown key"),
    ],
)
def test_layers_that_do_not_fit_are_refused(project, text, message):
    """In one line that names the file and the key."""
    add(project, "mine", text)
    with pytest.raises(ParameterError, match=message):
        profiles.read(project, "mine")


def test_a_circle_through_another_layer_is_refused(project):
    """And shown whole."""
    add(project, "a", "extends: b\n")
    add(project, "b", "extends: a\n")
    with pytest.raises(ParameterError, match=r"round in circles \(a <- b <- a\)"):
        profiles.read(project, "a")


def test_use_writes_a_commented_profile_and_guards_edits(project, capsys):
    """A params.yaml as it was written is replaced; an edited one only with --force, and what would be lost is named."""
    assert ims3("use", "digits") == 0
    text = (project / "params.yaml").read_text()
    assert text == (REPOSITORY / "params.yaml").read_text()
    assert ims3("use", "fashion") == 0 and ims3("use", "digits") == 0
    (project / "params.yaml").write_text(text.replace("alpha: 0.4 ", "alpha: 0.7 "))
    assert ims3("use", "fashion") == 2
    assert "which --force would lose: s3.alpha: 0.7\n" in capsys.readouterr().err
    assert ims3("diff") == 0 and capsys.readouterr().out == "s3.alpha: 0.7\n"
    assert ims3("use", "digits", "--force") == 0
    assert (project / "params.yaml").read_text() == text
    assert ims3("use", "moon") == 2
    assert "known: cifar10, cifar10-gpu, digits" in capsys.readouterr().err


def test_a_profile_that_was_edited_and_used_again_is_no_foreign_edit(project):
    """The header knows the values that were written, whatever the profile says since."""
    add(project, "mine", "extends: digits\nseed: 1\n")
    assert ims3("use", "mine") == 0
    add(project, "mine", "extends: digits\nseed: 2\n")
    assert ims3("use", "mine") == 0
    assert load(project / "params.yaml").seed == 2


def test_values_can_be_given_on_the_command_line(project, capsys):
    """Each is YAML; what is no key or no value is refused and nothing is written."""
    rows = ["eval.methods=[random, s3]", "report.tsne_method=s3"]
    assert ims3("use", "digits", "s3.alpha=0.5", "eval.ipc=[1]", *rows) == 0
    params = load(project / "params.yaml")
    assert (params.tree["s3"]["alpha"], params.eval.ipc, params.eval.methods) == (0.5, [1], ["random", "s3"])
    assert ims3("use", "digits") == 0  # written by `ims3 use`: no edit
    before = (project / "params.yaml").read_bytes()
    for words, message in [
        (["s3.alpha"], "s3.alpha: found no '='"), (["s3.alhpa=1"], "params.yaml has no key 's3.alhpa'"),
        (["eval.ipc=x"], "eval.ipc: found 'x'"), (["s3.alpha=[1"], "s3.alpha=[1: not valid YAML"),
        ([rows[0], "report.tsne_method=ims3"], "report.tsne_method: found 'ims3', wanted one of eval.methods"),
    ]:  # fmt: skip
        assert ims3("use", "digits", *words) == 2
        assert message in capsys.readouterr().err
    assert (project / "params.yaml").read_bytes() == before
    assert ims3("use", "fashion", "--print") == 0
    assert yaml.safe_load(capsys.readouterr().out) == profiles.read(project, "fashion").tree
    assert (project / "params.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("profile", "key", "value"),
    [
        ("fashion-dsa", "refinements.ims3_plus.set.factor", 2), ("fashion-dsa", "refinements.dm.set.lr", 0.5),
        ("fashion", "refinements.dm.augment.flip", 0.5), ("digits", "distribution_matching.factor", 2),
        ("digits", "distribution_matching.options.width", 4), ("digits", "distribution_matching.iterations.10", 50),
        ("digits", "students.convnet.options.width", 4),
        ("digits", "augment.dsa", None),
    ],
)  # fmt: skip
def test_a_key_that_params_yaml_may_leave_out_can_be_given(project, profile, key, value):
    """A row's own values, and fields with a default; what holds them is made where it is not there."""
    found = profiles.read(project, profile, {key: value}).tree
    for part in key.split("."):
        found = found[int(part) if part.isdigit() else part]
    assert found == value


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("distribution_matching.facto", "params.yaml has no key 'distribution_matching.facto'"),
        ("refinements.ims3_plus.set.facto", r"set\.facto: no section of this row has this key"),
        ("refinements.ims3_plus.augment.dsaa", r"augment\.dsaa: unknown key"),
        ("refinements.nosuch.set.factor", "params.yaml has no key 'refinements.nosuch.set.factor'"),
        ("students.convnet.options.wdth", "'convnet' does not take {'wdth': 2}"),
        ("refinements.ims3_plus.set.options.width", "params.yaml has no key 'refinements.ims3_plus.set.options.width'"),
        ("gradient_matching.distance", "gradient_matching.distance: no row that eval.methods goes back to stands on it"),
        ("distribution_matching.network", "distribution_matching.network: found 2"),
        ("s3.alpha.x", "params.yaml has no key 's3.alpha.x'"), ("eval.more", "params.yaml has no key 'eval.more'"),
        ("more.x", "params.yaml has no key 'more.x'"), ("more", "params.yaml has no key 'more'"),
    ],
)  # fmt: skip
def test_a_key_that_nothing_has_is_refused(project, key, message):
    """Also where what would hold it may be left out, or is of no row that is compared."""
    with pytest.raises(ParameterError, match=message):
        profiles.read(project, "digits", {key: 2})


def test_dvc_may_write_the_file_anew(project):
    """`-S` keeps comments and header, so that a value it changed is an edit, and layout is none."""
    from dvc.utils import serialize

    assert ims3("use", "digits") == 0
    path = project / "params.yaml"
    tree = serialize.parse_yaml_for_update(path.read_text(), "params.yaml")
    path.write_text(serialize.dumps_yaml(tree))
    assert profiles.edits(project, path.read_text()) == []
    tree["s3"]["alpha"] = 0.5
    path.write_text(serialize.dumps_yaml(tree))
    assert profiles.edits(project, path.read_text()) == ["s3.alpha: 0.5"]
