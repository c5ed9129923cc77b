"""The VAE: a diffusers ``AutoencoderKL``, trained small for the offline profiles, read for the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from ims3core.base.seeds import generator as seeded
from ims3core.base.seeds import scoped_rng
from ims3core.data import IndexedImages, batches, signed
from ims3core.shell.errors import ArtifactError, NumericsError

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

SCALED_ON = 10_000  # images whose latents decide the scaling factor


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
    images: torch.Tensor | IndexedImages,
    *,
    steps: int,
    batch_size: int,
    lr: float,
    kl_weight: float,
    seed: int,
    progress: Callable[[Iterator[int]], Iterator[int]] = iter,
) -> float:
    """Trains ``vae`` to reproduce ``images`` (uint8 (N, C, H, W)) and sets its scaling factor; returns the last loss.

    Loss: mean squared error plus ``kl_weight`` times the KL divergence to a unit Gaussian per latent value.
    The scaling factor is 1 / std of the latents, so that the diffusion model sees unit variance.
    """
    optimiser = torch.optim.Adam(vae.parameters(), lr=lr)
    plan = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps, eta_min=lr / 20)
    vae.train()
    device = next(vae.parameters()).device
    loss = torch.zeros(())
    for step in progress(iter(range(steps))):
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
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        plan.step()
    vae.eval()
    shown = images[: min(len(images), SCALED_ON)]
    means = [encode(vae, batch, scaled=False)[0] for batch in batches(shown, 256)]
    vae.register_to_config(scaling_factor=1 / torch.cat(means).std().item())
    return loss.item()


@torch.inference_mode()
def encode(vae: AutoencoderKL, images: torch.Tensor, *, scaled: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and std of the VAE posterior of one batch of uint8 ``images`` (N, C, H, W), times the scaling factor.

    Returns:
        Two float32 tensors (N, latent channels, latent side, latent side); a latent is mean + std * noise.
    """
    factor = vae.config.scaling_factor if scaled else 1.0
    weight = next(vae.parameters())
    posterior = vae.encode(signed(images).to(weight.device, weight.dtype)).latent_dist
    return posterior.mean.float().cpu() * factor, posterior.std.float().cpu() * factor


@torch.inference_mode()
def decode(vae: AutoencoderKL, latents: torch.Tensor) -> torch.Tensor:
    """The uint8 images (N, C, H, W) of scaled latents, rounded to the nearest of 256 values."""
    weight = next(vae.parameters())
    images = vae.decode((latents / vae.config.scaling_factor).to(weight.device, weight.dtype)).sample
    return images.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).cpu()


def read_autoencoder(directory: Path) -> AutoencoderKL:
    """The VAE in the ``vae`` folder of a ``DiTPipeline``; an ArtifactError names a missing or broken one."""
    from diffusers import AutoencoderKL

    try:
        return AutoencoderKL.from_pretrained(directory, local_files_only=True, low_cpu_mem_usage=False).eval()
    except (OSError, ValueError, RuntimeError) as error:
        raise ArtifactError(
            f"{directory}: not a readable AutoencoderKL ({' '.join(str(error).split())[:200]})"
        ) from error
