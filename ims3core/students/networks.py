"""Student networks, sized by the image: ConvNet-D, ResNetAP-10 and ResNets.

They use instance normalisation, written as group normalisation with one channel per group (IDC), or batch
normalisation (RDED), as the protocol says. timm's networks keep their own.
The ResNets look at 224 px images through the ImageNet stem; smaller images get a smaller stem, and
no stage halves a map below 2 px, because the instance norm of a single pixel is a constant.
"""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ims3core.base.seeds import derive_seed, scoped_rng
from ims3core.errors import DataError, ParameterError
from ims3core.students.settings import own_options

MIN_SIDE = 4
STAGE_WIDTHS = (64, 128, 256, 512)
RESNET_BLOCKS = {
    "resnet10": (1, 1, 1, 1),
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
}


Norm = Callable[[int], nn.Module]


def instance_norm(channels: int) -> nn.GroupNorm:
    """Instance normalisation of ``channels``, affine (IDC)."""
    return nn.GroupNorm(channels, channels, eps=1e-5)


NORMS: dict[str, Norm] = {"instance": instance_norm, "batch": nn.BatchNorm2d}


def build_student(
    name: str,
    *,
    classes: int,
    channels: int,
    side: int,
    seed: int,
    norm: str = "instance",
    options: dict[str, Any] | None = None,
) -> nn.Module:
    """A freshly initialised student that maps (B, channels, side, side) images to (B, classes) logits.

    Networks of our own are a :class:`FeatureNetwork`. The weights depend on ``seed`` and on nothing else.

    Args:
        name: ``convnet``, ``resnetap10``, ``resnet10|18|34|50|101`` or ``timm:<model>``.
        norm: ``instance`` or ``batch``, of our own networks.
        options: further arguments of a timm model, for example its patch size, or of :class:`ConvNet`.

    Raises:
        ParameterError: if the network is unknown or cannot take images of this shape.
        DataError: if the images are too small for a network of our own.
    """
    with scoped_rng(derive_seed(seed, "student-weights")):
        if name.startswith("timm:"):
            return _build_timm(name, classes=classes, channels=channels, side=side, options=options or {})
        if side < MIN_SIDE:
            raise DataError(f"images of {side} px are too small for student {name!r}, which wants at least {MIN_SIDE}")
        if name in ("convnet", "resnetap10", *RESNET_BLOCKS):
            try:
                own_options(name, options or {})
            except ValueError as error:
                raise ParameterError(f"students: {error}") from error
        sizes, make = {"classes": classes, "channels": channels, "side": side}, NORMS[norm]
        if name == "convnet":
            return ConvNet(**sizes, norm=make, **options or {})
        if name == "resnetap10":
            return resnet_ap10(**sizes, norm=make)
        if name in RESNET_BLOCKS:
            return resnet(name, **sizes, norm=make)
    known = ", ".join(["convnet", "resnetap10", *RESNET_BLOCKS, "timm:<model>"])
    raise ParameterError(f"eval.students: {name!r} is unknown; known: {known}")


class FeatureNetwork(nn.Module):
    """A network of our own: features, and one linear layer ``head`` on top of them."""

    head: nn.Linear

    def features(self, x: Tensor) -> Tensor:
        """(B, dim) features of images ``x`` (B, C, H, W)."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """(B, classes) logits of images ``x`` (B, C, H, W)."""
        return self.head(self.features(x))


class ConvNet(FeatureNetwork):
    """ConvNet-D: D times [3x3 conv, instance norm, ReLU, 2x2 average pool], then one linear layer (IDC).

    D halves the image until 3 px or a little more are left (224 px: 6, 32 px: 3), but is at least 2.

    Args:
        width: filters of every convolution.
        padding: pixels around the image in the first convolution: 3 makes 32 px of 28 (DC's networks of grey images).
    """

    def __init__(
        self, *, classes: int, channels: int, side: int, norm: Norm = instance_norm, width: int = 128, padding: int = 1
    ) -> None:  # fmt: skip
        super().__init__()
        # Of its own: the gradient of a convolution whose padding is as wide as its kernel takes oneDNN 7 times as long.
        self.border = padding - 1
        side += 2 * self.border
        self.depth = max(2, math.floor(math.log2(side / 3)))
        layers: list[nn.Module] = []
        for level in range(self.depth):
            layers += [nn.Conv2d(width if level else channels, width, 3, padding=1), norm(width)]
            layers += [nn.ReLU(), nn.AvgPool2d(2)]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(width * (side >> self.depth) ** 2, classes)

    def features(self, x: Tensor) -> Tensor:
        """The (B, dim) flattened map of the last pooling, for images ``x`` (B, C, H, W)."""
        return self.body(F.pad(x, [self.border] * 4) if self.border else x).flatten(1)


class ResNet(FeatureNetwork):
    """A stem, residual blocks, global average pooling and one linear layer (He et al. 2016)."""

    def __init__(self, *, stem: nn.Module, blocks: list[nn.Module], dim: int, classes: int) -> None:
        super().__init__()
        self.stem = stem
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(dim, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # N(0, sqrt(2 / (k * k * out))), the initialisation of IDC.
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, x: Tensor) -> Tensor:
        """The (B, dim) globally averaged map of the last block, for images ``x`` (B, C, H, W)."""
        return self.blocks(self.stem(x)).mean((2, 3))


class Residual(nn.Module):
    """ReLU(branch(x) + shortcut(x))."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """The block's output map for the map ``x`` (B, C, H, W)."""
        return F.relu(self.branch(x) + self.shortcut(x))


def resnet_ap10(*, classes: int, channels: int, side: int, norm: Norm = instance_norm) -> ResNet:
    """ResNetAP-10: four basic blocks in which average pooling does what strides do elsewhere (IDC)."""
    kernel, pooling = _stem_size(side)
    stem = [_conv(channels, 64, kernel), norm(64), nn.ReLU()]
    if pooling > 1:
        stem.append(nn.AvgPool2d(pooling))
    side //= pooling

    blocks: list[nn.Module] = []
    fan_in = 64
    for width in STAGE_WIDTHS:
        halve = _halves(width, side)
        blocks.append(_pooled_block(fan_in, width, halve=halve, norm=norm))
        fan_in, side = width, side // 2 if halve else side
    return ResNet(stem=nn.Sequential(*stem), blocks=blocks, dim=fan_in, classes=classes)


def resnet(name: str, *, classes: int, channels: int, side: int, norm: Norm = instance_norm) -> ResNet:
    """ResNet-10, 18 or 34 (basic blocks), 50 or 101 (bottlenecks) (He et al. 2016, IDC)."""
    kernel, pooling = _stem_size(side)
    stem = [_conv(channels, 64, kernel, stride=2 if pooling == 4 else 1), norm(64), nn.ReLU()]
    if pooling == 4:
        stem.append(nn.MaxPool2d(3, stride=2, padding=1))
    elif pooling == 2:
        stem.append(nn.MaxPool2d(2))
    side = -(-side // pooling)

    block = _bottleneck if name in ("resnet50", "resnet101") else _basic_block
    expansion = 4 if block is _bottleneck else 1
    blocks: list[nn.Module] = []
    fan_in = 64
    for width, count in zip(STAGE_WIDTHS, RESNET_BLOCKS[name], strict=True):
        for index in range(count):
            halve = index == 0 and _halves(width, side)
            blocks.append(block(fan_in, width, stride=2 if halve else 1, norm=norm))
            fan_in, side = width * expansion, -(-side // 2) if halve else side
    return ResNet(stem=nn.Sequential(*stem), blocks=blocks, dim=fan_in, classes=classes)


def _stem_size(side: int) -> tuple[int, int]:
    """Kernel size and total reduction of a ResNet stem for images of ``side`` px."""
    if side <= 64:
        return 3, 1
    return (3, 2) if side <= 128 else (7, 4)


def _halves(width: int, side: int) -> bool:
    """Whether the stage of ``width`` filters halves its map: all but the first, while 2 px remain."""
    return width != STAGE_WIDTHS[0] and side >= MIN_SIDE


def _pooled_block(fan_in: int, width: int, *, halve: bool, norm: Norm) -> Residual:
    """A basic block of ResNetAP: pools after the first norm and ReLU instead of striding."""
    pool = [nn.AvgPool2d(2)] if halve else []
    before = [_conv(fan_in, width, 3), norm(width), nn.ReLU()]
    after = [_conv(width, width, 3), norm(width)]
    shortcut = [_conv(fan_in, width, 1), *pool, norm(width)] if halve or fan_in != width else []
    return Residual(nn.Sequential(*before, *pool, *after), nn.Sequential(*shortcut))


def _basic_block(fan_in: int, width: int, *, stride: int, norm: Norm) -> Residual:
    """Two 3x3 convolutions."""
    first = [_conv(fan_in, width, 3, stride=stride), norm(width), nn.ReLU()]
    second = [_conv(width, width, 3), norm(width)]
    return Residual(nn.Sequential(*first, *second), _strided_shortcut(fan_in, width, stride, norm))


def _bottleneck(fan_in: int, width: int, *, stride: int, norm: Norm) -> Residual:
    """1x1, 3x3 and 1x1 convolutions; the last has four times the filters."""
    narrow = [_conv(fan_in, width, 1), norm(width), nn.ReLU()]
    middle = [_conv(width, width, 3, stride=stride), norm(width), nn.ReLU()]
    widen = [_conv(width, 4 * width, 1), norm(4 * width)]
    return Residual(nn.Sequential(*narrow, *middle, *widen), _strided_shortcut(fan_in, 4 * width, stride, norm))


def _strided_shortcut(fan_in: int, fan_out: int, stride: int, norm: Norm) -> nn.Module:
    if stride == 1 and fan_in == fan_out:
        return nn.Identity()
    return nn.Sequential(_conv(fan_in, fan_out, 1, stride=stride), norm(fan_out))


def _conv(fan_in: int, fan_out: int, kernel: int, *, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(fan_in, fan_out, kernel, stride=stride, padding=kernel // 2, bias=False)


def _build_timm(name: str, *, classes: int, channels: int, side: int, options: dict[str, Any]) -> nn.Module:
    """An untrained timm model for this image shape; told the image size where its constructor asks for it."""
    import timm

    model_name = name.removeprefix("timm:")
    if not timm.is_model(model_name):
        close = difflib.get_close_matches(model_name, timm.list_models(), n=3)
        hint = f"; close matches: {', '.join(f'timm:{match}' for match in close)}" if close else ""
        raise ParameterError(f"eval.students: timm has no model {model_name!r}{hint}")

    options = {**options, "pretrained": False, "num_classes": classes, "in_chans": channels}
    # Which models take img_size is known only from the class behind the name; on "meta" building it costs no memory.
    try:
        with torch.device("meta"):
            kind = type(timm.create_model(model_name, **options))
    except TypeError as error:
        raise ParameterError(f"students: {name!r} does not take {sorted(options)}: {error}") from error
    if "img_size" in inspect.signature(kind.__init__).parameters:
        options["img_size"] = side
    try:
        network = timm.create_model(model_name, **options)
        with torch.no_grad():
            network.eval()(torch.zeros(1, channels, side, side))
    except (RuntimeError, ValueError, AssertionError, ZeroDivisionError) as error:
        # What timm's networks raise when the image shrinks to nothing inside them.
        problem = " ".join(str(error).split()) or type(error).__name__
        raise ParameterError(
            f"eval.students: {name!r} does not take images of {channels}x{side}x{side}: {problem}"
        ) from error
    return network.train()
