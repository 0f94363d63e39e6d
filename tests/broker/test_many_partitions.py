"""What is done for many partitions is done some at a time, and leaves nothing behind."""

from __future__ import annotations

import errno
import gc
from collections import Counter, deque
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
import trio

from tests.broker.harness import (
    World,
    codes,
    failing,
    make_batch,
    produce_request,
    running,
    simulated,
)
from tests.broker.retained import eventually
from trio_broker import BrokerConfig
from trio_broker.broker import statistics
from trio_broker.broker.deleted_replicas import RENAMED_TOGETHER
from trio_broker.broker.log_dir import MADE_TOGETHER
from trio_broker.broker.reconciler import OPENED_TOGETHER
from trio_broker.config import StorageConfig
from trio_broker.errors import ErrorCode, SyncFailed
from trio_broker.names import TopicPartition
from trio_broker.testing.sim.disk import SimFileSystem
from trio_broker.wire.messages.produce import PartitionProduceData

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from trio_broker.host.interface import Job

PARTITIONS = 100
ONE_SHARD = StorageConfig(shards_per_log_dir=1)


class CountingLane:
    """Counts the calls of each job that goes to a lane."""

    def __init__(self, lane: Any) -> None:
        self.jobs: list[Counter[str]] = []
        self._run = lane.run
        lane.run = self.run

    async def run(self, job: Job[Any]) -> Any:
        calls: Counter[str] = Counter()
        self.jobs.append(calls)
        return await self._run(_counted(job, calls))


def _counted(job: Job[Any], calls: Counter[str]) -> Job[Any]:
    result: Any = None
    failure: BaseException | None = None
    while True:
        try:
            call = job.send(result) if failure is None else job.throw(failure)
        except StopIteration as stop:
            return stop.value
        calls[getattr(call[0], "__name__", "?")] += 1
        try:
            result, failure = (yield call), None
        except BaseException as error:  # noqa: BLE001 - handed on to the job
            failure = error


@simulated
async def test_jobs_for_many_partitions_are_short(world: World) -> None:
    async with world.running(storage=ONE_SHARD) as run:
        lane = run.state.log_dirs[0].shards[0].lane
        counting = CountingLane(lane)
        await run.broker.create_topic("orders", partitions=PARTITIONS)
        made = [calls for calls in counting.jobs if calls["make_directory"]]
        assert sum(calls["make_directory"] for calls in made) == PARTITIONS
        assert max(calls["make_directory"] for calls in made) == MADE_TOGETHER
        assert sum(calls["sync_directory"] for calls in counting.jobs) == 1
        assert max(calls.total() for calls in counting.jobs) < 8 * OPENED_TOGETHER
        counting.jobs.clear()
        await run.broker.delete_topic("orders")
        moved = [calls for calls in counting.jobs if calls["rename"]]
        assert sum(calls["rename"] for calls in moved) == PARTITIONS
        assert max(calls["rename"] for calls in moved) == RENAMED_TOGETHER
        assert sum(calls["sync_directory"] for calls in moved) == 1


@pytest.mark.parametrize("refused", [0, MADE_TOGETHER - 1, MADE_TOGETHER, PARTITIONS - 1])
@simulated
async def test_directories_that_could_not_all_be_made_are_removed(
    world: World, refused: int
) -> None:
    """Later one must not rely on names whose fsync never came, or failed."""
    async with world.running(storage=ONE_SHARD) as run:
        log_dir = run.state.log_dirs[0]
        wanted = [TopicPartition(UUID(int=7), index) for index in range(PARTITIONS)]
        refused_path = log_dir.directory.replica_path(wanted[refused])
        lane = log_dir.shards[0].lane
        path = log_dir.directory.path

        async def left() -> list[str]:
            names: list[str] = await lane.call(world.fs.list_directory, path)
            return [name for name in names if name.startswith(str(wanted[0].topic_id))]

        with (
            failing("make_directory", refused_path, errno.ENOSPC, on=SimFileSystem),
            pytest.raises(OSError, match="No space"),
        ):
            await log_dir.make_directories(lane, wanted)
        assert not await left()
        with (
            failing("sync_directory", path, on=SimFileSystem),
            pytest.raises(SyncFailed),
        ):
            await log_dir.make_directories(lane, wanted)
        assert not await left()


@simulated
async def test_a_topic_is_deleted_while_a_large_broker_is_asked(world: World) -> None:
    """At each point where a scrape lets others run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "_ITEMS_PER_TURN", 2)
        async with world.running() as run:
            await run.broker.create_topic("a", partitions=4)
            await run.broker.create_topic("c", partitions=4)
            turn, is_over = 0, False
            while not is_over:
                turn += 1
                await run.broker.create_topic("b", partitions=4)
                collecting = statistics._collect(run.state)
                found: Any = None
                is_over = True
                number = 0
                while found is None:
                    try:
                        next(collecting)
                    except StopIteration as stop:
                        found = stop.value
                        break
                    number += 1
                    if number == turn:
                        await run.broker.delete_topic("b")
                        is_over = False
                by_name = {topic.name: topic for topic in found.topics}
                for name in ("a", "c"):
                    states = [part.state for part in by_name[name].partitions]
                    assert states == ["online"] * 4
                if "b" in by_name:
                    states = [part.state for part in by_name["b"].partitions]
                    assert len(states) in {0, 4}
                    assert set(states) <= {"online", "closing", "closed"}
            assert turn > 5


async def test_a_topic_that_came_and_went_leaves_nothing_to_the_collector(
    tmp_path: Path,
) -> None:
    """A server keeps the cyclic collector from what it had at its start, so it would stay."""
    config = BrokerConfig(data_dir=str(tmp_path / "data"), listeners=())
    async with running(config) as run:
        await run.broker.create_topic("warm", partitions=2)
        await run.broker.delete_topic("warm")
        was_enabled = gc.isenabled()
        gc.collect()
        gc.disable()
        try:
            await run.broker.create_topic("orders", partitions=20)
            await run.broker.delete_topic("orders")
            await trio.sleep(0.05)
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            left = Counter(type(each).__name__ for each in gc.garbage)
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            if was_enabled:
                gc.enable()
        assert not {"Replica", "RoutedTopic", "Log", "TopicPartition", "FileNotFoundError"} & set(
            left
        )
        assert left["cell"] < 20, left


class CountingDeque(deque[Any]):
    """Counts what is looked at, in all of its kind together."""

    looked_at = 0

    def __iter__(self) -> Iterator[Any]:
        CountingDeque.looked_at += len(self)
        return super().__iter__()


@simulated
@pytest.mark.parametrize("what", ["disk", "shard"])
async def test_what_is_queued_for_many_partitions_is_refused_in_one_go(
    world: World, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trio_broker.broker.shard.deque", CountingDeque)
    async with world.running(storage=ONE_SHARD, reraise=False) as run:
        await run.broker.create_topic("orders", partitions=PARTITIONS)
        log_dir = run.state.log_dirs[0]
        [shard] = log_dir.shards
        run.faults_expected = {log_dir.boundary, shard.boundary}
        async with world.connect() as client:
            await shard.changes.acquire()
            request = produce_request(None)
            request.topic_data[0].partition_data = [
                PartitionProduceData(index=index, records=make_batch())
                for index in range(PARTITIONS)
            ]
            await client.send(request, 9)
            await eventually(lambda: len(shard._queue) == PARTITIONS)
            CountingDeque.looked_at = 0
            if what == "disk":
                log_dir.fail(SyncFailed(errno.EIO, "a test"))
            else:
                monkeypatch.setattr(shard, "_do_work", _raise)
                shard.changes.release()
            answer = await client.receive(request, 9)
            parts = answer.responses[0].partition_responses
            assert codes(parts) == [ErrorCode.KAFKA_STORAGE_ERROR] * PARTITIONS
            assert CountingDeque.looked_at < 3 * PARTITIONS
            if what == "disk":
                shard.changes.release()


async def _raise() -> None:
    raise ZeroDivisionError("a bug")
