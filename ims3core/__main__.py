"""``python -m ims3core``: the same command line as ``ims3``, or a server that holds it warm."""

import importlib
import os
import sys

from ims3core.pipeline import warm

serves = sys.argv[1:2] == [warm.SERVE]

if not serves and (code := warm.ask(sys.argv[1:])) is not None:
    raise SystemExit(code)

from ims3core.pipeline import graph  # noqa: E402  heavy, and not needed where a server answers

if load := serves or warm.is_run_by_dvc():
    graph.loaded_code()  # before more of it is loaded

from ims3core.cli import main  # noqa: E402

if load:
    for name in warm.modules("".join(sys.argv[1:2])):
        importlib.import_module(name)
if serves:
    starter = os.getppid()
    warm.serve(sys.argv[2], main, lambda: not graph.changed_code(), lambda: os.getppid() == starter)
else:
    if load:
        warm.leave_behind(main, lambda: not graph.changed_code())
    main()
