"""Bytes are bounded without a configuration, in a stated order, and promises are kept."""

from __future__ import annotations

import errno
import functools
import re
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import trio

from tests.broker.harness import (
    Running,
    World,
    make_batch,
    running,
    simulated,
    slow,
)
from tests.broker.retained import (
    BATCH,
    BATCH_MAX,
    DEFAULTS,
    deleted,
    eventually,
    fill,
    kept,
    now_ms,
)
from trio_broker import BrokerConfig, ErrorCode
from trio_broker.admin.health import reasons
from trio_broker.broker.space_keeper import LOOK_SECONDS
from trio_broker.broker.statistics import health_facts
from trio_broker.config import DAY_MS, KIB, MIB, StorageConfig
from trio_broker.errors import RequestError
from trio_broker.group.commands import CommitOffsets
from trio_broker.records.build import Record
from trio_broker.storage.disk_state import WRITE_ERRORS_SECONDS, DiskState
from trio_broker.storage.pressure import PIECE_BYTES_MIN, low_on_space
from trio_broker.storage.retention import DeletionReason
from trio_broker.testing.sim.disk import SimFileSystem
from trio_broker.testing.sim.faults import DiskFaults
from trio_broker.testing.sim.path_faults import PathFaults
from trio_broker.wire.messages.describe_configs import (
    DescribeConfigsRequest,
    DescribeConfigsResource,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

# ------------------------------------------------------------------------------- node budget
LIMIT = 4 * MIB
BUDGET = {"storage": StorageConfig(bytes_max=LIMIT), **DEFAULTS}


def used(run: Running) -> int:
    return sum(replica.log.disk_bytes for replica in run.state.router.replicas())


@simulated
async def test_a_topic_without_a_configuration_stays_within_the_budget(world: World) -> None:
    async with world.running(**BUDGET) as run:
        await run.broker.create_topic("events", partitions=3)
        peak = 0
        async with trio.open_nursery() as nursery:
            for partition in range(3):
                nursery.start_soon(
                    functools.partial(fill, run, "events", 8 * MIB, partition=partition)
                )
            for _ in range(2000):
                peak = max(peak, used(run))
                await trio.sleep(0.01)
        # Nothing is refused, and what is under way while room is made is little.
        assert LIMIT * 0.8 < peak <= LIMIT + 3 * 2 * BATCH_MAX
        await trio.sleep(LOOK_SECONDS * 2)
        assert used(run) <= LIMIT
        assert set(deleted(run, "events")) == {DeletionReason.NODE_BUDGET}
        assert used(run) > LIMIT * 0.7, "no more than needed"


@simulated
async def test_the_oldest_goes_first_and_promises_are_kept(world: World) -> None:
    async with world.running(**BUDGET) as run:
        await run.broker.create_topic("kept-bytes", configs={"retention.bytes": "-1"})
        await run.broker.create_topic("kept-ms", configs={"retention.ms": str(DAY_MS)})
        await run.broker.create_topic("old")
        await run.broker.create_topic("new")
        await fill(run, "kept-bytes", MIB // 2)
        await fill(run, "kept-ms", MIB // 2)
        await fill(run, "old", MIB)
        await trio.sleep(10)
        await fill(run, "new", 5 * MIB // 2)
        promised = [kept(run, name) for name in ("kept-bytes", "kept-ms")]
        new = kept(run, "new")
        assert set(deleted(run, "old")) == {DeletionReason.NODE_BUDGET}
        assert not deleted(run, "new")
        await fill(run, "new", 8 * MIB)
        assert set(deleted(run, "new")) == {DeletionReason.NODE_BUDGET}
        assert kept(run, "old") * BATCH_MAX <= PIECE_BYTES_MIN + BATCH_MAX, "at most the active one"
        assert new > 0
        assert [kept(run, name) for name in ("kept-bytes", "kept-ms")] == promised
        assert not deleted(run, "kept-bytes")
        assert not deleted(run, "kept-ms")


@simulated
async def test_what_is_promised_is_refused_rather_than_deleted(world: World) -> None:
    async with world.running(**BUDGET) as run:
        await run.broker.create_topic("kept", configs={"retention.ms": "300000"})
        await run.broker.create_topic("events")
        await fill(run, "events", MIB)
        refusal = await fill_until_refused(run, "kept")
        assert refusal.code == ErrorCode.POLICY_VIOLATION
        assert f"of {LIMIT} bytes" in str(refusal)
        assert used(run) <= LIMIT + 2 * BATCH_MAX
        assert kept(run, "events") == 0, "it gave way first"
        before = kept(run, "kept")
        assert not deleted(run, "kept")
        [reason] = reasons(health_facts(run.state))
        assert reason.startswith(
            "log dir /data/logs takes no records: the logs of this broker take "
        )
        async with world.connect() as client:
            for topic in ("kept", "events"):
                answer = await client.produce(make_batch(timestamp_ms=now_ms(world)), topic=topic)
                assert answer.error_code == ErrorCode.POLICY_VIOLATION
                assert "storage.bytes_max" in answer.error_message
            # All else works.
            assert (await client.fetch(0, topic="kept")).records
            await run.broker.create_topic("another")
        # It ends by itself once there is room: here because of age ...
        await trio.sleep(300 + LOOK_SECONDS)
        assert kept(run, "kept") < before
        assert not reasons(health_facts(run.state))
        await run.broker.produce("kept", b"x")
        # ... and here because a topic goes.
        await fill_until_refused(run, "kept")
        await run.broker.delete_topic("kept")
        await trio.sleep(LOOK_SECONDS + 0.1)
        await run.broker.produce("events", b"x")


async def fill_until_refused(run: Running, topic: str) -> RequestError:
    with trio.fail_after(600):
        while True:
            try:
                await fill(run, topic, BATCH)
            except RequestError as error:
                return error


@simulated
async def test_what_is_queued_when_the_refusal_comes_is_refused_too(world: World) -> None:
    async with world.running(**BUDGET) as run:
        await run.broker.create_topic("kept", configs={"retention.ms": "-1"})
        keeper = run.state.log_dirs[0].keeper
        codes: list[int] = []

        async def produce() -> None:
            record = Record(key=None, value=b"x" * 200 * KIB, timestamp_ms=now_ms(world))
            try:
                await run.broker.produce_batch("kept", [record], partition=0)
            except RequestError as error:
                codes.append(error.code)

        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(produce)
        assert set(codes) == {ErrorCode.POLICY_VIOLATION}
        assert used(run) <= LIMIT + keeper.commit_bytes_max
        assert used(run) == run.replica("kept").log.size_bytes > LIMIT


@simulated
async def test_internal_topics_never_give_way_and_are_never_refused(world: World) -> None:
    async with world.running(**BUDGET) as run:
        await run.broker.create_topic("kept", configs={"retention.ms": "-1"})
        commit = CommitOffsets(group_id="group", offsets=())
        await run.state.coordinator.commit(commit)
        await fill_until_refused(run, "kept")
        await run.state.coordinator.commit(commit)
        for topic in run.state.router.by_id.values():
            if topic.is_internal:
                assert not topic.gives_way
                assert not any(topic.traffic.deleted_segments.values())


@simulated
async def test_log_dirs_share_a_configured_budget(world: World) -> None:
    async with world.running(log_dirs=("/disk-a", "/disk-b"), **BUDGET) as run:
        await run.broker.create_topic("first", partitions=2)
        await run.broker.create_topic("second", partitions=2)
        for partition in range(2):
            await fill(run, "first", MIB, partition=partition)
        await trio.sleep(5)
        for partition in range(2):
            await fill(run, "second", 3 * MIB, partition=partition)
        await eventually(lambda: used(run) <= LIMIT)
        # What is older went, on whichever disk it was.
        for partition in range(2):
            assert run.replica("first", partition).log.size_bytes <= PIECE_BYTES_MIN + BATCH_MAX
            assert run.replica("second", partition).log.size_bytes > MIB // 2


@simulated
async def test_a_log_that_cannot_give_way_keeps_no_other_from_it(world: World) -> None:
    """Somebody has taken the rights to its directory away."""
    async with world.running(**BUDGET) as run:
        for topic in ("forbidden", "events"):
            await run.broker.create_topic(topic)
        await fill(run, "forbidden", 3 * MIB // 2)
        await trio.sleep(5)
        before = kept(run, "forbidden")
        directory = run.replica("forbidden").log.directory
        forbidden = PathFaults(name_error_rate=1.0, error_number=errno.EACCES)
        with world.fs.failing_below(directory, forbidden):
            await fill(run, "events", 8 * MIB)
            for _ in range(30):
                await fill(run, "events", BATCH)
                await trio.sleep(LOOK_SECONDS)
                assert used(run) <= LIMIT + 2 * BATCH_MAX
            assert kept(run, "forbidden") == before
        await trio.sleep(WRITE_ERRORS_SECONDS)
        await fill(run, "events", 2 * MIB)
        assert kept(run, "forbidden") < before, "it is the oldest"


@simulated
async def test_what_a_log_that_cannot_give_way_holds_counts_for_the_refusal(world: World) -> None:
    async with world.running(**BUDGET) as run:
        await run.broker.create_topic("forbidden")
        await run.broker.create_topic("kept", configs={"retention.ms": "-1"})
        await fill(run, "forbidden", MIB)
        directory = run.replica("forbidden").log.directory
        forbidden = PathFaults(name_error_rate=1.0, error_number=errno.EACCES)
        with world.fs.failing_below(directory, forbidden):
            refusal = await fill_until_refused(run, "kept")
            assert refusal.code == ErrorCode.POLICY_VIOLATION
            assert used(run) <= LIMIT + MIB
        await trio.sleep(WRITE_ERRORS_SECONDS + LOOK_SECONDS)
        await run.broker.produce("kept", b"x")


@simulated
async def test_a_default_budget_is_a_share_of_the_disk(world: World) -> None:
    world.fs.faults = DiskFaults(capacity_bytes=16 * MIB)
    async with world.running(**DEFAULTS) as run:
        await run.broker.create_topic("events", partitions=2)
        await run.broker.create_topic("kept", configs={"retention.ms": "-1"})
        await fill(run, "kept", 2 * MIB)
        log_dir = run.state.log_dirs[0]
        states = set()
        for _ in range(40):
            await fill(run, "events", MIB // 2, partition=0)
            await fill(run, "events", MIB // 2, partition=1)
            states.add(log_dir.health.state)
        assert log_dir.keeper.limit_bytes == int(16 * MIB * 0.8)
        assert DiskState.DEGRADED not in states
        assert log_dir.write_failures == 0
        assert kept(run, "kept") == 2 * MIB // (BATCH)


@simulated
async def test_a_disk_that_others_fill_is_given_room(world: World) -> None:
    world.fs.faults = DiskFaults(capacity_bytes=64 * MIB)
    async with world.running(**DEFAULTS) as run:
        await run.broker.create_topic("events")
        await run.broker.create_topic("kept", configs={"retention.ms": "-1"})
        await fill(run, "kept", 4 * MIB)
        await fill(run, "events", 16 * MIB)
        log_dir = run.state.log_dirs[0]
        assert log_dir.health.state is DiskState.OK
        # Somebody else leaves 5 MiB free: low is below 6.4.
        await log_dir.lane.run(something_else(world, 5 * MIB))
        await eventually(lambda: log_dir.health.state is DiskState.LOW)
        await eventually(lambda: log_dir.health.state is DiskState.OK)
        assert 0 < kept(run, "events") < 16 * MIB // BATCH
        assert not deleted(run, "kept")
        assert log_dir.keeper.refusal is None
        await run.broker.produce("kept", b"x")


def something_else(world: World, left_bytes: int) -> Iterator[Any]:
    """Fill the disk with a file that is none of the broker's."""
    file = yield functools.partial(world.fs.open, create=True), ("/something-else", "test")
    yield file.allocate, (world.fs.faults.capacity_bytes - world.fs.used_bytes - left_bytes,)
    file.close()


@simulated
async def test_nothing_gives_way_while_a_deleted_topic_gives_its_room_back(world: World) -> None:
    """That takes several jobs of the lane; the disk is measured in between."""
    world.fs.faults = DiskFaults(capacity_bytes=64 * MIB)
    async with world.running(**DEFAULTS) as run:
        await run.broker.create_topic("events", configs={"segment.bytes": str(MIB)})
        await run.broker.create_topic("large", configs={"segment.bytes": str(128 * KIB)})
        for topic in ("events", "large"):
            await fill(run, topic, 16 * MIB)
        log_dir = run.state.log_dirs[0]
        states = []
        with slow(f"{run.topic_id('large')}-0.deleted/", 0.05):
            await run.broker.delete_topic("large")
            await log_dir.shards[1].lane.run(something_else(world, 5 * MIB))
            while log_dir.deleted.names:
                states.append(log_dir.health.state)
                await trio.sleep(0.05)
        await trio.sleep(10)
        assert DiskState.LOW in states
        assert log_dir.health.state is DiskState.OK
        assert not deleted(run, "events")


@simulated
async def test_a_measurement_from_meanwhile_makes_nothing_give_way_twice(world: World) -> None:
    world.fs.faults = DiskFaults(capacity_bytes=64 * MIB)
    delay_seconds = SimFileSystem.delay_seconds

    def delay(fs: SimFileSystem, call: str, path: str) -> float:
        seconds = {"space": 1.0, "rename": 0.35}.get(call, 0.0)
        return delay_seconds(fs, call, path) if path.endswith(".tmp") else seconds

    async with world.running(**DEFAULTS) as run:
        await run.broker.create_topic("events", partitions=2, configs={"segment.bytes": str(MIB)})
        log_dir = run.state.log_dirs[0]
        [partition] = [
            replica.partition
            for replica in run.state.router.replicas()
            if replica.shard is log_dir.shards[1]  # the other one measures
        ]
        await fill(run, "events", 24 * MIB, partition=partition)
        with patch.object(SimFileSystem, "delay_seconds", delay):
            await log_dir.shards[1].lane.run(something_else(world, 5 * MIB))
            await eventually(lambda: log_dir.health.state is DiskState.LOW)
            await eventually(lambda: log_dir.health.state is DiskState.OK)
            await trio.sleep(5)
        assert log_dir.health.space is not None
        most_bytes = low_on_space(log_dir.health.space._replace(free_bytes=0)).size_bytes
        assert log_dir.health.space.free_bytes <= most_bytes + MIB


@simulated
async def test_a_low_disk_does_not_wait_for_the_delay_of_deleted_files(world: World) -> None:
    async with world.running(**DEFAULTS) as run:
        await run.broker.create_topic(
            "kept",
            configs={
                "retention.ms": "5000",
                "segment.bytes": str(MIB),
                "file.delete.delay.ms": "3600000",
            },
        )
        await fill(run, "kept", 4 * MIB)
        await trio.sleep(6)
        log = run.replica("kept").log
        assert (log.size_bytes, kept(run, "kept")) == (0, 0)
        assert log.deleted_bytes > 4 * MIB
        world.fs.faults = DiskFaults(capacity_bytes=world.fs.used_bytes + MIB // 2)
        await eventually(lambda: log.deleted_bytes == 0)


async def test_on_a_real_disk_the_oldest_gives_way(config: BrokerConfig) -> None:
    config = config.with_values(storage=StorageConfig(bytes_max=2 * MIB))
    async with running(config) as run:
        await run.broker.create_topic("events", partitions=2)
        await run.broker.create_topic(
            "kept", configs={"retention.bytes": "100000", "segment.bytes": "16384"}
        )
        await fill(run, "kept", 64 * KIB, batch_bytes=8 * KIB)
        async with trio.open_nursery() as nursery:
            for partition in range(2):
                nursery.start_soon(
                    functools.partial(fill, run, "events", 8 * MIB, partition=partition)
                )
        await eventually(lambda: used(run) <= 2 * MIB)
        assert kept(run, "kept") == 8
        for partition in range(2):
            assert 0 < kept(run, "events", partition) < 128
        assert set(deleted(run, "events")) == {DeletionReason.NODE_BUDGET}


# ----------------------------------------------------------------------------------- visible
@simulated
async def test_a_flood_of_deletions_is_few_lines(world: World, caplog: Any) -> None:
    caplog.set_level("INFO", "trio_broker")
    async with world.running(**BUDGET) as run:
        await run.broker.create_topic("events")
        began = trio.current_time()
        await fill(run, "events", 24 * MIB)
        took = trio.current_time() - began
        segments = deleted(run, "events")[DeletionReason.NODE_BUDGET]
    lines = [record for record in caplog.records if "segments with" in record.getMessage()]
    assert segments > 20
    assert 1 <= len(lines) <= took / 10 + 1


@simulated
async def test_a_client_can_ask_why(world: World) -> None:
    """DescribeConfigs says what holds, what comes next, and what is gone."""
    async with world.running(**BUDGET) as run, world.connect() as client:
        await run.broker.create_topic("events")
        await run.broker.create_topic("kept", configs={"retention.bytes": "100000000"})
        await fill(run, "events", 6 * MIB)
        await trio.sleep(LOOK_SECONDS)

        async def why(topic: str, *, documented: bool = True) -> str | None:
            resource = DescribeConfigsResource(
                resource_type=2, resource_name=topic, configuration_keys=["retention.ms"]
            )
            request = DescribeConfigsRequest(resources=[resource], include_documentation=documented)
            [result] = (await client.call(request, 4)).results
            [entry] = result.configs
            return entry.documentation

        events = await why("events")
        assert events is not None
        assert "give way" in events
        assert f"of {LIMIT} bytes" in events
        assert "due at 2024-01-08T00:00:0" in events
        assert f"Segments roll at {PIECE_BYTES_MIN} bytes" in events
        assert re.search(r"deleted since the broker started: \d+ \(\d+ bytes\) by node_bud", events)
        kept_text = await why("kept")
        assert kept_text is not None
        assert "produce is refused instead" in kept_text
        assert "Nothing is going to be deleted because of its age" in kept_text
        assert "Nothing was deleted" in kept_text
        assert await why("events", documented=False) is None
