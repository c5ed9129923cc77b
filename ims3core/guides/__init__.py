"""What the sampler knows of the real latents.

An entry of this axis has

``Section``
    Its keys.
``GIVES``
    ``targets`` or ``starts``, see :mod:`ims3core.samplers`.
``PER_IPC``
    Whether what it gives depends on the images per class, so that a pool is made for every IPC.
``NETWORK``
    Whether ``prepare`` asks the generator; then guide and pool must name the same adaptation.
``prepare(latents, denoiser, label, **section)``
    Once per class, without IPC or draw, nothing random: tensors by name from the clean latents
    (N, channels, side, side) of one class, whose generator label is ``label``.
``start(prepared, ipc, generator, **section)``
    What the sampler is given for the ``ipc`` images of one class and draw together, (ipc, channels, side, side);
    ``ipc`` is the images per class of the pool where not ``PER_IPC``. Random only by ``generator``, seeded by draw,
    class and IPC.
``calls(images, **section)``
    Network calls of ``prepare`` for a class of ``images`` images.

``none`` stands for no guide.
"""

ENTRY = ("Section", "GIVES", "PER_IPC", "NETWORK", "prepare", "start", "calls")
