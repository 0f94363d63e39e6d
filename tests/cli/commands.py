"""Runs client commands against one server: in this process where that shows enough, else as one.

A process of its own costs a third of a second, most of it imports, and is needed for signals,
pipes and the descriptors 0 and 1.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import attrs
import pytest
from click.testing import CliRunner

from trio_broker.cli import shapes
from trio_broker.cli.commands import command_line

if TYPE_CHECKING:
    from trio_broker.cli.shapes import Fields

PATIENCE_SECONDS = 60
PROGRAM = (sys.executable, "-m", "trio_broker")


class Outcome(NamedTuple):
    """How a command ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)

    @property
    def rows(self) -> list[Any]:
        """What JSON lines say."""
        return [json.loads(line) for line in self.stdout.splitlines()]


@attrs.define
class Commands:
    """Commands that talk to one broker.

    Attributes:
        bootstrap: its address.
        data_dir: where it keeps its data; None if it is not ours.
    """

    bootstrap: str
    data_dir: Path | None = None

    @property
    def is_ours(self) -> bool:
        """Whether it is this broker, and not another Kafka."""
        return self.data_dir is not None

    def only_ours(self) -> None:
        """Skip the rest of a test that is about this broker only."""
        if not self.is_ours:
            pytest.skip("this is another broker")

    @property
    def environment(self) -> dict[str, str]:
        """For processes: the broker to talk to."""
        return {**os.environ, "TRIO_BROKER_BOOTSTRAP": self.bootstrap}

    def call(self, *arguments: str, given: bytes = b"", code: int | None = 0) -> Outcome:
        """Run a command in this process; it must end with `code` (None: any), by itself."""
        result = CliRunner().invoke(
            command_line,
            arguments,
            input=given,
            prog_name="trio-broker",
            env={"TRIO_BROKER_BOOTSTRAP": self.bootstrap},
        )
        assert result.exception is None or isinstance(result.exception, SystemExit)
        assert code in {None, result.exit_code}, f"{arguments}: {result.output}{result.exception!r}"
        return Outcome(result.exit_code, result.stdout, result.stderr)

    def run(self, *arguments: str, given: bytes = b"", code: int = 0) -> Outcome:
        """Run a command as a process; it must end with `code`, and without a traceback."""
        result = subprocess.run(
            [*PROGRAM, *arguments],
            input=given,
            capture_output=True,
            env=self.environment,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        stderr = result.stderr.decode()
        assert result.returncode == code, f"{arguments}: {stderr}"
        assert "Traceback" not in stderr
        return Outcome(result.returncode, result.stdout.decode(), stderr)

    def start(self, *arguments: str, **keywords: Any) -> subprocess.Popen[bytes]:
        """Start a command as a process that the caller ends."""
        return subprocess.Popen([*PROGRAM, *arguments], env=self.environment, **keywords)

    def json(self, *arguments: str, code: int = 0) -> Any:
        """Run a command with ``-O json`` and return what it wrote."""
        return self.call(*arguments, "-O", "json", code=code).json


def check_shape(command: str, value: Any) -> None:
    """Compare what a command wrote with what is documented."""
    _check_fields(command, value, shapes.BY_COMMAND[command])


def _check_fields(where: str, value: Any, fields: Fields) -> None:
    if isinstance(value, list):
        for each in value:
            _check_fields(where, each, fields)
        return
    assert list(value) == list(fields), where
    for name, meaning in fields.items():
        if isinstance(meaning, dict):
            assert isinstance(value[name], list)
            _check_fields(f"{where}.{name}", value[name], meaning)
