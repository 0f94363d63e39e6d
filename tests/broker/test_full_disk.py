"""A disk without room: what is kept for offsets and deletions is not eaten by what waits."""

from __future__ import annotations

import errno
import functools
import os
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import trio

from tests.broker.harness import Running, World, failing, simulated, slow
from tests.broker.retained import DEFAULTS, eventually, fill
from trio_broker import ErrorCode
from trio_broker.broker.disk_guard import PROBE_NAME
from trio_broker.config import KIB, MIB, StorageConfig
from trio_broker.errors import RequestError
from trio_broker.group.commands import CommitOffsets
from trio_broker.records.build import Record
from trio_broker.storage import paths
from trio_broker.storage.disk_state import DiskState
from trio_broker.testing.sim.disk import SimFileSystem
from trio_broker.testing.sim.faults import DiskFaults
from trio_broker.testing.sim.handles import SimFile

if TYPE_CHECKING:
    from collections.abc import Iterator

CAPACITY = 64 * MIB
BALLAST = 3 * MIB
#: A refusal of the disk itself, and no budget before it.
SETTINGS = {"storage": StorageConfig(bytes_max=1 << 40, ballast_bytes=BALLAST), **DEFAULTS}
PROMISED = {"retention.ms": "-1"}


async def produce(
    run: Running, partition: int, refusals: list[RequestError], *, size_bytes: int = 200 * KIB
) -> None:
    record = Record(key=None, value=b"x" * size_bytes, timestamp_ms=run.state.host.wall.now_ms())
    try:
        await run.broker.produce_batch("kept", [record], partition=partition)
    except RequestError as error:
        refusals.append(error)


async def leave(world: World, run: Running, left_bytes: int) -> None:
    """Take all the room but so much, right after the guard has looked: it does not know yet."""
    log_dir = run.state.log_dirs[0]
    before = log_dir.health.space
    await eventually(lambda: log_dir.health.space is not before)
    await log_dir.lane.run(_something_else(world, left_bytes))


def _something_else(world: World, left_bytes: int) -> Iterator[Any]:
    file = yield functools.partial(world.fs.open, create=True), ("/something-else", "test")
    yield file.truncate, (0,)
    yield file.allocate, (CAPACITY - world.fs.used_bytes - left_bytes,)
    file.close()


def free_bytes(world: World) -> int:
    return CAPACITY - int(world.fs.used_bytes)


def ballast_bytes(world: World) -> int:
    return len(world.fs.content(f"/data/logs/{paths.BALLAST_NAME}"))


def told_bytes(run: Running) -> int:
    """Return how many bytes are free, as clients are told."""
    refusal = run.state.log_dirs[0].produce_refusal
    assert refusal is not None
    found = re.search(r"; (\d+) bytes are free, \d+ are needed$", refusal)
    assert found is not None, refusal
    return int(found[1])


async def given_back(world: World, run: Running) -> None:
    """Wait until the disk is known to be full, and its ballast has been given back."""
    await eventually(lambda: run.state.log_dirs[0].health.state is DiskState.DEGRADED)
    await eventually(lambda: ballast_bytes(world) == 0)


@contextmanager
def wishes_for_room() -> Iterator[list[str]]:
    """Collect the paths of files behind which room is to be set aside."""
    wished: list[str] = []
    original = SimFile.reserve

    def reserve(file: SimFile, end: int) -> None:
        wished.append(file.path)
        original(file, end)

    with patch.object(SimFile, "reserve", reserve):
        yield wished


@simulated
async def test_what_is_queued_does_not_eat_the_ballast(world: World) -> None:
    world.fs.faults = DiskFaults(capacity_bytes=CAPACITY)
    refusals: list[RequestError] = []
    async with world.running(**SETTINGS) as run:
        await run.broker.create_topic("kept", partitions=1, configs=PROMISED)
        await fill(run, "kept", MIB)
        assert ballast_bytes(world) == BALLAST
        await leave(world, run, 300 * KIB)
        with wishes_for_room() as wished:
            async with trio.open_nursery() as nursery:
                for _ in range(60):
                    nursery.start_soon(produce, run, 0, refusals)
            await given_back(world, run)
        assert run.state.log_dirs[0].write_failures == 1
        assert {error.code for error in refusals} == {ErrorCode.KAFKA_STORAGE_ERROR}
        assert free_bytes(world) >= BALLAST
        assert len(wished) <= 1, "nothing is set aside on a disk that is full"
        # Clients are told what there is for them, without the ballast.
        await eventually(lambda: told_bytes(run) == free_bytes(world) - BALLAST)
        # It is there for this: the first commit of offsets makes their topic.
        commit = CommitOffsets(group_id="group", offsets=())
        await run.state.coordinator.commit(commit)
        await run.broker.delete_topic("kept")


@simulated
async def test_a_write_that_is_under_way_does_not_eat_the_ballast(world: World) -> None:
    """Each shard has a writer and a lane of its own."""
    world.fs.faults = DiskFaults(capacity_bytes=CAPACITY)
    refusals: list[RequestError] = []
    async with world.running(**SETTINGS) as run:
        await run.broker.create_topic("kept", partitions=2, configs=PROMISED)
        await fill(run, "kept", MIB)
        first, second = (run.replica("kept", index) for index in range(2))
        assert first.shard is not second.shard
        await leave(world, run, 100 * KIB)
        with slow(f"{second.topic_partition.topic_id}-1", 0.5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(produce, run, 1, refusals)
                nursery.start_soon(produce, run, 0, refusals)
                await given_back(world, run)
        assert [error.code for error in refusals] == [ErrorCode.KAFKA_STORAGE_ERROR] * 2
        assert free_bytes(world) >= BALLAST


@simulated
async def test_what_waits_on_a_disk_that_gets_tight_is_refused_too(world: World) -> None:
    """The guard has found less than what is kept for offsets, before any write has met the end."""
    world.fs.faults = DiskFaults(capacity_bytes=CAPACITY)
    refusals: list[RequestError] = []
    async with world.running(**SETTINGS) as run:
        await run.broker.create_topic("kept", partitions=1, configs=PROMISED)
        await fill(run, "kept", MIB)
        log_dir = run.state.log_dirs[0]
        await leave(world, run, MIB)
        replica = run.replica("kept")
        async with trio.open_nursery() as nursery:
            async with replica.shard.changes:  # the writer waits
                nursery.start_soon(produce, run, 0, refusals)
                nursery.start_soon(produce, run, 0, refusals)
                await eventually(lambda: log_dir.health.state is DiskState.DEGRADED)
        assert [error.code for error in refusals] == [ErrorCode.KAFKA_STORAGE_ERROR] * 2
        assert "are needed" in str(refusals[0])
        assert log_dir.write_failures == 0
        assert replica.log.log_end_offset == MIB // (64 * KIB)


@simulated
async def test_a_disk_that_fails_and_is_full_by_then_comes_back(world: World) -> None:
    """It holds the ballast, and has no room for the name of a probe."""
    world.fs.faults = DiskFaults(capacity_bytes=CAPACITY)
    refusals: list[RequestError] = []
    async with world.running(**SETTINGS) as run:
        run.faults_expected = {"log dir /data/logs"}
        await run.broker.create_topic("kept", partitions=1, configs=PROMISED)
        await fill(run, "kept", MIB)
        log_dir = run.state.log_dirs[0]
        with failing("sync", "/data/logs"):
            await produce(run, 0, refusals)
            assert log_dir.is_failed
            assert len(refusals) == 1
            await log_dir.lane.run(_something_else(world, 0))
        with failing("open", PROBE_NAME, errno.ENOSPC, on=SimFileSystem):
            await eventually(lambda: ballast_bytes(world) == 0)
            assert log_dir.is_failed
        await eventually(lambda: not run.replica("kept").refusal)
        assert log_dir.health.state is DiskState.DEGRADED
        assert ballast_bytes(world) == 0
        await produce(run, 0, refusals)
        assert "are needed" in str(refusals[1])
        await run.broker.delete_topic("kept")


@simulated
async def test_a_ballast_that_does_not_fit_takes_no_room(world: World) -> None:
    """A quota of the user does not show in what is free."""
    allocate = SimFile.allocate

    def allocate_some(file: SimFile, size: int) -> None:
        allocate(file, size // 2)
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), file.path)

    world.fs.faults = DiskFaults(capacity_bytes=CAPACITY)
    with patch.object(SimFile, "allocate", allocate_some):
        async with world.running(**SETTINGS) as run:
            log_dir = run.state.log_dirs[0]
            await eventually(lambda: log_dir.health.space is not None)
            await trio.sleep(10)
            assert ballast_bytes(world) == 0
            assert free_bytes(world) > CAPACITY - MIB


@simulated
async def test_a_ballast_that_is_larger_than_configured_is_given_back(world: World) -> None:
    """From a run with another configuration."""
    world.fs.faults = DiskFaults(capacity_bytes=CAPACITY)
    for wanted_bytes in (BALLAST, MIB, 0):
        storage = StorageConfig(bytes_max=1 << 40, ballast_bytes=wanted_bytes)
        async with world.running(storage=storage):
            await trio.sleep(5)
            assert ballast_bytes(world) == wanted_bytes


@simulated
async def test_a_disk_that_becomes_full_twice_has_its_ballast_twice(world: World) -> None:
    """In between it is low on space, and no more."""
    world.fs.faults = DiskFaults(capacity_bytes=CAPACITY)
    refusals: list[RequestError] = []
    ballast = 2 * MIB
    storage = StorageConfig(bytes_max=1 << 40, ballast_bytes=ballast)
    async with world.running(storage=storage, **DEFAULTS) as run:
        await run.broker.create_topic("kept", partitions=1, configs=PROMISED)
        await fill(run, "kept", MIB)
        log_dir = run.state.log_dirs[0]
        for _ in range(2):
            await leave(world, run, 0)
            await produce(run, 0, refusals)
            await given_back(world, run)
            assert free_bytes(world) >= ballast
            await log_dir.lane.run(_something_else(world, 6 * MIB))
            await eventually(lambda: log_dir.health.state is DiskState.LOW)
            await trio.sleep(5)
            assert log_dir.health.state is DiskState.LOW
        assert len(refusals) == 2
        await produce(run, 0, refusals)
        assert len(refusals) == 2


@simulated
async def test_a_disk_that_fails_and_is_full_without_a_ballast_comes_back(world: World) -> None:
    """Somebody has to delete something, which a disk that has failed does not allow."""
    world.fs.faults = DiskFaults(capacity_bytes=CAPACITY)
    refusals: list[RequestError] = []
    storage = StorageConfig(bytes_max=1 << 40, ballast_bytes=0)
    async with world.running(storage=storage, **DEFAULTS) as run:
        run.faults_expected = {"log dir /data/logs"}
        for topic in ("kept", "large"):
            await run.broker.create_topic(topic, configs=PROMISED)
            await fill(run, topic, 8 * MIB)
        log_dir = run.state.log_dirs[0]
        with failing("sync", "/data/logs"):
            await produce(run, 0, refusals)
            assert log_dir.is_failed
            await log_dir.lane.run(_something_else(world, 0))
        await eventually(lambda: log_dir.health.state is DiskState.DEGRADED)
        await run.broker.delete_topic("large")
        await eventually(lambda: not (run.replica("kept").refusal or log_dir.produce_refusal))
        await produce(run, 0, refusals)
        assert len(refusals) == 1
