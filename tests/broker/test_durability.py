"""When what was acknowledged is on stable storage, and what each mode may lose."""

from __future__ import annotations

import attrs
import trio

from tests.broker.harness import World, code_of, make_batch, simulated
from trio_broker.config import Durability
from trio_broker.testing.sim.faults import DiskFaults


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


@simulated
async def test_what_one_interval_may_lose_is_never_more_than_its_bytes(world: World) -> None:
    """A write that would make it more is synced with what its log holds, before it is answered."""
    limit_bytes = 64 * 1024
    storage = attrs.evolve(
        world.config().storage,
        shards_per_log_dir=1,
        flush_interval_ms=60_000,
        flush_interval_bytes=limit_bytes,
    )
    async with world.running(storage=storage) as run:
        await run.broker.create_topic("orders", partitions=3, configs={"durability": "interval"})
        logs = [run.replica("orders", partition).log for partition in range(3)]
        syncs = 0
        async with world.connect() as client:
            for number in range(30):
                before = [log.durable_offset for log in logs]
                batch = make_batch(bytes(10_000))
                answer = await client.produce(batch, partition=number % 3)
                assert answer.error_code == 0
                assert sum(log.unflushed_bytes for log in logs) < limit_bytes
                syncs += before != [log.durable_offset for log in logs]
                await trio.sleep(1.0)
        assert 3 <= syncs <= 15


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
