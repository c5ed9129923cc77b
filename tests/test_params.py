"""The schema of params.yaml: every bad value is refused in one line that names its key."""

from pathlib import Path

import pytest
import yaml

from ims3core.errors import ParameterError
from ims3core.params import load, parse

REPOSITORY = Path(__file__).resolve().parents[1]
DIGITS = (REPOSITORY / "profiles/digits.yaml").read_text()


def changed(**changes):
    tree = yaml.safe_load(DIGITS)
    for key, value in changes.items():
        section = tree
        *path, last = key.split("__")
        for part in path:
            section = section[part]
        section[last] = value
    return yaml.safe_dump(tree)


@pytest.mark.parametrize("path", sorted((REPOSITORY / "profiles").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_profile_is_complete_and_commented(path):
    """Profiles load, and every scalar line of them explains itself."""
    load(path)
    for line in path.read_text().splitlines():
        if line.startswith("  ") and ": " in line and "{" not in line and "#" not in line:
            key = line.strip().split(":")[0]
            assert key in {"batch_size", "heads", "momentum", "weight_decay", "label_dropout"}, line


def test_the_checked_out_params_are_a_profile():
    """What `make repro` runs is a published profile."""
    assert (REPOSITORY / "params.yaml").read_text() in [p.read_text() for p in (REPOSITORY / "profiles").glob("*.yaml")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"s3__alhpa": 0.5}, r"s3\.alhpa: unknown key \(found value 0\.5\)"),
        ({"s3__alpha": -0.1}, r"s3\.alpha: found -0\.1, input should be greater than or equal to 0"),
        ({"s3__alpha": "abc"}, r"s3\.alpha: found 'abc', input should be a valid number"),
        ({"s3__alpha": float("nan")}, r"s3\.alpha: found nan"),
        ({"s3__groups": 0}, r"s3\.groups: found 0, input should be greater than or equal to 1"),
        ({"s3__groups": True}, r"s3\.groups: found True, input should be a valid integer"),
        ({"s3__groups": 100}, r"candidates\.per_class: 50 images.*eval\.ipc 10 x s3\.groups 100 wants at least 1000"),
        ({"eval__methods": ["magic"]}, r"eval\.methods: 'magic' is unknown; known: dit, herding"),
        ({"eval__students": ["vgg"]}, r"eval\.students\.0: found 'vgg'"),
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
        ({"methods__dit": {"pool": "dit", "selection": "first", "centroids": "real", "labels": "soft"}}, r"methods\.dit\.labels"),
        ({"pools__dit": {"source": "generated", "adaptation": "lora", "sampler": "ddpm", "purpose": "a"}}, "'lora' is unknown"),
        ({"pools__dit": {"source": "generated", "adaptation": "none", "sampler": "none", "purpose": "a"}}, "does not go with"),
        ({"methods__dit": {"pool": "real", "selection": "s3", "centroids": "real", "labels": "hard"}}, "holds real images"),
        ({"adaptations__lora": {"loss": "im"}}, r"adaptations\.lora: no section of that name"),
        ({"protocols__steps__epochs": 3}, r"exactly one of epochs \(3\) and steps"),
        ({"report__tsne_method": "magic"}, r"report\.tsne_method"),
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
    assert parse(DIGITS.replace("lambda_im: 0.002", "lambda_im: 2e-3")).im.lambda_im == 0.002


@pytest.mark.parametrize(
    ("text", "message"), [("s3: [", "not valid YAML"), ("- 1", "found list"), ("{}", "seed: missing")]
)
def test_a_broken_file_is_refused(text, message):
    """Neither a traceback nor a default."""
    with pytest.raises(ParameterError, match=message):
        parse(text)


def test_a_missing_file_says_how_to_get_one(tmp_path):
    """The hint names the command."""
    with pytest.raises(ParameterError, match="ims3 use digits"):
        load(tmp_path / "params.yaml")
