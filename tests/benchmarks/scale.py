"""``python -m tests.benchmarks.scale``: ten thousand partitions, a thousand clients, neighbours.

What must not grow with what lies idle, and what must not be felt by those who have nothing to do
with it. Goals are those of the design; a figure beyond its goal is marked, and the exit code is 1.
Takes about two minutes, and a soft limit of descriptors that it raises to the hard one.
"""

from __future__ import annotations

import argparse
import json
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import attrs
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from tests.benchmarks.footprint import watch_idle
from tests.benchmarks.systems import drive
from tests.faults.load import create_topics
from tests.faults.restart import timed_start
from tests.faults.rounds import Site
from tests.support.processes import MIB
from tests.support.server import ROOT, Server, running_server
from tests.support.waiting import pause, wait_until

PARTITIONS = 10_000
CONNECTIONS = 1_000
DELETED_PARTITIONS = 1_000
_SECONDS = 120.0


@attrs.frozen
class Figure:
    """One line of the table.

    Attributes:
        name: what was measured.
        value: in `unit`.
        unit: of both.
        goal: at most this; None: only told.
    """

    name: str
    value: float
    unit: str
    goal: float | None = None

    @property
    def is_beyond(self) -> bool:
        """Whether the goal was missed."""
        return self.goal is not None and self.value > self.goal

    def line(self) -> str:
        """Return a row of the table."""
        goal = "" if self.goal is None else f"{self.goal:g} {self.unit}"
        mark = " **missed**" if self.is_beyond else ""
        return f"| {self.name} | {self.value:.3g} {self.unit}{mark} | {goal} |"


def many_partitions(directory: Path) -> Iterator[Figure]:
    """Ten thousand partitions with a record in each: idle, at the stop and at the start."""
    site = Site(
        directory / "data",
        directory / "server.log",
        {"limits.partitions_max": 20_000, "shutdown.ready_grace_seconds": 0},
    )
    server = site.start()
    with ExitStack() as connections:
        began = time.perf_counter()
        _use_partitions(site.bootstrap)
        yield Figure(f"create and use {PARTITIONS:,} partitions", _since(began), "s")
        idle = watch_idle(server, seconds=15.0)
        yield Figure(f"{PARTITIONS:,} partitions: memory", idle.rss_bytes / MIB, "MiB", 100)
        yield Figure(f"{PARTITIONS:,} partitions, idle", idle.cpu_seconds / 0.3, "% of a CPU", 0.5)
        for _ in range(CONNECTIONS):
            connections.enter_context(socket.create_connection((server.host, server.port)))
        wait_until(
            lambda: _count_sockets(server) >= CONNECTIONS, seconds=_SECONDS, what="connections"
        )
        began = time.perf_counter()
        server.stop()
        what = f"stop with {PARTITIONS:,} partitions and {CONNECTIONS:,} connections"
        yield Figure(what, _since(began), "s", 2)
    server, restart = timed_start(site)
    yield Figure("clean start with them: serving after", restart.serving_seconds, "s", 1.5)
    yield Figure("of which scanned", restart.scanned_bytes / MIB, "MiB", 0)
    began = time.perf_counter()
    server.stop()
    yield Figure(f"stop with {PARTITIONS:,} partitions that were not used", _since(began), "s", 2)


def idle_stop(directory: Path) -> Iterator[Figure]:
    """A server with nothing to do."""
    with running_server(directory / "data", settings={"shutdown.ready_grace_seconds": 0}) as server:
        AdminClient({"bootstrap.servers": server.bootstrap}).list_topics(timeout=30)
        began = time.perf_counter()
        server.stop()
        yield Figure("stop of an idle server", 1000 * _since(began), "ms", 100)


def deletion(directory: Path) -> Iterator[Figure]:
    """A large topic is deleted while another one is written to."""
    with running_server(directory / "data") as server:
        (neighbour,) = create_topics(server.bootstrap, ["neighbour"], 1)
        partitions = create_topics(server.bootstrap, ["large"], DELETED_PARTITIONS)
        producer = Producer({"bootstrap.servers": server.bootstrap, "acks": "all"})
        for topic, number in partitions:
            producer.produce(topic, partition=number, value=b"one record")
        producer.flush(_SECONDS)
        admin = AdminClient({"bootstrap.servers": server.bootstrap})
        with _neighbour(server.bootstrap, neighbour[0]) as took_ms:
            pause(3.0)
            before = _percentile(took_ms[:], 0.99)
            took_ms.clear()
            began = time.perf_counter()
            for future in admin.delete_topics(["large"], operation_timeout=_SECONDS).values():
                future.result(_SECONDS)
            deleted_ms = 1000 * _since(began)
            meanwhile = _percentile(took_ms[:], 0.99)
        yield Figure(f"delete {DELETED_PARTITIONS:,} partitions", deleted_ms, "ms", 500)
        yield Figure("records to another topic before: p99", before, "ms")
        yield Figure("records to another topic meanwhile: p99", meanwhile, "ms", 2 * before)


def end_to_end(directory: Path) -> Iterator[Figure]:
    """200 records a second, each timed from its producer to its consumer."""
    took_ms: list[float] = []
    with running_server(directory / "data") as server:
        create_topics(server.bootstrap, ["tail"], 1)
        address = {"bootstrap.servers": server.bootstrap}
        consumer = Consumer({**address, "group.id": "tail", "enable.auto.commit": False})
        consumer.assign([TopicPartition("tail", 0, 0)])
        producer = Producer({**address, "acks": "all", "linger.ms": 0})
        stop = threading.Event()

        def send() -> None:
            while not stop.wait(0.005):
                producer.produce("tail", str(time.perf_counter()).encode())
                producer.poll(0)

        thread = threading.Thread(target=send)
        thread.start()
        end = time.perf_counter() + 10.0
        while time.perf_counter() < end:
            message = consumer.poll(1.0)
            if message is not None and message.error() is None:
                took_ms.append(1000 * (time.perf_counter() - float(message.value() or b"0")))
        stop.set()
        thread.join()
        producer.flush(_SECONDS)
        consumer.close()
    del took_ms[: len(took_ms) // 10]  # connecting
    yield Figure("producer to consumer at 200 records/s: p50", _percentile(took_ms, 0.5), "ms", 2)
    yield Figure("producer to consumer at 200 records/s: p99", _percentile(took_ms, 0.99), "ms", 10)


def lateness(directory: Path) -> Iterator[Figure]:
    """A task beside an embedded broker that is produced to, deletes and reads at the same time."""
    command = [sys.executable, "-m", "tests.benchmarks.ticker", str(directory / "data")]
    program = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert program.stdout is not None
    try:
        address = program.stdout.readline().strip().removeprefix("listening kafka://")
        create_topics(address, ["load"], 6)
        load = {"topic": "load", "partitions": 6}
        drive(address, what="produce", records=300_000, record_bytes=1024, **load)
        for _ in range(3):
            create_topics(address, ["large"], DELETED_PARTITIONS)
            admin = AdminClient({"bootstrap.servers": address})
            deleted = admin.delete_topics(["large"], operation_timeout=_SECONDS)
            drive(address, what="produce", records=100_000, record_bytes=1024, **load)
            drive(address, what="fetch", records=300_000, **load)
            for future in deleted.values():
                future.result(_SECONDS)
    finally:
        program.send_signal(signal.SIGTERM)
        output, _ = program.communicate(timeout=_SECONDS)
    late = json.loads(output)
    yield Figure("a task every 10 ms beside an embedded broker: late p99", late["p99_ms"], "ms")
    yield Figure("... p99.9", late["p999_ms"], "ms", 20)
    yield Figure("... at most", late["max_ms"], "ms")


def _use_partitions(bootstrap: str) -> None:
    """Create `PARTITIONS` partitions and write a record to each."""
    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all"})
    for group in range(10):
        for topic, number in create_topics(bootstrap, [f"idle-{group}"], PARTITIONS // 10):
            producer.produce(topic, partition=number, value=b"one record")
        if unsent := producer.flush(_SECONDS):
            raise AssertionError(f"{unsent} records were not acknowledged")


def _count_sockets(server: Server) -> int:
    links = Path(f"/proc/{server.pid}/fd").iterdir()
    return sum(link.readlink().name.startswith("socket:") for link in links)


@contextmanager
def _neighbour(bootstrap: str, topic: str) -> Iterator[list[float]]:
    """Send records one by one; the list grows with the milliseconds that each took."""
    took_ms: list[float] = []
    stop = threading.Event()

    def send() -> None:
        producer = Producer({"bootstrap.servers": bootstrap, "acks": "all", "linger.ms": 0})
        while not stop.is_set():
            began = time.perf_counter()
            producer.produce(topic, partition=0, value=b"neighbour")
            producer.flush(_SECONDS)
            took_ms.append(1000 * _since(began))

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield took_ms
    finally:
        stop.set()
        thread.join()


def _percentile(values: list[float], share: float) -> float:
    values = sorted(values)
    return values[min(int(share * len(values)), len(values) - 1)]


def _since(began: float) -> float:
    return time.perf_counter() - began


MEASUREMENTS: dict[str, Callable[[Path], Iterator[Figure]]] = {
    "partitions": many_partitions,
    "stop": idle_stop,
    "deletion": deletion,
    "end-to-end": end_to_end,
    "lateness": lateness,
}


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.scale", description=__doc__)
    parser.add_argument("--only", choices=MEASUREMENTS, action="append", help="one of them")
    parser.add_argument("--directory", type=Path, help="where data goes; decides the disk")
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print("| measured | value | goal |\n|---|--:|--:|")
    missed = False
    for name in options.only or MEASUREMENTS:
        with tempfile.TemporaryDirectory(dir=options.directory) as directory:
            for figure in MEASUREMENTS[name](Path(directory)):
                print(figure.line(), flush=True)
                missed = missed or figure.is_beyond
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
