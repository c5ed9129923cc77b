"""How much memory a process takes: what it imports, its networks, and the images that are in them at once."""

from __future__ import annotations

from pathlib import Path

import torch

from ims3core.planning.counting import NetworkCosts

MIB = 2.0**20
PYTHON = 90 * MIB  # of a process that imports no torch
TORCH = 540 * MIB  # of one that does (measured: 530 to 570)
DIFFUSERS = 270 * MIB  # more, of one that opens a generator
COMPILER = 210 * MIB  # more, of one that compiles networks
VIEWS = 60 * MIB  # more, of one that trains classifiers: the images that are augmented in one call
READERS = 150 * MIB  # more, of the processes that decode images
FIGURES = 300 * MIB  # more, of the report
DIFFFIT_SHARE = 0.003  # of a generator's weights that DiffFit trains
BLOCK = 2048  # features whose distances to all others are computed at once


def trained(network: NetworkCosts, batch: int, *, optimiser: int) -> float:
    """Bytes of training a network: weights, gradients, ``optimiser`` copies (moments, averages), and a batch."""
    return 4 * (2 + optimiser) * network.weights + batch * network.backward


def asked(network: NetworkCosts, batch: int, number: int = 4) -> float:
    """Bytes of a network of numbers of so many bytes that is asked about a batch, without gradients."""
    return number * network.weights + batch * network.forward


def moved(network: NetworkCosts, through: int, forward: int) -> float:
    """Bytes of a frozen network that images are moved by: some with gradients, some without."""
    return 4 * network.weights + through * network.through + forward * network.forward


def available() -> float:
    """Bytes of memory that are free: of the GPU where there is one, else of the machine."""
    if torch.cuda.is_available():
        return float(torch.cuda.mem_get_info()[0])
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
