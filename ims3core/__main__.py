"""``python -m ims3core``: the same command line as ``ims3``, or a server that holds it warm."""

import os
import sys

from ims3core.pipeline import warm
from ims3core.pipeline.served import served

serves = sys.argv[1:2] == [warm.SERVE]
starter = os.getppid()

dvc = None if serves else served()
if not serves and (code := warm.ask(sys.argv[1:], dvc)) is not None:
    raise SystemExit(code)

from ims3core.pipeline import graph  # noqa: E402  heavy, and not needed where a server answers

if serves or dvc:
    graph.loaded_code()  # before more of it is loaded

from ims3core.cli import main  # noqa: E402


def is_current() -> bool:
    """Whether the code is that which this process has loaded."""
    return not graph.changed_code()


if serves:
    warm.load("")
    warm.serve(sys.argv[2], main, is_current, lambda: os.getppid() != starter)
else:
    if dvc and warm.load("".join(sys.argv[1:2])):
        warm.leave_behind(dvc, main, is_current)
    main()
