"""Retention by age, without a write and to the millisecond, and what readers get meanwhile."""

from __future__ import annotations

import functools
import posixpath
import time
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.broker.harness import (
    STEPS_MAX,
    Running,
    World,
    failing,
    simulated,
    slow,
)
from tests.broker.retained import (
    BATCH,
    DEFAULTS,
    INSTANT,
    deleted,
    eventually,
    fill,
    kept,
    now_ms,
    sleep_until_ms,
)
from trio_broker import ErrorCode
from trio_broker.broker.handlers import delete_records
from trio_broker.broker.housekeeping import CLOCK_LOOK_SECONDS
from trio_broker.config import DAY_MS, MIB, StorageConfig, TopicConfig
from trio_broker.storage import paths
from trio_broker.storage.log import Log
from trio_broker.storage.pressure import PIECE_BYTES_MIN
from trio_broker.storage.retention import DeletionReason
from trio_broker.testing.sim.disk import SimFileSystem
from trio_broker.testing.sim.faults import DiskFaults
from trio_broker.testing.sim.run import Simulation, simulate
from trio_broker.wire.messages.delete_records import DeleteRecordsPartition

if TYPE_CHECKING:
    from collections.abc import Iterator


# --------------------------------------------------------------------------------------- age
@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the watchers that look again and again do so rarely: a week has 60,000 times ten seconds.

    What is tested does not depend on them.
    """
    for name, seconds in (
        ("disk_guard.LOOK_SECONDS", 1e6),
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

    # Allowed to look at the real clock: to see what a week of doing nothing costs.
    result = simulate(
        week,
        seed,
        max_seconds=7 * DAY_MS // 1000 + 1000,
        max_steps=STEPS_MAX,
        allow=(__name__,),
    )
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
async def test_space_of_deleted_records_is_given_back_without_a_write(world: World) -> None:
    """The timetable learns of segments that DeleteRecords took away, on an idle topic too."""
    async with world.running(**DEFAULTS) as run:
        await run.broker.create_topic("events", configs={"file.delete.delay.ms": "5000"})
        await run.broker.produce("events", b"x")
        await trio.sleep(60)
        replica = run.replica("events")
        assert await replica.shard.advance_start_offset(replica, 1)
        assert replica.log.deleted_bytes > 0
        await trio.sleep(4.9)
        assert replica.log.deleted_bytes > 0
        await trio.sleep(0.2)
        assert replica.log.deleted_bytes == 0
        assert not [path for path in world.fs.tree() if path.endswith(".log.deleted")]


@simulated
async def test_a_repeated_request_to_delete_records_is_not_believed_done(world: World) -> None:
    """The first one was refused by the disk; success has to mean that a restart knows of it."""
    async with world.running(**DEFAULTS) as run:
        run.faults_expected = {"log dir /data/logs"}
        await run.broker.create_topic("events")
        await run.broker.produce("events", b"x")
        routed = run.state.router.by_name["events"]
        wanted = DeleteRecordsPartition(partition_index=0, offset=1)
        world.fs.faults = DiskFaults(capacity_bytes=world.fs.used_bytes)
        for _ in range(2):
            refused = await delete_records._delete(routed, wanted)
            assert refused.error_code == ErrorCode.KAFKA_STORAGE_ERROR
        world.fs.faults = DiskFaults()
        done = await delete_records._delete(routed, wanted)
        assert (done.error_code, done.low_watermark) == (0, 1)
        assert not run.replica("events").log.checkpoint_due


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


@simulated
async def test_files_that_cannot_be_removed_are_one_line_for_all_logs(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    partitions = 40
    topic = TopicConfig(segment_bytes=2_000, retention_bytes=2_000, file_delete_delay_ms=0)
    with failing("unlink", paths.DELETED_SUFFIX, on=SimFileSystem) as met:
        async with world.running(topic=topic) as run:
            await run.broker.create_topic("orders", partitions=partitions)
            began = trio.current_time()
            for partition in range(partitions):
                await fill(run, "orders", 6_000, partition=partition, batch_bytes=1_500)
            await eventually(lambda: len({posixpath.dirname(path) for path in met}) == partitions)
            await trio.sleep(65)
            assert not run.state.log_dirs[0].health.cause
            seconds = trio.current_time() - began
    lines = [text for text in caplog.messages if "cannot be removed now" in text]
    assert len(met) > 3 * partitions, "they are tried again, and once more at the end"
    assert 2 <= len(lines) <= seconds / 10 + 2
    assert "more lines like this were left out" in lines[-1]


@simulated
async def test_a_deletion_that_was_given_up_and_came_true_keeps_nobody_offline(
    world: World,
) -> None:
    """The segment that the log would be cut back in is not there any more."""
    async with world.running() as run:
        run.faults_expected = {"log dir /data/logs"}
        await run.broker.create_topic("orders")
        replica = run.replica("orders")
        for _ in range(3):
            await run.broker.produce("orders", b"gone")
        hangs_seconds = world.config().storage.operation_seconds_max + 5
        path = f"{replica.log.directory}/{paths.offset_name(0, paths.LOG_SUFFIX)}"
        with slow(path, hangs_seconds):
            await replica.shard.advance_start_offset(replica, 3)
        assert replica.shard.log_dir.is_failed
        with trio.fail_after(300):
            while replica.refusal:  # noqa: ASYNC110 - of a simulated clock
                await trio.sleep(0.1)
        assert await run.broker.produce("orders", b"kept") == (0, 3)
        assert replica.log.log_start_offset == 3


@simulated
async def test_a_kill_before_deleted_segments_are_removed_leaves_no_file_of_them(
    world: World,
) -> None:
    configs = {"retention.bytes": str(4 * BATCH), "segment.bytes": str(2 * BATCH)}
    async with world.running_until_power_cut() as run:
        await run.broker.create_topic("orders", configs=configs)
        await fill(run, "orders", 20 * BATCH)
        await trio.sleep(2)
        log = run.replica("orders").log
        assert log.deleted_bytes
    async with world.running() as run:
        log = run.replica("orders").log
        names = await run.state.log_dirs[0].lane.call(world.fs.list_directory, log.directory)
        bases = {segment.base_offset for segment in log.segments}
        assert log.log_start_offset > 0
        for suffix in (paths.LOG_SUFFIX, paths.INDEX_SUFFIX, paths.TIME_INDEX_SUFFIX):
            assert bases.issuperset(paths.offsets_of(names, suffix))
        assert not [name for name in names if name.endswith(paths.DELETED_SUFFIX)]
