"""Fine-tuning in phases of a few classes: each phase is a fine-tuning of its own, and a class is drawn by its own."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from ims3core import export
from ims3core.base import files
from ims3core.data import pools, read_split
from ims3core.diffusion.generator import phases
from ims3core.errors import ParameterError

SIZE = 4
LINES = ("prepare", "generator", "latents", "guides none")


@pytest.fixture(scope="module")
def built(build, toy_text):
    """Plain fine-tuning of the ten digits: all together, and four at a time; a pool of each."""
    tree = yaml.safe_load(toy_text)
    tree["diffusion"] = {}
    tree["finetune"] |= {"epochs": 0.2, "lr": 0.05}
    tree["adaptations"] = {"none": {"type": "none"}, "whole": {"type": "diffusion"},
                           "parts": {"type": "diffusion", "phase": SIZE}}  # fmt: skip
    plain = tree["pools"]["dit"]
    tree["pools"] = {"real": tree["pools"]["real"], **{n: plain | {"adaptation": n} for n in tree["adaptations"]}}
    tree["methods"] = {"random": tree["methods"]["random"]}
    tree["eval"]["methods"] = ["random"]
    tree["refinements"] = {}
    tree["report"]["tsne_method"] = "random"
    each = [f"{stage} {name}" for name in ("none", "whole", "parts") for stage in ("finetune", "candidates")]
    return build(yaml.safe_dump(tree, sort_keys=False), *LINES, *each)


def test_classes_are_counted_off_by_rising_label():
    """Labels of the generator, in whatever order their images come."""
    assert phases(torch.tensor([207, 3, 999, 3, 150]), 2).tolist() == [1, 0, 1, 0, 0]
    assert phases(torch.tensor([207, 3]), None).tolist() == [0, 0]


def test_every_phase_has_its_weights_and_its_part_of_the_curve(built):
    folder = built / "data/adapted/parts"
    assert files.read_manifest(folder, "adapted")["phase"] == SIZE
    deltas = [files.read_tensors(folder / f"phase-{n:04d}.safetensors") for n in range(3)]
    assert not (folder / "delta.safetensors").exists()
    assert not (folder / "phase-0003.safetensors").exists()
    for one, two in zip(deltas, deltas[1:], strict=False):
        assert any(not torch.equal(one[name], two[name]) for name in one)
    steps = pd.read_csv(folder / "curve.csv")["step"].tolist()
    assert steps == list(range(len(steps)))


def test_a_class_is_drawn_with_the_weights_of_its_phase(built, tmp_path, monkeypatch, stage):
    """Each class equals a pool drawn wholly with that phase's weights, latent for latent up to rounding."""
    found = pools.read_pool(built / "data/candidates/parts", lambda: read_split(built / "data/real/train"))
    for number in range(3):
        shutil.copytree(built, other := tmp_path / str(number))
        delta = built / f"data/adapted/parts/phase-{number:04d}.safetensors"
        shutil.copy(delta, staged := other / "data/adapted/whole")
        (staged / delta.name).replace(staged / "delta.safetensors")
        files.write_manifest(staged, "adapted", loss="diffusion", precision="fp32")
        monkeypatch.chdir(other)
        stage("candidates", "whole")
        alone = pools.read_pool(other / "data/candidates/whole", lambda: read_split(built / "data/real/train"))
        for c in range(10):
            one, two = (torch.cat([p.latents[p.place.rows(d, c)] for d in range(2)]) for p in (found, alone))
            assert (float((one - two).abs().max()) < 1e-5) == (c // SIZE == number), (number, c)


def test_a_killed_phase_goes_on(built, tmp_path, monkeypatch, stage):
    """Killed within the second phase: the first is not trained again, the end is bit-equal."""
    from ims3core.diffusion import training

    shutil.copytree(built, other := tmp_path / "killed")
    shutil.rmtree(other / "data/adapted/parts")
    shutil.rmtree(other / "scratch/finetune-parts")
    monkeypatch.chdir(other)
    draw, seen, kill = training.draw_batch, [], True

    def killed(*given, **named):
        seen.append(named["step"])
        if kill and seen.count(0) == 2 and named["step"] == 1:
            raise KeyboardInterrupt
        return draw(*given, **named)

    monkeypatch.setattr(training, "draw_batch", killed)
    with pytest.raises(KeyboardInterrupt):
        stage("finetune", "parts")
    before, kill = len(seen), False
    stage("finetune", "parts")
    assert seen[before] == 1
    for path in (built / "data/adapted/parts").iterdir():
        assert path.read_bytes() == (other / "data/adapted/parts" / path.name).read_bytes(), path.name


def test_export_wants_to_know_which_phase(built, tmp_path):
    with pytest.raises(ParameterError, match=r"--phase 0 to 2, found none"):
        export.export_generator(built, "parts", tmp_path / "out")
    with pytest.raises(ParameterError, match=r"wanted no --phase, found 1"):
        export.export_generator(built, "whole", tmp_path / "out", 1)
    with pytest.raises(ParameterError, match=r"--phase 0 to 2, found 3"):
        export.export_generator(built, "parts", tmp_path / "out", 3)
    assert not (tmp_path / "out").exists()
    export.export_generator(built, "parts", tmp_path / "out", 2)
    assert (Path(tmp_path) / "out/transformer").is_dir()
