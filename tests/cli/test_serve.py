"""`trio-broker serve` as a process: what it announces, what it refuses, how it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.server import SERVE, running_server
from trio_broker.client.connection import open_connection
from trio_broker.wire.messages.metadata import MetadataRequest, MetadataResponse

if TYPE_CHECKING:
    from pathlib import Path


async def test_it_announces_where_it_listens_and_stops_with_0(tmp_path: Path) -> None:
    with running_server(tmp_path / "data") as server:
        async with open_connection(server.host, server.port) as connection:
            answer = await connection.request(MetadataRequest(topics=None), MetadataResponse)
        assert [(broker.host, broker.port) for broker in answer.brokers] == [
            (server.host, server.port)
        ]
    assert server.process.returncode == 0


def test_sigint_stops_in_order_too(tmp_path: Path) -> None:
    with running_server(tmp_path / "data") as server:
        server.process.send_signal(signal.SIGINT)
        assert server.wait() == 0
    assert "SIGINT" in server.stderr()


async def test_clients_are_told_the_advertised_address(tmp_path: Path) -> None:
    options = ["--advertise", "broker.example:9092"]
    with running_server(tmp_path / "data", listen="0.0.0.0:0", options=options) as server:
        async with open_connection("127.0.0.1", server.port) as connection:
            answer = await connection.request(MetadataRequest(topics=None), MetadataResponse)
    assert [(broker.host, broker.port) for broker in answer.brokers] == [("broker.example", 9092)]


def refused(data_dir: Path, *options: str, code: int = 1) -> str:
    """Start a server that must end by itself with that code; return what it wrote to stderr."""
    result = subprocess.run(
        [*SERVE, "serve", "--data-dir", str(data_dir), "--http", "off", *options],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert result.returncode == code, result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return result.stderr


def test_a_directory_in_use_is_refused_with_1(tmp_path: Path) -> None:
    with running_server(tmp_path / "data"):
        said = refused(tmp_path / "data", "--listen", "127.0.0.1:0")
    assert "cannot start" in said
    assert str(tmp_path / "data") in said
    assert "Stop the broker that has it, or name another directory with --data-dir." in said


def test_a_directory_of_another_node_is_refused_with_2(tmp_path: Path) -> None:
    with running_server(tmp_path / "data"):
        pass
    said = refused(tmp_path / "data", "--listen", "127.0.0.1:0", "-X", "node_id=4", code=2)
    assert "belongs to node 0, this broker is configured as node 4; set node_id=0 or" in said


def test_a_log_directory_of_kafka_is_refused_with_2_and_left_as_it_was(tmp_path: Path) -> None:
    kafka = tmp_path / "kafka"
    kafka.mkdir()
    (kafka / "meta.properties").write_text("version=1\ncluster.id=x\nnode.id=1\n")
    for options in (["--data-dir", str(kafka)], ["-X", f"log_dirs={kafka}"]):
        said = refused(tmp_path / "data", "--listen", "127.0.0.1:0", *options, code=2)
        assert f"{kafka} is a log directory of Apache Kafka" in said
        assert "name an empty directory" in said
        assert os.listdir(kafka) == ["meta.properties"]
    assert not (tmp_path / "data").exists()


def test_a_port_in_use_is_refused_with_1(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        said = refused(tmp_path / "data", "--listen", address)
    assert f"cannot start: cannot listen on {address}: Address already in use\n" in said
    assert "take another port with --listen or --http" in said
    assert not (tmp_path / "data").exists(), "looked at after the logs were opened"


def test_a_directory_that_cannot_be_made_is_refused_with_1(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    said = refused(tmp_path / "file" / "data", "--listen", "127.0.0.1:0")
    assert f"cannot start: {tmp_path / 'file'}" in said
    assert f"Name a directory that this user (uid {os.geteuid()}) can make and write to" in said


def test_a_link_is_a_data_dir_and_no_log_dir(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "real")
    with running_server(link):
        pass
    said = refused(tmp_path / "data", "--listen", "127.0.0.1:0", "-X", f"log_dirs={link}")
    assert "That is a symbolic link, which does not lock what it points to" in said


def test_several_addresses_get_a_line_each(tmp_path: Path) -> None:
    arguments = ["serve", "--data-dir", str(tmp_path / "data"), "--http", "off"]
    arguments += ["--listen", "127.0.0.1:0", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(
        [*SERVE, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        lines = {process.stdout.readline() for _ in range(2)}
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert len(lines) == 2
    assert all(line.startswith("listening kafka://127.0.0.1:") for line in lines)


@pytest.mark.parametrize("stdout", ["a full disk", "a pipe that nobody reads"])
def test_it_serves_and_stops_in_order_if_it_cannot_tell_where_it_listens(
    tmp_path: Path, stdout: str
) -> None:
    arguments = ["serve", "--data-dir", str(tmp_path / "data"), "--http", "off"]
    if stdout == "a full disk":
        target = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, target = os.pipe()
        os.close(reader)
    with subprocess.Popen(
        [*SERVE, *arguments, "--listen", "127.0.0.1:0"],
        stdout=target,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        os.close(target)
        assert process.stderr is not None
        assert any("stdout does not take" in line for line in process.stderr)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, process.stderr.read()


WITH_A_BUG = """
import sys
import trio
from trio_broker import BrokerConfig
from trio_broker.broker.server_main import run_server

def announce(protocol, addresses):
    raise ZeroDivisionError("a bug beside the broker")

async def main():
    config = BrokerConfig(data_dir=sys.argv[1], listeners=("127.0.0.1:0",))
    return await run_server(config, announce=announce)

sys.exit(trio.run(main))
"""


def test_a_bug_beside_the_broker_ends_the_process_in_order(tmp_path: Path) -> None:
    """It must not go on without the task that obeys signals."""
    data_dir = tmp_path / "data"
    result = subprocess.run(
        [sys.executable, "-c", WITH_A_BUG, str(data_dir)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert result.returncode == 1
    assert "a bug beside the broker" in result.stderr
    assert (data_dir / "logs" / "clean-shutdown").exists()
