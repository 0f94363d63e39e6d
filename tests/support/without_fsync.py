"""The broker's command line with fsync and fdatasync doing nothing: a deliberately broken build.

``python -m tests.support.without_fsync serve ...`` is what the power-cut rig must catch: if a run
of this build in ``fsync`` mode passed, the rig would prove nothing.
"""

from __future__ import annotations

import os
import sys


def _pretend(file_descriptor: int) -> None:
    """Report success without asking the disk for anything."""


def main() -> None:
    """Replace the system calls before anything of the broker can have bound them, then run it."""
    os.fsync = _pretend  # type: ignore[assignment]
    os.fdatasync = _pretend  # type: ignore[assignment]
    from trio_broker.cli.main import main as broker_main

    sys.argv[0] = "trio-broker"
    broker_main()


if __name__ == "__main__":
    main()
