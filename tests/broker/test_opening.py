"""Logs are opened many at a time: what is wrong with one of them is not the others' trouble."""

from __future__ import annotations

import errno
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest
import trio

from tests.broker.harness import (
    World,
    fetch_request,
    make_batch,
    produce_request,
    simulated,
    slow,
)
from tests.broker.test_isolation import (
    ONE_SHARD,
    SUSPECT,
    PlantedBug,
    failing_job,
    one_shard,
    produce_everywhere,
    wait_online,
)
from trio_broker import ErrorCode
from trio_broker.broker.log_dir import LogDir
from trio_broker.broker.replica import ReplicaState
from trio_broker.errors import CorruptLog
from trio_broker.storage import paths

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_broker.broker.replica import Replica

CLEAN_OPENING = LogDir.opening


def job_raising(error: Exception) -> Any:
    yield bool, ()
    raise error


def opening_with(trouble: Callable[[], Any]) -> Any:
    """Return a `LogDir.opening` that does something else for the suspect."""

    def opening(log_dir: LogDir, replica: Replica) -> Any:
        if replica.topic.name == "orders" and replica.partition == SUSPECT:
            return trouble()
        return CLEAN_OPENING(log_dir, replica)

    return opening


def bug_at_once() -> Any:
    raise PlantedBug("a bug")


TROUBLES: dict[str, Callable[[], Any]] = {
    "a bug before the job": bug_at_once,
    "a bug in the job": failing_job,
    "damage": lambda: job_raising(CorruptLog("damaged")),
    "a fault of the disk": lambda: job_raising(OSError(errno.EIO, "planted")),
}


@pytest.mark.parametrize("trouble", TROUBLES)
@simulated
async def test_a_log_that_cannot_be_opened_is_the_only_one_offline(
    world: World, trouble: str
) -> None:
    async with one_shard(world) as run:
        await run.broker.create_topic("orders", partitions=ONE_SHARD)
        async with world.connect() as client:
            await produce_everywhere(client)
    with patch.object(LogDir, "opening", opening_with(TROUBLES[trouble])):
        async with one_shard(world) as run:
            bad = run.replica("orders", SUSPECT)
            if "bug" in trouble:
                run.faults_expected = {bad.boundary}
            for index in range(ONE_SHARD):
                expected = ReplicaState.OFFLINE if index == SUSPECT else ReplicaState.ONLINE
                assert run.replica("orders", index).state is expected
            assert bad.cause
            async with world.connect() as client:
                await produce_everywhere(client, skip=SUSPECT)
                if trouble == "damage":  # opening it again would find the same
                    await trio.sleep(100)
                    assert bad.state is ReplicaState.OFFLINE
                else:
                    await wait_online(bad, 10)
                    await produce_everywhere(client)


@simulated
async def test_a_hung_call_while_logs_are_opened_costs_those_behind_it_a_second_try(
    world: World,
) -> None:
    async with one_shard(world) as run:
        await run.broker.create_topic("orders", partitions=ONE_SHARD)
        async with world.connect() as client:
            await produce_everywhere(client)
        name = paths.replica_name(run.replica("orders", SUSPECT).topic_partition)
    hangs_seconds = world.config().storage.operation_seconds_max + 5
    with ExitStack() as slowness, patch.object(LogDir, "opening", LogDir.recovering):
        slowness.enter_context(slow(name, hangs_seconds))
        async with one_shard(world) as run:
            slowness.close()
            run.faults_expected = {"log dir /data/logs"}  # whose lane was held up
            replicas = [run.replica("orders", index) for index in range(ONE_SHARD)]
            assert replicas[SUSPECT].state is not ReplicaState.ONLINE
            for replica in replicas:
                await wait_online(replica, 300)
            async with world.connect() as client:
                await produce_everywhere(client)
            assert [replica.log.log_end_offset for replica in replicas] == [2] * ONE_SHARD


@simulated
async def test_partitions_that_are_still_to_be_started_are_known_and_not_there_yet(
    world: World,
) -> None:
    """To say that there is no such partition would contradict the metadata that named it."""
    async with world.running() as run, trio.open_nursery() as nursery:
        with slow("/data/logs", 2.0):
            nursery.start_soon(partial(run.broker.create_topic, "orders", partitions=ONE_SHARD))
            with trio.fail_after(10):
                while "orders" not in run.state.router.by_name:  # noqa: ASYNC110
                    await trio.sleep(0.01)
            async with world.connect() as client:
                for index in range(ONE_SHARD):
                    answer = await client.call(produce_request(make_batch(), partition=index), 9)
                    part = answer.responses[0].partition_responses[0]
                    assert part.error_code == ErrorCode.LEADER_NOT_AVAILABLE
                    read = await client.call(fetch_request(partition=index), 12)
                    assert read.responses[0].partitions[0].error_code == (
                        ErrorCode.LEADER_NOT_AVAILABLE
                    )
        async with world.connect() as client:
            for replica in run.state.router.replicas():
                await wait_online(replica, 60)
            await produce_everywhere(client)
