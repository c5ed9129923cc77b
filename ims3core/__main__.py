"""``python -m ims3core``: the same command line as ``ims3``, or a server that holds it warm."""

import importlib
import os
import sys

from ims3core.pipeline import warm

LOADED = ("ims3core.pipeline.harness", "torch", "stages.students", "stages.select", "stages.coverage")
VAE = "diffusers.models.autoencoders.autoencoder_kl"  # as long to load as torch, for the stages up to candidates
BEFORE_CANDIDATES = ("prepare", "generator", "latents", "finetune", "guides", "candidates")
serves = sys.argv[1:2] == [warm.SERVE]

if not serves and (code := warm.ask(sys.argv[1:])) is not None:
    raise SystemExit(code)

from ims3core.pipeline import graph  # noqa: E402  heavy, and not needed where a server answers

if load := serves or warm.is_run_by_dvc():
    graph.loaded_code()  # before more of it is loaded

from ims3core.cli import main  # noqa: E402

if load:
    for name in (*LOADED, *([VAE] if sys.argv[1] in BEFORE_CANDIDATES else [])):
        importlib.import_module(name)
if serves:
    starter = os.getppid()
    warm.serve(sys.argv[2], main, lambda: not graph.changed_code(), lambda: os.getppid() == starter)
else:
    if load:
        warm.leave_behind(main, lambda: not graph.changed_code())
    main()
