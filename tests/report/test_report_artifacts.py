"""What earlier stages left is read in full or refused with the file's name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ims3core.base import files
from ims3core.data import distilled, pools
from ims3core.data.distilled import SetKey
from ims3core.errors import ArtifactError
from ims3core.params.sections import Eval
from ims3core.report import artifacts

MADE_OF = {"dit": ("dit", "first"), "ims3": ("im", "s3")}
CELL = "metrics/cells/ims3-4-convnet-steps.json"
FEATURES = "data/features/dit/features.safetensors"
SET = "data/distilled/dit/ipc-4/draw-1"


def edit(path: Path, **changes) -> None:
    """Replaces top-level keys of a JSON file; None removes one."""
    value = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: entry for key, entry in value.items() if entry is not None}))


def edit_set(folder: Path, edit: Callable[[dict], None]) -> None:
    """Changes the manifest of a set as one who writes it would."""
    content = json.loads((folder / "manifest.json").read_text())
    edit(content)
    distilled.write_set_manifest(folder, SetKey(*(content[key] for key in SetKey._fields)), content["images"])


def read_results(**changes) -> artifacts.Results:
    """The records of a small grid."""
    grid = {"methods": ["dit", "ims3"], "ipc": [1, 4], "students": ["convnet"], "draws": 2, "seeds": 2}
    return artifacts.read_results(Path(), MADE_OF, Eval(**grid | {"protocols": ["steps"], "split": "test"} | changes))


class TestResults:
    def test_follow_the_grid_and_nothing_else(self, tree):
        """Cells come in grid order; a broken file outside the grid is not even opened."""
        (tree / "metrics/cells/old-1-convnet-steps.json").write_text("{")

        found = read_results()

        assert [(cell.method, cell.ipc) for cell in found.cells] == [("dit", 1), ("dit", 4), ("ims3", 1), ("ims3", 4)]
        assert [record.method for record in found.selections] == ["dit", "ims3"]
        assert found.full[0].ipc == "full"
        assert found.cell("ims3", 4, "convnet", "steps") is found.cells[3]

    def test_missing_cell_is_named(self, tree):
        """The message names the missing file and the command that makes it."""
        (tree / CELL).unlink()

        with pytest.raises(ArtifactError, match=f"^{CELL}: no such file; `dvc repro` makes it$"):
            read_results()

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"protocol": "minimax"}, "protocol is 'minimax', wanted 'steps'"),
            ({"split": "validation"}, "split is 'validation', wanted 'test'"),
            ({"ipc": 5}, "ipc is 5, wanted 4"),
            ({"runs": []}, r"runs: found \[\], list should have at least 1 item"),
            ({"runs": None}, "runs: missing; run"),
            ({"confusion": [[1, 2, 3], [1, 2, 3]]}, "confusion: not a square of the 3 classes"),
            ({"precision": "bf16"}, "trained in bf16, dit in fp32; name one in compute.precision"),
            ({"classes": ["ant", "bee", "dog"]}, r"classes \['ant', 'bee', 'dog'\], dit has \['ant', 'bee', 'cat'\]"),
        ],
        ids=["protocol", "split", "ipc", "no runs", "no key", "confusion", "precision", "classes"],
    )
    def test_malformed_cell_is_named(self, tree, changes, message):
        """A cell that is incomplete or belongs to other parameters is refused, naming what differs."""
        edit(tree / CELL, **changes)

        with pytest.raises(ArtifactError, match=f"^{CELL}: {message}"):
            read_results()

    def test_truncated_cell_is_named(self, tree):
        """Half a JSON file is refused."""
        (tree / CELL).write_text((tree / CELL).read_text()[:100])

        with pytest.raises(ArtifactError, match=f"^{CELL}: not valid JSON"):
            read_results()

    def test_every_draw_and_seed_is_wanted(self, tree):
        """A cell written for fewer runs is stale."""
        with pytest.raises(ArtifactError, match="dit-1-convnet-steps.json: 4 runs .* wanted 2 draws x 3 seeds"):
            read_results(seeds=3)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"pool": "im"}, "pool is 'im', wanted 'dit'"),
            ({"cells": {"1": [{"draw": 0}]}}, "IPC 1 holds draws \\[0\\], wanted 0 to 1"),
            ({"deterministic": "no"}, "deterministic: found 'no', input should be a valid boolean"),
        ],
        ids=["pool", "draws", "type"],
    )
    def test_stale_selection_is_named(self, tree, changes, message):
        """A selection record of another pool or grid is refused."""
        edit(tree / "metrics/selection/dit.json", **changes)

        with pytest.raises(ArtifactError, match=f"^metrics/selection/dit.json: {message}"):
            read_results()


class TestImages:
    def read(self, **changes):
        """Images of the set under test."""
        return artifacts.open_set(Path(), SetKey("dit", 4, 1)).images(**{"classes": 3, "count": 2} | changes)

    def test_are_the_first_of_each_class(self, tree):
        """Pixels equal those in the files, class by class, grey repeated over three channels."""
        found = self.read()

        assert found.shape == (3, 2, 6, 6, 3)
        with Image.open(tree / SET / "train/bee/draw1-00001.png") as image:
            assert (found[1, 1] == np.array(image)[..., None]).all()

    def test_are_never_more_than_the_set_has(self, tree):
        """Four images per class are shown where nine are asked for."""
        assert self.read(count=9).shape[1] == 4

    def test_changed_image_is_named(self, tree):
        """An image that differs from its manifest is refused."""
        other, path = (tree / SET / f"train/ant/draw1-0000{i}.png" for i in (1, 0))
        path.write_bytes(other.read_bytes())

        with pytest.raises(
            ArtifactError, match=f"^{SET}/train/ant/draw1-00000.png: content differs from the SHA-256 in"
        ):
            self.read()

    def test_missing_class_is_named(self, tree):
        """A set without images of a class is refused."""
        with pytest.raises(ArtifactError, match="manifest.json: class_index 3 has 0 images, wanted 2"):
            self.read(classes=4)

    @pytest.mark.parametrize(
        ("picture", "message"),
        [(Image.new("RGBA", (6, 6)), "image mode RGBA"), (Image.new("L", (5, 6)), "images of several sizes")],
        ids=["mode", "size"],
    )
    def test_unfit_image_is_named(self, tree, picture, message):
        """Other modes than L and RGB, and sets of several sizes, are refused even with a matching hash."""
        path = tree / SET / "train/ant/draw1-00000.png"
        picture.save(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        edit_set(tree / SET, lambda content: content["images"][0].update(sha256=digest))

        with pytest.raises(ArtifactError, match=message):
            self.read()

    def test_manifest_of_another_set_is_refused(self, tree):
        """A manifest in the wrong place is refused."""
        edit_set(tree / SET, lambda content: content.update(draw=0))

        with pytest.raises(ArtifactError, match=r"\('dit', 4, 0\), wanted \('dit', 4, 1\)"):
            self.read()


class TestFeatures:
    @pytest.mark.parametrize(("pool", "draw"), [("dit", 1), ("real", 0)], ids=["generated", "real"])
    def test_rows_are_those_of_the_manifest(self, tree, pool, draw):
        """Each image leads to the row of its draw, class and index; real images have one draw for all sets."""
        _, place = pools.read_features(Path("data/features", pool))
        chosen = artifacts.open_set(Path(), SetKey("dit", 4, 1))

        rows = chosen.rows(place)

        coordinates = [values[rows].tolist() for values in (place.draw, place.class_index, place.index)]
        images = chosen.manifest.images
        assert list(zip(*coordinates, strict=True)) == [(draw, image.class_index, image.index) for image in images]
        assert coordinates[1] == [0] * 4 + [1] * 4 + [2] * 4

    def test_image_without_feature_is_named(self, tree):
        """An image its pool does not know is refused."""
        edit_set(tree / SET, lambda content: content["images"][2].update(index=99))
        _, place = pools.read_features(Path("data/features/dit"))

        with pytest.raises(ArtifactError, match="draw1-00002.png .draw 1, class_index 0, index 99. has no feature"):
            artifacts.open_set(Path(), SetKey("dit", 4, 1)).rows(place)

    def test_truncated_file_is_named(self, tree):
        """Half a safetensors file is refused."""
        (tree / FEATURES).write_bytes((tree / FEATURES).read_bytes()[:-9])

        with pytest.raises(ArtifactError, match=f"^{FEATURES}: found .* bytes, the manifest says .*truncated"):
            pools.read_features(Path("data/features/dit"))

    @pytest.mark.parametrize(
        ("shapes", "message"),
        [
            ({"index": None}, "'index' is missing"),
            ({"class_index": (3,)}, r"wanted \(N, dim\)"),
        ],
        ids=["missing", "shape"],
    )
    def test_wrong_tensors_are_named(self, tmp_path, shapes, message):
        """A file with other tensors or lengths is refused."""
        shapes = {"features": (4, 2), **dict.fromkeys(("ipc", "draw", "class_index", "index"), (4,))} | shapes
        tensors = {name: torch.zeros(shape) for name, shape in shapes.items() if shape is not None}
        files.write_tensors(tmp_path / "features.safetensors", tensors)
        files.write_manifest(tmp_path, "features")

        with pytest.raises(ArtifactError, match=message):
            pools.read_features(tmp_path)


class TestCurve:
    def test_leaves_out_what_was_not_logged(self, tree):
        """Long rows hold every logged value, in column and step order."""
        found = artifacts.read_curve(Path("data/generator/curve.csv"))

        assert found["series"].value_counts().to_dict() == {"diffusion": 12, "grad_norm_diffusion": 4}
        assert found.loc[found["series"] == "grad_norm_diffusion", "step"].tolist() == [0, 3, 6, 9]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("step,im\n0,x\n", "not a table of numbers"),
            ("", "not a table, or cut short"),
            ("epoch,im\n0,1\n", r"columns \['epoch', 'im'\]"),
            ("step,im\n,1\n", "'step' filled in every row"),
            ("step,im\n", "0 rows"),
        ],
        ids=["text", "empty", "no step", "hole", "header only"],
    )
    def test_broken_curve_is_named(self, tmp_path, text, message):
        """A curve that is no table of numbers by step is refused."""
        path = tmp_path / "curve.csv"
        path.write_text(text)

        with pytest.raises(ArtifactError, match=f"^{path}: .*{message}"):
            artifacts.read_curve(path)
