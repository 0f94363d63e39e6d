"""What clients see of a stop, and what it leaves when a disk is slow or gone."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import attrs
import pytest
import trio

from tests.broker.group_calls import join_request
from tests.broker.harness import (
    World,
    failing,
    fetch_request,
    make_batch,
    produce_request,
    running,
    simulated,
    slow,
)
from trio_broker.broker.broker import BrokerTree
from trio_broker.broker.phase import Phase
from trio_broker.broker.shutdown import PHASES
from trio_broker.config import GroupConfig, ShutdownConfig, TopicConfig
from trio_broker.errors import BrokerClosed, ErrorCode, RequestError
from trio_broker.records.build import Record
from trio_broker.storage.log import Log


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
        assert [phase.name for phase in run.tree.report.phases] == list(PHASES)
    async with world.running() as run:
        assert run.replica("orders").log.log_end_offset == 4
        assert run.replica("orders").log.recovery.is_trusted


@simulated
async def test_who_waited_for_the_coordinator_does_not_wait_for_other_members(world: World) -> None:
    group = GroupConfig(initial_rebalance_delay_ms=20_000)
    async with world.running(group=group) as run, world.connect() as client:
        with slow(
            "metadata", 0.5
        ):  # where the topic of the groups is created for the first of them
            await client.send(join_request(group_instance_id="one"), 9)
            await trio.sleep(0.2)
            run.broker.request_stop()
            answer = await client.receive(join_request(), 9)
        assert answer.error_code == ErrorCode.NOT_COORDINATOR
        await run.broker.wait_stopped()
    assert run.tree.report is not None
    assert not any(phase.was_cut for phase in run.tree.report.phases)


@simulated
async def test_who_connects_in_memory_as_the_drain_begins_does_not_hold_it_up(
    world: World,
) -> None:
    for attempt in range(18):  # the order of tasks is drawn
        topic, turns = f"orders-{attempt}", attempt % 6
        async with world.running() as run, world.connect() as client:
            await run.broker.create_topic(topic)
            world.fs.freeze()
            await client.send(produce_request(make_batch(), topic=topic), 9)
            await trio.sleep(0.5)
            run.broker.request_stop()
            for _ in range(turns):
                await trio.lowlevel.checkpoint()
            with suppress(ConnectionRefusedError):
                await run.broker.connect()
            await trio.sleep(1)
            world.fs.thaw()
        assert run.tree.report is not None
        assert not any(phase.was_cut for phase in run.tree.report.phases), turns


@simulated
async def test_topics_under_way_are_finished_before_logs_are_flushed(world: World) -> None:
    async with world.running() as run:
        await run.broker.create_topic("leaving", partitions=4)
        made = gone = False

        async def create() -> None:
            nonlocal made
            await run.broker.create_topic("coming", partitions=4)
            made = True

        async def delete() -> None:
            nonlocal gone
            await run.broker.delete_topic("leaving")
            gone = True

        async with trio.open_nursery() as nursery:
            with slow("/data/logs", 0.2):
                nursery.start_soon(create)
                nursery.start_soon(delete)
                await trio.sleep(0.5)
                assert not made
                assert not gone
                run.broker.request_stop()
                await run.broker.wait_stopped()
                assert made
                assert gone
        assert run.tree.report is not None
        assert run.tree.report.clean
    async with world.running() as run:
        assert set(run.state.router.by_name) == {"coming"}
        assert all(log_dir.directory.was_clean for log_dir in run.state.log_dirs)


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


@pytest.mark.parametrize("work", ["read", "commit", "create"])
@simulated
async def test_a_disk_that_hangs_does_not_take_the_time_of_the_others(
    world: World, work: str
) -> None:
    """Whoever waits for a call that hangs cannot be cancelled; the other log dir is flushed."""
    shutdown = attrs.evolve(ShutdownConfig(), deadline_seconds=10.0)
    config = world.config(shutdown=shutdown, log_dirs=("/disk-a", "/disk-b"))
    async with running(config, host=world.host, reraise=False) as run:
        run.faults_expected = {"log dir /disk-a"}
        run.files_stay = True
        await run.broker.create_topic("orders", partitions=4)
        hung, good = (
            next(
                replica
                for replica in run.state.router.by_name["orders"].replicas
                if replica is not None and replica.log.directory.startswith(disk)
            )
            for disk in ("/disk-a", "/disk-b")
        )
        async with world.connect() as client, trio.open_nursery() as nursery:
            for replica in (hung, good):
                answer = await client.produce(make_batch(), partition=replica.partition)
                assert answer.error_code == 0
            with slow("/disk-a", 90.0), pytest.MonkeyPatch.context() as patch:
                if work == "read":
                    patch.setattr(Log, "read_cached", lambda _log, _plan: None)
                    await client.send(fetch_request(0, partition=hung.partition), 12)
                elif work == "commit":
                    await client.send(produce_request(make_batch(), partition=hung.partition), 9)
                else:
                    nursery.start_soon(_try_to_create, run.broker)
                await trio.sleep(1)
                began = trio.current_time()
                run.broker.request_stop()
                await run.broker.wait_stopped()
                assert trio.current_time() - began <= 11
        by_path = {log_dir.directory.path: log_dir for log_dir in run.state.log_dirs}
        assert by_path["/disk-b"].closed_cleanly
        assert not by_path["/disk-a"].closed_cleanly
        report = run.tree.report
        assert report is not None
        assert not report.clean
        assert "/disk-a" in str(report)
        assert "/disk-b" not in str(report)
    await trio.sleep(100)


async def _try_to_create(broker: Any) -> None:
    try:
        await broker.create_topic("carts", partitions=4)
    except (BrokerClosed, RequestError):
        pass  # or it is there, and its replicas on that disk are offline


@simulated
async def test_metadata_on_a_disk_that_hangs_does_not_keep_logs_from_being_closed(
    world: World,
) -> None:
    shutdown = attrs.evolve(ShutdownConfig(), deadline_seconds=10.0)
    config = world.config(shutdown=shutdown, data_dir="/meta", log_dirs=("/disk",))
    async with running(config, host=world.host, reraise=False) as run:
        run.files_stay = True
        await run.broker.create_topic("orders")
        async with trio.open_nursery() as nursery:
            with slow("/meta", 90.0):
                nursery.start_soon(_try_to_create, run.broker)
                await trio.sleep(1)
                began = trio.current_time()
                run.broker.request_stop()
                await run.broker.wait_stopped()
                assert trio.current_time() - began <= 11
        assert run.state.log_dirs[0].closed_cleanly
    await trio.sleep(100)


@simulated
async def test_everything_that_fails_in_a_stop_is_reported(world: World) -> None:
    config = world.config(log_dirs=("/disk-a", "/disk-b", "/disk-c"))
    async with running(config, host=world.host, reraise=False) as run:
        run.faults_expected = {"log dir /disk-a", "log dir /disk-b"}
        await run.broker.create_topic("orders", partitions=12, configs={"durability": "os"})
        async with world.connect() as client:
            for partition in range(12):
                await client.produce(make_batch(), partition=partition)
        with failing("sync", "/disk-a/"), failing("sync", "/disk-b/"):
            run.broker.request_stop()
            await run.broker.wait_stopped()
        report = run.tree.report
        assert report is not None
        assert not report.clean
        for disk, count in (("/disk-a", 4), ("/disk-b", 4), ("/disk-c", 0)):
            assert sum(f"fsync of {disk}/" in failure for failure in report.failures) == count
        assert [log_dir.closed_cleanly for log_dir in run.state.log_dirs] == [False, False, True]
        assert "and 3 more" in str(report)


@pytest.mark.parametrize("hangs_seconds", [0.2, 90.0])
@simulated
async def test_a_stop_while_starting_gives_up_at_once_and_leaves_nothing(
    world: World, hangs_seconds: float
) -> None:
    async with world.running() as run:
        await run.broker.create_topic("orders", partitions=50)
        await run.broker.produce("orders", b"kept", partition=0)
    tree = BrokerTree(world.config(), world.host)
    outcome: list[BaseException] = []

    async def start() -> None:
        try:
            await tree.run()
        except BrokerClosed as error:
            outcome.append(error)

    async with trio.open_nursery() as nursery:
        with slow("/data/logs", hangs_seconds):
            nursery.start_soon(start)
            await trio.sleep(1)
            assert tree.state.phase in {Phase.STARTING, Phase.RECOVERING}
            began = trio.current_time()
            tree.request_stop("SIGTERM")
            await tree.ended.wait()
            assert trio.current_time() - began <= 1.5
    assert "stopped while starting (SIGTERM)" in str(outcome[0])
    # A call that was given up may keep its file; all others are closed.
    assert len(world.fs.open_files()) <= 1
    world.machine = world.machine.restart_process()
    async with world.running() as run:
        async with run.broker.read("orders", 0) as reader:
            assert (await reader.receive()).value == b"kept"
