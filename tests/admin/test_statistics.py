"""What a running broker says of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio

from tests.broker.harness import World, make_batch, running, simulated
from trio_broker import BrokerConfig, BrokerStatistics, open_broker
from trio_broker.broker import statistics
from trio_broker.broker.loop_lag import LoopLag
from trio_broker.broker.request_counters import LATENCY_BOUNDS_SECONDS, ApiCounter
from trio_broker.config import MIB, NetworkConfig, StorageConfig, TopicConfig
from trio_broker.errors import RequestError
from trio_broker.group.commands import CommitOffsets
from trio_broker.group.offsets import OffsetToCommit
from trio_broker.names import TopicName

if TYPE_CHECKING:
    from pathlib import Path


def topic_of(found: BrokerStatistics, name: str) -> Any:
    [topic] = [topic for topic in found.topics if topic.name == name]
    return topic


def plain(value: object) -> bool:
    """Tell whether a value is frozen all the way down."""
    if attrs.has(type(value)):
        assert "__setattr__" in vars(type(value)), "frozen classes have one that refuses"
        return all(plain(getattr(value, field.name)) for field in attrs.fields(type(value)))
    if isinstance(value, tuple):
        return all(plain(item) for item in value)
    return value is None or isinstance(value, int | float | str | bool)


@pytest.fixture
def config(tmp_path: Path) -> BrokerConfig:
    return BrokerConfig(data_dir=str(tmp_path / "data"), listeners=("127.0.0.1:0",))


async def test_it_is_a_tree_of_plain_frozen_values(config: BrokerConfig) -> None:
    async with open_broker(config) as broker:
        await broker.create_topic("orders", partitions=2)
        await broker.produce("orders", b"1", partition=0)
        found = broker.statistics()
        assert isinstance(found, BrokerStatistics)
        assert plain(found)
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            found.phase = "x"  # type: ignore[misc]
    assert broker.statistics().phase == "stopped"


async def test_topics_and_partitions(config: BrokerConfig) -> None:
    async with open_broker(config) as broker:
        await broker.create_topic("orders", partitions=2)
        for number in range(3):
            await broker.produce("orders", b"%d" % number, partition=0)
        topic = topic_of(broker.statistics(), "orders")
        written, empty = topic.partitions
        assert (written.high_watermark, written.log_start_offset, written.segments) == (3, 0, 1)
        assert written.size_bytes == topic.produced_bytes > 0
        assert (empty.high_watermark, empty.size_bytes) == (0, 0)
        assert {part.state for part in topic.partitions} == {"online"}
        assert (topic.produced_batches, topic.produced_records) == (3, 3)
        async with broker.read("orders", 0) as reader:
            await reader.receive()
        assert topic_of(broker.statistics(), "orders").fetched_bytes == topic.produced_bytes
        await broker.delete_topic("orders")
        assert broker.statistics().topics == ()


async def test_duplicates_and_refused_batches_are_not_counted(config: BrokerConfig) -> None:
    async with running(config) as run:
        await run.broker.create_topic("orders")
        async with run.connect() as client:
            batch = make_batch(b"1", producer_id=5, producer_epoch=0, base_sequence=0)
            assert (await client.produce(batch)).error_code == 0
            assert (await client.produce(batch)).error_code == 0
            gap = make_batch(b"1", producer_id=5, producer_epoch=0, base_sequence=7)
            assert (await client.produce(gap)).error_code != 0
        topic = topic_of(run.broker.statistics(), "orders")
        assert (topic.produced_batches, topic.produced_records) == (1, 1)
        assert topic.produced_bytes == len(batch)


async def test_requests_and_connections(config: BrokerConfig) -> None:
    config = config.with_values(network=NetworkConfig(connections_max=2))
    async with running(config) as run:
        await run.broker.create_topic("orders")
        async with run.connect() as first, run.connect() as second:
            for client in (first, second):
                for number in range(3):
                    await client.produce(make_batch(b"%d" % number))
            async with run.connect() as third:
                await third.wait_closed()
            found = run.broker.statistics()
            assert attrs.astuple(found.connections) == (2, 2, 1)
        [produce] = found.requests
        assert (produce.api, produce.count) == ("Produce", 6)
        assert len(produce.counts) == len(produce.bounds_seconds) + 1
        assert 0 < produce.seconds < 60
        [log_dir] = found.log_dirs
        assert sum(shard.committed_batches for shard in log_dir.shards) == 6
        assert log_dir.state == "ok"
        assert log_dir.total_bytes is not None
        assert log_dir.free_bytes is not None
        assert {each.owner for each in found.owners} >= {"replica", "shard", "lane", "broker"}
        assert found.tasks > 5


async def test_what_retention_gives_back_is_counted(config: BrokerConfig) -> None:
    config = config.with_values(topic=TopicConfig(segment_bytes=1024, retention_bytes=1024))
    async with running(config) as run:
        await run.broker.create_topic("orders")
        for number in range(40):
            await run.broker.produce("orders", b"%d" % number * 100)
        replica = run.replica("orders")
        await replica.shard.apply_retention(replica)
        topic = topic_of(run.broker.statistics(), "orders")
        assert topic.retention_deleted_bytes > 0
        kept = topic.partitions[0].size_bytes
        assert kept + topic.retention_deleted_bytes == topic.produced_bytes
        by_reason = {each.reason: each for each in topic.retention.deleted}
        assert set(by_reason) == {"age", "size", "start_offset", "node_budget"}
        assert by_reason["size"].size_bytes == topic.retention_deleted_bytes
        assert by_reason["size"].segments > 5
        assert (topic.retention.retention_bytes, topic.retention.gives_way) == (1024, True)
        assert topic.retention.next_deletion_ms is not None


async def test_the_budget_of_logs_is_told(config: BrokerConfig) -> None:
    config = config.with_values(storage=StorageConfig(bytes_max=MIB))
    async with running(config) as run:
        await run.broker.create_topic("kept", configs={"retention.ms": "-1"})
        [log_dir] = run.broker.statistics().log_dirs
        assert (log_dir.log_bytes_max, log_dir.produce_refusal) == (MIB, "")
        with pytest.raises(RequestError, match=r"storage\.bytes_max"), trio.fail_after(20):
            while True:
                await run.broker.produce("kept", b"x" * 100_000)
        found = run.broker.statistics()
        assert found.log_dirs[0].log_bytes > MIB
        assert f"{MIB} bytes" in found.log_dirs[0].produce_refusal
        topic = topic_of(found, "kept")
        assert (topic.retention.gives_way, topic.retention.next_deletion_ms) == (False, None)


# ----------------------------------------------------------------------------------------- groups
async def commit(run: Any, group_id: str, offset: int, topic: str = "orders") -> None:
    wanted = OffsetToCommit(TopicName(topic), 0, offset, topic_id=run.topic_id(topic))
    request = CommitOffsets(group_id=group_id, offsets=(wanted,))
    [code] = await run.state.coordinator.commit(request)
    assert code == 0


def lag_of(found: BrokerStatistics, group_id: str) -> Any:
    [group] = [group for group in found.groups if group.group_id == group_id]
    [offset] = group.offsets
    return offset


@simulated
async def test_lag_in_records_and_in_seconds(world: World) -> None:
    topic = TopicConfig(index_interval_bytes=0)
    async with world.running(topic=topic) as run:
        await run.broker.create_topic("orders")
        for number in range(10):
            await run.broker.produce("orders", b"%d" % number)
            await trio.sleep(1)
        await trio.sleep(100)
        await commit(run, "behind", 4)
        await commit(run, "there", 10)
        await commit(run, "beyond", 99)
        found = run.broker.statistics()
        behind = lag_of(found, "behind")
        assert (behind.offset, behind.lag_records) == (4, 6)
        assert behind.lag_seconds == pytest.approx(106, abs=2)
        assert attrs.astuple(lag_of(found, "there"))[3:] == (0, 0.0)
        assert attrs.astuple(lag_of(found, "beyond"))[3:] == (0, 0.0)
        await commit(run, "behind", 9)
        assert lag_of(run.broker.statistics(), "behind").lag_records == 1
        await run.broker.delete_topic("orders")
        assert all(group.offsets == () for group in run.broker.statistics().groups)


@simulated
async def test_a_lag_in_seconds_that_memory_cannot_tell_is_not_made_up(world: World) -> None:
    """Two records, minutes apart, in one segment with no index entry between them."""
    async with world.running() as run:
        await run.broker.create_topic("orders")
        await run.broker.produce("orders", b"old")
        await trio.sleep(100)
        await run.broker.produce("orders", b"new")
        await commit(run, "readers", 1)
        offset = lag_of(run.broker.statistics(), "readers")
        assert (offset.lag_records, offset.lag_seconds) == (1, None)
        await commit(run, "readers", 0)
        assert lag_of(run.broker.statistics(), "readers").lag_records == 2


# ------------------------------------------------------------------------------------------ parts
@simulated
async def test_a_large_broker_is_asked_in_turns(world: World) -> None:
    async with world.running() as run:
        await run.broker.create_topic("orders", partitions=250)
        turns = 0

        async def count_turns() -> None:
            nonlocal turns
            while True:
                turns += 1
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(count_turns)
            in_turns = await run.broker.collect_statistics()
            nursery.cancel_scope.cancel()
        assert turns > 3
        assert in_turns.topics == statistics.snapshot(run.state).topics


@simulated
async def test_groups_that_come_and_go_while_a_large_broker_is_asked(world: World) -> None:
    async with world.running() as run:
        await run.broker.create_topic("orders")
        for group_id in ("c", "a", "b"):
            await commit(run, group_id, 0)
        summaries = run.state.coordinator.summaries()
        assert next(summaries).group_id == "a"
        await run.state.coordinator.ask(
            "b", lambda machine, token, now: machine.delete_groups(token, ["b"], now)
        )
        await commit(run, "aa", 0)
        [last] = summaries
        assert (last.group_id, last.members, list(last.offsets)) == ("c", 0, ["orders"])


def test_latencies_fall_into_inclusive_buckets() -> None:
    counter = ApiCounter()
    for bound in LATENCY_BOUNDS_SECONDS:
        counter.observe(bound)
    counter.observe(0.0)
    counter.observe(1e9)
    assert counter.counts == [2] + [1] * len(LATENCY_BOUNDS_SECONDS)


def test_the_loop_s_lag_is_the_worst_of_the_last_ticks() -> None:
    lag = LoopLag()
    assert lag.max_seconds == 0.0
    for late_seconds in (0.0, 0.25, -0.1):
        lag.take(late_seconds)
    assert lag.max_seconds == 0.25
    for _ in range(30):
        lag.take(0.0)
    assert lag.max_seconds == 0.0
