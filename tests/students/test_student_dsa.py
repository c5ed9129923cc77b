"""Differentiable Siamese augmentation is that of its paper, operation by operation."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from ims3core.pipeline import profiles
from ims3core.students.augment import build_augmentation
from ims3core.students.dsa import siamese
from ims3core.students.settings import Augment, Dsa
from ims3core.students.warps import Alike, uniform

SIX = ["colour", "crop", "cutout", "flip", "scale", "rotate"]
STRENGTHS = {
    "brightness": 1.0, "saturation": 2.0, "contrast": 0.5, "crop": 0.125, "cutout": 0.5, "flip": 0.5, "scale": 1.2,
    "rotate": 15.0,
}  # fmt: skip
NEUTRAL = ([0.0], [1.0])


def build(*operations, statistics=NEUTRAL, **strengths):
    return siamese(Dsa(operations=list(operations) or SIX, **STRENGTHS | strengths), statistics)


def pictures(count=5, channels=3, side=16, seed=0):
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(seed))


def sampled(image, theta):
    """One image through torch's own sampler; ``theta`` leads from places in the result to places in the image."""
    grid = F.affine_grid(torch.tensor([theta], dtype=torch.float32), (1, *image.shape), align_corners=False)
    return F.grid_sample(image[None], grid, align_corners=False)[0]


def coloured(image, u):
    image = image + (u[0] - 0.5)
    grey = sum(image) / len(image)
    image = torch.stack([grey + 2 * u[1] * (channel - grey) for channel in image])
    return image.mean() + (0.5 + u[2]) * (image - image.mean())


def shifted(image, u):
    side, result = image.shape[-1], torch.zeros_like(image)
    most = int(0.125 * side + 0.5)
    down, right = (int(one * (2 * most + 1)) - most for one in u)
    for row in range(side):
        for column in range(side):
            if 0 <= row + down < side and 0 <= column + right < side:
                result[:, row, column] = image[:, row + down, column + right]
    return result


def cut(image, u):
    side, result = image.shape[-1], image.clone()
    size = int(0.5 * side + 0.5)
    top, left = (int(one * (side + 1 - size % 2)) - size // 2 for one in u)
    for row in range(max(top, 0), min(top + size, side)):
        for column in range(max(left, 0), min(left + size, side)):
            result[:, row, column] = 0
    return result


def scaled(image, u):
    across, down = (1 / 1.2 + one * (1.2 - 1 / 1.2) for one in u)
    return sampled(image, [[across, 0, 0], [0, down, 0]])


def turned(image, u):
    angle = math.radians(15 * (2 * u[0] - 1))
    return sampled(image, [[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0]])


ALONE = {  # the numbers that an image draws, and what the paper does with them
    "colour": (3, coloured), "crop": (2, shifted), "cutout": (2, cut), "scale": (2, scaled), "rotate": (1, turned),
    "flip": (1, lambda image, u: image.flip(2) if u[0] < 0.5 else image),
}  # fmt: skip


@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "colour"])
@pytest.mark.parametrize("operation", SIX)
@pytest.mark.parametrize("side", [15, 16])
def test_an_operation_equals_a_loop_over_images(operation, channels, side):
    """Each image by its own numbers, pixel by pixel; even and odd sides."""
    images, (numbers, alone) = pictures(side=side, channels=channels), ALONE[operation]

    for seed in range(3):
        drawn = uniform(len(images), numbers, seed, f"dsa-{operation}").tolist()
        expected = torch.stack([alone(image, u) for image, u in zip(images, drawn, strict=True)])
        torch.testing.assert_close(build(operation)(images, seed), expected, rtol=0, atol=2e-5)


def test_a_batch_has_one_operation_and_each_of_six_has_its_turn():
    """Every result is that of one operation alone under the same seed; over 300 seeds about 50 times each."""
    images, counts = pictures(count=2, side=8), dict.fromkeys(SIX, 0)
    alone, augment = {name: build(name) for name in SIX}, build()
    for seed in range(300):
        result = augment(images, seed)
        named = [name for name in SIX if torch.equal(result, alone[name](images, seed))]
        assert named
        counts[named[0]] += len(named) == 1
    assert all(25 < count < 80 for count in counts.values()), counts


@pytest.mark.parametrize("operation", SIX)
def test_groups_of_one_seed_look_alike(operation):
    """Real and chosen images of a class, however many, get one transformation, in one call with others or not."""
    image, augment = pictures(count=1), build(operation)
    real, chosen = image.repeat(4, 1, 1, 1), image.repeat(2, 1, 1, 1)
    for seed in range(4):
        together = augment(torch.cat([real, chosen]), Alike([seed, seed], [4, 2]))
        torch.testing.assert_close(together, together[:1].expand_as(together))
        alone = augment(chosen, Alike([seed], [2]))
        torch.testing.assert_close(alone, together[4:])
    if operation != "flip":
        assert not torch.allclose(augment(real, 0)[0], augment(real, 0)[1])


def test_groups_of_other_seeds_have_other_operations():
    """Class by class, as in DM: over 40 classes all six occur."""
    images, augment = pictures(count=40), build()
    alone = {name: build(name) for name in SIX}
    together = augment(images, Alike(list(range(40)), [1] * 40))
    seen = {
        name for seed in range(40) for name in SIX
        if torch.allclose(together[seed], alone[name](images[seed : seed + 1], Alike([seed], [1]))[0], atol=1e-6)
    }  # fmt: skip
    assert seen == set(SIX)


@pytest.mark.parametrize("operation", SIX)
def test_images_are_normalised_before_and_back_after(operation):
    """What comes from outside has the mean colour, and brightness is measured in standard deviations."""
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.3, 0.25]
    shift, scale = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))
    images = pictures()

    result = build(operation, statistics=(mean, std))(images, 1)

    torch.testing.assert_close(result, build(operation)((images - shift) / scale, 1) * scale + shift)


@pytest.mark.parametrize("operation", SIX)
def test_gradients_pass_every_operation(operation):
    """As finite differences have them."""
    images = pictures(count=2, side=4).double().requires_grad_()

    assert torch.autograd.gradcheck(lambda x: build(operation)(x, Alike([3], [2])), images)


def test_the_protocols_are_those_of_the_papers():
    """DC: 300 epochs of batch 256, SGD at 0.01, a tenth after half, no augmentation. DSA: 1,000 and all six."""
    params = profiles.read(Path(__file__).parents[2], "cifar10")
    for name, epochs in (("dc", 300), ("dsa", 1000)):
        plan = params.protocols[name].plan("convnet", ipc=10, classes=10, images=100, name=name)
        optimiser = plan.optimiser
        assert (plan.epochs, plan.batch_size, plan.cutmix) == (epochs, 256, 0)
        assert (optimiser.name, optimiser.lr, optimiser.momentum, optimiser.weight_decay) == ("sgd", 0.01, 0.9, 5e-4)
        assert [plan.lr_at(step) for step in (0, epochs // 2 - 1, epochs // 2, epochs - 1)] == pytest.approx(
            [0.01, 0.01, 0.001, 0.001]
        )
    images = pictures()
    none, six = params.augmentation("dc"), params.augmentation("dsa")
    assert torch.equal(build_augmentation(none, side=16, channels=3)(images, 0), images)
    assert six.dsa == Dsa(operations=SIX, **STRENGTHS)
    assert six.model_copy(update={"dsa": None}) == none == Augment(**none.model_dump())
