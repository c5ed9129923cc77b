"""What the stages up to the pools cost: data, generator, latents, adaptations, guides, candidates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ims3core.axes.guides.statistics import BATCH_VALUES
from ims3core.base import compute
from ims3core.diffusion.training import epochs_to_steps
from ims3core.params import sections
from ims3core.planning import memory
from ims3core.planning.facts import Cost, Facts
from ims3core.planning.image_costs import number_bytes

if TYPE_CHECKING:
    from ims3core.pipeline.graph import Node

INDEX_ROW = 120  # bytes of an image in data/real where files stay where they are
SCALED_ON = 10_000  # images whose latents decide the VAE's scaling factor


class GenerationCosts(Facts):
    """A method per stage that makes images."""

    def _prepare(self, node: Node) -> Cost:
        count = self.size.train + self.size.validation + self.size.test
        stored = self.pixels if self.params.data.storage == "pixels" else INDEX_ROW
        return Cost(
            node.stage, {"decode": count}, images=count, memory=memory.TORCH + memory.READERS, disk=count * stored
        )

    def _generator(self, node: Node) -> Cost:
        if not self.generates:
            return Cost(node.stage, memory=memory.TORCH)
        section, dit, encode, decode = self.params.generator, self.networks.dit, *self.vae
        weights, disk = encode.weights + decode.weights, 4.0 * (dit.weights + encode.weights + decode.weights)
        base = memory.TORCH + memory.DIFFUSERS
        if not isinstance(section, sections.TrainedGenerator):
            return Cost(node.stage, memory=base + 8 * dit.weights + 4 * weights, disk=disk)
        vae, train = section.vae, self.size.train
        images, vae_images = section.steps * min(section.batch_size, train), vae.steps * min(vae.batch_size, train)
        work = {
            "dit_train": 3 * images * dit.flops, "vae_train": 3 * vae_images * (encode.flops + decode.flops),
            "vae": (train + min(train, SCALED_ON)) * encode.flops,
        }  # fmt: skip
        held = memory.trained(dit, section.batch_size, optimiser=3)
        vae_held = max(
            memory.trained(encode, vae.batch_size, optimiser=3) + memory.trained(decode, vae.batch_size, optimiser=3),
            memory.asked(encode, 256),
        )
        base += self.compiler(section.steps >= compute.COMPILING_PAYS)
        return Cost(
            node.stage, work, section.steps + vae.steps, train, base + self.real_bytes + max(held, vae_held), disk
        )

    def _latents(self, node: Node) -> Cost:
        if not self.generates:
            return Cost(node.stage, memory=memory.TORCH)
        section, train = self.params.latents, self.size.train
        images, batches = train * (1 + section.flip), (1 + section.flip) * -(-train // section.batch_size)
        encode, disk = self.networks.encode, 2 * 4.0 * train * (1 + section.flip) * self.latent
        held = memory.asked(encode, min(section.batch_size, train)) + 4 * self.networks.decode.weights
        return Cost(
            node.stage, {"vae": images * encode.flops}, batches, images,
            memory.TORCH + memory.DIFFUSERS + self.real_bytes + held, disk,
        )  # fmt: skip

    def _finetune(self, node: Node) -> Cost:
        """Frozen weights need no gradient of their own: a pass forward and back costs twice a forward pass."""
        section, adaptation, dit = self.params.finetune, self.params.adaptation(node.row), self.networks.dit
        if not adaptation.trains:
            return Cost(node.stage)
        phases, passes = self.phases(node.row), adaptation.passes()
        images = self.size.train // phases
        steps, batch = epochs_to_steps(section.epochs, images=images, batch_size=section.batch_size), section.batch_size
        batch = min(batch, images)
        logged = -(-steps // section.grad_norm_every) if section.grad_norm_every else 0
        terms = 1 + section.variational + (passes > 2)  # the gradient of each is a pass back of its own
        work = phases * batch * dit.flops * (steps * passes + logged * terms)
        held = batch / section.accumulate * passes / 2 * dit.through
        held += (2 + number_bytes(self.params)) * dit.weights + 4 * 4 * memory.DIFFFIT_SHARE * dit.weights
        disk = 4 * memory.DIFFFIT_SHARE * dit.weights * phases
        return Cost(
            node.stage, {"dit_train": work}, phases * steps, phases * steps * batch,
            memory.TORCH + memory.DIFFUSERS + held, disk,
        )  # fmt: skip

    def _guides(self, node: Node) -> Cost:
        """What a guide prepares once per class."""
        guide, size = self.params.guide(node.row), self.size
        if guide.provides == "nothing":
            return Cost(node.stage)
        of_class, dit = size.train // size.classes, self.networks.dit
        passes = guide.network_calls(of_class) * size.classes
        if not passes:
            return Cost(node.stage, images=size.train, memory=memory.TORCH + 4.0 * size.train * self.latent)
        batch = max(1, BATCH_VALUES // self.latent)
        calls = size.classes * -(-of_class // batch) * guide.network_calls(1)
        held = memory.asked(dit, min(batch, of_class), number_bytes(self.params))
        return Cost(
            node.stage, {"dit_sample": passes * dit.flops}, calls, size.train, memory.TORCH + memory.DIFFUSERS + held
        )

    def _candidates(self, node: Node) -> Cost:
        source, dit, decode = self.params.pool(node.row).source, self.networks.dit, self.networks.decode
        if source.indexed:
            return Cost(node.stage, images=self.size.train)
        spec, shards = self.pool_spec(node.row), self.shards(node.row)
        images, calls = sum(shards), source.network_calls(spec)
        disk = images * (self.pixels + 4.0 * self.latent * source.sampled)
        if not calls:
            held = memory.TORCH + self.real_bytes + 8 * spec.largest_shard * self.pixels
            return Cost(node.stage, {"decode": images}, images=images, memory=held, disk=disk)
        sampled = len(shards) * spec.largest_shard if spec.compiled else images  # the last of a draw is padded
        work = {"dit_sample": sampled * calls * dit.flops, "vae": images * decode.flops}
        held = memory.asked(dit, spec.largest_shard, number_bytes(self.params))
        held += memory.asked(decode, spec.largest_shard) + 4 * self.networks.encode.weights
        return Cost(
            node.stage, work, len(shards) * (calls + 1), images, memory.TORCH + memory.DIFFUSERS + held, disk
        )  # fmt: skip

    def _diagnose(self, node: Node) -> Cost:
        passes, dit = self.params.diagnostic(node.row).passes(self.latent), self.networks.dit
        held = memory.TORCH + memory.DIFFUSERS + 4 * dit.weights + self.latent * dit.through
        return Cost(node.stage, {"dit_train": passes * dit.flops}, None, memory=held)
