"""What the server costs while nothing happens, and how fast it comes and goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from tests.faults.load import create_topics
from tests.faults.restart import restart_after_kill, timed_start
from tests.faults.rounds import Site
from tests.support.processes import MIB
from tests.support.server import Server, running_server
from tests.support.waiting import pause

IDLE_RSS_MAX_BYTES = 60 * MIB
PARTITIONS = 2_000
PARTITIONS_RSS_MAX_BYTES = 100 * MIB
DESCRIPTORS_MAX = 1_024
IDLE_SECONDS = 30.0
IDLE_CPU_SECONDS_MAX = 0.3

#: Name, value, limit: rows of the last table.
Fact = tuple[str, str, str]


@attrs.frozen
class Idle:
    """A server left alone.

    Attributes:
        rss_bytes: its memory.
        descriptors: its open descriptors.
        cpu_seconds: its CPU time, scaled to `IDLE_SECONDS`.
    """

    rss_bytes: int
    descriptors: int
    cpu_seconds: float


def watch_idle(server: Server, *, seconds: float) -> Idle:
    """Leave a server alone for a while and say what it used."""
    before = server.usage().cpu_seconds
    pause(seconds)
    after = server.usage()
    return Idle(
        after.rss_bytes, after.descriptors, (after.cpu_seconds - before) * IDLE_SECONDS / seconds
    )


def make_partitions(bootstrap: str) -> None:
    """Create `PARTITIONS` partitions with a record in each."""
    partitions = create_topics(bootstrap, ["idle-a", "idle-b"], PARTITIONS // 2)
    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all"})
    for topic, number in partitions:
        producer.produce(topic, partition=number, value=b"one record")
    if unsent := producer.flush(120):
        raise AssertionError(f"{unsent} records were not acknowledged")


def idle_server(directory: Path, *, seconds: float) -> Idle:
    """Measure a server that has never been used."""
    with running_server(directory / "data") as server:
        AdminClient({"bootstrap.servers": server.bootstrap}).list_topics(timeout=30)
        return watch_idle(server, seconds=seconds)


def idle_partitions(directory: Path, *, seconds: float) -> Idle:
    """Measure a server with many partitions, all used once, that may open few descriptors."""
    with running_server(directory / "data", descriptors_max=DESCRIPTORS_MAX) as server:
        make_partitions(server.bootstrap)
        return watch_idle(server, seconds=seconds)


def facts(directory: Path, *, quick: bool) -> Iterator[Fact]:
    """Measure everything here, each in a directory of its own."""
    seconds = 10.0 if quick else IDLE_SECONDS

    def fresh(name: str) -> Path:
        path = directory / name
        path.mkdir()
        return path

    idle = idle_server(fresh("idle"), seconds=seconds)
    yield from _idle_facts("idle server", idle, IDLE_RSS_MAX_BYTES)
    many = idle_partitions(fresh("many"), seconds=seconds)
    yield from _idle_facts(f"{PARTITIONS:,} idle partitions", many, PARTITIONS_RSS_MAX_BYTES)
    yield from _start_and_stop(fresh("start"))
    log_bytes = (256 if quick else 1024) * MIB
    restart = restart_after_kill(fresh("restart"), log_bytes=log_bytes)
    yield (
        f"kill -9 with {log_bytes // MIB} MiB of log: serving after",
        (f"{restart.serving_seconds:.2f} s"),
        "2 s",
    )
    yield "of which scanned", f"{restart.scanned_bytes / MIB:.0f} MiB", ""


def _idle_facts(what: str, idle: Idle, rss_max_bytes: int) -> Iterator[Fact]:
    yield f"{what}: memory", f"{idle.rss_bytes / MIB:.1f} MiB", f"{rss_max_bytes // MIB} MiB"
    yield f"{what}: descriptors", str(idle.descriptors), str(DESCRIPTORS_MAX)
    yield (
        f"{what}: CPU time in {IDLE_SECONDS:.0f} s",
        f"{idle.cpu_seconds:.2f} s",
        f"{IDLE_CPU_SECONDS_MAX} s",
    )


def _start_and_stop(directory: Path) -> Iterator[Fact]:
    site = Site(directory / "data", directory / "server.log")
    server = site.start()
    yield "empty start: listening after", f"{server.started_seconds:.2f} s", ""
    seconds = _timed(server.stop)
    yield "idle stop", f"{seconds:.2f} s", ""
    server = site.start()
    seconds = _timed(lambda: make_partitions(site.bootstrap))
    yield f"creating and using {PARTITIONS:,} partitions", f"{seconds:.2f} s", ""
    seconds = _timed(server.stop)
    yield f"stop with {PARTITIONS:,} partitions", f"{seconds:.2f} s", ""
    server, restart = timed_start(site)
    server.stop()
    yield (
        f"clean start with {PARTITIONS:,} partitions: serving after",
        f"{restart.serving_seconds:.2f} s",
        "",
    )


def _timed(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began
