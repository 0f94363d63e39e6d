"""`trio-broker cluster` and `completion`, and what commands say when nobody answers."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.cli.commands import PATIENCE_SECONDS, Commands, check_shape
from tests.support.requirements import missing_programs, skip_loudly
from tests.support.server import free_port, running_server
from trio_broker.testing import broker_thread
from trio_broker.testing.memory import config_for_tests

NOBODY = Commands("127.0.0.1:1")


def test_info_names_brokers_and_disks(commands: Commands) -> None:
    value = commands.json("cluster", "info")
    check_shape("cluster info", value)
    [broker] = value["brokers"]
    assert f"{broker['host']}:{broker['port']}" == commands.bootstrap
    assert broker["is_controller"]
    [log_dir] = value["log_dirs"]
    assert log_dir["error"] is None
    assert log_dir["total_bytes"] > log_dir["usable_bytes"] > 0
    assert log_dir["path"] in commands.call("cluster", "info").stdout


def test_health_is_an_exit_code(commands: Commands) -> None:
    value = commands.json("cluster", "health")
    check_shape("cluster health", value)
    assert value["healthy"]
    assert commands.call("cluster", "health").stdout == "healthy\n"


def test_waiting_for_health_ends_when_a_broker_starts(tmp_path: Path) -> None:
    port = free_port()
    outcomes = []
    waiting = threading.Thread(
        target=lambda: outcomes.append(
            Commands(f"127.0.0.1:{port}").run("cluster", "health", "--wait", "--timeout", "60")
        )
    )
    waiting.start()
    try:
        with running_server(tmp_path / "data", listen=f"127.0.0.1:{port}"):
            waiting.join(PATIENCE_SECONDS)
    finally:
        waiting.join(PATIENCE_SECONDS)
    assert [outcome.stdout for outcome in outcomes] == ["healthy\n"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["topic", "list"],
        ["group", "list"],
        ["cluster", "health"],
        ["cluster", "health", "--wait"],
        ["topic", "delete", "orders", "-y"],
    ],
    ids=" ".join,
)
def test_nobody_there_ends_with_4_and_says_what_to_do(arguments: list[str]) -> None:
    outcome = NOBODY.call(*arguments, "--timeout", "0.2", code=4)
    assert outcome.stdout == ""
    assert "trio-broker serve" in outcome.stderr
    assert "TRIO_BROKER_BOOTSTRAP" in outcome.stderr


def test_produce_and_consume_end_with_4_too() -> None:
    for command in ("produce", "consume"):
        assert (
            "no broker answers" in NOBODY.run(command, "orders", "--timeout", "0.2", code=4).stderr
        )


def test_an_address_that_is_none_is_a_mistake_of_usage() -> None:
    assert "--bootstrap" in Commands("localhost").call("topic", "list", code=2).stderr


def test_an_advertised_address_that_leads_nowhere_is_told_from_no_broker() -> None:
    with broker_thread(config_for_tests(advertised="127.0.0.1:1")) as broker:
        address = broker.bootstrap
        outcome = Commands(address).call("cluster", "health", "--timeout", "0.2", code=4)
    assert "cannot connect to 127.0.0.1:1: Connection refused" in outcome.stderr
    assert f"{address} answers, and says that the broker is at 127.0.0.1:1" in outcome.stderr
    assert "--advertise" in outcome.stderr


def test_who_answers_with_something_else_is_no_broker() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        server = threading.Thread(target=answer)
        server.start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        outcome = Commands(address).call("topic", "list", "--timeout", "2", code=4)
        server.join()
    assert "Does a Kafka broker listen at" in outcome.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_take_the_completion_script(shell: str, tmp_path: Path) -> None:
    script = Commands("").call("completion", shell).stdout
    assert "_TRIO_BROKER_COMPLETE" in script
    if shell == "fish":
        assert 'string split --max 1 ","' in script, "descriptions would end at their first comma"
    if shutil.which(shell) is None:
        if shell == "bash":
            skip_loudly("completion in bash", missing_programs("bash"))
        return
    path = tmp_path / "script"
    path.write_text(script)
    subprocess.run([shell, "-n", path], check=True, timeout=PATIENCE_SECONDS)


def test_bash_completes_commands_and_options(tmp_path: Path) -> None:
    if missing := missing_programs("bash"):
        skip_loudly("completion in bash", missing)
    program = tmp_path / "trio-broker"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m trio_broker "$@"\n')
    program.chmod(0o755)

    def completed(*words: str) -> list[str]:
        line = (
            'eval "$(trio-broker completion bash)"; '
            f"COMP_WORDS=(trio-broker {' '.join(words)}); COMP_CWORD={len(words)}; "
            '_trio_broker_completion trio-broker; printf "%s\\n" "${COMPREPLY[@]}"'
        )
        result = subprocess.run(
            ["bash", "-c", line],
            env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=True,
        )
        return result.stdout.split()

    assert completed("to") == ["topic"]
    assert "--before-offset" in completed("topic", "truncate", "x", "--be")
    assert completed("produce", "x", "-z", "zs") == ["zstd"]


def test_an_interrupt_ends_with_130() -> None:
    """Here while the command waits for a broker that says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE_SECONDS)
        waiting = Commands(f"127.0.0.1:{listener.getsockname()[1]}")
        with waiting.start("topic", "list", stderr=subprocess.PIPE) as process:
            connection, _ = listener.accept()
            with connection:
                process.send_signal(signal.SIGINT)
                assert process.wait(PATIENCE_SECONDS) == 130
            assert process.stderr is not None
            assert process.stderr.read() == b""
