"""The command line as a process: what it prints where, and its exit codes."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from trio_broker.cli import main


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trio_broker", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_names_the_commands() -> None:
    result = run("--help")
    assert result.returncode == 0
    for command in ("serve", "demo", "log"):
        assert command in result.stdout


def test_settings_are_listed() -> None:
    result = run("serve", "-X", "list")
    assert result.returncode == 0
    assert "network.connections_max=10000" in result.stdout
    assert "storage.durability=fsync" in result.stdout


def test_configuration_mistakes_exit_with_2_and_say_all() -> None:
    result = run("serve", "--listen", "0.0.0.0:9092", "-X", "node_idd=1", "-X", "num_partitions=0")
    assert result.returncode == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 3
    assert "did you mean 'node_id'?" in result.stderr
    assert "advertised" in result.stderr


def test_usage_mistakes_exit_with_2() -> None:
    result = run("serve", "--lisen", "127.0.0.1:0")
    assert result.returncode == 2
    assert "--listen" in result.stderr


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
