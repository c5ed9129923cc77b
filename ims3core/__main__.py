"""``python -m ims3core``: the same command line as ``ims3``, or a server that holds it warm."""

import importlib
import sys

from ims3core.pipeline import warm

LOADED = ("ims3core.pipeline.harness", "torch", "stages.students", "stages.select", "stages.coverage")
serves = sys.argv[1:2] == [warm.SERVE]

if not serves and (code := warm.ask(sys.argv[1:])) is not None:
    raise SystemExit(code)

from ims3core.pipeline import graph  # noqa: E402  heavy, and not needed where a server answers

if serves:
    graph.loaded_code()  # before more of it is loaded

from ims3core.cli import main  # noqa: E402

if serves:
    for name in LOADED:
        importlib.import_module(name)
    warm.serve(sys.argv[2], main, lambda: not graph.changed_code())
else:
    main()
