"""Images of the class-conditional latent diffusion model, drawn by a sampler and decoded (paper Alg. 2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ims3core.params.schema import Empty as Section  # noqa: F401
from ims3core.shell.errors import ParameterError

if TYPE_CHECKING:
    import torch

    from ims3core.base.compute import Machine
    from ims3core.data.inputs import Inputs
    from ims3core.data.pools import Made, Spot, Wanted

SAMPLED = True


def maker(inputs: Inputs, wanted: Wanted, machine: Machine) -> Callable[[list[Spot]], Made]:
    """The sampler on the adapted network, then the decoder of the VAE."""
    import torch

    from ims3core.data.pools import Made
    from ims3core.diffusion.autoencoder import decode
    from ims3core.diffusion.sampling import Denoiser, NoiseStreams

    config, sampler = inputs.network.config, wanted.sampler
    if (found := sampler.values.get("guided_channels", 0)) > config.channels:
        raise ParameterError(
            f"{sampler.name}.guided_channels: found {found}, the generator's latents have {config.channels}"
        )
    labels, vae = inputs.labels, inputs.vae.to(machine.device)
    call = machine.frozen(inputs.network, parts=inputs.network.compiled_parts, constant=inputs.phase is None)
    denoiser = Denoiser(call, inputs.schedule, config.classes, machine.device, machine.dtype)
    shape = (config.channels, config.side, config.side)
    guide = _Guide(inputs, wanted)

    def make(spots: list[Spot]) -> Made:
        # Another batch size would compile the network once more, which takes longer than a few images too many.
        padded = wanted.fullest if wanted.compiled else len(spots)
        shown = [spots[n % len(spots)] for n in range(padded)]
        streams = NoiseStreams([torch.Generator().manual_seed(wanted.seed(spot)) for spot in shown], shape)
        label = labels[[spot.class_index for spot in shown]]
        inputs.turn_to(spots[0].class_index)  # a shard holds classes of one phase
        with torch.inference_mode():
            latents = sampler.module.sample(denoiser, label, streams, guide(shown), **sampler.values)[: len(spots)]
            return Made(decode(vae, latents), latents.cpu())

    return make


def calls(wanted: Wanted) -> int:
    """Those of the sampler."""
    return wanted.sampler.module.calls(**wanted.sampler.values)


class _Guide:
    """What the guide gives each image: made once for the images of a class, draw and IPC together."""

    def __init__(self, inputs: Inputs, wanted: Wanted) -> None:
        self.inputs, self.wanted, self.started = inputs, wanted, {}

    def __call__(self, spots: list[Spot]) -> torch.Tensor | None:
        """(B, channels, side, side); image i of a class takes row i modulo their number."""
        import torch

        if self.wanted.guide is None:
            return None
        rows = [self._rows(spot) for spot in spots]
        return torch.stack([own[spot.index % len(own)] for own, spot in zip(rows, spots, strict=True)])

    def _rows(self, spot: Spot) -> torch.Tensor:
        from ims3core.base.seeds import generator

        key = (spot.ipc, spot.draw, spot.class_index)
        if key not in self.started:
            guide, wanted = self.wanted.guide, self.wanted
            random = generator(wanted.root_seed, f"guide-{wanted.purpose}", spot.draw, spot.class_index, spot.ipc)
            prepared = self.inputs.prepared(spot.class_index)
            self.started[key] = guide.module.start(prepared, wanted.count(spot.ipc), random, **guide.values)
        return self.started[key]
