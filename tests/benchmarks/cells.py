"""The throughput cells: what is sent, to whom, and what it cost the server."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, Self

import attrs

from tests.benchmarks import systems
from tests.benchmarks.systems import Running, drive, scratch
from tests.support import processes

MIB = 1 << 20
DURABILITIES = ("fsync", "interval", "os")
#: So much is produced at a time, with memory made ready for it before (`systems.warm_memory`).
LEG_BYTES = 256 * MIB
TWIN = "twin"
SYNCING_TWIN = "twin that syncs"


@attrs.frozen
class Cell:
    """One kind of load.

    Attributes:
        name: how rows refer to it.
        record_bytes: size of each record's value.
        partitions: how many partitions it is spread over.
        records: how many are sent.
    """

    name: str
    record_bytes: int
    partitions: int
    records: int

    def scaled(self, share: float) -> Cell:
        """Return a smaller (or larger) version of this cell, in whole thousands of records."""
        return attrs.evolve(self, records=max(1, round(self.records * share / 1000)) * 1000)


#: At full length the 1 KiB cells write 1 GiB each.
CELLS = (
    Cell("1 KiB, 1 partition", 1024, 1, 1_049_000),
    Cell("1 KiB, 6 partitions", 1024, 6, 1_049_000),
    Cell("1 KiB, 50 partitions", 1024, 50, 1_049_000),
    Cell("100 B, 1 partition", 100, 1, 4_000_000),
    Cell("100 B, 6 partitions", 100, 6, 4_000_000),
)
ONE_AT_A_TIME = Cell("1 KiB, one at a time", 1024, 1, 3_000)


@attrs.frozen(kw_only=True)
class Row:
    """One measurement.

    Attributes:
        cell: which load.
        action: produce, fetch or one at a time.
        system: what was measured.
        durability: what its acknowledgement means.
        round: which round.
        records: records moved (frames, for the twin).
        megabytes: payload moved, in 10^6 bytes.
        seconds: wall time on the client.
        cpu_seconds: the server's CPU time.
        frame_bytes: mean payload of a produce request; 0 where it was not counted.
        rss_before_bytes: the server's memory before.
        rss_after_bytes: the server's memory after.
        latency_ms: percentiles, where they were measured.
    """

    cell: str
    action: str
    system: str
    durability: str
    round: int
    records: int
    megabytes: float
    seconds: float
    cpu_seconds: float
    frame_bytes: int
    rss_before_bytes: int
    rss_after_bytes: int
    latency_ms: dict[str, float] = attrs.field(factory=dict)

    @property
    def cpu_us_per_record(self) -> float:
        return 1e6 * self.cpu_seconds / self.records

    @property
    def megabytes_per_cpu_second(self) -> float:
        return self.megabytes / self.cpu_seconds


@attrs.frozen
class Contender:
    """A system in one configuration: name, durability, and how to start it."""

    system: str
    durability: str
    start: Callable[[Path], AbstractContextManager[Running]]
    topic_config: dict[str, str] = attrs.field(factory=dict)


def contenders(kafka_jars: Path | None) -> list[Contender]:
    """Return who is measured, besides the twin."""
    ours = [
        Contender("trio-broker", mode, systems.trio_broker, {"durability": mode})
        for mode in DURABILITIES
    ]
    if kafka_jars is not None:
        start = partial(systems.apache_kafka, jars=kafka_jars)
        ours.append(Contender("Apache Kafka", "os", start))
    return ours


@attrs.define
class Meter:
    """Takes the readings around one action, or several."""

    running: Running
    _cpu: float = 0.0
    _before: float = 0.0
    _rss: int = 0

    def __enter__(self) -> Self:
        self._rss = self._rss or processes.usage(self.running.pid).rss_bytes
        self._before = processes.cpu_seconds(self.running.pid)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._cpu += processes.cpu_seconds(self.running.pid) - self._before

    def row(self, results: Sequence[dict[str, Any]], **labels: Any) -> Row:
        """Put the readings and the client's results together."""
        result = {key: sum(part[key] for part in results) for key in results[0]}
        requests = result.get("requests", 0)
        latency = {
            key: value / len(results) for key, value in result.items() if key.endswith("_ms")
        }
        return Row(
            records=result["records"],
            megabytes=result["bytes"] / 1e6,
            seconds=result["seconds"],
            cpu_seconds=self._cpu,
            frame_bytes=round(result["bytes"] / requests) if requests else 0,
            rss_before_bytes=self._rss,
            rss_after_bytes=processes.usage(self.running.pid).rss_bytes,
            latency_ms=latency,
            **labels,
        )


def run_cell(cell: Cell, who: Contender, *, number: int, directory: Path | None) -> Iterator[Row]:
    """Produce a cell's records to one contender, then read them back."""
    labels = {
        "cell": cell.name,
        "system": who.system,
        "durability": who.durability,
        "round": number,
    }
    load = {"partitions": cell.partitions, "topic": "cell"}
    with scratch(directory) as path, who.start(path) as running:
        for topic, partitions in (("warm", 1), ("cell", cell.partitions)):
            drive(
                running.address,
                what="create",
                topic=topic,
                partitions=partitions,
                config=who.topic_config,
            )
        _warm_up(running, cell.record_bytes)
        meter = Meter(running)
        results = []
        for records in legs(cell):
            systems.warm_memory(path, records * cell.record_bytes)
            with meter:
                produced = drive(
                    running.address,
                    what="produce",
                    records=records,
                    record_bytes=cell.record_bytes,
                    **load,
                )
            results.append(produced)
        yield meter.row(results, action="produce", **labels)
        stored = sum(result["records"] for result in results)
        with Meter(running) as meter:
            result = drive(running.address, what="fetch", records=stored, **load)
        yield meter.row([result], action="fetch", **labels)


def run_one_at_a_time(
    cell: Cell, who: Contender, *, number: int, directory: Path | None
) -> Iterator[Row]:
    """Send records one by one to one contender."""
    with scratch(directory) as path, who.start(path) as running:
        drive(running.address, what="create", topic="warm", partitions=1, config=who.topic_config)
        _warm_up(running, cell.record_bytes)
        with Meter(running) as meter:
            result = drive(
                running.address,
                what="one_at_a_time",
                topic="warm",
                records=cell.records,
                record_bytes=cell.record_bytes,
            )
        yield meter.row(
            [result],
            cell=cell.name,
            action="produce",
            system=who.system,
            durability=who.durability,
            round=number,
        )


def run_twin(
    cell: Cell,
    *,
    frame_bytes: int,
    number: int,
    directory: Path | None,
    syncs: bool = False,
) -> Iterator[Row]:
    """Move as many bytes through the twin, in frames of the size that librdkafka's had."""
    total_bytes = cell.records * cell.record_bytes
    labels = {
        "cell": cell.name,
        "system": SYNCING_TWIN if syncs else TWIN,
        "durability": "fsync" if syncs else "none",
        "round": number,
    }
    with scratch(directory) as path, systems.twin(path, syncs=syncs) as running:
        warm_bytes = min(total_bytes, 32 * MIB)
        drive(running.address, what="twin_write", total_bytes=warm_bytes, frame_bytes=frame_bytes)
        meter = Meter(running)
        results = []
        for records in legs(cell):
            leg_bytes = records * cell.record_bytes
            systems.warm_memory(path, leg_bytes)
            with meter:
                written = drive(
                    running.address,
                    what="twin_write",
                    total_bytes=leg_bytes,
                    frame_bytes=frame_bytes,
                )
            results.append(written)
        yield meter.row(results, action="produce", **labels)
        if syncs:
            return  # it reads like the other
        with Meter(running) as meter:
            result = drive(running.address, what="twin_read", total_bytes=total_bytes)
        yield meter.row([result], action="fetch", **labels)


def legs(cell: Cell) -> list[int]:
    """Return how many records of a cell are sent at a time, in whole thousands."""
    count = max(1, round(cell.records * cell.record_bytes / LEG_BYTES))
    each = max(1, cell.records // count // 1000) * 1000
    return [each] * (count - 1) + [cell.records - each * (count - 1)]


def _warm_up(running: Running, record_bytes: int) -> None:
    """Load code, fill caches, and let a JVM compile, before anything is measured."""
    load = {"topic": "warm", "partitions": 1}
    produced = drive(
        running.address,
        what="produce",
        records=running.warm_up_records,
        record_bytes=record_bytes,
        **load,
    )
    drive(running.address, what="fetch", records=produced["records"], **load)
