"""Where candidate images come from."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ims3core.base.schema import Entry
from ims3core.data.keys import EVERY_IPC, CandidateKey, candidate_seed

if TYPE_CHECKING:
    from torch import Tensor

    from ims3core.axes.guides import Guide
    from ims3core.axes.samplers import Sampler
    from ims3core.base.compute import Machine
    from ims3core.data.pools import CandidateBatch
    from ims3core.diffusion.inputs import PoolInputs

ImageMaker = Callable[[list["CandidateKey"]], "CandidateBatch"]
"""Makes the candidates of some keys, in their order."""


class Source(Entry):
    """A source of candidate images.

    Attributes:
        sampled: draws latents: takes an entry of ``samplers``, a row of ``adaptations`` and one of ``guides``; else
            ``none`` stands in their places.
        indexed: makes nothing: the pool is an index of the real training images.
        per_ipc: images depend on how many there are: the pool is made anew for every IPC of ``eval.ipc``.
        noise_stream: names the seeds of its images; sources of one name share their noise.
    """

    sampled: ClassVar[bool] = False
    indexed: ClassVar[bool] = False
    per_ipc: ClassVar[bool] = False
    noise_stream: ClassVar[str]

    @abstractmethod
    def build(self, inputs: PoolInputs, spec: PoolSpec, machine: Machine) -> ImageMaker:
        """The function that makes the images of a list of keys; what it needs of ``inputs`` is opened once.

        An image is a function of ``spec.seed(key)`` and its key, never of its batch companions.
        """

    def user_paths(self) -> list[str]:
        """Files and folders of the user's that it reads."""
        return []

    def network_calls(self, spec: PoolSpec) -> int:
        """Calls of the generator that one image costs."""
        return 0


class SampledSource(Source):
    """The sampler on the adapted network, then the decoder of the generator's VAE (paper Alg. 2)."""

    sampled = True

    def build(self, inputs: PoolInputs, spec: PoolSpec, machine: Machine) -> ImageMaker:
        import torch

        from ims3core.data.pools import CandidateBatch
        from ims3core.diffusion.autoencoder import decode
        from ims3core.diffusion.sampling import Denoiser, NoiseStreams

        config = inputs.network.config
        spec.sampler.check_channels(config.channels)
        labels, vae = inputs.labels, inputs.vae.to(machine.device)
        call = machine.for_inference(inputs.network, parts=inputs.network.compiled_parts, constant=inputs.phase is None)
        denoiser = Denoiser(call, inputs.schedule, config.classes, machine.device, machine.dtype)
        shape = (config.channels, config.side, config.side)
        guidance = _GuidanceLatents(inputs, spec)

        def make(keys: list[CandidateKey]) -> CandidateBatch:
            # Another batch size would compile the network once more, which takes longer than a few images too many.
            count = spec.largest_shard if spec.compiled else len(keys)
            padded = [keys[n % len(keys)] for n in range(count)]
            noise = NoiseStreams([torch.Generator().manual_seed(spec.seed(key)) for key in padded], shape)
            label = labels[[key.class_index for key in padded]]
            inputs.load_phase(keys[0].class_index)  # a shard holds classes of one phase
            with torch.inference_mode():
                latents = spec.sampler.sample(denoiser, label, noise, guidance(padded))[: len(keys)]
                return CandidateBatch(decode(vae, latents), latents.cpu())

        return make

    def network_calls(self, spec: PoolSpec) -> int:
        return spec.sampler.network_calls()


class _GuidanceLatents:
    """What the guide gives each image: made once for the images of a class, draw and IPC together."""

    def __init__(self, inputs: PoolInputs, spec: PoolSpec) -> None:
        self.inputs, self.spec = inputs, spec
        self.latents: dict[tuple[int, int, int], Tensor] = {}

    def __call__(self, keys: list[CandidateKey]) -> Tensor | None:
        """(B, channels, side, side); image i of a class takes row i modulo their number. None without a guide."""
        import torch

        if self.spec.guide.provides == "nothing":
            return None
        groups = [self._of_class(key) for key in keys]
        return torch.stack([group[key.index % len(group)] for group, key in zip(groups, keys, strict=True)])

    def _of_class(self, key: CandidateKey) -> Tensor:
        """(ipc, channels, side, side), from the first call on."""
        from ims3core.base.seeds import generator

        place = (key.ipc, key.draw, key.class_index)
        if place not in self.latents:
            spec = self.spec
            random = generator(spec.root_seed, f"guide-{spec.noise_stream}", key.draw, key.class_index, key.ipc)
            latents = spec.guide.start(self.inputs.prepared(key.class_index), spec.count(key.ipc), random)
            assert latents is not None, f"guide {spec.guide.entry_name()} provides {spec.guide.provides}"
            self.latents[place] = latents
        return self.latents[place]


@dataclass(frozen=True)
class PoolSpec:
    """Which images a pool consists of, and how they are made.

    Attributes:
        noise_stream: names the seeds; pools of one stream share their noise.
        per_class: images of each class and draw, unless ``ipcs`` names some: then as many as the IPC.
        ipcs: the IPCs for which the pool is made one by one, or ``(EVERY_IPC,)``: one pool for all.
        batch_size: images of one call and one shard.
        sampler, guide: entries of those axes.
        compiled: whether networks are compiled, for one batch size.
        blocks: classes that share one network; empty: all do. A shard holds classes of one block.
    """

    root_seed: int
    noise_stream: str
    draws: int
    classes: int
    per_class: int
    batch_size: int
    sampler: Sampler
    guide: Guide
    ipcs: tuple[int, ...] = (EVERY_IPC,)
    compiled: bool = False
    blocks: tuple[tuple[int, ...], ...] = ()

    def count(self, ipc: int) -> int:
        """Images per class and draw."""
        return self.per_class if ipc == EVERY_IPC else ipc

    @property
    def largest_shard(self) -> int:
        """Images of the largest shard."""
        return min(self.batch_size, max(map(self.count, self.ipcs)) * max(map(len, self._blocks)))

    @property
    def _blocks(self) -> tuple[tuple[int, ...], ...]:
        return self.blocks or (tuple(range(self.classes)),)

    def seed(self, key: CandidateKey) -> int:
        """The seed of one image; nothing else decides its noise."""
        return candidate_seed(self.root_seed, self.noise_stream, key.draw, key.class_index, key.index)

    def shards(self) -> Iterator[list[CandidateKey]]:
        """The fixed composition of shards, ``batch_size`` images each.

        Images are listed index by index, so that a larger ``per_class`` appends and changes no earlier shard
        of its draw and block but the last, incomplete one.
        """
        for ipc in self.ipcs:
            for draw in range(self.draws):
                for block in self._blocks:
                    keys = [CandidateKey(ipc, draw, c, i) for i in range(self.count(ipc)) for c in block]
                    for first in range(0, len(keys), self.batch_size):
                        yield keys[first : first + self.batch_size]
