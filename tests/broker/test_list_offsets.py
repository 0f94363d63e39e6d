"""ListOffsets: the ends of a log, and offsets by timestamp, in every version."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from tests.broker.harness import World, make_batch, running, simulated
from tests.support.kafka_bytes import Batch, varint
from trio_broker import BrokerConfig, ErrorCode
from trio_broker.records.build import Record, build_batch
from trio_broker.records.compression import Compression, available, compress
from trio_broker.storage.handles import SegmentCache
from trio_broker.testing.sim.faults import DiskFaults
from trio_broker.wire.messages.list_offsets import (
    ListOffsetsPartition,
    ListOffsetsRequest,
    ListOffsetsTopic,
)

LATEST, EARLIEST, MAX_TIMESTAMP, LOCAL, TIERED, PENDING = -1, -2, -3, -4, -5, -6
T0 = 1_700_000_000_000


def request(timestamp: int, *, topic: str = "orders", epoch: int = -1, **arguments: Any) -> Any:
    wanted = ListOffsetsPartition(
        partition_index=arguments.pop("partition", 0),
        current_leader_epoch=epoch,
        timestamp=timestamp,
    )
    topics = [ListOffsetsTopic(name=topic, partitions=[wanted])]
    return ListOffsetsRequest(**({"replica_id": -1, "topics": topics} | arguments))


async def ask(client: Any, timestamp: int, version: int = 7, **arguments: Any) -> Any:
    """Return (code, offset, timestamp, epoch)."""
    response = await client.call(request(timestamp, **arguments), version)
    found = response.topics[0].partitions[0]
    return found.error_code, found.offset, found.timestamp, found.leader_epoch


async def test_every_version_knows_the_ends_and_what_it_should(wire_config: BrokerConfig) -> None:
    async with running(wire_config) as run:
        for version in range(1, 12):
            await run.broker.create_topic("orders")
            epoch = 0 if version >= 4 else -1
            async with run.connect() as client:

                async def ends(timestamp: int, version: int = version) -> tuple[int, ...]:
                    return await ask(client, timestamp, version)

                assert await ends(LATEST) == (0, 0, -1, epoch)
                assert (await ends(EARLIEST))[:3] == (0, 0, -1)
                assert await ends(T0) == (0, -1, -1, -1)
                await client.produce(make_batch(b"1", b"2", timestamp_ms=T0))
                await client.produce(make_batch(b"3", timestamp_ms=T0 - 50))
                assert await ends(LATEST) == (0, 3, -1, epoch)
                assert await ends(EARLIEST) == (0, 0, -1, epoch)
                assert await ends(T0 + 1) == (0, 1, T0 + 1, epoch)
                assert await ends(T0 + 2) == (0, -1, -1, -1)
                unknown = (ErrorCode.UNSUPPORTED_VERSION, -1, -1, -1)
                assert await ends(MAX_TIMESTAMP) == (
                    (0, 1, T0 + 1, epoch) if version >= 7 else unknown
                )
                assert await ends(LOCAL) == ((0, 0, -1, epoch) if version >= 8 else unknown)
                assert await ends(TIERED) == ((0, -1, -1, -1) if version >= 9 else unknown)
                assert await ends(PENDING) == ((0, -1, -1, -1) if version >= 11 else unknown)
                assert await ends(-7) == unknown
            await run.broker.delete_topic("orders")


async def test_what_cannot_be_asked_has_kafkas_code(wire_config: BrokerConfig) -> None:
    async with running(wire_config) as run:
        await run.broker.create_topic("orders", partitions=2)
        async with run.connect() as client:

            async def code(**arguments: Any) -> int:
                return (await ask(client, LATEST, **arguments))[0]

            assert await code(topic="nowhere") == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
            assert await code(partition=2) == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
            assert await code(partition=-1) == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
            assert await code(epoch=1) == ErrorCode.UNKNOWN_LEADER_EPOCH
            assert await code(epoch=0) == 0
            assert await code(isolation_level=1) == 0

            def wanted(index: int) -> ListOffsetsPartition:
                return ListOffsetsPartition(partition_index=index, timestamp=LATEST)

            topics = [
                ListOffsetsTopic(name="orders", partitions=[wanted(0), wanted(1)]),
                ListOffsetsTopic(name="orders", partitions=[wanted(0)]),
            ]
            response = await client.call(request(0, topics=topics), 7)
            found = [[part.error_code for part in topic.partitions] for topic in response.topics]
            twice = ErrorCode.INVALID_REQUEST
            assert found == [[twice, 0], [twice]]


@pytest.mark.parametrize("codec", list(Compression))
async def test_the_exact_record_is_found_in_compressed_batches(
    wire_config: BrokerConfig, codec: Compression
) -> None:
    if not available(codec):
        pytest.skip("the codec's library is not installed")
    async with running(wire_config) as run:
        await run.broker.create_topic("orders")
        # Timestamps need not rise: the first record that is late enough counts.
        times = [10, 5, 30, 20, 40]
        records = [Record(value=bytes(50), timestamp_ms=T0 + time) for time in times]
        batch = bytes(build_batch(records, compression=codec))
        async with run.connect() as client:
            await client.produce(batch)
            await client.produce(batch)
            for time, index in ((0, 0), (10, 0), (11, 2), (30, 2), (31, 4), (40, 4)):
                assert await ask(client, T0 + time) == (0, index, T0 + times[index], 0)
            assert await ask(client, T0 + 41) == (0, -1, -1, -1)
            assert await ask(client, MAX_TIMESTAMP) == (0, 4, T0 + 40, 0)
            await run.replica("orders").shard.advance_start_offset(run.replica("orders"), 5)
            assert await ask(client, EARLIEST) == (0, 5, -1, 0)
            assert await ask(client, T0) == (0, 5, T0 + 10, 0)


async def test_a_batch_that_cannot_be_unfolded_is_answered_as_a_whole(
    wire_config: BrokerConfig,
) -> None:
    async with running(wire_config) as run:
        await run.broker.create_topic("orders")
        async with run.connect() as client:
            await client.produce(make_batch(timestamp_ms=T0))
            damaged = bytearray(make_batch(b"1", b"2", timestamp_ms=T0 + 100))
            damaged[21 + 1] |= 1  # says gzip, is not
            import crc32c

            damaged[17:21] = crc32c.crc32c(bytes(damaged[21:])).to_bytes(4, "big")
            assert (await client.produce(bytes(damaged))).error_code == 0
            assert await ask(client, T0 + 101) == (0, 1, T0 + 101, 0)


async def test_the_search_touches_the_log_on_the_event_loop_only(
    wire_config: BrokerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = SegmentCache.index_of
    asked = []

    def index_of(cache: SegmentCache, segment: Any) -> Any:
        asked.append(trio.lowlevel.in_trio_task())
        return original(cache, segment)

    async with running(wire_config) as run:
        await run.broker.create_topic("orders")
        async with run.connect() as client:
            await client.produce(make_batch(timestamp_ms=T0))
            monkeypatch.setattr(SegmentCache, "index_of", index_of)
            assert (await ask(client, T0))[1] == 0
            monkeypatch.undo()
    assert asked
    assert all(asked)


@simulated
async def test_a_disk_that_cannot_be_read_is_an_answer(world: World) -> None:
    async with world.running() as run:
        await run.broker.create_topic("orders")
        async with world.connect() as client:
            await client.produce(make_batch(timestamp_ms=T0))
            world.fs.faults = DiskFaults(read_error_rate=1.0)
            assert (await ask(client, T0))[0] == ErrorCode.KAFKA_STORAGE_ERROR
            assert (await ask(client, LATEST))[:2] == (0, 1)
            world.fs.faults = DiskFaults()
            assert (await ask(client, T0))[:2] == (0, 0)


async def test_records_with_impossible_timestamps_are_answered_as_a_whole(
    wire_config: BrokerConfig,
) -> None:
    """What is inside of a batch is the producer's business, and may be nonsense."""
    delta = varint(2**63 - 1)
    record = b"\0" + delta + varint(0) + varint(-1) + varint(-1) + varint(0)
    batch = Batch(payload=varint(len(record)) + record, base_timestamp=1_000, max_timestamp=2_000)
    async with running(wire_config) as run, run.connect() as client:
        await run.broker.create_topic("orders")
        assert (await client.produce(batch.encode())).error_code == 0
        answer = await client.call(request(1_500), 7)
        found = answer.topics[0].partitions[0]
        assert (found.error_code, found.offset, found.timestamp) == (0, 0, 2_000)


@pytest.mark.parametrize("count, offset", [(200_000, 199_999), (200_001, 0)])
async def test_batches_of_very_many_records_are_not_looked_through(
    wire_config: BrokerConfig, count: int, offset: int
) -> None:
    """A few KB of zeros hold ten million, and the thread that looks for one has to write, too."""
    old = b"\x0c\x00\x00\x00\x01\x01\x00"  # the offsets in it do not count, except in the last
    last = b"\x00" + varint(1_000) + varint(count - 1) + varint(-1) + varint(-1) + varint(0)
    records = old * (count - 1) + varint(len(last)) + last
    batch = Batch(
        payload=compress(records, Compression.GZIP),
        count=count,
        last_offset_delta=count - 1,
        attributes=int(Compression.GZIP),
        base_timestamp=1_000,
        max_timestamp=2_000,
    ).encode()
    assert len(batch) < 10_000
    async with running(wire_config) as run, run.connect() as client:
        await run.broker.create_topic("orders")
        assert (await client.produce(batch)).error_code == 0
        answer = await client.call(request(1_500), 7)
        found = answer.topics[0].partitions[0]
        assert (found.error_code, found.offset, found.timestamp) == (0, offset, 2_000)
