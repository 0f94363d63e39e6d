"""`trio-broker produce` and `consume`: values, places, streams, pipes, signals, and kcat."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
from contextlib import ExitStack, contextmanager
from typing import IO, TYPE_CHECKING

import pytest

from tests.cli.commands import PATIENCE_SECONDS, PROGRAM, Commands, check_shape
from tests.support import processes
from tests.support.requirements import missing_programs, skip_loudly
from tests.support.server import free_port, running_server
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def read_line(pipe: IO[bytes] | None) -> bytes:
    assert pipe is not None
    return pipe.readline()


# -------------------------------------------------------------------------------------- values
def test_lines_become_records_and_records_lines(
    commands: Commands, new_topic: Callable[..., str]
) -> None:
    topic = new_topic()
    commands.call("produce", topic, given=b"one\n\ntwo")
    assert commands.call("consume", topic, "-e").stdout == "one\n\ntwo\n"
    commands.call("produce", topic, "-K", ":", "-H", "h=1", "-z", "gzip", given=b"k:three\nfour\n")
    shown = commands.call("consume", topic, "-e", "-o", "3", "-f", r"%o|%k|%K|%s|%h\n").stdout
    assert shown == "3|k|1|three|h=1\n4||-1|four|h=1\n"
    commands.call("produce", topic, "-Z", "-k", "dead", "-D", "", given=b"x", code=2)
    commands.call("produce", topic, "-Z", "-k", "dead", given=b"\n")
    [row] = commands.call("consume", topic, "-e", "-o", "-1", "--json").rows
    check_shape("consume --json", row)
    assert (row["key"], row["value"], row["offset"]) == ("dead", None, 5)


def test_json_pipes_into_each_other_byte_for_byte(
    commands: Commands, new_topic: Callable[..., str]
) -> None:
    source, target = (new_topic(1, "-c", "retention.ms=-1") for _ in range(2))
    given = (
        b'{"key": "a", "value": {"base64": "/wAKIA=="}, "headers": [["h", null]]}\n'
        b"\n"
        b'{"value": null, "timestamp_ms": 1700000000000}\n'
    )
    commands.call("produce", source, "--json", given=given)
    with commands.start("consume", source, "-e", "--json", stdout=subprocess.PIPE) as consuming:
        copying = commands.start("produce", target, "--json", stdin=consuming.stdout)
        assert copying.wait(PATIENCE_SECONDS) == 0
    rows = commands.call("consume", target, "-e", "--json").rows
    assert [(row["key"], row["value"], row["headers"]) for row in rows] == [
        ("a", {"base64": "/wAKIA=="}, [["h", None]]),
        (None, None, []),
    ]
    assert rows[1]["timestamp_ms"] == 1_700_000_000_000
    raw = commands.call("consume", target, "-e", "-n", "1", "-f", "%S").stdout
    assert raw == "4"


def test_partitions_are_kept_if_that_is_asked_for(
    commands: Commands, new_topic: Callable[..., str]
) -> None:
    topic = new_topic(3)
    given = b'{"value": "x", "partition": 2}\n{"value": "y", "partition": 1}\n'
    commands.call("produce", topic, "--json", "--keep-partitions", given=given)
    rows = commands.call("consume", topic, "-e", "--json").rows
    assert {(row["partition"], row["value"]) for row in rows} == {(2, "x"), (1, "y")}


def test_files_are_read_by_line_or_whole(
    commands: Commands, new_topic: Callable[..., str], tmp_path: Path
) -> None:
    topic = new_topic()
    (tmp_path / "lines").write_bytes(b"1\n2\n3\n")
    (tmp_path / "picture").write_bytes(b"\x89\n\x00")
    commands.call("produce", topic, str(tmp_path / "lines"), "-", "-n", "4", given=b"4\n5\n")
    commands.call("produce", topic, str(tmp_path / "picture"), "--whole", "-k", "cat")
    rows = commands.call("consume", topic, "-e", "--json").rows
    assert [row["value"] for row in rows] == ["1", "2", "3", "4", {"base64": "iQoA"}]
    missing = commands.call("produce", topic, str(tmp_path / "missing"), code=1)
    assert "No such file" in missing.stderr


# -------------------------------------------------------------------------------------- places
def test_where_to_begin_and_to_stop(commands: Commands, new_topic: Callable[..., str]) -> None:
    topic = new_topic(2, "-c", "retention.ms=-1")
    lines = [
        f'{{"value": "{partition}{number}", "partition": {partition}, "timestamp_ms": {at}}}\n'
        for partition in (0, 1)
        for number, at in enumerate((1_000, 2_000, 3_000, 4_000))
    ]
    commands.call("produce", topic, "--json", "--keep-partitions", given="".join(lines).encode())

    def shown(*arguments: str) -> str:
        lines = commands.call("consume", topic, "-e", *arguments).stdout.split()
        return " ".join(sorted(lines))

    assert shown("-o", "-1") == "03 13"
    assert shown("-o", "2") == "02 03 12 13"
    assert shown("-o", "s@3000", "-p", "1") == "12 13"
    assert shown("-o", "s@2000", "-o", "e@3000") == "01 11"
    assert shown("-o", "end") == ""
    assert shown("-p", "0", "-n", "3") == "00 01 02"
    clamped = commands.call("consume", topic, "-e", "-p", "0", "-o", "9")
    assert clamped.stdout == ""
    assert "has offsets 0 to 4, not 9" in clamped.stderr


@pytest.mark.parametrize(
    "wrong",
    [
        ["consume", "t", "-o", "middle"],
        ["consume", "t", "-f", "%q"],
        ["consume", "t", "--json", "-f", "%s"],
        ["consume", "t", "-G", "g", "-p", "0"],
        ["consume", "t", "-G", "g", "-o", "5"],
        ["consume"],
        ["produce", "t", "--json", "-k", "x"],
        ["produce", "t", "--whole"],
        ["produce", "t", "-z", "rar"],
        ["produce", "t", "-k", "x", "-K", ":"],
        ["produce", "t", "--keep-partitions"],
    ],
    ids=" ".join,
)
def test_options_that_make_no_sense_end_with_2(commands: Commands, wrong: list[str]) -> None:
    assert commands.call(*wrong, code=2).stdout == ""


def test_names_that_are_wrong_end_with_1(commands: Commands, new_topic: Callable[..., str]) -> None:
    topic = new_topic()
    for arguments in (
        ["consume", "not-there", "-e"],
        ["produce", "not-there"],
        ["consume", topic, "-p", "3"],
        ["produce", topic, "-p", "3"],
    ):
        outcome = commands.call(*arguments, code=1)
        assert "UNKNOWN_TOPIC_OR_PARTITION" in outcome.stderr
    assert "only partition 0, and no partition 3" in outcome.stderr


def test_the_line_that_is_refused_is_named_and_those_before_it_are_stored(
    commands: Commands, new_topic: Callable[..., str]
) -> None:
    topic = new_topic(1, "-c", "max.message.bytes=1000")
    failed = commands.call("produce", topic, "-v", given=b"a\n" + b"b" * 5000 + b"\n", code=1)
    assert "stdin, record 2: MESSAGE_TOO_LARGE" in failed.stderr
    assert "`trio-broker topic alter` can raise it" in failed.stderr
    failed = commands.call("produce", topic, "--json", given=b'{"value": "c"}\nno\n', code=1)
    assert "stdin, record 2: not JSON" in failed.stderr
    failed = commands.call("produce", topic, "--record-bytes-max", "9", given=b"x" * 100, code=1)
    assert "no end of the record within 9 bytes" in failed.stderr
    assert commands.call("consume", topic, "-e").stdout.split() in (["a", "c"], ["c"])


# ------------------------------------------------------------------------------------- streams
def test_what_is_typed_is_sent_at_once_and_shown_at_once(
    commands: Commands, new_topic: Callable[..., str]
) -> None:
    topic = new_topic()
    with commands.start("consume", topic, stdout=subprocess.PIPE) as consuming:
        with commands.start("produce", topic, stdin=subprocess.PIPE) as producing:
            assert producing.stdin is not None
            for line in (b"first\n", b"second\n"):
                producing.stdin.write(line)
                producing.stdin.flush()
                assert read_line(consuming.stdout) == line
            producing.stdin.close()
            assert producing.wait(PATIENCE_SECONDS) == 0
        consuming.send_signal(signal.SIGINT)
        assert consuming.wait(PATIENCE_SECONDS) == 130


def test_an_interrupted_producer_sends_what_it_has_read(
    commands: Commands, new_topic: Callable[..., str]
) -> None:
    topic = new_topic()
    with commands.start("consume", topic, stdout=subprocess.PIPE) as consuming:
        with commands.start("produce", topic, stdin=subprocess.PIPE) as producing:
            assert producing.stdin is not None
            producing.stdin.write(b"".join(b"%d\n" % number for number in range(1000)))
            producing.stdin.flush()
            read_line(consuming.stdout)  # so it is in the middle of its work
            producing.send_signal(signal.SIGTERM)
            assert producing.wait(PATIENCE_SECONDS) == 143
            producing.stdin.close()
        consuming.terminate()
        assert consuming.wait(PATIENCE_SECONDS) == 143


def test_a_reader_that_has_gone_ends_it(commands: Commands, new_topic: Callable[..., str]) -> None:
    """Also while nothing is to be written, which is when nobody would notice."""
    topic = new_topic()
    commands.call("produce", topic, given=b"1\n")
    with commands.start(
        "consume", topic, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as consuming:
        assert read_line(consuming.stdout) == b"1\n"
        assert consuming.stdout is not None
        consuming.stdout.close()
        assert consuming.wait(PATIENCE_SECONDS) == 141
        assert consuming.stderr is not None
        assert consuming.stderr.read() == b""
    with commands.start("topic", "list", stdout=subprocess.PIPE) as listing:
        assert listing.stdout is not None
        listing.stdout.close()
        assert listing.wait(PATIENCE_SECONDS) == 141


def test_a_full_disk_behind_stdout_is_told(
    commands: Commands, new_topic: Callable[..., str]
) -> None:
    topic = new_topic()
    commands.call("produce", topic, given=b"1\n")
    with open("/dev/full", "wb") as full:
        for arguments in (["consume", topic, "-e"], ["topic", "list"]):
            with commands.start(*arguments, stdout=full, stderr=subprocess.PIPE) as process:
                assert process.wait(PATIENCE_SECONDS) == 1
                assert process.stderr is not None
                stderr = process.stderr.read().decode()
            assert "No space left on device" in stderr
            assert "Traceback" not in stderr


def test_a_slow_reader_costs_no_memory(
    commands: Commands, new_topic: Callable[..., str], tmp_path: Path
) -> None:
    """48 MiB behind a pipe that nobody reads, of which 16 are fetched ahead."""
    topic = new_topic()
    line = b"x" * 65_535 + b"\n"
    path = tmp_path / "lines"
    path.write_bytes(line * 768)
    commands.call("produce", topic, str(path))
    with commands.start("consume", topic, "-e", stdout=subprocess.PIPE) as consuming:
        assert read_line(consuming.stdout) == line
        before = processes.usage(consuming.pid)
        wait_until(
            lambda: _is_idle(consuming.pid),
            seconds=PATIENCE_SECONDS,
            what="the consumer to wait for its reader",
        )
        grown = processes.usage(consuming.pid).rss_bytes - before.rss_bytes
        assert consuming.stdout is not None
        rest = consuming.stdout.read()
        assert consuming.wait(PATIENCE_SECONDS) == 0
    assert len(rest) == 767 * len(line)
    assert grown < 40 * 1024 * 1024


def _is_idle(pid: int) -> bool:
    """Whether a process used no CPU while this one looked twice."""
    first = processes.usage(pid).cpu_seconds
    wait_until_later()
    return processes.usage(pid).cpu_seconds == first


def wait_until_later() -> None:
    signal.sigtimedwait([], 0.3)


@contextmanager
def at_work(
    commands: Commands, *options: str
) -> Iterator[tuple[subprocess.Popen[bytes], subprocess.Popen[bytes]]]:
    """A consumer and a producer that has sent one record to it; killed if they go on for longer."""
    with ExitStack() as stack:
        consuming, producing = (
            stack.enter_context(
                commands.start(
                    command,
                    "orders",
                    *options,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                )
            )
            for command in ("consume", "produce")
        )
        stack.callback(consuming.kill)
        stack.callback(producing.kill)
        type_line(producing, b"first\n")
        assert read_line(consuming.stdout) == b"first\n"
        yield consuming, producing


def type_line(process: subprocess.Popen[bytes], line: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(line)
    process.stdin.flush()


def test_a_broker_that_comes_back_is_waited_for(tmp_path: Path) -> None:
    listen = f"127.0.0.1:{free_port()}"
    commands = Commands(listen)
    with running_server(tmp_path / "data", listen=listen) as server:
        commands.call("topic", "create", "orders")
        with at_work(commands) as (consuming, producing):
            server.kill()
            type_line(producing, b"meanwhile\n")
            with running_server(tmp_path / "data", listen=listen):
                assert read_line(consuming.stdout) == b"meanwhile\n"
                assert producing.stdin is not None
                producing.stdin.close()
                assert producing.wait(PATIENCE_SECONDS) == 0


def test_a_broker_that_has_gone_ends_it_with_4(tmp_path: Path) -> None:
    with running_server(tmp_path / "data") as server:
        commands = Commands(server.bootstrap)
        commands.call("topic", "create", "orders")
        with at_work(commands, "--timeout", "2") as (consuming, producing):
            server.kill()
            type_line(producing, b"too late\n")
            assert producing.wait(PATIENCE_SECONDS) == 4
            assert consuming.wait(PATIENCE_SECONDS) == 4
            assert producing.stderr is not None
            said = producing.stderr.read().decode()
    assert "stdin, record 2: " in said
    assert "Traceback" not in said


# ------------------------------------------------------------------------------------ terminals
def on_a_terminal(commands: Commands, *arguments: str, **environment: str) -> tuple[int, str]:
    """Run a command with a terminal for stdout and stderr; return its exit code and all it says."""
    near, far = pty.openpty()
    try:
        with subprocess.Popen(
            [*PROGRAM, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=far,
            stderr=far,
            env={**commands.environment, "TERM": "xterm-256color", **environment},
        ) as process:
            os.close(far)
            said = b""
            while True:
                try:
                    data = os.read(near, 65536)
                except OSError:  # Linux says so when the other side has gone
                    break
                if not data:
                    break
                said += data
            return process.wait(PATIENCE_SECONDS), said.decode()
    finally:
        os.close(near)


def test_a_terminal_gets_colours_unless_it_does_not_want_them(commands: Commands) -> None:
    code, said = on_a_terminal(commands, "cluster", "info")
    assert code == 0
    assert "\x1b[1m" in said
    code, said = on_a_terminal(commands, "cluster", "info", NO_COLOR="1")
    assert not re.search(r"\x1b\[[0-9;]*3\d", said)
    assert "\x1b" not in commands.call("cluster", "info").stdout


def test_records_on_a_terminal_come_without_a_bar(
    commands: Commands, new_topic: Callable[..., str]
) -> None:
    topic = new_topic()
    commands.call("produce", topic, given=b"1\n2\n")
    assert on_a_terminal(commands, "consume", topic, "-e") == (0, "1\r\n2\r\n")


# ----------------------------------------------------------------------------------------- kcat
def test_kcat_reads_what_we_write_and_we_what_kcat_writes(
    commands: Commands, new_topic: Callable[..., str]
) -> None:
    if missing := missing_programs("kcat"):
        skip_loudly("kcat beside our own commands", missing)
    topic = new_topic(3)

    def kcat(*arguments: str, given: bytes = b"") -> bytes:
        return subprocess.run(
            ["kcat", "-b", commands.bootstrap, "-t", topic, *arguments],
            input=given,
            capture_output=True,
            timeout=PATIENCE_SECONDS,
            check=True,
        ).stdout

    commands.call(
        "produce", topic, "-K", ":", "-H", "h=1", "-z", "snappy", given=b"a:1\nb:2\nc:3\n"
    )
    kcat("-P", "-K", ":", "-H", "h=1", "-z", "gzip", given=b"a:4\nb:5\nc:6\n")
    template = r"%t %p %o %k %K %s %S %h\n"
    theirs = kcat("-C", "-e", "-q", "-o", "beginning", "-f", template).decode()
    ours = commands.call("consume", topic, "-e", "-f", template).stdout
    assert sorted(ours.splitlines()) == sorted(theirs.splitlines())
    assert len(ours.splitlines()) == 6
    theirs = kcat("-C", "-e", "-q", "-o", "-1", "-f", template).decode()
    ours = commands.call("consume", topic, "-e", "-o", "-1", "-f", template).stdout
    assert sorted(ours.splitlines()) == sorted(theirs.splitlines())
