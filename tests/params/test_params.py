"""The schema of params.yaml: every bad value is refused in one line that names its key."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ims3core.errors import ParameterError
from ims3core.params import load, parse
from ims3core.params.sections import Data
from ims3core.pipeline import profiles

REPOSITORY = Path(__file__).resolve().parents[2]
DIGITS = profiles.text(profiles.read(REPOSITORY, "digits"), "digits", [])


def changed(**changes):
    tree = yaml.safe_load(DIGITS)
    for key, value in changes.items():
        section = tree
        *path, last = key.split("__")
        for part in path:
            section = section[part]
        section[last] = value
    return yaml.safe_dump(tree)


PROFILES = profiles.names(REPOSITORY)


def profile_text(name):
    return profiles.text(profiles.read(REPOSITORY, name), name, [])


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_is_complete_and_commented(name):
    """Profiles load, and every key that is written explains itself, beside it or above."""
    lines = profile_text(name).splitlines()
    assert parse("\n".join(lines)).tree == profiles.read(REPOSITORY, name).tree
    for before, line in zip(lines, lines[1:], strict=False):
        if line.startswith("  ") and line.strip()[0] not in "#{" and line.count("  ") == 1 and "{" not in line:
            assert "#" in line or before.strip().startswith("#") or line.rstrip().endswith((":", ",", "}")), line


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_has_the_sections_that_dvc_asks_for(name):
    """DVC stops at a stage whose parameter is missing, even one that may be left out."""
    stages = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"].values()
    named = {name.split(".")[0] for stage in stages for name in stage.get("do", stage)["params"] if "${" not in name}
    tables = {stage["foreach"].strip("${}") for stage in stages if "foreach" in stage}
    assert named | tables <= set(profiles.read(REPOSITORY, name).tree)


def test_every_key_of_data_can_be_given_on_the_command_line():
    """The base layer has all fields of the section: `ims3 new birds DIR data.table=labels.csv` wants the key there."""
    base = yaml.safe_load((REPOSITORY / "profiles/base.yaml").read_text(encoding="utf-8"))
    assert set(base["data"]) == set(Data.model_fields)


def test_the_checked_out_params_are_a_profile():
    """What `make repro` runs is the published profile, as `ims3 use digits` writes it."""
    assert (REPOSITORY / "params.yaml").read_text() == profile_text("digits")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"s3__alhpa": 0.5}, r"s3\.alhpa: unknown key \(found value 0\.5\)"),
        ({"s3__alpha": -0.1}, r"s3\.alpha: found -0\.1, input should be greater than or equal to 0"),
        ({"s3__alpha": "abc"}, r"s3\.alpha: found 'abc', input should be a valid number"),
        ({"s3__alpha": float("nan")}, r"s3\.alpha: found nan"),
        ({"s3__groups": 0}, r"s3\.groups: found 0, input should be greater than or equal to 1"),
        ({"s3__groups": True}, r"s3\.groups: found True, input should be a valid integer"),
        ({"s3__groups": 100}, r"candidates\.per_class: 50 images per class and draw are too few for methods\.ims3; s3 wants 1000 for eval\.ipc 10"),
        ({"eval__methods": ["magic"]}, r"eval\.methods: 'magic' is unknown; known: dit, herding"),
        ({"eval__students": ["vgg"]}, r"eval\.students: 'vgg' is unknown; known: convnet"),
        ({"students__small": {"network": "resnet10", "options": {"width": 4}}}, r"students\.small: 'resnet10' does not take .*; wanted options: {}"),
        ({"students__small": {"network": "convnet", "options": {"width": 0}}}, r"students\.small: 'convnet' does not take .*; wanted width"),
        ({"refinements__dm": {"start": "random", "type": "distribution_matching", "set": {"options": {"depth": 4}}}}, r"refinements\.dm.*'convnet' does not take"),
        ({"encoder__network": "timm:resnet18"}, r"encoder\.network: found 'timm:resnet18'"),
        ({"eval__ipc": []}, r"eval\.ipc"),
        ({"eval__ipc": [1, 1]}, r"eval\.ipc: \[1, 1\] names an entry twice"),
        ({"im__similarity": "dot"}, r"im\.similarity: found 'dot', input should be 'cosine', 'l1' or 'l2'"),
        ({"im__form": "official"}, r"im: grad_through 'inversion' gives form 'official' no gradient; allowed there: denoiser"),
        ({"data__source": "moon"}, r"data\.source: found 'moon', input should be 'digits'"),
        ({"data__source": "npz"}, r"data: path: found null, source 'npz' wants a folder or file"),
        ({"data__source": "torchvision", "data__path": "x"}, r"data: name: found None; known for source 'torchvision'"),
        ({"data__source": "huggingface"}, r"data: name, path: source 'huggingface' wants exactly one"),
        ({"data__storage": "index"}, r"data: storage: 'index' wants source 'imagefolder', found 'digits'"),
        ({"generator__source": "pretrained"}, r"generator\.model: missing"),
        ({"finetune__accumulate": 3}, r"finetune: accumulate: 3 does not divide batch_size 64"),
        ({"data__test_fraction": 0.95}, r"nothing is left to train on"),
        ({"generator__dit__heads": 3}, r"generator\.dit: width 128 must be heads 3"),
        ({"generator__dit__width": 6, "generator__dit__heads": 3}, r"multiple of 4"),
        ({"methods__dit__labels": "soft"}, r"methods\.dit\.labels: unknown key"),
        ({"pools__dit__adaptation": "lora"}, r"pools\.dit\.adaptation: 'lora' is unknown; known: im, none"),
        ({"pools__dit__guide": "modes"}, r"pools\.dit\.guide: 'modes' is unknown; known: none"),
        ({"pools__dit__source": "moon"}, r"pools\.dit\.source: 'moon' is unknown; known: crops, .*ims3core/axes/sources"),
        ({"pools__dit__purpose": "dit"}, r"pools\.dit\.purpose: unknown key \(found value 'dit'\)"),
        ({"pools__real__sampler": "dpm_solver"}, r"pools\.real\.sampler: 'dpm_solver' does not go with source 'real', which takes 'none'"),
        ({"pools__dit__sampler": "none"}, r"pools\.dit\.sampler: 'none' does not go with source 'generated'"),
        ({"pools__dit__sampler": "euler"}, r"pools\.dit\.sampler: 'euler' is unknown; known: .*ddpm.*ims3core/axes/samplers"),
        ({"pools__dit__set": {"stepz": 3}}, r"pools\.dit\.set\.stepz: no section of this row has this key; known: .*steps"),
        ({"pools__dit__set": {"steps": 0}}, r"pools\.dit\.set\.steps: found 0, input should be greater"),
        ({"methods__s3__set": {"alpha": -1}}, r"methods\.s3\.set\.alpha: found -1"),
        ({"methods__dit": {"pool": "real", "type": "s3", "centroids": "real"}}, r"methods\.dit\.type: 's3' selects from .* holds real ones"),
        ({"methods__dit__pool": "moon"}, r"methods\.dit\.pool: 'moon' is unknown; known: dit, im, real"),
        ({"methods__dit__centroids": "moon"}, r"methods\.dit\.centroids: 'moon' is unknown; known: real"),
        ({"centroids__real__pool": "moon"}, r"centroids\.real\.pool: 'moon' is unknown; known: dit, im, real"),
        ({"adaptations__lora": {"type": "lora"}}, r"adaptations\.lora\.type: 'lora' is unknown; known: .*im"),
        ({"adaptations__plain": {"type": "diffusion"}}, r"diffusion: missing; adaptations\.plain\.type names 'diffusion'"),
        ({"adaptations__im": {"loss": "im"}}, r"adaptations\.im\.type: missing; adaptations\.im\.loss: unknown key"),
        ({"guides__none__adaptation": "lora"}, r"guides\.none\.adaptation: 'lora' is unknown"),
        ({"refinements__dit": {"start": "im", "type": "none"}}, r"refinements\.dit: methods has a row of this name too"),
        ({"refinements__ims3_plus__augment": {"flp": 1.0}}, r"refinements\.ims3_plus\.augment\.flp: unknown key"),
        ({"refinements__ims3_plus__start": "moon"}, r"refinements\.ims3_plus\.start: 'moon' is unknown; known: dit, herding"),
        ({"diagnostics": {"c": {"type": "coverage", "adaptation": "im"}}}, r"diagnostics\.c\.type: 'coverage' measures no generator"),
        ({"diagnostics": {"c": {"type": "instability", "adaptation": "lora"}}}, r"diagnostics\.c\.adaptation: 'lora' is unknown"),
        ({"s4": {}}, r"s4: unknown key"),
        ({"refined": {}}, r"refined: unknown key"),
        ({"protocols__steps__augment": {"crop": 1}}, r"protocols\.steps\.augment\.crop: unknown key"),
        ({"eval__protocols": ["magic"]}, r"eval\.protocols: 'magic' is unknown; known: fkd, ims3_code, minimax, paper, rded, steps"),
        ({"eval__protocol": "paper"}, r"eval\.protocol: unknown key \(found value 'paper'\)"),
        ({"protocols__steps__epochs": 3}, r"exactly one of epochs \(3\) and steps"),
        ({"report__tsne_method": "magic"}, r"report\.tsne_method: found 'magic', wanted one of eval\.methods"),
        ({"report__tsne_method": "s3_image"}, r"report\.tsne_method: found 's3_image', wanted one of eval\.methods"),
        ({"pools__im__set": {"per_class": 20}}, r"pools\.im\.set\.per_class: 20 images per class and draw are too few for methods\.(s3|ims3)"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)  # fmt: skip
def test_a_bad_value_is_named(changes, message):
    """The line holds the key, what was found, and what is allowed."""
    with pytest.raises(ParameterError, match=message) as error:
        parse(changed(**changes))
    assert "\n" not in str(error.value)


def test_numbers_are_read_as_dvc_reads_them():
    """1e-3 is a number in YAML 1.2 and in DVC; PyYAML alone would give text."""
    assert parse(DIGITS.replace("lambda_im: 0.002", "lambda_im: 2e-3")).adaptation("im").lambda_im == 0.002


def test_checking_is_quick_and_imports_only_the_entries_that_rows_name(tmp_path):
    """Nothing heavy, and of each axis the named entries alone; a section that no row names may be missing."""
    tree = yaml.safe_load(changed())
    for name in ("k_center", "herding"):
        del tree["methods"][name], tree[name]
        tree["eval"]["methods"].remove(name)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tree))
    code = (
        "import sys, pathlib, ims3core.params; ims3core.params.load(pathlib.Path(sys.argv[1]) / 'params.yaml');"
        "print(sorted(m for m in sys.modules if m.startswith('ims3core.axes.selections.')),"
        "[m for m in ('torch', 'numpy', 'pandas', 'sklearn', 'timm', 'diffusers', 'dvc') if m in sys.modules])"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-c", code, str(tmp_path)]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    named = [f"ims3core.axes.selections.{name}" for name in ("first", "random", "s3", "s3_image")]
    assert result.stdout.strip() == f"{named} []"
    taken = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert taken < 1  # of the processor, which others do not slow down much: alone it takes 0.3 s


def test_a_row_overrides_keys_of_its_sections():
    """`set` reaches the sampler, the amount or the selection of this row and of no other."""
    params = parse(changed(pools__im__set={"steps": 7, "per_class": 60}, methods__ims3__set={"alpha": 0.1}))

    assert (params.pool("im").sampler.steps, params.pool("im").per_class) == (7, 60)
    assert (params.pool("dit").sampler.steps, params.pool("dit").per_class) == (8, 50)
    assert params.selection("ims3").alpha == 0.1
    assert params.selection("s3").alpha == 0.4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("s3: [", "not valid YAML"),
        ("- 1", "found list"),
        ("{}", "seed: missing"),
        ("s3: {alpha: 1}\na: 2\ns3: {beta: 1}", "not valid YAML: s3: stands twice, in line 1 and 3"),
        ("s3:\n  alpha: 1\n  alpha: 2", "not valid YAML: alpha: stands twice, in line 2 and 3"),
    ],
)
def test_a_broken_file_is_refused(text, message):
    """Neither a traceback nor a default."""
    with pytest.raises(ParameterError, match=message):
        parse(text)


def test_a_missing_file_says_how_to_get_one(tmp_path):
    """The hint names the command."""
    with pytest.raises(ParameterError, match="ims3 use digits"):
        load(tmp_path / "params.yaml")


def test_a_file_that_is_no_text_is_refused(tmp_path):
    """In one line, like any other that is not YAML."""
    (tmp_path / "params.yaml").write_bytes(b"seed: \xff")
    with pytest.raises(ParameterError, match=r"params\.yaml: not valid YAML: 'utf-8' codec can't decode byte 0xff"):
        load(tmp_path / "params.yaml")


@pytest.mark.parametrize("name", PROFILES)
def test_dvc_reads_what_it_writes_of_a_profile(name):
    """`dvc exp run -S` writes the parameters anew and reads them again, without quotes that were not needed."""
    from dvc.utils import serialize

    text = profile_text(name)
    written = serialize.dumps_yaml(serialize.parse_yaml_for_update(text, name))
    assert serialize.parse_yaml(written, name) == serialize.parse_yaml(text, name)


def test_the_lineage_of_a_row_leads_to_what_it_was_selected_by(toy):
    """Refined rows may start from refined rows; a selected row goes back to itself."""
    once = {"start": "ims3", "type": "distribution_matching"}
    params = toy(
        refinements={"once": once, "twice": once | {"start": "once"}},
        eval__methods=["twice"],
        report__tsne_method="twice",
    )
    assert params.lineage("twice") == ("ims3", ["once", "twice"])
    assert params.lineage("ims3") == ("ims3", [])
