"""Every topic config that is honoured does what it says, and at once when it is altered.

Each test is named by docs/reference/topic-configs.md beside its config.
"""

from __future__ import annotations

import errno
from typing import Any

import pytest
import trio

from tests.broker.admin_calls import alter, configs_of
from tests.broker.harness import World, failing, make_batch, simulated
from tests.broker.retained import eventually
from trio_broker import ErrorCode
from trio_broker.config import Durability
from trio_broker.errors import SyncFailed
from trio_broker.records.batch import read_header
from trio_broker.records.compression import Compression

HOUR_MS = 3_600_000


async def produce(client, *values, **arguments):
    """Produce one batch; it must be accepted."""
    found = await client.produce(make_batch(*(values or (b"v" * 1000,)), **arguments))
    assert found.error_code == 0, found
    return found


def segment_files(world, topic_id):
    """Return the names of a log's segment files, deleted ones included."""
    names = [path.rpartition("/") for path in world.fs.tree()]
    return sorted(
        name for directory, _, name in names if str(topic_id) in directory and ".log" in name
    )


@simulated
async def test_retention_ms(world: World) -> None:
    async with world.running() as run, world.connect() as client:
        await run.broker.create_topic("orders", configs={"retention.ms": "-1"})
        log = run.replica("orders").log
        await produce(client, timestamp_ms=world.host.wall.now_ms() - HOUR_MS)
        await run.broker.create_topic("other", configs={"retention.ms": "-1"})
        await trio.sleep(120)
        assert log.log_start_offset == 0
        await alter(client, "orders", {"retention.ms": str(HOUR_MS // 2)})
        await trio.sleep(120)
        assert (log.log_start_offset, log.log_end_offset) == (1, 1)
        await produce(client, timestamp_ms=world.host.wall.now_ms())


@simulated
async def test_retention_bytes(world: World) -> None:
    async with world.running() as run, world.connect() as client:
        await run.broker.create_topic("orders", configs={"segment.bytes": "1500"})
        log = run.replica("orders").log
        for _ in range(5):
            await produce(client)
        assert log.segment_count == 5
        await alter(client, "orders", {"retention.bytes": "2500"})
        await trio.sleep(120)
        assert log.log_start_offset == 2  # whole segments, and not below the limit
        await alter(client, "orders", {"retention.bytes": None})
        for _ in range(5):
            await produce(client)
        await trio.sleep(120)
        assert log.log_start_offset == 2


@simulated
async def test_segment_bytes(world: World) -> None:
    async with world.running() as run, world.connect() as client:
        await run.broker.create_topic("orders")
        log = run.replica("orders").log
        for _ in range(3):
            await produce(client)
        assert log.segment_count == 1
        await alter(client, "orders", {"segment.bytes": "1500"})
        for _ in range(3):
            await produce(client)
        assert log.segment_count == 4
        found = await client.produce(make_batch(b"v" * 2000))
        assert found.error_code == ErrorCode.RECORD_LIST_TOO_LARGE


@simulated
async def test_segment_ms(world: World) -> None:
    async with world.running() as run, world.connect() as client:
        await run.broker.create_topic("orders")
        log = run.replica("orders").log
        now_ms = world.host.wall.now_ms()
        await produce(client, timestamp_ms=now_ms)
        await produce(client, timestamp_ms=now_ms + 5000)
        assert log.segment_count == 1
        await alter(client, "orders", {"segment.ms": "2000"})
        await produce(client, timestamp_ms=now_ms + 6000)
        assert log.segment_count == 2


@simulated
async def test_index_interval_bytes(world: World) -> None:
    async with world.running() as run, world.connect() as client:
        await run.broker.create_topic("orders")
        row = run.replica("orders").log._row

        async def growth() -> int:
            """Return by how many bytes the offset index grows with eight batches."""
            before = len(row.active.index.to_payloads(0)[0])
            for _ in range(8):
                await produce(client)
            return len(row.active.index.to_payloads(0)[0]) - before

        await produce(client)
        sparse = await growth()
        await alter(client, "orders", {"index.interval.bytes": "0"})
        assert await growth() >= 3 * sparse > 0


@simulated
async def test_max_message_bytes(world: World) -> None:
    async with world.running() as run, world.connect() as client:
        await run.broker.create_topic("orders")
        await produce(client)
        await alter(client, "orders", {"max.message.bytes": "1000"})
        found = await client.produce(make_batch(b"v" * 1000))
        assert found.error_code == ErrorCode.MESSAGE_TOO_LARGE
        await produce(client, b"v" * 900)


@simulated
async def test_message_timestamp_type(world: World) -> None:
    async with world.running() as run, world.connect() as client:
        await run.broker.create_topic("orders")
        assert (await produce(client)).log_append_time_ms == -1
        await alter(client, "orders", {"message.timestamp.type": "LogAppendTime"})
        stamped = (await produce(client, timestamp_ms=1)).log_append_time_ms
        assert abs(stamped - world.host.wall.now_ms()) < 60_000
        found = await client.fetch(1)
        assert read_header(bytes(found.records)).max_timestamp == stamped
        await alter(client, "orders", {"message.timestamp.type": None})
        assert (await produce(client)).log_append_time_ms == -1


@simulated
async def test_message_timestamp_before_max_ms(world: World) -> None:
    async with world.running() as run, world.connect() as client:
        await run.broker.create_topic("orders")
        old_ms = world.host.wall.now_ms() - HOUR_MS
        await produce(client, timestamp_ms=old_ms)
        await alter(client, "orders", {"message.timestamp.before.max.ms": str(HOUR_MS // 2)})
        found = await client.produce(make_batch(timestamp_ms=old_ms))
        assert found.error_code == ErrorCode.INVALID_TIMESTAMP
        await produce(client, timestamp_ms=old_ms + HOUR_MS)


@simulated
async def test_message_timestamp_after_max_ms(world: World) -> None:
    async with world.running() as run, world.connect() as client:
        await run.broker.create_topic("orders")
        future_ms = world.host.wall.now_ms() + 2 * HOUR_MS
        found = await client.produce(make_batch(timestamp_ms=future_ms))
        assert found.error_code == ErrorCode.INVALID_TIMESTAMP
        await alter(client, "orders", {"message.timestamp.after.max.ms": str(3 * HOUR_MS)})
        await produce(client, timestamp_ms=future_ms)


@simulated
async def test_min_insync_replicas(world: World) -> None:
    async with world.running() as run, world.connect() as client:
        await run.broker.create_topic("orders")
        await produce(client)
        await alter(client, "orders", {"min.insync.replicas": "2"})
        [state] = run.state.controller.image.topics_by_name["orders"].partitions
        assert state.min_isr == 2
        found = await client.produce(make_batch())
        assert found.error_code == ErrorCode.NOT_ENOUGH_REPLICAS
        assert (await client.produce(make_batch(), acks=1)).error_code == 0


@simulated
async def test_file_delete_delay_ms(world: World) -> None:
    async with world.running() as run, world.connect() as client:
        configs = {"segment.bytes": "1500", "file.delete.delay.ms": str(HOUR_MS)}
        topic_id = await run.broker.create_topic("orders", configs=configs)
        for _ in range(5):
            await produce(client)
        await alter(client, "orders", {"retention.bytes": "1500"})
        await trio.sleep(300)
        assert run.replica("orders").log.segment_count < 5
        assert len(segment_files(world, topic_id)) == 5
        await alter(client, "orders", {"file.delete.delay.ms": "0"})
        await trio.sleep(300)
        assert len(segment_files(world, topic_id)) < 5


def without_descriptors(_log: Any) -> Any:
    yield bool, ()  # on the lane
    raise OSError(errno.EMFILE, "no descriptors")


@simulated
async def test_durability(world: World) -> None:
    async with world.running() as run, world.connect() as client:
        await run.broker.create_topic("orders", configs={"durability": "os"})
        log = run.replica("orders").log
        await produce(client)
        assert log.durable_offset == 0
        assert (await configs_of(client, "orders"))["durability"].value == "os"
        # What was written under the weaker promise is durable before the stronger one begins.
        await alter(client, "orders", {"durability": "fsync"})
        assert (log.durable_offset, log.durability) == (1, Durability.FSYNC)
        await produce(client)
        assert log.durable_offset == 2
        await alter(client, "orders", {"durability": "os"})
        await produce(client)
        assert (log.durable_offset, log.log_end_offset) == (2, 3)
        await alter(client, "orders", {"durability": "interval"})
        assert log.durable_offset == 3
        await alter(client, "orders", {"durability": None})
        assert (await configs_of(client, "orders"))["durability"].value == "fsync"
        assert log.durability is Durability.FSYNC


@simulated
async def test_what_cannot_be_flushed_when_durability_is_raised_is_flushed_without_a_write(
    world: World,
) -> None:
    """The writer, which has nothing to write, learns that a flush is due."""
    async with world.running() as run, world.connect() as client:
        await run.broker.create_topic("orders", configs={"durability": "os"})
        log = run.replica("orders").log
        await produce(client)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(log), "flush_job", without_descriptors)
            await alter(client, "orders", {"durability": "interval"})
        assert log.durable_offset == 0
        await eventually(lambda: log.durable_offset == 1)


@pytest.mark.parametrize("when", ["before", "meanwhile"])
@simulated
async def test_durability_that_is_raised_when_an_fsync_fails_does_not_drop_what_was_acknowledged(
    world: World, when: str
) -> None:
    async with world.running() as run, world.connect() as client:
        run.faults_expected = {"log dir /data/logs"}
        await run.broker.create_topic("orders", configs={"durability": "os"})
        await run.broker.create_topic("others")
        replica, other = run.replica("orders"), run.replica("others")
        log = replica.log
        await produce(client)
        if when == "before":
            log.mark_broken()
            log_dir = replica.shard.log_dir
            log_dir.fail(SyncFailed(log.directory, errno.EIO))
            await alter(client, "orders", {"durability": "fsync"})
        else:
            with failing("sync", str(run.topic_id("orders"))):
                await alter(client, "orders", {"durability": "fsync"})
        assert replica.refusal
        assert other.refusal
        await trio.sleep(120)
        assert not other.refusal
        # The topic waits for somebody who knows that something may be lost.
        assert replica.refusal
        assert (replica.log.log_end_offset, replica.log.unflushed_bytes > 0) == (1, True)


@simulated
async def test_cleanup_policy(world: World) -> None:
    """Only ``delete`` can be set, and deleting is what happens."""
    async with world.running() as run, world.connect() as client:
        await run.broker.create_topic("orders", configs={"cleanup.policy": "delete"})
        await produce(client, timestamp_ms=world.host.wall.now_ms() - HOUR_MS)
        await alter(client, "orders", {"cleanup.policy": "delete", "retention.ms": "1000"})
        await trio.sleep(120)
        assert run.replica("orders").log.log_start_offset == 1


@simulated
async def test_compression_type(world: World) -> None:
    """Only ``producer`` can be set, and batches are stored with the codec they were sent with."""
    async with world.running() as run, world.connect() as client:
        await run.broker.create_topic("orders", configs={"compression.type": "producer"})
        await produce(client, b"v" * 500, compression=Compression.GZIP)
        found = await client.fetch(0)
        assert read_header(bytes(found.records)).compression is Compression.GZIP


@simulated
async def test_what_is_altered_survives_a_power_cut(world: World) -> None:
    async with world.running_until_power_cut() as run, world.connect() as client:
        await run.broker.create_topic("orders")
        await alter(client, "orders", {"retention.ms": "12345678", "segment.bytes": "1500"})
    async with world.running() as run, world.connect() as client:
        found = await configs_of(client, "orders")
        assert (found["retention.ms"].value, found["retention.ms"].config_source) == ("12345678", 1)
        assert run.replica("orders").log.config.segment_bytes == 1500
