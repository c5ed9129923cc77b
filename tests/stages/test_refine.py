"""Refined rows: killed between two sets they go on, and a set that is there is never made again."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from ims3core.base import files
from ims3core.data import distilled, resized
from ims3core.errors import NumericsError
from ims3core.params import entries, load
from ims3core.pipeline import profiles
from ims3core.students.cell import CellSpec
from ims3core.students.network_pool import RealTask
from stages import refine
from stages.refine import Refine

REPOSITORY = Path(__file__).resolve().parents[2]
ROWS = {
    "dm": ("random", "distribution_matching"), "idc": ("random", "gradient_matching"),
    "sre2l": ("random", "batchnorm_inversion"), "cao2": ("dit", "conditional_likelihood"),
}  # fmt: skip
SMALL = {
    "distribution_matching": {"iterations": {1: 2}, "real_batch": 8}, "batchnorm_inversion": {"iterations": 2},
    "gradient_matching": {"outer": 1, "inner": 2, "pretrain_steps": 1, "train_steps": 1, "real_batch": 4},
    "conditional_likelihood": {"iterations": 2, "batch_size": 7, "lr": 0.5},
}  # fmt: skip


@pytest.fixture(scope="module")
def built(build, toy_text):
    """A toy project with four refined rows of four sets each."""
    tree, every = yaml.safe_load(toy_text), profiles.read(REPOSITORY, "digits-all").tree
    for name, changes in SMALL.items():
        tree[name] = every[name] | changes
    tree["teacher"] = tree["encoder"] | {"norm": "batch"}
    tree["refinements"] = {row: {"start": start, "type": kind} for row, (start, kind) in ROWS.items()}
    tree["eval"]["methods"] = ["random", "dit", *ROWS]
    tree["report"]["tsne_method"] = "dit"
    lines = (
        "prepare", "generator", "encoder", "teacher", "latents", "finetune none", "guides none", "candidates real",
        "candidates dit", "features real", "features dit", "centroids real", "select random", "select dit",
        *(f"refine {row}" for row in ROWS),
    )  # fmt: skip
    return build(yaml.safe_dump(tree, sort_keys=False), *lines)


def content(root, row):
    folder = root / "data/distilled" / row
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("row", ROWS)
def test_killed_and_resumed_is_bit_equal(built, tmp_path, monkeypatch, stage, row):
    """At most one set is lost: those before the kill are not made again."""
    shutil.copytree(built, other := tmp_path / "killed")
    shutil.rmtree(other / "scratch" / f"refine-{row}")
    monkeypatch.chdir(other)
    before = content(built, row)
    entry, made = entries.entry_class("refinements", ROWS[row][1], "x"), []
    refine = entry.refine

    def counted(self, start):
        if killed and len(made) == 2:
            raise KeyboardInterrupt
        made.append(start.seed)
        return refine(self, start)

    monkeypatch.setattr(entry, "refine", counted)
    killed = True
    with pytest.raises(KeyboardInterrupt):
        stage("refine", row)
    killed = False
    stage("refine", row)
    assert len(made) == len(set(made)) == 4
    assert content(other, row) == before


@pytest.mark.parametrize("row", ["dm", "idc", "sre2l"])
def test_images_that_hold_several_are_refined_and_trained_on_as_such(built, tmp_path, monkeypatch, stage, row):
    """The set says so, its PNGs are as many as without, students see four times as many in the same steps."""
    shutil.copytree(built, other := tmp_path / "mosaics")
    monkeypatch.chdir(other)
    tree = yaml.safe_load(Path("params.yaml").read_text())
    tree["refinements"][row]["set"] = {"factor": 2}
    Path("params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    asked, entry = [], entries.entry_class("refinements", ROWS[row][1], "x")
    refine = entry.refine
    monkeypatch.setattr(entry, "refine", lambda self, start: asked.append(start) or refine(self, start))
    stage("refine", row)
    folder, plain = other / f"data/distilled/{row}/ipc-2/draw-1", built / "data/distilled/random/ipc-2/draw-1"
    first = distilled.read_set(plain).images
    assert len(list(folder.rglob("*.png"))) == len(first) == 20
    held = [start for start in asked if len(start.images) == 20][1]
    assert torch.equal(held.images[:, :, :4, :4], resized(first, 4)) and held.latents is None
    assert not torch.equal(distilled.read_set(folder).images, held.images)
    assert len(distilled.read_formed_set(folder).images) == 80
    seen, run = [], CellSpec.run

    def noted(self, images, held_out, **task):
        seen.append((len(images.images), task["tiles"]))
        return run(self, images, held_out, **task)

    monkeypatch.setattr(CellSpec, "run", noted)
    stage("labels", "steps")
    stage("students", row, "2", "convnet", "steps")
    assert set(seen) == {(80, 4)}


def test_networks_are_trained_once_and_kept(built, tmp_path, monkeypatch, stage):
    """A unit each, beside the sets: a damaged set is made again through those that are there, to the same bytes.

    They are what the row would train in memory, and of every IPC those with its number of steps.
    """
    trained, train = [], RealTask.trained
    monkeypatch.setattr(RealTask, "trained", lambda *a, **k: trained.append(a[1]) or train(*a, **k))
    roots = {name: tmp_path / name for name in ("kept", "memory")}
    for root in roots.values():
        shutil.copytree(built, root)
        tree = yaml.safe_load((root / "params.yaml").read_text())
        tree["refinements"]["dm"]["set"] = {"networks": 2, "train_steps": {1: [1, 3], 2: [2, 4]}}
        (root / "params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    monkeypatch.chdir(roots["kept"])
    stage("refine", "dm")
    made = content(roots["kept"], "dm")
    assert trained == [1, 3, 2, 4] and made != content(built, "dm")
    scratch = roots["kept"] / "scratch/refine-dm"
    assert len(list(scratch.rglob("network-*.safetensors"))) == 4
    image = next(scratch.rglob("ipc-2-draw-1-*")).rglob("*.png").__next__()
    image.unlink()
    shutil.rmtree(roots["kept"] / "data/distilled/dm")
    (scratch / "published").unlink()
    stage("refine", "dm")
    assert trained == [1, 3, 2, 4] and content(roots["kept"], "dm") == made
    monkeypatch.chdir(roots["memory"])
    monkeypatch.setattr(
        entries.entry_class("refinements", "distribution_matching", "x"), "shared_networks", lambda *_: []
    )
    monkeypatch.setattr(Refine, "_kept", lambda self, which, train: train())
    stage("refine", "dm")
    assert content(roots["memory"], "dm") == made


def test_a_kill_costs_one_network_and_a_larger_grid_none(built, tmp_path, monkeypatch, stage):
    """Those that were trained before stay, for more sets and another IPC, too; each shows its progress."""
    shutil.copytree(built, root := tmp_path / "killed")
    monkeypatch.chdir(root)
    tree, trained, train = yaml.safe_load(Path("params.yaml").read_text()), [], RealTask.trained
    whole = tree["eval"] | {}
    tree["refinements"]["dm"]["set"] = {"networks": 3, "train_steps": {1: [1, 3]}}
    tree["eval"] |= {"ipc": [1], "draws": 1}
    Path("params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))

    def counted(task, steps, **options):
        if len(trained) == 1 and not killed:
            killed.append(steps)
            raise KeyboardInterrupt
        trained.append(steps)
        return train(task, steps, **options)

    killed, labels, track = [], [], refine.progress.track
    monkeypatch.setattr(RealTask, "trained", counted)
    monkeypatch.setattr(
        refine.progress, "track", lambda *a, label, **k: labels.append(label) or track(*a, label=label, **k)
    )
    with pytest.raises(KeyboardInterrupt):
        stage("refine", "dm")
    stage("refine", "dm")
    assert killed == [2] and trained == [1, 2, 3]
    assert {f"dm, network {n} of 3" for n in (1, 2, 3)} < set(labels)
    Path("params.yaml").write_text(yaml.safe_dump(tree | {"eval": whole}, sort_keys=False))
    stage("refine", "dm")
    assert trained == [1, 2, 3]
    assert len(list(Path("data/distilled/dm").glob("ipc-*/draw-*"))) == 4


def test_a_row_that_diverges_leaves_what_was_there(built, tmp_path, monkeypatch, stage):
    """The set before it is named, and nothing of the earlier output is touched."""
    shutil.copytree(built, other := tmp_path / "diverged")
    shutil.rmtree(other / "scratch" / "refine-dm")
    monkeypatch.chdir(other)

    def diverges(self, start):
        raise NumericsError("loss is nan at iteration 1; lower lr")

    monkeypatch.setattr(entries.entry_class("refinements", "distribution_matching", "x"), "refine", diverges)
    message = r"refinements\.dm, dm ipc 1 draw 0: loss is nan .*random/ipc-1/draw-0 is kept"
    with pytest.raises(NumericsError, match=message):
        stage("refine", "dm")
    assert content(other, "dm") == content(built, "dm")
    assert content(other, "random") == content(built, "random")


def test_a_row_may_see_its_images_under_another_augmentation(built, tmp_path, monkeypatch, stage):
    """Keys of the section augment with the row's own values; the others are the section's."""
    shutil.copytree(built, other := tmp_path / "seen")
    monkeypatch.chdir(other)
    tree = yaml.safe_load(Path("params.yaml").read_text())
    tree["refinements"]["dm"]["augment"] = {"flip": 0.25}
    Path("params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    seen = []

    def stops(self, start):
        seen.append(start.augment.model_dump())
        raise NumericsError("enough")

    for row in ("dm", "idc"):
        monkeypatch.setattr(entries.entry_class("refinements", ROWS[row][1], "x"), "refine", stops)
        shutil.rmtree(other / f"scratch/refine-{row}")
        with pytest.raises(NumericsError, match="enough"):
            stage("refine", row)
    section = load(Path("params.yaml")).augment.model_dump()
    assert seen == [section | {"flip": 0.25}, section] and section["flip"] != 0.25


def test_another_generator_label_makes_the_sets_anew(built, tmp_path, monkeypatch, stage):
    """CaO2 asks the generator by its labels: sets that were made with others of them do not serve."""
    shutil.copytree(built, other := tmp_path / "exchanged")
    monkeypatch.chdir(other)
    entry, labels = entries.entry_class("refinements", "conditional_likelihood", "x"), []
    refine = entry.refine

    def noted(self, start):
        labels.append(start.labels.tolist())
        return refine(self, start)

    monkeypatch.setattr(entry, "refine", noted)
    stage("refine", "cao2")
    assert labels == []  # nothing has changed yet
    rows = json.loads(Path("data/real/classes.json").read_text())
    rows[0]["generator_label"], rows[1]["generator_label"] = 1, 0
    Path("data/real/classes.json").write_text(json.dumps(rows))
    Path("data/real/manifest.json").unlink()  # which would say that the table was changed
    stage("refine", "cao2")
    assert labels == [[1, 0, *range(2, 10)]] * 4


@pytest.mark.parametrize("row", ROWS)
def test_a_refined_set_is_another_with_the_same_places(built, row):
    """Same classes and counts as the row it starts from, other pixels, its own manifest."""
    for ipc in (1, 2):
        start = distilled.read_set(built / f"data/distilled/{ROWS[row][0]}/ipc-{ipc}/draw-0")
        found = distilled.read_set(built / f"data/distilled/{row}/ipc-{ipc}/draw-0")
        assert found.class_index.tolist() == start.class_index.tolist()
        assert (found.images != start.images).any()
    assert files.read_json(built / f"metrics/selection/{row}.json")["selection"] == ROWS[row][1]
