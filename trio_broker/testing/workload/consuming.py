"""Consumers: they read on from where they are, wait at the end, and believe nothing.

What one reads must be what is known of those offsets, without gaps, below the high watermark (I2,
I4). Waits are long, so a fetch that is not woken when data arrives is late for everybody to see.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio

from trio_broker.errors import BrokerClosed, ErrorCode, RequestError
from trio_broker.records.iterate import iterate_batches, iterate_records
from trio_broker.testing.model import Violation
from trio_broker.testing.workload.caller import Caller
from trio_broker.testing.workload.producing import BY_NAME_VERSION, PASSING, UNKNOWN_TOPIC
from trio_broker.wire.messages.fetch import (
    FetchPartition,
    FetchRequest,
    FetchResponse,
    FetchTopic,
    PartitionData,
)
from trio_broker.wire.messages.list_offsets import (
    ListOffsetsPartition,
    ListOffsetsRequest,
    ListOffsetsResponse,
    ListOffsetsTopic,
)

if TYPE_CHECKING:
    from trio_broker.testing.brokers import Life
    from trio_broker.testing.model import PartitionModel
    from trio_broker.testing.workload.world import World

WAITS_MS = (0, 50, 300_000)
_RECORDS_BYTES_MAX = 64 * 1024 * 1024
_RETRY_SECONDS = 0.1
_EARLIEST = -2


class Consumer:
    """Reads some partitions over the network, for as long as it is let.

    Attributes:
        positions: offset of the next record wanted.
    """

    def __init__(self, world: World, name: str) -> None:
        self.name = name
        self.positions: dict[PartitionModel, int] = {}
        self._world = world
        self._caller = Caller(world, name)
        self._draws = world.sim.random(name)
        self._high_watermarks: dict[PartitionModel, int] = {}
        self._starts: dict[PartitionModel, int] = {}
        self._losses_seen = 0
        self._life_seen: Life | None = None

    async def run(self) -> None:
        """Read until cancelled."""
        try:
            while True:
                self._choose()
                if not self.positions:
                    await trio.sleep(_RETRY_SECONDS)
                    continue
                await self._world.pause(self._draws)
                await self._fetch()
        finally:
            self._caller.close()

    def is_behind(self) -> list[str]:
        """Name the partitions of which it has not read all that is known."""
        return [
            f"{self.name} is at {position} of {partition}, {partition.known_end} are known"
            for partition, position in self.positions.items()
            if position < partition.known_end and not partition.topic.deletion_begun
        ]

    def _choose(self) -> None:
        """Read every topic there is; forget what was deleted."""
        if self._losses_seen != self._world.losses:
            self._losses_seen = self._world.losses
            self._high_watermarks.clear()
            self._starts.clear()
            for partition, position in self.positions.items():
                self.positions[partition] = min(position, partition.start)
        for topic in self._world.model.topics:
            for partition in topic.partitions:
                self.positions.setdefault(partition, partition.start)
        gone = [p for p in self.positions if p.topic.deletion_begun]
        for partition in gone:
            del self.positions[partition]

    async def _fetch(self) -> None:
        draws = self._draws
        await self._caller.connection()
        if self._caller.life is not self._life_seen:
            # A start offset that the disk would not take was that of the last life only.
            self._life_seen = self._caller.life
            self._starts.clear()
        wanted = list(self.positions)
        if draws.random() < 0.3:
            wanted = draws.sample(wanted, draws.randint(1, len(wanted)))
        # A wait is long only if nothing that is known now would be left out by it.
        waits = WAITS_MS if len(wanted) == len(self.positions) else WAITS_MS[:2]
        max_wait_ms = draws.choice(waits)
        by_name = draws.random() < 0.3
        topics = [
            FetchTopic(
                topic=partition.topic.name,
                topic_id=partition.topic.topic_id,
                partitions=[
                    FetchPartition(
                        partition=partition.index,
                        fetch_offset=self.positions[partition],
                        partition_max_bytes=draws.choice((1, 2_000, 1_000_000)),
                    )
                ],
            )
            for partition in wanted
        ]
        request = FetchRequest(
            max_wait_ms=max_wait_ms,
            min_bytes=1,
            max_bytes=draws.choice((1, 3_000, 1_000_000)),
            isolation_level=draws.choice((0, 1)),
            topics=topics,
        )
        sent_at = trio.current_time()
        response: FetchResponse | None = None
        patience_seconds = draws.choice((0.01, 1.0)) if draws.random() < 0.1 else math.inf
        with trio.move_on_after(patience_seconds) as patience:
            response = await self._caller.call(
                request,
                FetchResponse,
                version_max=BY_NAME_VERSION if by_name else None,
                waits_seconds=max_wait_ms / 1000,
            )
        if patience.cancelled_caught:
            self._caller.give_up()
        if response is None:
            return
        if max_wait_ms > 1_000 and any(p.records for t in response.responses for p in t.partitions):
            self._world.saw("long poll answered")
        if response.error_code:
            raise Violation(f"I6 {self.name} gets error {response.error_code} for a fetch")
        parts = [part for topic in response.responses for part in topic.partitions]
        for partition, part in zip(wanted, parts, strict=True):
            found = self._world.model.incarnation(partition.topic.name, sent_at)
            if by_name and found is not partition.topic:
                continue  # it may be about a topic of the same name that was made since
            if partition in self.positions and self._losses_seen == self._world.losses:
                await self._take(partition, part)

    async def _take(self, partition: PartitionModel, part: PartitionData) -> None:
        code = ErrorCode(part.error_code)
        if code is ErrorCode.OFFSET_OUT_OF_RANGE:
            self._world.saw("out of range")
            await self._find_start(partition)
        elif code in UNKNOWN_TOPIC:
            if not partition.topic.deletion_begun:
                raise Violation(f"I10 {self.name}: {partition.topic} is said to be unknown")
            self._world.saw("unknown topic")
        elif code in PASSING:
            await trio.sleep(_RETRY_SECONDS)
        elif code is not ErrorCode.NONE:
            raise Violation(f"I6 {self.name} gets {code.name} for a fetch of {partition}")
        else:
            self._check_marks(partition, part)
            self._read(partition, part)

    def _check_marks(self, partition: PartitionModel, part: PartitionData) -> None:
        for name, seen, found in (
            ("high watermark", self._high_watermarks, part.high_watermark),
            ("start offset", self._starts, part.log_start_offset),
        ):
            before = seen.get(partition, 0)
            if found < before:
                raise Violation(f"I4 {self.name}: {name} of {partition} was {before}, is {found}")
            seen[partition] = found

    def _read(self, partition: PartitionModel, part: PartitionData) -> None:
        position = self.positions[partition]
        for header, batch in iterate_batches(part.records or b""):
            if header.last_offset >= part.high_watermark:
                raise Violation(
                    f"I4 {self.name} reads {header.last_offset} of {partition}, beyond the high"
                    f" watermark {part.high_watermark}"
                )
            for record in iterate_records(batch, bytes_max=_RECORDS_BYTES_MAX):
                if record.offset < position:
                    continue
                if record.offset != position:
                    raise Violation(
                        f"I2 {self.name} wants {position} of {partition}, gets {record.offset}"
                    )
                self._world.read(partition, record.offset, record.value or b"")
                position += 1
        self.positions[partition] = position

    async def _find_start(self, partition: PartitionModel) -> None:
        """Go where the log begins, if it begins behind the place wanted."""
        response = await self._caller.call(
            ListOffsetsRequest(
                replica_id=-1,
                topics=[
                    ListOffsetsTopic(
                        name=partition.topic.name,
                        partitions=[
                            ListOffsetsPartition(
                                partition_index=partition.index, timestamp=_EARLIEST
                            )
                        ],
                    )
                ],
            ),
            ListOffsetsResponse,
        )
        if response is None or partition.topic.deletion_begun:
            return
        found = response.topics[0].partitions[0]
        if found.error_code:
            return
        position = self.positions[partition]
        if found.offset < position and self._losses_seen == self._world.losses:
            raise Violation(
                f"I4 {self.name} was told that {position} is outside of {partition}, which begins"
                f" at {found.offset}"
            )
        self.positions[partition] = found.offset


class EmbeddedConsumer:
    """Reads one partition through the embedded API, and is often cancelled at it."""

    def __init__(self, world: World, name: str) -> None:
        self.name = name
        self._world = world
        self._draws = world.sim.random(name)

    async def run(self, life: Life) -> None:
        """Read as long as the broker's block lasts."""
        broker = life.broker
        assert broker is not None
        while True:
            await trio.sleep(0.001)
            await self._world.pause(self._draws)
            partitions = self._world.some_partitions(self._draws)
            if not partitions:
                await trio.sleep(_RETRY_SECONDS)
                continue
            partition, since = partitions[0], trio.current_time()
            if self._world.model.incarnation(partition.topic.name, since) is not partition.topic:
                continue
            try:
                async with broker.read(
                    partition.topic.name, partition.index, offset=_EARLIEST
                ) as reader:
                    with trio.move_on_after(self._draws.choice((0.005, 0.1, 20.0))):
                        async for record in reader:
                            self._world.read(partition, record.offset, record.value or b"")
            except RequestError as error:
                if error.code not in PASSING | UNKNOWN_TOPIC | {ErrorCode.OFFSET_OUT_OF_RANGE}:
                    raise Violation(f"I6 {self.name} gets {error}") from error
                await trio.sleep(_RETRY_SECONDS)
            except BrokerClosed:
                return
