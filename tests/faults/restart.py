"""From kill -9 to serving with a gigabyte of log: ``python -m tests.faults.restart --gib 1``."""

from __future__ import annotations

import argparse
import re
import tempfile
import time
from pathlib import Path

import attrs
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from tests.faults.load import create_topics
from tests.faults.rounds import Site
from tests.support.server import Server
from tests.support.waiting import wait_until

PARTITIONS = 6
_RECORD = b"x" * 1024
_BATCH = [{"value": _RECORD}] * 1000

#: What the server logs for each log dir when it has recovered it.
_RECOVERED = re.compile(r"^.*?(?:opened|recovered) log dir.*?scanned_bytes=(\d+)", re.MULTILINE)


@attrs.frozen
class Restart:
    """One restart.

    Attributes:
        log_bytes: size of all log files.
        scanned_bytes: how much of that the start had to read and check.
        listening_seconds: from starting the process until it listened.
        serving_seconds: from starting the process until a client had its metadata.
    """

    log_bytes: int
    scanned_bytes: int
    listening_seconds: float
    serving_seconds: float

    def __str__(self) -> str:
        return (
            f"{self.log_bytes / 2**20:.0f} MiB of log: listening after"
            f" {self.listening_seconds:.2f} s, serving after {self.serving_seconds:.2f} s,"
            f" {self.scanned_bytes / 2**20:.0f} MiB scanned"
        )


def scanned_bytes(log: str) -> list[int]:
    """Return what each log dir's recovery scanned, in the order in which it was logged."""
    return [int(number) for number in _RECOVERED.findall(log)]


def wait_for_scanned(stderr_path: Path, since: int, *, log_dirs: int = 1) -> int:
    """Return what all log dirs' recoveries scanned, by what was logged after `since` characters.

    A thread of the server writes its log, and may do so later than it listens.
    """

    def reported() -> list[int] | None:
        found = scanned_bytes(stderr_path.read_text()[since:])
        return found if len(found) >= log_dirs else None

    return sum(wait_until(reported, seconds=30, what="the log of what was recovered"))


def fill(bootstrap: str, log_bytes: int) -> None:
    """Write 1 KiB records to one topic until its log has this size."""
    create_topics(bootstrap, ["full"], PARTITIONS)
    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all"})
    batches = log_bytes // (len(_RECORD) * len(_BATCH))
    for number in range(batches):
        pending = list(_BATCH)
        while pending:
            accepted = producer.produce_batch("full", pending, partition=number % PARTITIONS)
            pending = pending[accepted:]
            producer.poll(0.01 if pending else 0)
    if unsent := producer.flush(120):
        raise AssertionError(f"{unsent} records were not acknowledged")


def log_size_bytes(data_dir: Path) -> int:
    """Return the size of all log files below a directory."""
    return sum(path.stat().st_size for path in data_dir.rglob("*.log"))


def timed_start(site: Site) -> tuple[Server, Restart]:
    """Start the server and wait for a client's first metadata."""
    log_bytes = log_size_bytes(site.data_dir)
    began = time.perf_counter()
    earlier = len(site.stderr_path.read_text())
    server = site.start()
    try:
        AdminClient({"bootstrap.servers": site.bootstrap}).list_topics(timeout=60)
    except BaseException:
        server.kill()
        raise
    serving = time.perf_counter() - began
    scanned = wait_for_scanned(site.stderr_path, earlier)
    return server, Restart(log_bytes, scanned, server.started_seconds, serving)


def restart_after_kill(directory: Path, *, log_bytes: int) -> Restart:
    """Fill a log, kill the server at once, start it again."""
    site = Site(directory / "data", directory / "server.log")
    server = site.start()
    try:
        fill(site.bootstrap, log_bytes)
    finally:
        server.kill()
    server, restart = timed_start(site)
    server.kill()
    return restart


def main() -> None:
    """Run as a command; the exit code is 1 if serving took longer than it may."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.restart", description=__doc__)
    parser.add_argument("--gib", type=float, default=1.0)
    parser.add_argument("--seconds-max", type=float, default=2.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        restart = restart_after_kill(Path(directory), log_bytes=int(options.gib * 2**30))
    print(restart)
    if restart.serving_seconds > options.seconds_max:
        raise SystemExit(f"FAILED: more than {options.seconds_max:g} s")


if __name__ == "__main__":
    main()
