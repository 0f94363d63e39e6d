"""What groups owe their logs, and what a log that is slow, large or broken does to groups."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any
from unittest.mock import patch

import trio

from tests.broker.group_calls import heartbeat, join, join_alone, join_request
from tests.broker.harness import World, codes, failing, simulated, slow
from tests.broker.retained import eventually
from tests.broker.test_full_disk import (
    BALLAST,
    CAPACITY,
    PROMISED,
    SETTINGS,
    free_bytes,
    given_back,
    leave,
    produce,
)
from tests.broker.test_groups import park
from tests.broker.test_offsets import commit, commit_request, committed
from trio_broker import ErrorCode
from trio_broker.broker import groups_partition
from trio_broker.config import KIB, MIB, GroupConfig, TopicConfig
from trio_broker.group.partitioning import offsets_partition
from trio_broker.names import OFFSETS_TOPIC_NAME
from trio_broker.testing.sim.faults import DiskFaults
from trio_broker.wire.messages.create_topics import CreatableTopic, CreateTopicsRequest

ONE_PARTITION = GroupConfig(offsets_topic_partitions=1)


# --------------------------------------------------------------------------------- large batches
@simulated
async def test_a_commit_that_repeats_a_long_name_for_ever_is_refused(world: World) -> None:
    """It was stored in a batch so large that no group of its partition was ever found again."""
    async with world.running(group=ONE_PARTITION) as run, world.connect() as client:
        await run.broker.create_topic("orders")
        request = commit_request(5, group_id="g" * 32_000)
        [topic] = request.topics
        topic.partitions = list(topic.partitions) * 2_500
        response = await client.call(request, 8)
        refused = codes(response.topics[0].partitions)
        assert refused == [ErrorCode.INVALID_COMMIT_OFFSET_SIZE] * 2_500
        assert run.replica(OFFSETS_TOPIC_NAME).log.log_end_offset == 0
        assert await commit(client, 5, group_id="g" * 32_000) == [0]
    async with world.running(group=ONE_PARTITION), world.connect() as client:
        assert (await committed(client, group="g" * 32_000))["orders"][0][1] == 5


@simulated
async def test_groups_are_found_again_in_batches_of_whatever_size(world: World) -> None:
    async with world.running(group=ONE_PARTITION) as run, world.connect() as client:
        await run.broker.create_topic("orders", partitions=2)
        assert await commit(client, 5, 6) == [0, 0]
    with patch.object(groups_partition, "_BATCH_BYTES_MAX", 50):
        async with world.running(group=ONE_PARTITION), world.connect() as client:
            assert [offset for _, offset, *_ in (await committed(client))["orders"]] == [5, 6]


# ------------------------------------------------------------------------------ the log's length
@simulated
async def test_a_state_of_several_segments_is_not_written_again_for_ever(world: World) -> None:
    """Every 30 seconds, however idle the broker was: the new log had rolled as well."""
    group = GroupConfig(offsets_topic_partitions=1, offsets_topic_segment_bytes=20_000)
    async with world.running(group=group) as run, world.connect() as client:
        await run.broker.create_topic("orders", partitions=300)
        for name in ("one", "two"):
            assert set(await commit(client, *range(300), group_id=name)) == {0}
        log = run.replica(OFFSETS_TOPIC_NAME).log
        await trio.sleep(100)
        end_offset = log.log_end_offset
        await trio.sleep(300)
        assert log.log_end_offset == end_offset
        for offset in range(20):
            assert set(await commit(client, *[offset] * 300, group_id="one")) == {0}
        grown_bytes = log.size_bytes
        await trio.sleep(100)
        assert log.size_bytes < grown_bytes / 4
    async with world.running(group=group), world.connect() as client:
        assert [found[1] for found in (await committed(client))["orders"]] == [-1, -1]
        for name, offset in (("one", 19), ("two", 1)):
            found = await committed(client, group=name, partitions=(1,))
            assert found["orders"][0][1] == offset


@simulated
async def test_offsets_stay_in_a_topic_that_a_client_has_created(world: World) -> None:
    """It had the retention of all topics, and what was committed went with its segments."""
    settings = {"topic": TopicConfig(retention_ms=60_000), "group": ONE_PARTITION}
    async with world.running(**settings) as run, world.connect() as client:
        await run.broker.create_topic("orders")
        topic = CreatableTopic(
            name=OFFSETS_TOPIC_NAME,
            num_partitions=1,
            replication_factor=1,
            assignments=(),
            configs=(),
        )
        response = await client.call(CreateTopicsRequest(topics=[topic]))
        assert codes(response.topics) == [0]
        assert await commit(client, 5) == [0]
        await trio.sleep(300)
    async with world.running(**settings), world.connect() as client:
        assert (await committed(client))["orders"][0][1] == 5


@simulated
async def test_the_state_is_not_written_again_into_the_last_room_of_a_disk(world: World) -> None:
    """What is kept for commits was eaten by copies of the state that did not fit, one each time."""
    world.fs.faults = DiskFaults(capacity_bytes=CAPACITY)
    group = GroupConfig(offsets_topic_partitions=1, offsets_topic_segment_bytes=MIB)
    async with world.running(**SETTINGS, group=group) as run, world.connect() as client:
        await run.broker.create_topic("kept", partitions=300, configs=PROMISED)
        for number in range(12):
            offsets = {"topic": "kept", "group_id": f"g{number}", "metadata": "x" * 1_000}
            assert set(await commit(client, *range(300), **offsets)) == {0}
        log = run.replica(OFFSETS_TOPIC_NAME).log
        end_offset = log.log_end_offset
        await leave(world, run, 300 * KIB)
        for _ in range(3):
            await produce(run, 0, [])
        await given_back(world, run)
        await trio.sleep(100)
        assert free_bytes(world) >= BALLAST
        assert log.log_end_offset == end_offset
        assert await commit(client, 7, topic="kept", group_id="g0") == [0]
        await run.state.log_dirs[0].lane.call(world.fs.unlink, "/something-else")
        await trio.sleep(100)
        assert log.log_start_offset > end_offset
        found = await committed(client, topic="kept", group="g0")
        assert [offset for _, offset, *_ in found["kept"]] == [7, 1]


# ---------------------------------------------------------------------------------- loading again
@simulated
async def test_a_disk_that_hangs_stops_time_for_its_own_groups_only(world: World) -> None:
    """The groups of one partition are read again, which takes long; others must rebalance."""
    group = GroupConfig(offsets_topic_partitions=2)
    names = {offsets_partition(name, 2): name for name in ("a", "b")}
    async with world.running(group=group, log_dirs=("/one", "/two")) as run:
        async with world.connect() as client, world.connect() as other:
            await run.broker.create_topic("orders")
            assert await commit(client, 5, group_id=names[0]) == [0]
            first = await join(client, group=names[1])
            loading = ErrorCode.COORDINATOR_LOAD_IN_PROGRESS
            replica = run.replica(OFFSETS_TOPIC_NAME, 0)
            assert replica.shard.log_dir is not run.replica(OFFSETS_TOPIC_NAME, 1).shard.log_dir
            replica.shard.take_offline(replica, "a test has taken it")
            await eventually(lambda: not replica.refusal)
            with slow(str(replica.log.directory), 12.0):
                await trio.sleep(6)
                assert run.state.coordinator.listing_fault() is loading
                began = trio.current_time()
                # The first member has ten seconds to speak up, of which six have passed.
                joined = await join(other, group=names[1], version=3)
                assert (joined.error_code, joined.generation_id) == (0, 2)
                assert joined.leader == joined.member_id != first.member_id
                assert trio.current_time() - began < 5
                assert run.state.coordinator.listing_fault() is loading
            assert (await committed(client, group=names[0]))["orders"][0][1] == 5


@simulated
async def test_groups_are_read_again_however_impatient_clients_are(world: World) -> None:
    """Who commits reads the log as well, and gives up after five seconds: always before its end."""

    async def commit_often(delay_seconds: float) -> None:
        await trio.sleep(delay_seconds)
        async with world.connect() as client:
            while True:
                await commit(client, 6)

    async with world.running(group=ONE_PARTITION) as run:
        async with world.connect() as client:
            await run.broker.create_topic("orders")
            for offset in range(4):
                assert await commit(client, offset) == [0]
        replica = run.replica(OFFSETS_TOPIC_NAME)
        replica.shard.take_offline(replica, "a test has taken it")
        await eventually(lambda: not replica.refusal)
        async with trio.open_nursery() as nursery:
            directory = str(replica.log.directory)
            with slow(directory, 2.0), patch.object(groups_partition, "_LOAD_BYTES", 1):
                for number in range(4):
                    nursery.start_soon(commit_often, 1.2 * number)
                await eventually(lambda: not run.state.coordinator.listing_fault(), 60)
            nursery.cancel_scope.cancel()
        await trio.sleep(30)


@simulated
async def test_who_joins_while_groups_are_read_again_does_not_hold_up_a_stop(world: World) -> None:
    """Its partition was not there to be closed, and then took it in for as long as the drain is."""
    async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
        async with world.running(group=ONE_PARTITION) as run:
            one = await stack.enter_async_context(world.connect())
            two = await stack.enter_async_context(world.connect())
            await join_alone(one)
            replica = run.replica(OFFSETS_TOPIC_NAME)
            replica.shard.take_offline(replica, "a test has taken it")
            await eventually(lambda: not replica.refusal)
            with slow(str(replica.log.directory), 0.5):
                parked = park(nursery, two, join_request(), 3)
                await trio.sleep(0.2)
                began = trio.current_time()
                run.tree.request_stop()
                assert (await parked.wait()).error_code == ErrorCode.NOT_COORDINATOR
                assert trio.current_time() - began < 2
                await run.tree.ended.wait()
                assert trio.current_time() - began < 5


@simulated
async def test_a_log_that_cannot_be_read_is_not_read_for_each_who_asks(
    world: World, caplog: Any
) -> None:
    async with world.running(group=ONE_PARTITION) as run, world.connect() as client:
        await run.broker.create_topic("orders")
        assert await commit(client, 5) == [0]
        directory = str(run.replica(OFFSETS_TOPIC_NAME).log.directory)
    async with AsyncExitStack() as stack:
        with failing("read_at", directory) as met:
            await stack.enter_async_context(world.running(group=ONE_PARTITION))
            client = await stack.enter_async_context(world.connect())
            for _ in range(50):
                assert await heartbeat(client, "somebody", 1) == 0
                await trio.sleep(0.4)
            assert 3 <= len(met) <= 8
        await trio.sleep(6)
        assert (await committed(client))["orders"][0][1] == 5
    lines = [record for record in caplog.records if "cannot be read now" in record.getMessage()]
    assert 2 <= len(lines) <= 3


# -------------------------------------------------------------------------- the log for operators
@simulated
async def test_a_name_writes_no_lines_of_its_own(world: World, caplog: Any) -> None:
    """Nor does it change the colours of a terminal, or fill a disk with itself."""
    caplog.set_level("INFO", "trio_broker.groups")
    async with world.running(group=ONE_PARTITION), world.connect() as client:
        name = "a\n2026-01-01 [error] all is lost\x1b[31m" + "x" * 30_000
        assert (await join(client, group=name)).error_code == 0
    lines = [record.getMessage() for record in caplog.records]
    assert any("generation 1 has 1 members" in line for line in lines)
    assert all(line.isprintable() and len(line) < 1_000 for line in lines), lines
