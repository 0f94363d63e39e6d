"""Retention as a law: by age without a write, by bytes without a configuration, promises kept."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.broker.harness import (
    STEPS_MAX,
    Running,
    World,
    make_batch,
    running,
    simulated,
)
from trio_broker import BrokerConfig, ErrorCode
from trio_broker.broker.housekeeping import CLOCK_LOOK_SECONDS
from trio_broker.broker.space_keeper import LOOK_SECONDS
from trio_broker.config import DAY_MS, KIB, MIB, StorageConfig, TopicConfig
from trio_broker.errors import RequestError
from trio_broker.records.build import Record
from trio_broker.storage.disk_state import DiskState
from trio_broker.storage.log import Log
from trio_broker.storage.pressure import PIECE_BYTES_MIN
from trio_broker.storage.retention import DeletionReason
from trio_broker.testing.sim.faults import DiskFaults
from trio_broker.testing.sim.run import Simulation, simulate

if TYPE_CHECKING:
    from collections.abc import Iterator

#: A disk on which nothing takes any time, so that "at" means at.
INSTANT = DiskFaults(latency_seconds=(0.0, 0.0), sync_latency_seconds=(0.0, 0.0))
SEVEN_DAYS_SECONDS = 7 * DAY_MS // 1000
DEFAULTS = {"topic": TopicConfig()}
BATCH = 64 * KIB
#: What it takes on disk, and a little more.
BATCH_MAX = BATCH + KIB


def now_ms(world: World) -> int:
    return world.host.wall.now_ms()


async def sleep_until_ms(world: World, wall_ms: int) -> None:
    await trio.sleep((wall_ms - now_ms(world)) / 1000)
    assert now_ms(world) == wall_ms


def kept(run: Running, topic: str, partition: int = 0) -> int:
    """Return how many records are still there."""
    log = run.replica(topic, partition).log
    return log.log_end_offset - log.log_start_offset


def deleted(run: Running, topic: str) -> dict[DeletionReason, int]:
    """Return how many segments went, by reason."""
    counts = run.state.router.by_name[topic].traffic.deleted_segments
    return {reason: count for reason, count in counts.items() if count}


async def fill(
    run: Running, topic: str, size_bytes: int, *, partition: int = 0, batch_bytes: int = BATCH
) -> None:
    for _ in range(size_bytes // batch_bytes):
        record = Record(
            key=None, value=b"x" * batch_bytes, timestamp_ms=run.state.host.wall.now_ms()
        )
        await run.broker.produce_batch(topic, [record], partition=partition)


async def eventually(condition: Any, seconds: float = 60.0) -> None:
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - of a simulated clock, by a condition of any kind
            await trio.sleep(0.05)


# --------------------------------------------------------------------------------------- age
@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the watchers that look again and again do so rarely: a week has 1.2 million half seconds.

    What is tested does not depend on them.
    """
    for name, seconds in (
        ("disk_guard.LOOK_SECONDS", 1e6),
        ("reaper.REAP_INTERVAL_SECONDS", 1e6),
        ("leak_watch.LOOK_SECONDS", 1e6),
        ("housekeeping.OFFSETS_INTERVAL_SECONDS", 1e6),
    ):
        monkeypatch.setattr(f"trio_broker.broker.{name}", seconds)


@pytest.mark.usefixtures("quiet")
def test_seven_days_without_a_write_end_to_the_millisecond(seed: int) -> None:
    """A topic with no configuration, on a broker whose every default is as it comes."""

    async def week(sim: Simulation) -> float:
        world = World(sim)
        world.fs.faults = INSTANT
        async with world.running(**DEFAULTS) as run:
            await run.broker.create_topic("events")
            first_ms = now_ms(world)
            for _ in range(3):
                await run.broker.produce("events", b"x", partition=0)
            last_ms = now_ms(world)
            assert last_ms == first_ms
            began = time.perf_counter()
            await sleep_until_ms(world, last_ms + 7 * DAY_MS)
            assert kept(run, "events") == 3
            await sleep_until_ms(world, last_ms + 7 * DAY_MS + 1)
            await trio.sleep(0.0004)
            assert kept(run, "events") == 0
            took = time.perf_counter() - began
            assert deleted(run, "events") == {DeletionReason.AGE: 1}
            assert await run.broker.produce("events", b"y", partition=0) == (0, 3)
        return took

    result = simulate(week, seed, max_seconds=SEVEN_DAYS_SECONDS + 1000, max_steps=STEPS_MAX)
    took = result.unwrap()
    print(f"7 days took {took:.2f} s")


@simulated
async def test_age_is_exact_whatever_else_is_written(world: World) -> None:
    world.fs.faults = INSTANT
    async with world.running(**DEFAULTS) as run:
        for name, retention_ms in (("short", 5_000), ("shorter", 2_001)):
            await run.broker.create_topic(name, configs={"retention.ms": str(retention_ms)})
        await run.broker.create_topic("busy")
        began_ms = now_ms(world)
        for name in ("short", "shorter"):
            await run.broker.produce(name, b"x")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fill, run, "busy", MIB)
            for name, due_ms in (("shorter", 2_002), ("short", 5_001)):
                await sleep_until_ms(world, began_ms + due_ms - 1)
                assert kept(run, name) == 1
                await sleep_until_ms(world, began_ms + due_ms)
                await trio.sleep(0.0004)
                assert kept(run, name) == 0


@simulated
async def test_shorter_retention_holds_at_once(world: World) -> None:
    async with world.running(**DEFAULTS) as run:
        await run.broker.create_topic("events")
        await run.broker.produce("events", b"x")
        await trio.sleep(100)
        topic = run.state.router.by_name["events"]
        topic.configure(TopicConfig(retention_ms=50_000), topic.durability)
        for replica in topic.replicas:
            assert replica is not None
            await replica.shard.follow_topic(replica)
        await trio.sleep(0.1)
        assert kept(run, "events") == 0


@simulated
async def test_a_clock_that_jumps_ahead_is_noticed(world: World) -> None:
    async with world.running(**DEFAULTS) as run:
        await run.broker.create_topic("events")
        await run.broker.produce("events", b"x")
        await trio.sleep(5)
        world.machine.wall.offset_ms += 8 * DAY_MS
        await trio.sleep(CLOCK_LOOK_SECONDS + 1)
        assert kept(run, "events") == 0


@simulated
async def test_a_clock_that_jumps_back_keeps_everything_until_it_is_time(world: World) -> None:
    world.fs.faults = INSTANT
    async with world.running(**DEFAULTS) as run:
        await run.broker.create_topic("events", configs={"retention.ms": "100000"})
        await run.broker.produce("events", b"x")
        written_ms = now_ms(world)
        await trio.sleep(50)
        world.machine.wall.offset_ms -= 1_000_000
        await sleep_until_ms(world, written_ms + 100_000)
        assert kept(run, "events") == 1
        await trio.sleep(0.002)
        assert kept(run, "events") == 0


@simulated
async def test_idle_segments_are_sealed_by_time(world: World) -> None:
    async with world.running(**DEFAULTS) as run:
        await run.broker.create_topic("events", configs={"segment.ms": "10000"})
        await run.broker.produce("events", b"x")
        log = run.replica("events").log
        await trio.sleep(9)
        assert log.sealed_count == 0
        await trio.sleep(2)
        assert (log.sealed_count, log.segment_count) == (1, 1)
        await run.broker.produce("events", b"y")
        assert (log.sealed_count, log.segment_count) == (1, 2)
        assert [record.value async for record in all_records(run, "events")] == [b"x", b"y"]


async def all_records(run: Running, topic: str) -> Any:
    log = run.replica(topic).log
    async with run.broker.read(topic, offset=log.log_start_offset) as reader:
        for _ in range(log.log_start_offset, log.log_end_offset):
            yield await reader.receive()


@simulated
async def test_a_deletion_that_the_disk_refuses_is_tried_again(world: World) -> None:
    async with world.running(**DEFAULTS) as run:
        run.faults_expected = {"log dir /data/logs"}
        await run.broker.create_topic("events", configs={"retention.ms": "5000"})
        await run.broker.produce("events", b"x")
        world.fs.faults = DiskFaults(capacity_bytes=world.fs.used_bytes)
        await trio.sleep(8)
        assert kept(run, "events") == 1
        world.fs.faults = DiskFaults()
        await eventually(lambda: kept(run, "events") == 0)


@simulated
async def test_idle_replicas_are_left_alone(world: World) -> None:
    async with world.running(**DEFAULTS) as run:
        await run.broker.create_topic("many", partitions=100)
        for partition in range(0, 100, 10):
            await run.broker.produce("many", b"x", partition=partition)
        await trio.sleep(20)
        looks: list[Log] = []
        with counted(looks):
            await trio.sleep(600)
        assert not looks


class counted:  # noqa: N801 - reads like a function
    """Note every look that housekeeping takes at a log."""

    def __init__(self, looks: list[Log]) -> None:
        self.looks, self.original = looks, Log.upkeep_due_ms

    def __enter__(self) -> None:
        original, looks = self.original, self.looks

        @functools.wraps(original)
        def note(log: Log, *arguments: Any, **options: Any) -> int | None:
            looks.append(log)
            return original(log, *arguments, **options)

        Log.upkeep_due_ms = note  # type: ignore[method-assign]

    def __exit__(self, *_: object) -> None:
        Log.upkeep_due_ms = self.original  # type: ignore[method-assign]


@simulated
async def test_deleted_topics_are_forgotten_by_the_timetable(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trio_broker.broker.housekeeping._STALE_ENTRIES", 5)
    async with world.running(**DEFAULTS) as run:
        for number in range(40):
            await run.broker.create_topic(f"topic-{number}")
            await run.broker.produce(f"topic-{number}", b"x")
            await trio.sleep(1.5)
            await run.broker.delete_topic(f"topic-{number}")
        for shard in run.state.log_dirs[0].shards:
            assert len(shard.housekeeper._timetable) <= 10


# ----------------------------------------------------------------------------------- readers
@simulated
async def test_who_reads_what_goes_gets_it_or_is_told(world: World) -> None:
    """Readers at every position while segments go; whatever comes is what was written there."""
    async with world.running(
        storage=StorageConfig(bytes_max=PIECE_BYTES_MIN * 4), **DEFAULTS
    ) as run:
        await run.broker.create_topic("events")
        replica = run.replica("events")
        outcomes: list[int] = []
        done = trio.Event()

        async def read(turn: int) -> None:
            async with world.connect() as client:
                offset = 0
                while not done.is_set():
                    part = await client.fetch(
                        offset, topic="events", partition_max_bytes=40_000, max_wait_ms=50
                    )
                    outcomes.append(part.error_code)
                    if part.error_code == ErrorCode.OFFSET_OUT_OF_RANGE:
                        assert offset < replica.log.log_start_offset
                        offset = replica.log.log_start_offset
                        continue
                    assert part.error_code == 0
                    if part.records:
                        found = int.from_bytes(bytes(part.records)[:8], "big")
                        assert found <= offset
                        offset = min(offset + turn, replica.log.log_end_offset)
                    else:
                        assert offset >= replica.log.log_start_offset
                        await trio.sleep(0.01)
                        offset = replica.log.log_start_offset

        async with trio.open_nursery() as nursery:
            for turn in (1, 2, 5):
                nursery.start_soon(read, turn)
            await fill(run, "events", 4 * MIB)
            done.set()
        assert ErrorCode.OFFSET_OUT_OF_RANGE in outcomes
        assert ErrorCode.NONE in outcomes


@simulated
async def test_a_read_overtaken_by_deletion_is_out_of_range(world: World) -> None:
    world.fs.faults = DiskFaults(cached_read_rate=0.0)
    async with world.running(**DEFAULTS) as run:
        await run.broker.create_topic("events")
        for _ in range(3):
            await run.broker.produce("events", b"x")
        replica = run.replica("events")
        segment = replica.log.segments[0]
        async with world.connect() as client, trio.open_nursery() as nursery:
            nursery.start_soon(replica.shard.lane.run, occupation(world))
            nursery.start_soon(
                functools.partial(
                    replica.shard.apply_retention, replica, give_way_offset=0, at_once=True
                )
            )
            await trio.sleep(0.02)
            replica.log._cache.close_file(segment)
            # Planned while the segment is there, and next in the lane after its deletion.
            part = await client.fetch(0, topic="events")
        assert segment.is_dropped
        assert part.error_code == ErrorCode.OFFSET_OUT_OF_RANGE


def occupation(world: World) -> Iterator[Any]:
    """Keep a lane busy for a moment."""
    for _ in range(500):
        yield world.fs.stat, ("/",)


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
    from trio_broker.group.commands import CommitOffsets

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
