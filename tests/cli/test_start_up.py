"""Help and completion answer at once: they load click and the declarations of commands only."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from trio_broker.cli.commands import command_line

#: What takes long to load, and nobody needs to be told how a command is used.
HEAVY = (
    "trio attrs cattrs rich structlog psutil starlette trio_broker.broker trio_broker.client "
    "trio_broker.config trio_broker.host"
)


def groups() -> list[list[str]]:
    """Return the words that lead to each group of commands, none for the top."""
    return [[], *([name] for name, one in sorted(command_line.commands.items()) if is_group(one))]


def is_group(command: click.Command) -> bool:
    return isinstance(command, click.Group)


def loaded_by(arguments: list[str], completing: str | None = None) -> tuple[str, list[str]]:
    """Run the command line in a process of its own; return its output and the heavy modules."""
    code = (
        "import atexit, sys\n"
        f"heavy = {HEAVY.split()}\n"
        "atexit.register(lambda: print([n for n in heavy if n in sys.modules], file=sys.stderr))\n"
        f"sys.argv = ['trio-broker', *{arguments}]\n"
        "from trio_broker.cli.main import main\n"
        "main()\n"
    )
    environment = {"PATH": "/usr/bin:/bin"}
    if completing is not None:
        environment |= {
            "_TRIO_BROKER_COMPLETE": "zsh_complete",
            "COMP_WORDS": f"trio-broker {completing}",
            "COMP_CWORD": str(len(completing.split(" "))),
        }
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=60,
    )
    loaded = result.stderr.strip().splitlines()[-1]
    return result.stdout, [name for name in loaded.strip("[]").replace("'", "").split(", ") if name]


@pytest.mark.parametrize("words", groups(), ids=lambda words: " ".join(words) or "top")
def test_help_loads_nothing_heavy(words: list[str]) -> None:
    output, loaded = loaded_by([*words, "--help"])
    assert "Usage: trio-broker" in output
    assert loaded == []


def test_completion_loads_nothing_heavy() -> None:
    output, loaded = loaded_by([], completing="se")
    assert "serve" in output
    assert loaded == []
    output, loaded = loaded_by([], completing="serve --log-")
    assert "--log-level" in output
    assert loaded == []
