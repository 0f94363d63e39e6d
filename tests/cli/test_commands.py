"""The command line: what it prints where, and its exit codes."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from trio_broker import __version__
from trio_broker.cli import main
from trio_broker.cli.commands import command_line

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command_line, arguments, prog_name="trio-broker")


def test_it_runs_as_a_module() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "trio_broker", "--version"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stdout) == (0, f"trio-broker, version {__version__}\n")


def test_help_names_the_commands() -> None:
    result = run("--help")
    assert result.exit_code == 0
    for command in ("serve", "demo", "log"):
        assert command in result.stdout


def test_settings_are_listed() -> None:
    result = run("serve", "-X", "list")
    assert result.exit_code == 0
    assert "network.connections_max=10000" in result.stdout
    assert "storage.durability=fsync" in result.stdout


def test_configuration_mistakes_exit_with_2_and_say_all() -> None:
    result = run("serve", "--listen", "0.0.0.0:9092", "-X", "node_idd=1", "-X", "num_partitions=0")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 3
    assert "did you mean 'node_id'?" in result.stderr
    assert "advertised" in result.stderr


def test_usage_mistakes_exit_with_2() -> None:
    result = run("serve", "--lisen", "127.0.0.1:0")
    assert result.exit_code == 2
    assert "--listen" in result.stderr


def test_a_python_that_is_too_old_is_named_before_missing_libraries(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(main, "_PYTHON_MIN", (4, 2))
    with pytest.raises(SystemExit) as caught:
        main.main()
    assert caught.value.code == 2
    assert "Python 4.2 or newer is needed; this is 3." in capsys.readouterr().err


def test_the_oldest_python_is_that_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=" + ".".join(map(str, main._PYTHON_MIN))


def test_a_missing_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "click" else found(name)
    )
    with pytest.raises(SystemExit) as caught:
        main.main()
    assert caught.value.code == 2
    assert "pip install 'trio-broker[server]'" in capsys.readouterr().err
