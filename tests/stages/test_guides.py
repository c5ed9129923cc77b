"""What acts only when a pool is sampled is in the guide's manifest, so that pools that stand on it run again."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from ims3core.base import files
from ims3core.params import load
from ims3core.pipeline import graph, profiles
from ims3core.pipeline.harness import open_stage
from stages.guides import AT_ONCE, AdaptedGenerator

REPOSITORY = Path(__file__).resolve().parents[2]
GUIDE = "ims3core/axes/guides/modes.py"


@pytest.fixture(scope="module")
def built(build, toy_text):
    """A toy project with the modes of every class, and the row of a pool that is steered to them."""
    tree, every = yaml.safe_load(toy_text), profiles.read(REPOSITORY, "digits-all").tree
    tree |= {name: every[name] for name in ("modes", "mode_guided")}
    tree["guides"]["modes"] = {"type": "modes", "adaptation": "none"}
    tree["pools"]["steered"] = tree["pools"]["dit"] | {"guide": "modes", "sampler": "mode_guided"}
    lines = ("prepare", "generator", "latents", "finetune none", "guides modes")
    return build(yaml.safe_dump(tree, sort_keys=False), *lines)


def state(folder):
    """The guide's tensors, its manifest, and the fingerprint of the pool that stands on it."""
    guide = folder / "data/guides/modes"
    tensors = [path.read_bytes() for path in sorted(guide.glob("*.safetensors"))]
    pool = open_stage("candidates", load(folder / "params.yaml"), folder, ["steered"])
    return tensors, files.manifest_digest(guide), pool.fingerprint()


@pytest.mark.parametrize("compiled", [True, False])
def test_a_compiled_network_is_asked_about_batches_of_one_size(built, monkeypatch, compiled):
    """Classes have any number of images, and each size of batch would be compiled anew; the answers are the same."""
    monkeypatch.chdir(built)
    stage = open_stage("guides", load(Path("params.yaml")), Path(), ["modes"])
    machine, folder = dataclasses.replace(stage.machine, compile=compiled), Path("data")
    opened = AdaptedGenerator(folder / "generator", folder / "adapted/none", stage.classes, machine)
    sizes, channels, side = [], opened.network.config.channels, opened.network.config.side
    opened.network.register_forward_pre_hook(lambda network, inputs: sizes.append(len(inputs[0])))
    latents, label = torch.randn(33, channels, side, side), torch.zeros(33, dtype=torch.int64)
    with torch.inference_mode():
        whole = opened.network(latents, label, label)
        sizes.clear()
        found = opened.of_class(0).network(latents, label, label)
    torch.testing.assert_close(found, whole, rtol=1e-4, atol=1e-4)
    assert sizes == ([AT_ONCE, AT_ONCE] if compiled else [33])


@pytest.mark.parametrize("change", ["value", "code", "nothing"])
def test_a_pool_runs_again_when_its_guide_would_start_elsewhere(built, tmp_path, monkeypatch, stage, change):
    """By another value or other code, although nothing else is prepared."""
    shutil.copytree(built, other := tmp_path / "other")
    monkeypatch.chdir(other)
    before = state(other)
    if change == "value":
        path = other / "params.yaml"
        path.write_text(path.read_text().replace("restarts: 10\n", "restarts: 11\n"))
    elif change == "code":
        digest = graph._digest
        monkeypatch.setattr(graph, "_digest", lambda names: digest(names) + "x" * (GUIDE in names))
    stage("guides", "modes")
    after = state(other)

    assert before[0] == after[0] and len(after[0]) == 10
    for one, two in zip(before[1:], after[1:], strict=True):
        assert (one == two) == (change == "nothing")
