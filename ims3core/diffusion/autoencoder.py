"""The VAE: a diffusers ``AutoencoderKL``, trained small for the offline profiles, read for the others."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from ims3core.base.library_errors import reason, translate_errors
from ims3core.base.seeds import generator as seeded
from ims3core.base.seeds import scoped_rng
from ims3core.data import IndexedImages, batches, signed
from ims3core.errors import ArtifactError, NumericsError

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

    from ims3core.diffusion.training import State

FULL_PRECISION = ("safetensors", "bin", "safetensors.index.json", "bin.index.json")  # endings of its weights
SCALED_ON = 10_000  # images whose latents decide the scaling factor
AT_ONCE = 2**26  # values of a full-size feature map of images that are coded at once; 1.3 GiB and more beside them


def build_autoencoder(
    *, image_channels: int, side: int, latent_channels: int, widths: list[int], seed: int
) -> AutoencoderKL:
    """A small ``AutoencoderKL`` with one resolution per width (the first keeps the image size), seeded weights."""
    from diffusers import AutoencoderKL

    with scoped_rng(seed):
        return AutoencoderKL(
            in_channels=image_channels,
            out_channels=image_channels,
            down_block_types=("DownEncoderBlock2D",) * len(widths),
            up_block_types=("UpDecoderBlock2D",) * len(widths),
            block_out_channels=tuple(widths),
            layers_per_block=1,
            latent_channels=latent_channels,
            norm_num_groups=8,
            sample_size=side,
            mid_block_add_attention=False,
        )


def fit_autoencoder(
    vae: AutoencoderKL,
    state: State,
    images: torch.Tensor | IndexedImages,
    *,
    steps: int,
    batch_size: int,
    lr: float,
    kl_weight: float,
    seed: int,
) -> Iterator[State]:
    """Trains ``vae`` to reproduce ``images`` (uint8 (N, C, H, W)); yields ``state`` after every step.

    Loss: mean squared error plus ``kl_weight`` times the KL divergence to a unit Gaussian per latent value.
    At the end sets the scaling factor, 1 / std of the latents, so that the diffusion model sees unit variance.

    Args:
        state: of the weights of ``vae``; training goes on from its step.
    """
    vae.train()
    device = next(vae.parameters()).device
    for step in range(state.step, steps):
        rng = seeded(seed, "vae-step", step)
        rows = torch.randint(len(images), (min(batch_size, len(images)),), generator=rng)
        batch = signed(images[rows]).to(device)
        posterior = vae.encode(batch).latent_dist
        latents = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=rng).to(device)
        loss = F.mse_loss(vae.decode(latents).sample, batch) + kl_weight * posterior.kl().mean() / latents[0].numel()
        if not torch.isfinite(loss):
            raise NumericsError(
                f"generator.vae: loss is {loss.item()} at step {step} (seed {seed}); lower generator.vae.lr"
            )
        state.optimiser.zero_grad()
        loss.backward()
        for group in state.optimiser.param_groups:
            group["lr"] = lr * (1 + 19 * (1 + math.cos(math.pi * step / steps)) / 2) / 20
        state.optimiser.step()
        state.step = step + 1
        state.curve.append({"step": step, "vae": loss.item()})
        yield state
    vae.eval()
    subset = images[: min(len(images), SCALED_ON)]
    means = [encode(vae, batch, scaled=False)[0] for batch in batches(subset, 256)]
    vae.register_to_config(scaling_factor=1 / torch.cat(means).std().item())


def images_at_once(vae: AutoencoderKL, side: int, values: int = AT_ONCE) -> int:
    """How many images of ``side`` px have about ``values`` values in one full-size feature map; 1 at least.

    Eight by default with Stable Diffusion's VAE at 256 px. A constant, not the memory that is free: which images share
    a call must not depend on the machine.
    """
    return max(1, values // (vae.config.block_out_channels[0] * side**2))


@torch.inference_mode()
def encode(vae: AutoencoderKL, images: torch.Tensor, *, scaled: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and std of the VAE posterior of one batch of uint8 ``images`` (N, C, H, W), times the scaling factor.

    Large images go through the VAE in slices (:func:`images_at_once`).

    Returns:
        Two float32 tensors (N, latent channels, latent side, latent side); a latent is mean + std * noise.
    """
    factor = vae.config.scaling_factor if scaled else 1.0
    weight = next(vae.parameters())
    parts = []
    for part in batches(images, images_at_once(vae, images.shape[-1])):
        posterior = vae.encode(signed(part).to(weight.device, weight.dtype)).latent_dist
        parts.append((posterior.mean.float().cpu() * factor, posterior.std.float().cpu() * factor))
    means, stds = zip(*parts, strict=True)
    return torch.cat(means), torch.cat(stds)


@torch.inference_mode()
def decode(vae: AutoencoderKL, latents: torch.Tensor) -> torch.Tensor:
    """The uint8 images (N, C, H, W) of scaled latents, rounded to the nearest of 256 values; large ones in slices."""
    weight = next(vae.parameters())
    side = latents.shape[-1] * 2 ** (len(vae.config.block_out_channels) - 1)
    parts = []
    for part in batches(latents, images_at_once(vae, side)):
        images = vae.decode((part / vae.config.scaling_factor).to(weight.device, weight.dtype)).sample
        parts.append(images.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).cpu())
    return torch.cat(parts)


def read_autoencoder(directory: Path) -> AutoencoderKL:
    """The float32 VAE in the ``vae`` folder of a ``DiTPipeline``; an ArtifactError names a missing or broken one."""
    from diffusers import AutoencoderKL

    half = not any((directory / f"diffusion_pytorch_model.{end}").is_file() for end in FULL_PRECISION)
    variant = "fp16" if half and any(directory.glob("*.fp16*")) else None
    try:
        vae = AutoencoderKL.from_pretrained(
            directory, local_files_only=True, low_cpu_mem_usage=False, variant=variant
        ).float()
    except Exception as error:
        raise ArtifactError(f"{directory}: not a readable AutoencoderKL ({reason(error)})") from error
    return _finite(vae, str(directory))


def stable_diffusion_autoencoder(image_channels: int = 3) -> AutoencoderKL:
    """The architecture of Stable Diffusion's VAE, which DiT-XL/2 uses; random weights, its scaling factor."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        in_channels=image_channels, out_channels=image_channels, block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2, latent_channels=4, sample_size=256,
    )  # fmt: skip


def single_file_autoencoder(path: Path, *, where: str) -> AutoencoderKL:
    """A VAE of Stable Diffusion's sizes from one file, under diffusers' or the original names.

    Raises:
        ArtifactError: if it is damaged, or of another architecture.
    """
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    from ims3core.data import weights

    state = weights.read(path, ["encoder.conv_in.weight"], where=where)
    vae = stable_diffusion_autoencoder()
    if any(name.startswith("encoder.down.") for name in state):
        with translate_errors(f"{where}: {path}: not a VAE of Stable Diffusion", ArtifactError):
            state = convert_ldm_vae_checkpoint(state, vae.config)
    with translate_errors(f"{where}: {path}: not a VAE of Stable Diffusion", ArtifactError):
        vae.load_state_dict(state)
    return _finite(vae, f"{where}: {path}")


def _finite(vae: AutoencoderKL, place: str) -> AutoencoderKL:
    for name, value in vae.state_dict().items():
        if not torch.isfinite(value).all():
            raise ArtifactError(f"{place}: {name} holds values that are not numbers")
    return vae.eval()
