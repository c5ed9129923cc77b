"""Images that hold several: what is seen of them, against loops over pixels, and where the first ones come from."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ims3core.base import files
from ims3core.data import ImageSet, distilled, resized
from ims3core.data.formation import first_mosaics, formed, formed_set, mosaics
from ims3core.errors import ArtifactError


def tiles_of(image, factor):
    """The tiles of an image (C, S, S), cut out one by one."""
    size = image.shape[-1] // factor
    return [
        image[:, row * size : (row + 1) * size, column * size : (column + 1) * size]
        for row in range(factor) for column in range(factor)
    ]  # fmt: skip


@settings(deadline=None)
@given(factor=st.integers(1, 4), side=st.integers(8, 13), channels=st.sampled_from([1, 3]), count=st.integers(1, 3))
def test_each_tile_is_seen_enlarged(factor, side, channels, count):
    """In order, whatever is left at the edge; a factor of 1 leaves everything as it is."""
    images = torch.rand(count, channels, side, side)
    found = formed(images, factor)
    wanted = [
        torch.nn.functional.interpolate(tile[None], size=(side, side), mode="bilinear")[0]
        for image in images for tile in tiles_of(image, factor)
    ]  # fmt: skip
    torch.testing.assert_close(found, torch.stack(wanted) if factor > 1 else images)
    assert factor > 1 or found is images


def test_an_enlarged_tile_is_that_of_pillow():
    """Bilinear with pixel centres, as everywhere: within rounding."""
    image = torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8)
    found = formed(image, 2)
    assert found.shape == (4, 3, 8, 8) and found.dtype == torch.uint8
    for tile, enlarged in zip(tiles_of(image[0], 2), found, strict=True):
        picture = Image.fromarray(tile.permute(1, 2, 0).numpy()).resize((8, 8), Image.Resampling.BILINEAR)
        wanted = torch.tensor(
            list(picture.get_flattened_data() if hasattr(picture, "get_flattened_data") else picture.getdata())
        )
        assert (enlarged.permute(1, 2, 0).reshape(64, 3).int() - wanted.int()).abs().max() <= 1


def test_gradients_stay_in_their_tile():
    """The third image that is seen moves the third quarter and nothing else."""
    images = torch.rand(1, 1, 8, 8, requires_grad=True)
    formed(images, 2)[2].sum().backward()
    moved = images.grad[0, 0] != 0
    assert moved[4:, :4].all() and moved.sum() == 16


@pytest.mark.parametrize("factor", [2, 3])
def test_a_mosaic_holds_small_versions_in_order(factor):
    """What is left at the edge is black."""
    images = torch.randint(0, 256, (2 * factor**2, 3, 8, 8), dtype=torch.uint8)
    found = mosaics(images, factor)
    assert found.shape == (2, 3, 8, 8)
    small = resized(images, 8 // factor)
    for n, tile in enumerate(tile for image in found for tile in tiles_of(image, factor)):
        assert torch.equal(tile, small[n])
    assert found[:, :, factor * (8 // factor) :].sum() == 0


def test_the_first_mosaics_begin_with_the_chosen_image_and_go_on_with_real_ones_of_its_class():
    """None twice before all have been taken; another seed takes others."""
    real = ImageSet(
        torch.arange(20, dtype=torch.uint8).repeat(2)[:, None, None, None].expand(40, 1, 8, 8) * 5,
        torch.arange(40) // 20,
    )
    chosen = ImageSet(torch.full((6, 1, 8, 8), 200, dtype=torch.uint8), torch.tensor([0, 1, 0, 1, 0, 1]))
    found = first_mosaics(chosen, real, 2, seed=3)
    assert torch.equal(found.class_index, chosen.class_index)
    values = torch.stack([torch.stack([tile.float().mean() for tile in tiles_of(image, 2)]) for image in found.images])
    assert (values[:, 0] == 200).all()
    for c in (0, 1):
        own = values[chosen.class_index == c, 1:].flatten().tolist()
        assert len(set(own)) == 9 and set(own) <= {5.0 * n for n in range(20)}
    assert torch.equal(found.images, first_mosaics(chosen, real, 2, seed=3).images)
    assert not torch.equal(found.images, first_mosaics(chosen, real, 2, seed=4).images)
    few = ImageSet(real.images[:4], torch.zeros(4, dtype=torch.long))
    again = first_mosaics(ImageSet(chosen.images[:3], torch.zeros(3, dtype=torch.long)), few, 2, seed=0)
    counts = torch.stack([tile.float().mean() for image in again.images for tile in tiles_of(image, 2)[1:]]).unique(
        return_counts=True
    )[1]
    assert sorted(counts.tolist()) == [2, 2, 2, 3]


@pytest.fixture
def stored(tmp_path):
    """A set of two mosaics, refined from one of two plain images."""
    images = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8)
    origin = {"index": 0, "seed": None, "group": None}
    entries = []
    for c, name in enumerate("ab"):
        entry = {"file": f"train/{name}/draw0-00000.png", "class": name, "class_index": c, **origin}
        entries.append(distilled._write_image(tmp_path / "start", images[c], entry))
    distilled.write_set_manifest(tmp_path / "start", distilled.SetKey("random", 1, 0), entries)
    distilled.write_refined(tmp_path / "set", tmp_path / "start", images, ["a", "b"], method="dm", factor=2)
    return tmp_path, images


def test_a_set_says_that_its_images_hold_several(stored):
    """Stored as it was made, read as it is trained on; a plain set says nothing of it, and a changed number is found."""
    folder, images = stored
    assert "factor" not in json.loads((folder / "start/manifest.json").read_text())
    assert torch.equal(distilled.read_formed_set(folder / "start").images, images)
    seen = distilled.read_formed_set(folder / "set")
    assert torch.equal(distilled.read_set(folder / "set").images, images)
    assert torch.equal(seen.images, formed(images, 2)) and seen.class_index.tolist() == [0] * 4 + [1] * 4
    assert torch.equal(formed_set(ImageSet(images, torch.tensor([0, 1])), 2).images, seen.images)
    text = (folder / "set/manifest.json").read_text()
    (folder / "set/manifest.json").write_text(text.replace('"factor": 2', '"factor": 3'))
    with pytest.raises(ArtifactError, match="the content differs from its digest"):
        distilled.read_formed_set(folder / "set")


def test_others_get_what_is_trained_on(stored):
    """A PNG of every image that is seen, named after the one that holds it, with its own digest."""
    folder, images = stored
    found = distilled.read_pngs(folder / "set")
    assert [image.file for image, _ in found[:5]] == [
        *(f"train/a/draw0-00000-{n}.png" for n in range(4)),
        "train/b/draw0-00000-0.png",
    ]
    for (image, png), wanted in zip(found, formed(images, 2), strict=True):
        assert (files.png_pixels(png, folder) == wanted.numpy()).all() and len(image.sha256) == 64
    assert [png for _, png in distilled.read_pngs(folder / "start")] == [
        distilled.read_png(folder / "start", image) for image in distilled.read_set_manifest(folder / "start").images
    ]
