"""Augmentation changes what it says it changes, image by image, from its seed alone."""

from __future__ import annotations

import contextlib
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from ims3core.errors import LibraryError, ParameterError
from ims3core.students.augment import (
    CROP_RATIO,
    GREY_WEIGHTS,
    LIGHTING_VALUES,
    LIGHTING_VECTORS,
    _crop_maps,
    build_augmentation,
    cutmix,
)
from ims3core.students.settings import Augment
from ims3core.students.warps import Alike, checked_warp, uniform, warp

EVERYTHING = {
    "crop_scale": [0.5, 1.0], "flip": 0.5, "rotate": 20.0, "translate": 0.1, "colour": 0.4, "lighting": 0.1,
}  # fmt: skip
ALONE = [{key: value} for key, value in EVERYTHING.items()]


def build(*, side=8, channels=3, **on):
    off = {"crop_scale": None, "flip": 0.0, "rotate": 0.0, "translate": 0.0, "colour": 0.0, "lighting": 0.0}
    spec = Augment.checked({**off, "patch_shuffle": 1, "randaugment": None, **on}, "augment")
    return build_augmentation(spec, side=side, channels=channels)


def pictures(count=6, channels=3, side=8, seed=0):
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(seed))


def ids(options):
    return "+".join(options)


def test_everything_off_returns_the_images_themselves():
    """Off means not built: the very tensor comes back."""
    images = pictures()

    assert build()(images, 0) is images


@pytest.mark.parametrize("options", [*ALONE, EVERYTHING], ids=ids)
class TestEveryOperation:
    def test_repeats_with_its_seed_only(self, options):
        """Equal seeds give equal bits, another seed other images, and the input is left alone."""
        images = pictures()
        before = images.clone()
        augment = build(**options)

        assert torch.equal(augment(images, 3), augment(images, 3))
        assert not torch.equal(augment(images, 3), augment(images, 4))
        assert torch.equal(images, before)

    def test_ignores_the_global_stream(self, options):
        """Neither reads nor moves torch's global stream."""
        torch.manual_seed(1)
        first = build(**options)(pictures(), 3)
        torch.manual_seed(2)
        state = torch.get_rng_state()

        assert torch.equal(build(**options)(pictures(), 3), first)
        assert torch.equal(torch.get_rng_state(), state)

    def test_image_does_not_depend_on_its_companions(self, options):
        """Image i is augmented alike in a batch of any size, beside any images."""
        batch = pictures(count=40)
        other = torch.cat([batch[:5], pictures(count=3, seed=1)])
        augment = build(**options)

        torch.testing.assert_close(augment(batch, 3)[:5], augment(other, 3)[:5], rtol=0, atol=1e-6)

    def test_gives_each_image_its_own_parameters(self, options):
        """Copies of one image come out different."""
        copies = pictures(count=1).repeat(32, 1, 1, 1)

        assert len(torch.unique(build(**options)(copies, 0), dim=0)) > 1


def test_flip_mirrors_about_the_asked_share():
    """With probability 0.3 about 30 % of 2000 images are mirrored exactly, the rest are untouched."""
    images = pictures(count=2000, channels=1)

    flipped = build(flip=0.3, channels=1)(images, 0)

    same = (flipped - images).abs().amax((1, 2, 3)) < 1e-5
    mirrored = (flipped - images.flip(3)).abs().amax((1, 2, 3)) < 1e-5
    assert (same ^ mirrored).all()
    assert mirrored.float().mean().item() == pytest.approx(0.3, abs=0.04)


def test_certain_flip_always_mirrors():
    """Probability 1 flips all."""
    images = pictures()

    torch.testing.assert_close(build(flip=1.0)(images, 0), images.flip(3), rtol=0, atol=1e-5)


@pytest.mark.parametrize("quarter_turns", [1, 2, 3])
def test_warp_turns_by_quarters_exactly(quarter_turns):
    """A rotation by a multiple of 90 degrees is torch's rot90: the centre of rotation is the image's centre."""
    angle = math.radians(90 * quarter_turns)
    turn = torch.tensor(
        [[math.cos(angle), math.sin(angle), 0], [-math.sin(angle), math.cos(angle), 0], [0.0, 0.0, 1.0]]
    )
    images = pictures(side=7)

    turned = warp(images, 0, maps=[lambda batch, seed: turn.expand(batch, 3, 3)], padding="border")

    torch.testing.assert_close(turned, torch.rot90(images, quarter_turns, (2, 3)), rtol=0, atol=1e-5)


def test_warp_shifts_by_whole_pixels_exactly():
    """A shift by 2/8 along x moves columns by two and fills with 0."""
    shift = torch.tensor([[1, 0, 2 / 8], [0, 1, 0], [0.0, 0.0, 1.0]])
    images = pictures(side=8)

    shifted = warp(images, 0, maps=[lambda batch, seed: shift.expand(batch, 3, 3)], padding="zeros")

    torch.testing.assert_close(shifted, F.pad(images, (2, -2)), rtol=0, atol=1e-5)


def test_warp_of_a_pixel_aligned_crop_is_a_plain_resize():
    """Cropping rows 2..6, columns 4..8 of 8 px and enlarging equals slicing and bilinear interpolation."""
    crop = torch.tensor([[2.0, 0, -0.5], [0, 2.0, 0], [0, 0, 1.0]])
    images = pictures(side=8)

    cropped = warp(images, 0, maps=[lambda batch, seed: crop.expand(batch, 3, 3)], padding="border")

    inner = slice(1, -1)  # at the crop's inner border the warp sees the neighbouring pixels, the slice does not
    expected = F.interpolate(images[:, :, 2:6, 4:8], size=(8, 8), mode="bilinear", align_corners=False)
    torch.testing.assert_close(cropped[:, :, inner, inner], expected[:, :, inner, inner], rtol=0, atol=1e-5)


def test_crop_boxes_fit_the_image_and_have_the_asked_area_and_shape():
    """Boxes lie inside the image, with areas in the scale and ratios in [3/4, 4/3] (or are the whole image)."""
    maps = _crop_maps(3000, 0, scale=(0.3, 0.8))

    size = 1 / maps[:, :2, :2].diagonal(dim1=1, dim2=2)
    centre = -maps[:, :2, 2] * size
    area, ratio = size.prod(1), size[:, 0] / size[:, 1]
    assert (centre.abs() + size / 2 <= 0.5 + 1e-6).all()
    assert (area >= 0.3 - 1e-5).all()
    assert (area <= 0.8 + 1e-5).all()
    assert (ratio >= CROP_RATIO[0] - 1e-5).all()
    assert (ratio <= CROP_RATIO[1] + 1e-5).all()
    assert area.mean().item() == pytest.approx(0.55, abs=0.02)


def test_crop_without_a_fitting_box_keeps_the_image():
    """The whole area at another ratio never fits, so scale [1, 1] changes nothing."""
    images = pictures()

    torch.testing.assert_close(build(crop_scale=[1.0, 1.0])(images, 0), images, rtol=0, atol=1e-6)


@pytest.mark.parametrize("options", [{"crop_scale": [0.5, 1.0]}, {"flip": 0.5}], ids=ids)
def test_crop_and_flip_show_no_outside(options):
    """A uniform image stays uniform up to its border."""
    uniform = torch.full((50, 1, 8, 8), 0.7)

    torch.testing.assert_close(build(channels=1, **options)(uniform, 0), uniform, rtol=0, atol=1e-6)


def test_rotation_stays_within_its_angle():
    """The brightest spot of a disc off the centre turns by at most the asked angle, to both sides."""
    side = 65
    grid = torch.arange(side) - side // 2
    spot = torch.exp(-((grid[None, :] - 24) ** 2 + grid[:, None] ** 2) / 8)[None, None].repeat(200, 1, 1, 1)

    turned = build(rotate=30.0, channels=1, side=side)(spot, 0)

    mass = turned[:, 0] / turned.sum((1, 2, 3))[:, None, None]
    angles = torch.rad2deg(torch.atan2((mass.sum(2) * grid).sum(1), (mass.sum(1) * grid).sum(1)))
    assert angles.abs().max() < 31
    assert angles.max() > 25
    assert angles.min() < -25


def test_translation_stays_within_its_fraction():
    """The centre of mass moves by at most the asked fraction of the side along both axes."""
    side = 33
    grid = torch.arange(side) - side // 2
    spot = torch.exp(-(grid[None, :] ** 2 + grid[:, None] ** 2) / 8)[None, None].repeat(300, 1, 1, 1)

    moved = build(translate=0.2, channels=1, side=side)(spot, 0)

    mass = moved[:, 0] / moved.sum((1, 2, 3))[:, None, None]
    shifts = torch.stack([(mass.sum(1) * grid).sum(1), (mass.sum(2) * grid).sum(1)]) / side
    assert shifts.abs().max() < 0.21
    assert (shifts.amax(1) > 0.17).all()
    assert (shifts.amin(1) < -0.17).all()


def test_colour_jitter_equals_a_loop_over_images():
    """Each image is one of the six orders of brightness, contrast and saturation, recomputed from its draws."""
    images, strength = pictures(count=20), 0.4
    draws = uniform(20, 6, 9, "colour")
    weights = torch.tensor(GREY_WEIGHTS).view(3, 1, 1)
    expected = []
    for image, draw in zip(images, draws, strict=True):
        for operation in sorted(range(3), key=lambda k, draw=draw: draw[3 + k].item()):
            amount = strength * (2 * draw[operation] - 1)
            grey = (weights * image).sum(0, keepdim=True)
            reference = [torch.zeros(()), grey.mean(), grey][operation]
            image = image + amount * (reference - image)
        expected.append(image)

    torch.testing.assert_close(build(colour=strength)(images, 9), torch.stack(expected))


def test_colour_jitter_is_not_clamped():
    """Bright images may leave [0, 1]."""
    assert build(colour=0.4)(torch.full((50, 3, 8, 8), 0.95), 0).max() > 1


def test_colour_jitter_keeps_black_black():
    """All references of a black image are black."""
    black = torch.zeros(5, 3, 8, 8)

    assert torch.equal(build(colour=0.4)(black, 0), black)


def test_lighting_adds_one_colour_per_image_with_the_pca_covariance():
    """The added colours have the covariance std^2 V diag(values^2) V^T."""
    images = pictures(count=20_000, side=2)

    added = build(lighting=0.1, side=2)(images, 0) - images

    colours = added[:, :, 0, 0]
    assert (added - colours[:, :, None, None]).abs().max() < 1e-6
    vectors, values = torch.tensor(LIGHTING_VECTORS), torch.tensor(LIGHTING_VALUES)
    expected = 0.01 * vectors @ torch.diag(values**2) @ vectors.T
    torch.testing.assert_close(colours.T.cov(), expected, rtol=0.05, atol=1e-6)


@pytest.mark.parametrize("key", ["colour", "lighting"])
def test_colour_operations_refuse_grey_images(key):
    """Colour on one channel is an error that names the key."""
    with pytest.raises(ParameterError, match=rf"augment\.{key}: found 0\.1 for images of 1 channel"):
        build(**{key: 0.1}, channels=1)


@pytest.mark.parametrize("scale", [[0.0, 1.0], [0.8, 0.5]])
def test_impossible_crop_scales_are_refused(scale):
    """A crop of no area, or a range upside down, is an error that names the key."""
    with pytest.raises(ParameterError, match=r"augment\.crop_scale: found .*wanted 0 < smallest <= largest <= 1"):
        build(crop_scale=scale)


@pytest.mark.parametrize("kept", [0.7143, 1.0])
def test_a_warp_that_blurs_is_refused_before_anything_is_trained(monkeypatch, kept):
    """kornia 0.8 leaves 0.71 of a pixel that it shifts by 2 px; accuracies of such students are other ones."""
    import kornia.geometry.transform as kornia

    right = kornia.warp_affine
    monkeypatch.setattr(kornia, "warp_affine", lambda *args, **options: kept * right(*args, **options))
    checked_warp.cache_clear()
    refused = pytest.raises(LibraryError, match=r"^kornia [\d.]+: a pixel shifted by 2 px keeps 0\.71 of its value")
    with refused if kept < 1 else contextlib.nullcontext():
        build(translate=0.1)
    build(colour=0.1)  # without a warp nothing is looked at
    checked_warp.cache_clear()


class TestCutmix:
    @given(batch=st.integers(1, 6), height=st.integers(1, 9), width=st.integers(1, 9), seed=st.integers(0, 10_000))
    def test_share_and_pixels_agree_with_a_count(self, batch, height, width, seed):
        """The share is the counted share of foreign pixels; every pixel is the image's own or its partner's."""
        own = torch.arange(batch).view(-1, 1, 1, 1).expand(batch, 2, height, width).float()

        mixed, partners, share = cutmix(own, stream=torch.Generator().manual_seed(seed))

        assert sorted(partners.tolist()) == list(range(batch))
        for i in range(batch):
            partner = partners[i].item()
            foreign = sum(mixed[i, 0, y, x].item() != i for y in range(height) for x in range(width))
            assert set(mixed[i].unique().tolist()) <= {i, partner}
            assert foreign == (round(share * height * width) if partner != i else 0)
            assert torch.equal(mixed[i, 0], mixed[i, 1])

    def test_foreign_pixels_form_one_box_shared_by_the_batch(self):
        """All images exchange the same rectangle."""
        own = torch.arange(50).view(-1, 1, 1, 1).expand(50, 1, 12, 12).float()
        for seed in range(30):
            mixed, partners, _ = cutmix(own, stream=torch.Generator().manual_seed(seed))
            masks = (mixed != own)[partners != torch.arange(50), 0]

            assert (masks == masks[0]).all()
            rows, columns = masks[0].any(1), masks[0].any(0)
            assert torch.equal(masks[0], rows[:, None] & columns[None, :])
            for line in (rows.nonzero(), columns.nonzero()):
                assert len(line) == 0 or line.max() - line.min() + 1 == len(line)

    def test_shares_cover_the_unit_interval(self):
        """Before clipping the share is uniform with mean 1/2; clipping and whole pixels lower it, extremes remain."""
        images = torch.rand(2, 1, 64, 64)
        shares = [cutmix(images, stream=torch.Generator().manual_seed(seed))[2] for seed in range(400)]

        assert min(shares) < 0.02
        assert max(shares) > 0.8
        assert 0.2 < sum(shares) / len(shares) < 0.5

    def test_images_are_copied(self):
        """The batch that was passed in keeps its pixels."""
        images = pictures()
        before = images.clone()

        cutmix(images, stream=torch.Generator().manual_seed(0))

        assert torch.equal(images, before)


def test_alike_gives_all_images_of_a_group_the_transformation_of_its_first():
    """Equal images stay equal under it, whatever the operations, and the first is as under the group's plain seed."""
    change = build(
        crop_scale=[0.5, 1.0], flip=0.5, rotate=20.0, translate=0.2, colour=0.4, lighting=0.1, side=16, channels=3
    )
    images = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)).repeat(5, 1, 1, 1)
    for seed in range(4):
        shared = change(images, Alike([seed, seed + 1], [3, 2]))
        for group, own in ((shared[:3], seed), (shared[3:], seed + 1)):
            torch.testing.assert_close(group, group[:1].expand_as(group))
            torch.testing.assert_close(group[0], change(images, own)[0])
    assert not torch.allclose(change(images, 0)[0], change(images, 0)[1])
