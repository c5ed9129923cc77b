"""What is measured of a generator beside the images it makes; rows of ``probes``, asked for by studies.

An entry of this axis has

``Section``
    Its keys.
``measure(network, schedule, latents, label, generator, **section)``
    Values by the name of what is measured, one list each, with as many numbers as were sampled: from a
    class-conditional ``network(z, t, label)`` in evaluation mode, its :class:`~ims3core.diffusion.schedule.Schedule`,
    clean real latents (N, channels, side, side) on the network's device and their labels (N,). Which latents and
    directions are looked at is random, by ``generator`` alone.
"""

ENTRY = ("Section", "measure")
