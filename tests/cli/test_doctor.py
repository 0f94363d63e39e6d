"""`trio-broker doctor`: each finding says what to do, the exit code whether it has to be done."""

from __future__ import annotations

import shlex
import socket
import subprocess
from pathlib import Path

import pytest

from tests.cli.commands import PATIENCE_SECONDS, PROGRAM, Commands, check_shape
from tests.support.server import free_port
from trio_broker.cli import doctor_checks
from trio_broker.storage.disk_state import Thresholds

ALONE = Commands("")


def findings(*arguments: str, code: int = 0) -> dict[tuple[str, str], str]:
    """Run it; return what is to be done by (level, check), for findings that have advice."""
    rows = ALONE.json("doctor", *arguments, code=code)
    check_shape("doctor", rows)
    return {(row["level"], row["check"]): row["message"] for row in rows}


def serve_as(data_dir: Path, port: int | None = None) -> list[str]:
    listen = f"127.0.0.1:{free_port() if port is None else port}"
    return ["--data-dir", str(data_dir), "--listen", listen, "--http", "127.0.0.1:0"]


def test_a_machine_that_is_fine(tmp_path: Path) -> None:
    found = findings(*serve_as(tmp_path / "data"))
    assert not [check for level, check in found if level == "failure"]
    assert ("ok", "configuration") in found
    assert ("ok", "extra server") in found
    assert not (tmp_path / "data").exists()  # it only looks
    (tmp_path / "data").mkdir()
    text = ALONE.call("doctor", *serve_as(tmp_path / "data"))
    assert "can be written, fsync takes" in text.stdout
    assert "0 failures" in text.stderr
    assert list((tmp_path / "data").iterdir()) == []


def test_every_mistake_in_the_configuration_is_a_finding(tmp_path: Path) -> None:
    file = tmp_path / "broker.toml"
    file.write_text('node_idd = 1\n[topic]\nretention_ms = "7 dayz"\n')
    rows = ALONE.json("doctor", "-c", str(file), code=1)
    faults = [row["message"] for row in rows if row["level"] == "failure"]
    assert len(faults) == 2
    assert "did you mean" in faults[0]


def test_directories_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path)
    for name, reason in (("file", "is no directory"), ("link", "is a symbolic link")):
        path = tmp_path / name
        found = findings(*serve_as(tmp_path), "-X", f"log_dirs={path}", code=1)
        assert found["failure", f"directory {path}"] == reason
    findings(*serve_as(tmp_path / "link"))  # as systemd makes of StateDirectory


def test_a_port_that_is_taken_and_an_address_that_is_not_ours(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = findings(*serve_as(tmp_path, port), "--listen", "192.0.2.1:1", code=1)
    assert "in use" in found["failure", f"port kafka://127.0.0.1:{port}"]
    assert ("failure", "port kafka://192.0.2.1:1") in found


def test_a_broker_that_runs_here_is_recognised(commands: Commands) -> None:
    if commands.data_dir is None:
        pytest.skip("this is another broker")
    port = int(commands.bootstrap.rpartition(":")[2])
    rows = ALONE.json("doctor", *serve_as(commands.data_dir, port))
    in_use = {row["check"]: row for row in rows if "is in use by pid" in row["message"]}
    data_dir = str(commands.data_dir)
    assert set(in_use) == {f"directory {data_dir}", f"directory {data_dir}/logs"}
    assert {row["level"] for row in in_use.values()} == {"warning"}
    assert all("could not start here" in row["advice"] for row in in_use.values())
    assert "in use, presumably by the broker that runs here" in {
        row["message"] for row in rows if row["level"] == "ok"
    }


@pytest.mark.parametrize("level", ["warning", "failure"])
def test_a_disk_that_fills_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: str) -> None:
    full = 2**62
    limits = Thresholds(full, full if level == "failure" else 0)
    monkeypatch.setattr(doctor_checks, "thresholds", lambda _total: limits)
    found = findings(*serve_as(tmp_path), code=1 if level == "failure" else 0)
    assert "free: below" in found[level, f"directory {tmp_path}"]
    findings(*serve_as(tmp_path), "--strict", code=1)


def test_memory_is_no_disk(tmp_path: Path) -> None:
    shared = Path("/dev/shm")
    if not shared.is_dir():
        pytest.skip("there is no /dev/shm")
    found = findings(*serve_as(shared / tmp_path.name))
    assert any(level == "warning" and "tmpfs" in message for (level, _), message in found.items())


def test_too_few_descriptors(tmp_path: Path) -> None:
    command = shlex.join([*PROGRAM, "doctor", *serve_as(tmp_path)])
    result = subprocess.run(
        ["sh", "-c", f"ulimit -n 60; exec {command}"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert result.returncode == 1
    assert "the process may have 60 descriptors" in result.stdout
    assert "-> raise it: LimitNOFILE=65536" in result.stdout


@pytest.mark.parametrize(
    "advertised, level, said",
    [
        ("nobody.invalid:9092", "warning", "cannot be resolved here"),
        ("localhost:9092", "warning", "is this machine for itself"),
        ("192.0.2.7:9092", "ok", "is 192.0.2.7"),
    ],
)
def test_the_address_that_clients_are_told(
    tmp_path: Path, advertised: str, level: str, said: str
) -> None:
    options = ["--listen", f"0.0.0.0:{free_port()}", "--http", "off", "--advertise", advertised]
    found = findings("--data-dir", str(tmp_path / "data"), *options)
    assert said in found[level, f"advertised {advertised}"]


def test_a_log_directory_of_kafka_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "meta.properties").write_text("version=1\n")
    found = findings(*serve_as(tmp_path), code=1)
    assert "log directory of Apache Kafka" in found["failure", f"directory {tmp_path}"]
