"""Students have the weights, shapes and layers of the hard-label protocol at every image size."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ims3core.errors import DataError, ParameterError
from ims3core.students.networks import build_student

SMALL = ["convnet", "resnetap10", "resnet10", "resnet18"]
DEEP = ["resnet34", "resnet50", "resnet101"]


def build(name="convnet", *, classes=10, channels=3, side=8, seed=0):
    return build_student(name, classes=classes, channels=channels, side=side, seed=seed)


@pytest.mark.parametrize(
    ("name", "weights"), [("convnet", 754_570), ("resnetap10", 4_910_922), ("resnet18", 11_181_642)]
)
def test_weight_counts_are_those_of_the_public_networks(name, weights):
    """At 224 px and 10 classes each network has the published number of weights."""
    with torch.device("meta"):
        network = build(name, side=224)

    assert sum(weight.numel() for weight in network.parameters()) == weights


@pytest.mark.parametrize(
    ("channels", "side", "options", "weights"), [(3, 32, {}, 320_010), (1, 28, {"padding": 3}, 317_706)],
    ids=["CIFAR-10", "Fashion-MNIST"],
)  # fmt: skip
def test_convnet_3_is_that_of_dataset_condensation(channels, side, options, weights):
    """Three blocks of 128, 4x4 pixels in front of the head; 28 px become 32 by the padding of the first convolution."""
    with torch.device("meta"):
        network = build_student("convnet", classes=10, channels=channels, side=side, seed=0, options=options)
        features = network.features(torch.empty(2, channels, side, side))

    assert features.shape == (2, 128 * 4 * 4)
    assert sum(weight.numel() for weight in network.parameters()) == weights


@pytest.mark.parametrize("padding", [1, 2, 3])
def test_padding_is_that_of_the_first_convolution(padding):
    """Features and gradients are those of a network whose first convolution pads by so much itself."""
    network = build_student("convnet", classes=3, channels=2, side=12, seed=0, options={"padding": padding, "width": 4})
    plain = copy.deepcopy(network)
    plain.border, plain.body[0].padding = 0, (padding, padding)
    images = torch.rand(5, 2, 12, 12, generator=torch.Generator().manual_seed(0))

    outputs = [one(images) for one in (network, plain)]
    torch.testing.assert_close(*outputs)
    gradients = [
        torch.autograd.grad(out.square().sum(), one.body[0].weight)[0]
        for out, one in zip(outputs, (network, plain), strict=True)
    ]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("options", [{"depth": 3}, {"padding": 0}, {"width": "128"}])
def test_options_that_a_convnet_does_not_take_are_named(options):
    """Before a network is built."""
    with pytest.raises(ParameterError, match="students: 'convnet' does not take .*; wanted width and padding"):
        build_student("convnet", classes=10, channels=3, side=32, seed=0, options=options)


@pytest.mark.parametrize("side", [4, 5, 8, 28, 32, 64, 96, 224])
@pytest.mark.parametrize("name", SMALL)
def test_small_networks_take_every_image_size(name, side):
    """Logits are (B, classes) and the head maps the features to them, from 4 to 224 px."""
    with torch.device("meta"):
        network = build(name, classes=7, channels=2, side=side)
        images = torch.empty(3, 2, side, side)

        assert network(images).shape == (3, 7)
        assert network.features(images).shape == (3, network.head.in_features)


@pytest.mark.parametrize("name", DEEP)
def test_deep_networks_have_their_depth(name):
    """The number in the name counts convolutions on the main path and the linear layer."""
    with torch.device("meta"):
        network = build(name, classes=7, channels=2, side=32)

        assert network(torch.empty(3, 2, 32, 32)).shape == (3, 7)

    convolutions = [key for key, weight in network.named_parameters() if weight.ndim == 4 and "shortcut" not in key]
    assert f"resnet{len(convolutions) + 1}" == name


@pytest.mark.parametrize(("side", "depth"), [(4, 2), (8, 2), (28, 3), (32, 3), (64, 4), (128, 5), (224, 6)])
def test_convnet_depth_follows_the_image_size(side, depth):
    """ConvNet-D has D blocks of four layers."""
    with torch.device("meta"):
        network = build("convnet", side=side)

    assert network.depth == depth
    assert len(network.body) == 4 * depth


@pytest.mark.parametrize("name", ["convnet", "resnetap10"])
def test_logits_are_the_head_of_the_features(name):
    """The encoder may use features() of the very network that classifies."""
    network = build(name)
    images = torch.rand(2, 3, 8, 8)

    assert torch.equal(network(images), network.head(network.features(images)))


@pytest.mark.parametrize("name", [*SMALL, "resnet50"])
@pytest.mark.parametrize("side", [4, 8, 9])
def test_no_norm_sees_a_single_pixel(name, side):
    """A norm over one pixel is constant, so tiny images keep maps of at least 2 px in front of every norm."""
    with torch.device("meta"):
        network = build(name, side=side)
        sizes = []
        for module in network.modules():
            if isinstance(module, nn.GroupNorm):
                module.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].shape[-2:]))

        network(torch.empty(2, 3, side, side))

    assert min(min(size) for size in sizes) >= 2


@pytest.mark.parametrize("name", ["convnet", "resnetap10", "resnet18"])
def test_different_tiny_images_get_different_logits(name):
    """At 8 px the network still tells images apart."""
    logits = build(name)(torch.rand(2, 3, 8, 8))

    assert (logits[0] - logits[1]).abs().max() > 1e-3


def test_norms_are_instance_norms():
    """The group norms equal torch's instance norm."""
    norm = next(module for module in build().modules() if isinstance(module, nn.GroupNorm))
    x = torch.randn(4, 128, 8, 8, generator=torch.Generator().manual_seed(0))

    torch.testing.assert_close(norm(x), F.instance_norm(x, eps=1e-5), rtol=1e-4, atol=1e-5)


def test_resnetap10_follows_its_description():
    """At 224 px ResNetAP-10 equals its description written out with functions, layer by layer."""
    network = build("resnetap10", side=224)
    images = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    weights = iter(network.state_dict().values())

    def norm(x):
        return F.instance_norm(x, weight=next(weights), bias=next(weights))

    x = F.conv2d(images, next(weights), stride=1, padding=3)
    x = F.avg_pool2d(F.relu(norm(x)), 4)
    for stage in range(4):
        y = F.relu(norm(F.conv2d(x, next(weights), padding=1)))
        y = F.avg_pool2d(y, 2) if stage else y
        y = norm(F.conv2d(y, next(weights), padding=1))
        x = F.relu(y + (norm(F.avg_pool2d(F.conv2d(x, next(weights)), 2)) if stage else x))
    logits = F.linear(F.adaptive_avg_pool2d(x, 1).flatten(1), next(weights), next(weights))

    assert next(weights, None) is None
    torch.testing.assert_close(network(images), logits, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("side", "kernel", "stride", "reduction"), [(32, 3, 1, 1), (64, 3, 1, 1), (96, 3, 1, 2), (224, 7, 2, 4)]
)
def test_resnet_stem_is_sized_by_the_image(side, kernel, stride, reduction):
    """Small images get a 3x3 stem without or with 2x pooling, large ones the ImageNet stem."""
    with torch.device("meta"):
        network = build("resnet18", side=side)
        reduced = network.stem(torch.empty(1, 3, side, side)).shape[-1]

    assert network.stem[0].kernel_size == (kernel, kernel)
    assert network.stem[0].stride == (stride, stride)
    assert reduced == side // reduction


@pytest.mark.parametrize("name", ["resnetap10", "resnet18"])
def test_resnet_convolutions_start_normal(name):
    """Convolutions are N(0, sqrt(2 / (k k out))), norms start as the identity."""
    network = build(name)

    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 10_000:
            expected = (2 / (module.kernel_size[0] ** 2 * module.out_channels)) ** 0.5
            assert module.weight.std().item() == pytest.approx(expected, rel=0.05)
        if isinstance(module, nn.GroupNorm):
            assert torch.equal(module.weight, torch.ones_like(module.weight))
            assert torch.equal(module.bias, torch.zeros_like(module.bias))


@pytest.mark.parametrize("name", ["convnet", "resnetap10", "timm:resnet18"])
def test_weights_depend_on_the_seed_alone(name):
    """Equal seeds give equal weights whatever the global stream holds, and the global stream is not moved."""
    torch.manual_seed(1)
    first = build(name, seed=5).state_dict()
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = build(name, seed=5).state_dict()
    other = build(name, seed=6).state_dict()

    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", ["timm:resnet10t", "timm:vit_tiny_patch16_224"])
def test_timm_models_take_our_images(name):
    """A timm model gets our classes, channels and, where it wants one, image size, and is ready to train."""
    network = build(name, classes=4, channels=1, side=32)

    assert network.training
    assert network(torch.rand(2, 1, 32, 32)).shape == (2, 4)


def test_unknown_timm_model_names_close_matches():
    """A mistyped timm name is a parameter error with suggestions."""
    with pytest.raises(ParameterError, match=r"eval\.students: timm has no model 'resnet19'.*timm:resnet18"):
        build("timm:resnet19")


def test_timm_name_like_no_other_has_no_suggestions():
    """Without close matches the message ends after the name."""
    with pytest.raises(ParameterError, match=r"timm has no model 'q7q7q7q7q7'$"):
        build("timm:q7q7q7q7q7")


def test_timm_model_that_cannot_take_the_images_is_named():
    """A patch larger than the image is reported with the network and the image shape."""
    with pytest.raises(ParameterError, match=r"'timm:vit_tiny_patch16_224' does not take images of 1x8x8"):
        build("timm:vit_tiny_patch16_224", channels=1)


def test_unknown_network_lists_the_known_ones():
    """The error names what was found and what exists."""
    with pytest.raises(ParameterError, match=r"eval\.students: 'resnet19' is unknown; known: convnet, resnetap10"):
        build("resnet19")


def test_images_below_four_pixels_are_refused():
    """Too small images end in a data error with both sizes."""
    with pytest.raises(DataError, match=r"images of 3 px are too small for student 'convnet', which wants at least 4"):
        build(side=3)
