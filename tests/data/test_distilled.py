"""Distilled sets: their manifest vouches for every byte of them, and for itself."""

import pytest
import torch

from ims3core.base import files
from ims3core.data import distilled
from ims3core.data.distilled import SetKey
from ims3core.data.pools import Place, Pool
from ims3core.errors import ArtifactError

KEY = SetKey("dit", 2, 0)


@pytest.fixture
def folder(tmp_path):
    """A set of two classes with two drawn images each, and their latents."""
    class_index, index = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    place = Place(torch.zeros(4, dtype=torch.int64), torch.zeros(4, dtype=torch.int64), class_index, index)
    images = torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 1, 3, 3) * 50
    pool = Pool(images, place, torch.arange(4) + 100, torch.arange(16.0).view(4, 1, 2, 2))
    rows = [torch.tensor([1, 0]), torch.tensor([2, 3])]
    distilled.write_set(tmp_path, pool, rows, ["ant", "bee"], key=KEY, groups=[0, 1])
    return tmp_path


def test_a_set_comes_back_as_it_was_written(folder):
    """Images, classes and latents in the order that was chosen."""
    found = distilled.read_set(folder)
    assert found.images[:, 0, 0, 0].tolist() == [50, 0, 100, 150] and found.class_index.tolist() == [0, 0, 1, 1]
    latents = distilled.read_latents(folder)
    assert latents is not None and latents[:, 0, 0, 0].tolist() == [4, 0, 8, 12]


@pytest.mark.parametrize("damage", ["zeroed", "cut", "deleted", "another"])
def test_damaged_latents_are_named(folder, damage):
    """They are the set's, not another's, and are never silently made anew by encoding its images."""
    path = folder / distilled.LATENTS
    content = path.read_bytes()
    path.unlink()
    if damage == "another":
        files.write_tensors(path, {"latents": torch.zeros(4, 1, 2, 2)})
    elif damage != "deleted":
        path.write_bytes(bytes(len(content)) if damage == "zeroed" else content[:-1])
    message = "no such file" if damage == "deleted" else "content differs from the SHA-256 in .*manifest.json"
    with pytest.raises(ArtifactError, match=f"^{path}: {message}"):
        distilled.read_latents(folder)


def test_a_refined_set_has_no_latents(folder, tmp_path):
    """Its images are others, so those of its start do not belong to it."""
    images = distilled.read_set(folder).images.flip(0)
    distilled.write_refined(tmp_path / "refined", folder, images, ["ant", "bee"], method="dm")
    assert distilled.read_latents(tmp_path / "refined") is None
    manifest = distilled.read_set_manifest(tmp_path / "refined")
    assert (manifest.method, manifest.ipc, manifest.draw) == ("dm", 2, 0)
    assert [image.seed for image in manifest.images] == [101, 100, 102, 103]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"class_index": 1', '"class_index": 0', "content differs from its digest"),
        ('"seed": 102', '"seed": 103', "content differs from its digest"),
        ('"latents"', '"latentr"', "latents: missing"),
        ('"index"', '"inddx"', r"images\.0\.index: missing"),
        ('"format": 2', '"format": 1', "format: found 1, input should be 2"),
    ],
)
def test_a_changed_manifest_is_named(folder, old, new, message):
    """Another key, and another value too: a label or seed that nobody drew is not trained on."""
    path = folder / files.MANIFEST
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ArtifactError, match=f"^{path}: .*{message}.*; run `dvc repro`$"):
        distilled.read_set(folder)
