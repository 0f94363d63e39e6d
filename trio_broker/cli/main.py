"""Entry of the command line: light, so that a missing extra gets a clear message."""

from __future__ import annotations

import importlib.util
import os
import sys

from trio_broker.cli.exits import (
    EXIT_BROKEN_PIPE,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    ReaderGone,
)

#: Modules the commands need that an embedded broker does not.
_NEEDED = ("click", "rich", "structlog")
#: As `requires-python` says; pip looks at that, a clone that is run in place does not.
_PYTHON_MIN = (3, 11)


def main() -> None:
    """Run the command that `sys.argv` names and end the process with its exit code."""
    if sys.version_info < _PYTHON_MIN:
        print(
            f"trio-broker: Python {'.'.join(map(str, _PYTHON_MIN))} or newer is needed; "
            f"this is {'.'.join(map(str, sys.version_info[:3]))}, {sys.executable}",
            file=sys.stderr,
        )
        sys.exit(EXIT_USAGE)
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f"trio-broker: the command line needs {', '.join(missing)}, which the 'server' extra "
            "installs: pip install 'trio-broker[server]'",
            file=sys.stderr,
        )
        sys.exit(EXIT_USAGE)
    try:
        code = _run()
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    except (ReaderGone, BrokenPipeError):
        forget_output()
        code = EXIT_BROKEN_PIPE
    except OSError as error:
        # A full disk behind stdout, for example: commands report what else can fail themselves.
        forget_output()
        print(f"trio-broker: {error}", file=sys.stderr)
        code = EXIT_FAILED
    sys.exit(code)


def forget_output() -> None:
    """Drop what is buffered for stdout; at its end the interpreter would fail to write it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _run() -> int:
    """Run the command and return its exit code.

    Click's own handling would end with 1 for an interrupt and for a reader that has gone.
    """
    import click

    from trio_broker.cli.commands import command_line

    try:
        result = command_line.main(prog_name="trio-broker", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort as abort:
        if isinstance(abort.__cause__, EOFError):
            print("trio-broker: stdin has ended; there was no answer", file=sys.stderr)
            return EXIT_USAGE
        return EXIT_INTERRUPTED
    return result if isinstance(result, int) else 0
