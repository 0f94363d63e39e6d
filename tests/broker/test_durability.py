"""When what was acknowledged is on stable storage, and what each mode may lose."""

from __future__ import annotations

from contextlib import ExitStack

import attrs
import trio

from tests.broker.harness import World, code_of, failing, make_batch, simulated
from tests.broker.retained import eventually
from trio_broker.config import Durability, StorageConfig, TopicConfig
from trio_broker.storage import paths
from trio_broker.testing.sim.disk import SimFileSystem
from trio_broker.testing.sim.faults import DiskFaults
from trio_broker.testing.sim.path_faults import PathFaults
from trio_broker.wire.messages.produce import (
    PartitionProduceData,
    ProduceRequest,
    TopicProduceData,
)


@simulated
async def test_when_data_is_made_durable(world: World) -> None:
    storage = attrs.evolve(
        world.config().storage, flush_interval_ms=200, flush_interval_bytes=64 * 1024
    )
    async with world.running(storage=storage) as run:
        for mode in Durability:
            await run.broker.create_topic(mode.value, configs={"durability": mode.value})

        def durable(mode: Durability) -> int:
            return run.replica(mode.value).log.durable_offset

        async with world.connect() as client:
            for mode in Durability:
                assert (await client.produce(make_batch(), topic=mode.value)).error_code == 0
                assert durable(mode) == (1 if mode is Durability.FSYNC else 0)
            await trio.sleep(0.5)  # a flush begins within the interval
            assert [durable(mode) for mode in Durability] == [1, 1, 0]
            began = trio.current_time()
            while trio.current_time() - began < 0.1:  # or after so many bytes
                await client.produce(make_batch(bytes(30_000)), topic="interval")
                if durable(Durability.INTERVAL) > 1:
                    break
            assert 1 < durable(Durability.INTERVAL) <= 6
            await trio.sleep(100)
            assert durable(Durability.OS) == 0
    # An orderly stop makes all of it durable.
    world.machine.power_off()
    world.machine = world.machine.power_on()
    async with world.running() as run:
        assert run.replica("os").log.log_end_offset == 1
        assert run.replica("os").log.recovery.is_trusted


def flushed_by_bytes(world: World, **options: int) -> StorageConfig:
    """Return a configuration in which no flush by time comes within a test."""
    storage = world.config().storage
    limits = {"flush_interval_ms": 60_000, "flush_interval_bytes": 64 * 1024}
    return attrs.evolve(storage, shards_per_log_dir=1, **limits, **options)


def topic_data(topic: str, batch: bytes) -> TopicProduceData:
    return TopicProduceData(
        name=topic, partition_data=[PartitionProduceData(index=0, records=batch)]
    )


@simulated
async def test_a_write_that_fills_an_interval_is_synced_before_it_is_answered(
    world: World,
) -> None:
    async with world.running(storage=flushed_by_bytes(world)) as run:
        await run.broker.create_topic("orders", configs={"durability": "interval"})
        log = run.replica("orders").log
        synced = []
        async with world.connect() as client:
            for _ in range(6):
                assert (await client.produce(make_batch(bytes(25_000)))).error_code == 0
                synced.append(log.is_durable)
        assert synced == [False, False, True] * 2


@simulated
async def test_a_log_that_leaves_much_unflushed_is_not_paid_for_by_each_write_to_another(
    world: World,
) -> None:
    async with world.running(storage=flushed_by_bytes(world)) as run:
        await run.broker.create_topic("orders", partitions=2, configs={"durability": "interval"})
        log = run.replica("orders", 1).log
        async with world.connect() as client:
            await client.produce(make_batch(bytes(65_000)))
            syncs = 0
            for _ in range(100):
                before = log.durable_offset
                await client.produce(make_batch(bytes(1_000)), partition=1)
                syncs += log.durable_offset != before
        assert 1 <= syncs <= 5


@simulated
async def test_what_is_written_to_other_kinds_of_topics_fills_no_interval(world: World) -> None:
    async with world.running(storage=flushed_by_bytes(world)) as run:
        for mode in (Durability.OS, Durability.INTERVAL):
            await run.broker.create_topic(mode.value, configs={"durability": mode.value})
        large = topic_data("os", make_batch(bytes(70_000)))
        small = topic_data("interval", make_batch(bytes(40_000)))
        async with world.connect() as client:
            request = ProduceRequest(
                transactional_id=None, acks=-1, timeout_ms=30_000, topic_data=[large, small]
            )
            await client.call(request, 11)
        assert run.replica("interval").log.durable_offset == 0


@simulated
async def test_segments_that_were_synced_with_a_write_need_not_stay_open(world: World) -> None:
    """They would take all descriptors, and with none left each small write is synced."""
    storage = flushed_by_bytes(world, open_files_max=4)
    topic = TopicConfig(segment_bytes=1024 * 1024, retention_ms=-1)
    async with world.running(storage=storage, topic=topic) as run:
        await run.broker.create_topic("orders", configs={"durability": "interval"})
        log = run.replica("orders").log
        async with world.connect() as client:
            for _ in range(500):
                assert (await client.produce(make_batch(bytes(20_000)))).error_code == 0
        assert log.segment_count > 8
        assert not any(segment.holds_unsynced for segment in log.segments[:-1])


@simulated
async def test_nothing_is_acknowledged_while_a_flush_is_due(world: World) -> None:
    """However slow fsync is, what may be lost is what one interval's writes were."""
    interval_seconds, commit_seconds_max = 0.05, 0.05
    storage = attrs.evolve(
        world.config().storage, flush_interval_ms=50, flush_interval_bytes=1024 * 1024
    )
    world.fs.faults = attrs.evolve(world.fs.faults, sync_latency_seconds=(0.3, 0.5))
    async with world.running(storage=storage) as run:
        await run.broker.create_topic("orders", configs={"durability": "interval"})
        replica = run.replica("orders")
        acknowledged: list[float] = []  # by offset
        waited_for_flush = 0
        async with world.connect() as client:
            while waited_for_flush < 5:
                assert await code_of(client, replica) == 0
                acknowledged.append(trio.current_time())
                if len(acknowledged) > 1 and acknowledged[-1] - acknowledged[-2] > 0.3:
                    waited_for_flush += 1
                oldest_unflushed = acknowledged[replica.log.durable_offset]
                age_seconds = acknowledged[-1] - oldest_unflushed
                assert age_seconds <= interval_seconds + commit_seconds_max
        assert len(acknowledged) > 20  # and between flushes it was quick


@simulated
async def test_what_each_mode_may_lose_when_the_power_fails(world: World) -> None:
    world.fs.faults = DiskFaults(writes_lost="any")
    stored: dict[str, int] = {}
    async with world.running_until_power_cut() as run:
        for mode in Durability:
            await run.broker.create_topic(mode.value, configs={"durability": mode.value})
        async with world.connect() as client:
            for mode in Durability:
                for _ in range(5):
                    await client.produce(make_batch(), topic=mode.value)
                stored[mode.value] = run.replica(mode.value).log.durable_offset
            await trio.sleep(0.5)
            stored["interval"] = 5
    async with world.running() as run:
        assert run.replica("fsync").log.log_end_offset == 5
        for mode in Durability:
            log = run.replica(mode.value).log
            assert stored[mode.value] <= log.log_end_offset <= 5
            assert run.replica(mode.value).leader_epoch == 1


@simulated
async def test_a_recovery_point_is_written_every_so_many_bytes(world: World) -> None:
    storage = attrs.evolve(world.config().storage, recovery_point_bytes=1024 * 1024)
    async with world.running_until_power_cut(storage=storage) as run:
        await run.broker.create_topic("orders")
        async with world.connect() as client:
            for _ in range(11):
                await client.produce(make_batch(bytes(250_000)))
        await trio.sleep(1)
    async with world.running(storage=storage) as run:
        report = run.replica("orders").log.recovery
        assert not report.is_trusted
        assert 0 < report.bytes_scanned < 1_300_000
        assert run.replica("orders").log.log_end_offset == 11


@simulated
async def test_an_fsync_that_fails_while_a_log_is_opened_is_not_believed_the_next_time(
    world: World,
) -> None:
    """The disk does not take the note of it either, so only this process knows."""
    async with world.running_until_power_cut() as run:
        await run.broker.create_topic("orders", partitions=12, configs={"durability": "os"})
        replicas = list(run.state.router.replicas())
        async with world.connect() as client:
            for replica in replicas:
                assert await code_of(client, replica) == 0
        refusing = PathFaults(sync_error_rate=1.0)
        with ExitStack() as stack:
            stack.enter_context(failing("open", paths.SYNC_FAILED_NAME, on=SimFileSystem))
            for replica in replicas:
                stack.enter_context(world.fs.failing_below(replica.log.directory, refusing))
                replica.shard.take_offline(replica, "a fault in it")
            await trio.sleep(1.5)
            assert all(replica.refusal for replica in replicas)
        await eventually(lambda: not any(replica.refusal for replica in replicas))
        assert all(replica.log.is_durable for replica in replicas)
    async with world.running() as run:
        for replica in run.state.router.replicas():
            assert replica.log.log_end_offset == 1
