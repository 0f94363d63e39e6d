"""What clients see of a stop, and what it leaves when a disk is slow or gone."""

from __future__ import annotations

from typing import Any

import attrs
import trio

from tests.broker.harness import (
    World,
    fetch_request,
    make_batch,
    produce_request,
    running,
    simulated,
    slow,
)
from trio_broker.config import ShutdownConfig, TopicConfig
from trio_broker.records.build import Record


@simulated
async def test_requests_under_way_are_answered_and_nothing_else_is_taken(world: World) -> None:
    async with trio.open_nursery() as nursery:
        answered: list[int] = []

        async def produce(task_status: Any) -> None:
            async with world.connect() as client:
                for _ in range(4):
                    await client.send(produce_request(make_batch()), 9)
                await trio.sleep(0.5)
                task_status.started()
                for _ in range(4):
                    response = await client.receive(produce_request(b""), 9)
                    part = response.responses[0].partition_responses[0]
                    assert part.error_code == 0
                    answered.append(part.base_offset)
                await client.wait_closed()

        async def come_late() -> None:
            await trio.sleep(0.5)
            try:
                async with world.connect() as client:
                    await client.wait_closed()
            except OSError:
                pass  # refused: nobody listens any more

        async with world.running() as run:
            await run.broker.create_topic("orders")
            world.fs.freeze()
            await nursery.start(produce)
            nursery.start_soon(come_late)
            run.broker.request_stop()
            await trio.sleep(1)
            world.fs.thaw()
        assert answered == [0, 1, 2, 3]
        assert run.tree.report is not None
        assert run.tree.report.clean
    async with world.running() as run:
        assert run.replica("orders").log.log_end_offset == 4
        assert run.replica("orders").log.recovery.is_trusted


@simulated
async def test_a_stop_in_the_middle_of_housekeeping(world: World) -> None:
    """Segments are being deleted when the stop begins; the log is none the worse for it."""
    for seconds in range(6):
        async with world.running(topic=TopicConfig(segment_bytes=2_000)) as run:
            name = f"topic-{seconds}"
            await run.broker.create_topic(name, configs={"retention.ms": "1000"})
            for _ in range(20):
                record = Record(value=bytes(500), timestamp_ms=run.host.wall.now_ms())
                await run.broker.produce_batch(name, [record])
            with slow(run.replica(name).log.directory, 0.3):
                await trio.sleep(0.5 + 0.4 * seconds)
                run.broker.request_stop()
                await run.broker.wait_stopped()
        assert run.tree.report is not None
        assert run.tree.report.clean
    async with world.running() as run:
        for seconds in range(6):
            assert run.replica(f"topic-{seconds}").log.log_end_offset == 20


@simulated
async def test_a_disk_that_hangs_makes_a_stop_late_and_unclean_and_loses_nothing(
    world: World,
) -> None:
    shutdown = attrs.evolve(ShutdownConfig(), deadline_seconds=10.0)
    config = world.config(shutdown=shutdown)
    async with running(config, host=world.host, reraise=False) as run:
        run.faults_expected = {"log dir /data/logs"}
        run.files_stay = True
        await run.broker.create_topic("orders")
        async with world.connect() as client:
            for offset in range(3):
                assert (await client.produce(make_batch())).base_offset == offset
            world.fs.freeze()
            await client.send(produce_request(make_batch()), 9)
            await trio.sleep(1)
            began = trio.current_time()
            run.broker.request_stop()
            await run.broker.wait_stopped()
            assert trio.current_time() - began < 12
            world.fs.thaw()
            await trio.sleep(1)
        assert run.tree.report is not None
        assert not run.tree.report.clean
    world.machine = world.machine.restart_process()
    async with world.running() as run:
        assert 3 <= run.replica("orders").log.log_end_offset <= 4
        async with world.connect() as client:
            found = await client.call(fetch_request(), 12)
            assert found.responses[0].partitions[0].error_code == 0
