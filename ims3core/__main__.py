"""``python -m ims3core``: the same command line as ``ims3``."""

from ims3core.cli import main

main()
