"""How a chosen set is optimised further.

An entry of this axis has

``Section``
    Its keys.
``refine(chosen, real, names, seed, machine, progress, **section)``
    New uint8 images (N, channels, side, side) in the order of ``chosen``, a :class:`ims3core.data.ImageSet` of
    one drawn set; ``real`` is the ImageSet of the training images. Random only by ``seed``, which is that of the set.
    Raises NumericsError when it diverges; the set it started from is then kept by its own row.
"""

ENTRY = ("Section", "refine")
