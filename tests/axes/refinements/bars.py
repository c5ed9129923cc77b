"""What the tests of refinements share: three classes of bars, sections as in a profile, a plain start."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from ims3core.axes.refinements import (
    Start,
)
from ims3core.axes.refinements.distribution_matching import DistributionMatching
from ims3core.base import compute, distributed
from ims3core.data import ImageSet
from ims3core.students.networks import build_student
from ims3core.students.settings import Augment

AUGMENT = Augment(
    crop_scale=None, flip=0.0, rotate=5.0, translate=0.05, colour=0.0, lighting=0.0, patch_shuffle=1, randaugment=None
)


DM = {
    "iterations": {1: 30}, "optimiser": "adam", "lr": 0.02, "real_batch": 16, "network": "convnet", "networks": 0,
    "train_steps": {1: [0, 4]}, "statistic": {1: "mean"}, "directions": 64, "interpolate": False, "cross_entropy": 0.0, "space": "pixels",
}  # fmt: skip


IDC = {
    "network": "convnet", "outer": 2, "inner": 3, "pretrain_steps": 2, "train_steps": 1, "network_lr": 0.01, "lr": 5.0,
    "momentum": 0.5, "real_batch": 8, "chosen_batch": 8, "distance": "l1",
}  # fmt: skip


SRE2L = {"iterations": 20, "lr": 0.05, "statistics_weight": 0.01, "first_factor": 10.0, "jitter": 1}


CAO2 = {
    "iterations": 15, "lr": 0.01, "worst_weight": 10.0, "timesteps": [1, 11], "grid": 50, "noises": 32, "label": "null",
    "timestep_form": "corrected", "batch_size": 2,
}  # fmt: skip


MACHINE = compute.Machine(torch.device("cpu"), "fp32", False, distributed.ProcessGroup())


def bars(per_class, seed):
    """Three classes of 8x8 images: a bright top, bottom or left half under noise."""
    labels = torch.arange(3).repeat(per_class)
    halves = torch.zeros(3, 1, 8, 8)
    halves[0, :, :4], halves[1, :, 4:], halves[2, :, :, :4] = 0.8, 0.8, 0.8
    noise = torch.rand(len(labels), 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    return ImageSet((255 * (0.8 * halves[labels] + 0.2 * noise)).to(torch.uint8), labels)


def start(chosen=None, **changes):
    values = {
        "chosen": chosen or bars(2, 1), "latents": None, "real": bars(40, 2), "statistics": ([0.4], [0.3]), "augment": AUGMENT,
        "seed": 5, "machine": MACHINE, "labels": torch.arange(3),
    }  # fmt: skip
    return Start(**values | changes)


def flops(network, *inputs):
    """FLOPs of one forward pass."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(*inputs)
    return counter.get_total_flops()


def dm(**changes):
    """Distribution matching with a plain section, except for ``changes``."""
    return DistributionMatching(**DM | changes)


def trained(begin, steps, seed):
    """A ConvNet as refinements train it on the real images."""
    return begin.real_task("convnet").trained(steps, lr=0.02, seed=seed)


DSA = {
    "brightness": 1.0, "saturation": 2.0, "contrast": 0.5, "crop": 0.125, "cutout": 0.5, "flip": 0.5, "scale": 1.2,
    "rotate": 15.0, "operations": ["colour", "crop", "cutout", "flip", "scale", "rotate"],
}  # fmt: skip


def small_vae():
    from ims3core.diffusion.autoencoder import build_autoencoder

    return build_autoencoder(image_channels=1, side=8, latent_channels=1, widths=[8, 8], seed=3).eval()


class Judge(torch.nn.Module):
    """A teacher on normalised images."""

    def __init__(self, norm):
        super().__init__()
        self.network = build_student("convnet", classes=3, channels=1, side=8, norm=norm, seed=1)

    @property
    def norms(self):
        return [m for m in self.network.modules() if isinstance(m, torch.nn.BatchNorm2d)]

    def forward(self, images):
        return self.network((images - 0.4) / 0.3)
