"""Where candidate images come from.

An entry of this axis has

``Section``
    Its keys in params.yaml.
``SAMPLED``
    Whether it draws latents: then it takes an entry of ``samplers``, a row of ``adaptations`` and one of ``guides``;
    else ``none`` stands in their places.
``maker(inputs, wanted, machine, **section)``
    Opens what it needs of ``inputs`` (:class:`ims3core.data.inputs.Inputs`) and returns a function from a list of
    places (:class:`ims3core.data.pools.Spot`: IPC or 0, draw, class, index) to what is made there
    (:class:`ims3core.data.pools.Made`: uint8 images (B, channels, side, side), latents or None).
    ``wanted`` is a :class:`ims3core.data.pools.Wanted`: how many images, their seeds, sampler and guide.
    An image is a function of ``wanted.seed(spot)`` and its place, never of its batch companions.
    ``maker = None``: nothing is made, the pool is an index of the real training images.
``calls(wanted, **section)``
    Network calls that one image costs.

One whose images depend on how many there are also has ``PER_IPC = True``; its pools are sized by ``eval.ipc``.
"""

ENTRY = ("Section", "SAMPLED", "maker", "calls")
