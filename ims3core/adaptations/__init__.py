"""How the generator is fine-tuned on the real latents.

An entry of this axis has

``Section``
    Its keys.
``objective(variational, **section)``
    A new function ``(network, schedule, batch) -> {name: scalar}`` of named loss terms whose sum is minimised
    (:data:`ims3core.diffusion.training.Objective`); everything random about a step is in the batch
    (:class:`ims3core.diffusion.batches.Batch`). One with a memory has more, see the training loop.
``passes(**section)``
    The work of one step in forward passes of the network; a backward pass through frozen weights counts one.

``none`` stands for the generator as it is: nothing to train.
"""

ENTRY = ("Section", "objective", "passes")
