"""Bugs in one replica: its neighbours in the same shard and on the same disk do not notice."""

from __future__ import annotations

import errno
import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import attrs
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
from trio_broker import ErrorCode
from trio_broker.broker.connection import Connection
from trio_broker.broker.disk_guard import DiskGuard
from trio_broker.broker.replica import ReplicaState
from trio_broker.broker.space_keeper import SpaceKeeper
from trio_broker.broker.statistics import health_facts
from trio_broker.storage.log import Log
from trio_broker.testing.sim.faults import DiskFaults
from trio_broker.wire.messages.fetch import FetchPartition

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: All in one shard, so that they share a writer, a lane and every commit.
ONE_SHARD = 8
SUSPECT = 3


class PlantedBug(ZeroDivisionError):
    """Nobody expects it."""


@contextmanager
def planted(
    owner: type,
    name: str,
    is_hit: Callable[[Any], bool],
    *,
    in_lane: bool = False,
    error: Exception | None = None,
) -> Iterator[list[Any]]:
    """Let a method (or the job that it makes) fail for those objects that are meant.

    Gives the objects that it met.
    """
    original = getattr(owner, name)
    met: list[Any] = []

    def fail(thing: Any, *arguments: Any, **options: Any) -> Any:
        if not is_hit(thing):
            return original(thing, *arguments, **options)
        met.append(thing)
        if in_lane:
            return failing_job()
        raise error or PlantedBug("a bug")

    setattr(owner, name, fail)
    try:
        yield met
    finally:
        setattr(owner, name, original)


def failing_job(*_arguments: Any) -> Any:
    yield bool, ()  # a call on the lane's thread, so that the bug strikes there
    raise PlantedBug("a bug")


async def send_everywhere(client: Any, *, skip: int | None = None) -> None:
    for index in range(ONE_SHARD):
        if index != skip:
            await client.send(produce_request(make_batch(), partition=index), 9)
            await trio.sleep(0.01)


async def receive_everywhere(client: Any, *, skip: int | None = None) -> None:
    for index in range(ONE_SHARD):
        if index != skip:
            response = await client.receive(produce_request(b""), 9)
            part = response.responses[0].partition_responses[0]
            assert (part.index, part.error_code) == (index, 0)


async def produce_everywhere(client: Any, *, skip: int | None = None) -> None:
    """Send a batch to each partition, then wait for all of them to be stored."""
    await send_everywhere(client, skip=skip)
    await receive_everywhere(client, skip=skip)


async def wait_online(replica: Any, seconds: float) -> None:
    with trio.fail_after(seconds):
        while replica.state is not ReplicaState.ONLINE:  # noqa: ASYNC110 - of a simulated clock
            await trio.sleep(0.1)


def one_shard(world: World, **changes: Any) -> Any:
    storage = attrs.evolve(world.config().storage, shards_per_log_dir=1, **changes)
    return world.running(reraise=False, storage=storage)


def is_log_of(replica: Any) -> Callable[[Any], bool]:
    name = str(replica.topic_partition)
    return lambda log: str(log.topic_partition) == name


@pytest.mark.parametrize("step", ["plan_append", "append_job", "publish"])
@simulated
async def test_a_bug_in_one_partitions_append_refuses_that_partition_only(
    world: World, step: str
) -> None:
    async with one_shard(world) as run:
        run.faults_expected = {f"replica orders-{SUSPECT}"}
        await run.broker.create_topic("orders", partitions=ONE_SHARD)
        bad = run.replica("orders", SUSPECT)
        async with world.connect() as client, world.connect() as victim:
            await produce_everywhere(client)
            with planted(Log, step, is_log_of(bad), in_lane=step == "append_job") as met:
                async with bad.shard.changes:  # so that all of it is one commit
                    await victim.send(produce_request(make_batch(), partition=SUSPECT), 9)
                    await trio.sleep(0.1)
                    await send_everywhere(client, skip=SUSPECT)
                    await trio.sleep(0.1)
                answer = await victim.receive(produce_request(b""), 9)
                part = answer.responses[0].partition_responses[0]
                assert part.error_code == ErrorCode.KAFKA_STORAGE_ERROR
                await receive_everywhere(client, skip=SUSPECT)
            assert met == [bad.log]
            assert bad.shard.is_running
            assert bad.state is ReplicaState.OFFLINE
            assert "PlantedBug: a bug" in bad.cause
            await produce_everywhere(client, skip=SUSPECT)
            await wait_online(bad, 5)
            await produce_everywhere(client)
            ends = [run.replica("orders", index).log.log_end_offset for index in range(ONE_SHARD)]
        # What was stored before its publication failed may be there: its client knows nothing.
        assert ends.pop(SUSPECT) == (3 if step == "publish" else 2)
        assert ends == [4] * (ONE_SHARD - 1)


@simulated
async def test_a_log_that_cannot_be_opened_for_a_bug_leaves_its_shard_running(
    world: World,
) -> None:
    """Its shard would start again and again, and meet the same bug each time."""
    async with world.running() as run:
        await run.broker.create_topic("orders", partitions=ONE_SHARD)
    async with one_shard(world) as run:
        run.faults_expected = {f"replica orders-{SUSPECT}"}
        bad = run.replica("orders", SUSPECT)
        opening = run.state.log_dirs[0].recovering

        def recovering(replica: Any) -> Any:
            return failing_job() if replica is bad else opening(replica)

        run.state.log_dirs[0].recovering = recovering
        bad.shard.take_offline(bad, "for a test")
        async with world.connect() as client:
            for _ in range(30):
                await produce_everywhere(client, skip=SUSPECT)
                await trio.sleep(1)
            assert bad.state is ReplicaState.OFFLINE
            assert bad.shard.is_running
            fault = run.state.supervisor.faults[bad.boundary]
            assert 3 <= fault.count <= 6, "ever more slowly"
            run.state.log_dirs[0].recovering = opening
            await wait_online(bad, 60)
            await produce_everywhere(client)


@simulated
async def test_a_bug_in_housekeeping_takes_one_replica_offline(world: World) -> None:
    async with one_shard(world) as run:
        run.faults_expected = {f"replica orders-{SUSPECT}"}
        await run.broker.create_topic("orders", partitions=ONE_SHARD)
        bad = run.replica("orders", SUSPECT)
        async with world.connect() as client:
            with planted(Log, "upkeep_due_ms", is_log_of(bad)):
                await produce_everywhere(client)
                with trio.fail_after(10):
                    while bad.state is ReplicaState.ONLINE:  # noqa: ASYNC110
                        await trio.sleep(0.1)
                await produce_everywhere(client, skip=SUSPECT)
            await wait_online(bad, 10)
            await produce_everywhere(client)
        assert bad.shard.is_running


@pytest.mark.parametrize("step", ["locate", "read_cached"])
@simulated
async def test_a_bug_in_reading_one_partition_is_the_answer_for_that_one(
    world: World, step: str
) -> None:
    async with one_shard(world) as run:
        run.faults_expected = {f"replica orders-{SUSPECT}"}
        await run.broker.create_topic("orders", partitions=ONE_SHARD)
        bad = run.replica("orders", SUSPECT)
        async with world.connect() as client:
            await produce_everywhere(client)
            request = fetch_request(0, partition_max_bytes=10_000)
            request.topics[0].partitions = [
                FetchPartition(partition=index, fetch_offset=0, partition_max_bytes=10_000)
                for index in range(ONE_SHARD)
            ]
            with planted(Log, step, is_log_of(bad)):
                answer = await client.call(request, 12)
            for part in answer.responses[0].partitions:
                if part.partition_index == SUSPECT:
                    assert part.error_code == ErrorCode.UNKNOWN_SERVER_ERROR
                else:
                    assert part.error_code == 0
                    assert part.records
            answer = await client.call(request, 12)
            assert all(part.records for part in answer.responses[0].partitions)


@simulated
async def test_a_bug_in_one_clients_replies_is_that_clients(world: World) -> None:
    async with one_shard(world) as run:
        run.faults_expected = {"connection"}
        await run.broker.create_topic("orders")
        async with world.connect() as unlucky, world.connect() as other:
            await unlucky.produce(make_batch())
            first = next(iter(run.state.clients))
            with planted(Connection, "send_ready", lambda connection: connection is first):
                async with run.replica("orders").shard.changes:
                    await unlucky.send(produce_request(make_batch()), 9)
                    await trio.sleep(0.1)
                    await other.send(produce_request(make_batch()), 9)
                    await trio.sleep(0.1)
                await unlucky.wait_closed()
                answer = await other.receive(produce_request(b""), 9)
                assert answer.responses[0].partition_responses[0].error_code == 0
        assert run.replica("orders").shard.is_running


@pytest.mark.parametrize("owner, step", [(DiskGuard, "_look"), (SpaceKeeper, "_look")])
@simulated
async def test_a_bug_in_a_log_dirs_watchmen_is_no_end_of_the_broker(
    world: World, owner: type, step: str
) -> None:
    async with one_shard(world) as run:
        run.faults_expected = {"log dir /data/logs"}
        await run.broker.create_topic("orders", partitions=ONE_SHARD)
        async with world.connect() as client:
            with planted(owner, step, lambda _: True) as met:
                for _ in range(20):
                    await produce_everywhere(client)
                    await trio.sleep(1)
            assert 2 <= len(met) <= 6, "it is tried again, ever more slowly"
            await trio.sleep(60)
            await produce_everywhere(client)


@simulated
async def test_faults_are_shown_with_their_causes_and_forgotten_with_their_topics(
    world: World,
) -> None:
    async with one_shard(world) as run:
        run.faults_expected = {"replica", f"replica orders-{SUSPECT}"}
        await run.broker.create_topic("orders", partitions=ONE_SHARD)
        bad = run.replica("orders", SUSPECT)
        with planted(Log, "plan_append", is_log_of(bad)):
            with pytest.raises(Exception, match="KAFKA_STORAGE_ERROR"):
                await run.broker.produce("orders", b"x", partition=SUSPECT)
        [shard] = health_facts(run.state).log_dirs[0].shards
        assert shard.offline == ((f"orders-{SUSPECT}", f"orders-{SUSPECT}: PlantedBug: a bug"),)
        [fault] = run.broker.statistics().faults
        assert (fault.boundary, fault.count) == (bad.boundary, 1)
        assert fault.last_cause == "PlantedBug: a bug"
        await wait_online(bad, 5)
        await run.broker.delete_topic("orders")
        [fault] = run.broker.statistics().faults
        assert (fault.boundary, fault.count) == ("replica", 1)


@simulated
async def test_a_fault_that_comes_after_its_topic_is_gone_is_not_shown_by_name_for_ever(
    world: World,
) -> None:
    """A read that was under way when the topic was deleted; others have its name since."""

    def late_bug(_log: Any, _plan: Any) -> Any:
        yield world.fs.stat, ("/data/as slow as can be",)
        raise PlantedBug("a bug")

    world.fs.faults = DiskFaults(cached_read_rate=0.0)
    async with one_shard(world) as run, world.connect() as client:
        run.faults_expected = {"replica", "replica orders-0"}
        for number in range(3):
            await run.broker.create_topic("orders")
            await run.broker.produce("orders", b"x")
            with pytest.MonkeyPatch.context() as patch, slow("as slow as can be", 5.0):
                patch.setattr(Log, "read_job", late_bug)
                await client.send(fetch_request(0), 12)
                await trio.sleep(0.5)
            await run.broker.delete_topic("orders")
            await client.receive(fetch_request(0), 12)
            faults = {name: fault.count for name, fault in run.state.supervisor.faults.items()}
            assert faults == {"replica": number + 1}
        await run.broker.create_topic("orders")
        with planted(Log, "plan_append", lambda log: str(log.topic_partition)):
            with pytest.raises(Exception, match="KAFKA_STORAGE_ERROR"):
                await run.broker.produce("orders", b"x")
        assert run.state.supervisor.faults["replica orders-0"].count == 1
        await wait_online(run.replica("orders"), 5)


@pytest.mark.parametrize(
    "step, error, words",
    [
        ("locate", PlantedBug("a bug"), "fault in replica"),
        ("read_cached", OSError(errno.EIO, "the disk"), "reading at 0"),
    ],
)
@simulated
async def test_a_thousand_faults_are_few_lines(
    world: World, step: str, error: Exception, words: str
) -> None:
    lines = _Lines()
    logging.getLogger("trio_broker").addHandler(lines)
    try:
        async with one_shard(world) as run:
            run.faults_expected = {"connection", "replica"}
            await run.broker.create_topic("orders", partitions=ONE_SHARD)
            run.faults_expected |= {f"replica orders-{index}" for index in range(ONE_SHARD)}
            began = trio.current_time()
            await run.broker.produce("orders", b"x", partition=0)
            with planted(Log, step, lambda _: True, error=error) as met:
                async with world.connect() as client:
                    for turn in range(1_000):
                        part = 0 if step == "read_cached" else turn % ONE_SHARD
                        await client.call(fetch_request(0, partition=part), 12)
                        await trio.sleep(0.02)
            seconds = trio.current_time() - began
            assert len(met) == 1_000
        shown = [text for text in lines.texts if words in text]
        assert 2 <= len(shown) <= seconds / 10 + 1
    finally:
        logging.getLogger("trio_broker").removeHandler(lines)


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())
