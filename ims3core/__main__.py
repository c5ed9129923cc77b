"""``python -m ims3core``: the same command line as ``ims3``."""

import sys

from ims3core.pipeline import warm

if (code := warm.ask(sys.argv[1:])) is not None:
    raise SystemExit(code)

from ims3core.cli import main  # noqa: E402  heavy, and not needed where a server answers

main()
