"""`trio-broker serve` with its HTTP server, as a process; and what its options refuse."""

from __future__ import annotations

import signal
import subprocess
from typing import TYPE_CHECKING

from click.testing import CliRunner

from tests.support.http import ask
from tests.support.server import SERVE, free_port, start_server
from tests.support.waiting import wait_until
from trio_broker.cli.commands import command_line

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

TOKEN = "a-token-of-some-length"


def test_a_probe_sees_503_while_the_process_still_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIO_BROKER_HTTP__TOKEN", TOKEN)
    address = f"127.0.0.1:{free_port()}"
    base = f"http://{address}"
    server = start_server(
        tmp_path / "data",
        options=("--http", address),
        settings={"shutdown.ready_grace_seconds": 2},
    )
    assert ask(base, "/health/ready") == (200, {"status": "ready", "phase": "serving"})
    assert ask(base, "/metrics")[0] == 401
    status, page = ask(base, "/metrics", token=TOKEN)
    assert status == 200
    assert "process_resident_memory_bytes" in page
    assert ask(base, "/health", token=TOKEN)[1]["log_dirs"][0]["path"].startswith(str(tmp_path))
    server.terminate()
    wait_until(lambda: ask(base, "/health/ready")[0] == 503, seconds=2, what="503 in time")
    assert ask(base, "/health/live")[0] == 200
    assert server.wait() == 0
    assert TOKEN not in server.stderr()


def test_it_says_where_it_listens_for_both(tmp_path: Path) -> None:
    options = ["--data-dir", str(tmp_path / "data"), "--listen", "127.0.0.1:0"]
    with subprocess.Popen(
        [
            *SERVE,
            "serve",
            *options,
            "--http",
            "127.0.0.1:0",
            "-X",
            "shutdown.ready_grace_seconds=0",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(2)]
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert lines[0].startswith("listening kafka://127.0.0.1:")
    assert lines[1].startswith("listening http://127.0.0.1:")


def refusal(*options: str) -> str:
    """Run `serve`, which must refuse with exit code 2; return what it says."""
    result = CliRunner().invoke(command_line, ["serve", *options])
    assert result.exit_code == 2, result.output
    return result.stderr


def test_to_be_open_to_strangers_is_refused_before_anything_is_opened() -> None:
    said = refusal("--http", "0.0.0.0:9644")
    assert "http.listen: '0.0.0.0:9644' can be reached from other machines" in said
    assert "http.token" in said


def test_what_is_no_address_is_refused() -> None:
    assert "http.listen" in refusal("--http", "9644")


def test_a_weak_token_is_refused_and_not_repeated() -> None:
    said = refusal("--http", "0.0.0.0:9644", "--http-token", "hunter2")
    assert "http.token must be 16 to 1000" in said
    assert "hunter2" not in said


def test_missing_libraries_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trio_broker.broker.http_server._LIBRARIES", {"no_such_module": "hyper"})
    said = refusal("--data-dir", "unused")
    assert "need hyper: pip install 'trio-broker[server]'" in said
    assert "--http off" in said
