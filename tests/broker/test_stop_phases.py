"""The phases of a stop under what may come together: slow and failing disks, hurry, bugs, metadata.

What one log dir takes is never taken from the others: they are flushed and marked clean in time.
"""

from __future__ import annotations

import errno
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio

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
from tests.broker.test_isolation import PlantedBug, is_log_of, planted
from trio_broker.broker.log_dir import LogDir
from trio_broker.broker.replica import ReplicaState
from trio_broker.broker.shard import Shard
from trio_broker.errors import BrokerClosed, RequestError
from trio_broker.storage import paths
from trio_broker.storage.log import Log

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.broker.harness import Running

PARTITIONS = 16


def on(run: Running, disk: str) -> list[Any]:
    """Return the replicas on one of two disks."""
    replicas = run.state.router.by_name["orders"].replicas
    return [r for r in replicas if r is not None and r.log.directory.startswith(disk)]


def cleanly(run: Running) -> dict[str, bool]:
    return {each.directory.path: each.closed_cleanly for each in run.state.log_dirs}


@asynccontextmanager
async def two_disks(world: World, **changes: Any) -> AsyncIterator[Running]:
    """Run a broker on two disks, with a topic on both that acknowledges before it syncs."""
    shutdown = attrs.evolve(world.config().shutdown, deadline_seconds=10.0)
    changes = {"shutdown": shutdown, "log_dirs": ("/disk-a", "/disk-b")} | changes
    async with running(world.config(**changes), host=world.host, reraise=False) as run:
        await run.broker.create_topic("orders", partitions=PARTITIONS, configs={"durability": "os"})
        for partition in range(PARTITIONS):
            await run.broker.produce("orders", b"value", partition=partition)
        yield run


async def stop(run: Running, seconds: float) -> None:
    began = trio.current_time()
    run.broker.request_stop()
    await run.broker.wait_stopped()
    assert trio.current_time() - began <= seconds


async def expect_after_power_cut(world: World, run: Running, data_dir: str = "/data") -> None:
    """All that was acknowledged is there, of the log dirs that were marked clean."""
    clean = {path for path, is_clean in cleanly(run).items() if is_clean}
    world.machine.power_off()
    world.machine = world.machine.power_on()
    async with world.running(log_dirs=("/disk-a", "/disk-b"), data_dir=data_dir) as after:
        for disk in clean:
            for replica in on(after, disk):
                assert replica.log.log_end_offset == 1
                assert replica.log.recovery.is_trusted


@simulated
async def test_a_slow_disk_does_not_take_the_time_of_the_others(world: World) -> None:
    """No call of it takes too long, but there are many, and who waits cannot be cancelled."""
    async with two_disks(world) as run:
        run.files_stay = True
        run.faults_expected = {"log dir /disk-a"}  # its last call was not waited for
        with slow("/disk-a", 1.5):
            await stop(run, 10.1)
        report = run.tree.report
        assert cleanly(run) == {"/disk-a": False, "/disk-b": True}
        assert "/disk-a" in str(report)
        assert "/disk-b" not in str(report)
    await trio.sleep(2)
    await expect_after_power_cut(world, run)


@pytest.mark.parametrize("work", ["read", "commit", "flush"])
@simulated
async def test_a_disk_that_hangs_does_not_take_the_time_of_a_hurry(world: World, work: str) -> None:
    """A second signal leaves five seconds, and a call that hangs was given more."""
    shutdown = attrs.evolve(world.config().shutdown, deadline_seconds=30.0)
    async with two_disks(world, shutdown=shutdown) as run, world.connect() as client:
        run.files_stay = True
        run.faults_expected = {"log dir /disk-a"}
        partition = on(run, "/disk-a")[0].partition
        with slow("/disk-a", 90.0), pytest.MonkeyPatch.context() as patch:
            if work == "read":
                patch.setattr(Log, "read_cached", lambda _log, _plan: None)
                await client.send(fetch_request(0, partition=partition), 12)
            elif work == "commit":
                await client.send(produce_request(make_batch(), partition=partition), 9)
            await trio.sleep(1)
            run.broker.request_stop()
            await trio.sleep(1)
            began = trio.current_time()
            run.tree.hurry("a second SIGTERM")
            await run.broker.wait_stopped()
            assert trio.current_time() - began <= 5
        assert cleanly(run) == {"/disk-a": False, "/disk-b": True}
    await trio.sleep(100)
    await expect_after_power_cut(world, run)


@pytest.mark.parametrize("trouble", ["fails", "hangs"])
@simulated
async def test_a_disk_that_fails_while_its_marker_is_written_costs_that_marker_only(
    world: World, trouble: str
) -> None:
    marker = f"/disk-a/{paths.CLEAN_MARKER_NAME}"
    async with two_disks(world) as run:
        run.files_stay = trouble == "hangs"
        with failing("sync", marker) if trouble == "fails" else slow(marker, 90.0):
            await stop(run, 10)
        assert cleanly(run) == {"/disk-a": False, "/disk-b": True}
        assert "cannot close /disk-a" in str(run.tree.report)
    await trio.sleep(100)
    await expect_after_power_cut(world, run)


@pytest.mark.parametrize("step", ["a log", "a shard", "a log dir"])
@simulated
async def test_a_bug_while_closing_costs_one_log_dir_its_marker(world: World, step: str) -> None:
    async with two_disks(world) as run:
        log_dir = run.state.log_dirs[0]
        shard = next(each for each in log_dir.shards if each.replicas)
        replica = next(iter(shard.replicas.values()))
        if step == "a log":
            run.faults_expected = {replica.boundary}
            bug = planted(Log, "close_job", is_log_of(replica))
        elif step == "a shard":
            run.faults_expected = {shard.boundary}
            bug = planted(Shard, "_flush_logs", lambda each: each is shard)
        else:
            run.faults_expected = {log_dir.boundary}
            bug = planted(LogDir, "close", lambda each: each is log_dir)
            run.files_stay = True
        with bug:
            await stop(run, 1)
        assert cleanly(run) == {"/disk-a": False, "/disk-b": True}
        assert PlantedBug.__name__ in str(run.state.supervisor.faults)
        assert "a bug" in str(run.tree.report)
    await expect_after_power_cut(world, run)


@simulated
async def test_a_stop_while_logs_are_opened_again_on_a_disk_that_works_again(world: World) -> None:
    """They are not waited for, and what they had acknowledged is made durable all the same."""
    storage = attrs.evolve(world.config().storage, shards_per_log_dir=1)
    async with two_disks(world, storage=storage) as run:
        run.faults_expected = {"log dir /disk-a"}
        bad = on(run, "/disk-a")
        directory = bad[0].log.directory
        async with world.connect() as client:
            with failing("write_at", directory), failing("truncate", directory):
                await client.produce(make_batch(), partition=bad[0].partition)
        with slow("/disk-a", 0.3):
            run.state.log_dirs[0].fail(OSError(errno.EIO, "for a test"))
            await trio.sleep(4)
            assert not run.state.log_dirs[0].is_failed
            assert {r.state for r in bad} >= {ReplicaState.OFFLINE}
            await trio.sleep(0.1)
            assert run.state.log_dirs[0].shards[0].changes.locked()
            offline = [replica for replica in bad if replica.state is ReplicaState.OFFLINE]
            assert len(offline) > 2
            await stop(run, 10)
        assert cleanly(run) == {"/disk-a": True, "/disk-b": True}
        assert (
            not {r.topic_partition for r in offline}
            & run.state.log_dirs[0].shards[0].summaries.keys()
        )
    world.machine.power_off()
    world.machine = world.machine.power_on()
    async with world.running(log_dirs=("/disk-a", "/disk-b")) as after:
        assert all(r.log.log_end_offset >= 1 for r in on(after, "/disk-"))


@simulated
async def test_broken_metadata_keep_no_log_from_being_closed(world: World) -> None:
    """Their journal has failed, and a deletion that is committed goes on."""
    async with two_disks(world, data_dir="/meta") as run:
        with failing("sync", "/meta/metadata"):
            with pytest.raises(RequestError):
                await run.broker.create_topic("carts")
            with pytest.raises(RequestError):
                await run.broker.create_topic("carts")
            await stop(run, 2)
        assert run.tree.report is not None
        assert run.tree.report.clean
    await expect_after_power_cut(world, run, "/meta")


@simulated
async def test_topics_that_are_still_being_created_when_the_time_is_up(world: World) -> None:
    """Their replicas come when all is closed; nothing of them may stay open."""
    shutdown = attrs.evolve(world.config().shutdown, deadline_seconds=4.0)

    async def create(run: Running) -> None:
        try:
            await run.broker.create_topic("carts", partitions=60)
        except (BrokerClosed, RequestError):
            pass

    async with two_disks(world, shutdown=shutdown) as run, trio.open_nursery() as nursery:
        with slow("/disk-a", 0.15):
            nursery.start_soon(create, run)
            await trio.sleep(1)
            await stop(run, 5)
        assert cleanly(run) == {"/disk-a": True, "/disk-b": True}
    await expect_after_power_cut(world, run)
