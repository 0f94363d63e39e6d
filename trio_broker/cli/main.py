"""Entry of the command line: light, so that a missing extra gets a clear message."""

from __future__ import annotations

import importlib.util
import sys

EXIT_CRASH = 1
EXIT_USAGE = 2

#: Modules the commands need that an embedded broker does not.
_NEEDED = ("click", "rich", "structlog")


def main() -> None:
    """Run the command that `sys.argv` names and end the process with its exit code."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f"trio-broker: the command line needs {', '.join(missing)}, which the 'server' extra "
            "installs: pip install 'trio-broker[server]'",
            file=sys.stderr,
        )
        sys.exit(EXIT_USAGE)
    from trio_broker.cli.commands import command_line

    command_line(prog_name="trio-broker")
