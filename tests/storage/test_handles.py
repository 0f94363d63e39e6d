"""The budget of descriptors and indexes, and that nothing is left open."""

from __future__ import annotations

import pytest
from attrs import evolve

from tests.storage.bench import NOW_MS, TOPIC_PARTITION, Bench, batch
from trio_broker.config import Durability, TopicConfig
from trio_broker.host.jobs import run_inline
from trio_broker.names import TopicPartition
from trio_broker.storage import paths
from trio_broker.storage.handles import SegmentCache
from trio_broker.storage.log import Log
from trio_broker.storage.recovery import open_log_job
from trio_broker.testing.sim.disk import SimFileSystem

SMALL = TopicConfig(segment_bytes=1024, index_interval_bytes=150)


def open_logs(bench: Bench, count: int, cache: SegmentCache) -> list[Log]:
    logs = []
    for number in range(count):
        replica = TopicPartition(TOPIC_PARTITION.topic_id, number)
        logs.append(
            run_inline(
                open_log_job(
                    bench.fs,
                    f"{bench.log_dir}/{paths.replica_name(replica)}",
                    topic_partition=replica,
                    topic_name=bench.topic_name,
                    config=bench.config,
                    durability=bench.durability,
                    settings=bench.settings,
                    cache=cache,
                    summary=None,
                    now_ms=NOW_MS,
                )
            )
        )
    return logs


def append(log: Log, value: bytes, *, sync: bool) -> None:
    plan = log.plan_append([batch([value])], now_ms=NOW_MS, leader_epoch=0)
    run_inline(log.append_job(plan, sync=sync))
    log.publish(plan, synced=sync)


def test_an_idle_log_holds_no_file(bench: Bench) -> None:
    bench.open()
    assert bench.open_count == 0
    bench.fill(1)
    bench.open(bench.stop())
    assert bench.open_count == 0


def test_many_segments_fit_into_few_descriptors(bench: Bench) -> None:
    bench.cache = SegmentCache(3)
    bench.config = SMALL
    bench.open()
    bench.fill(60)
    assert bench.log.segment_count > 8
    for _ in range(2):
        assert [offset for offset, _ in bench.read_all()] == list(range(60))
        assert bench.cache.open_count <= 3
        assert bench.open_count <= 4


@pytest.mark.parametrize("durability", list(Durability))
def test_many_logs_fit_into_few_descriptors(bench: Bench, durability: Durability) -> None:
    bench.durability = durability
    cache = SegmentCache(4)
    logs = open_logs(bench, 12, cache)
    for number in range(3):
        for log in logs:
            append(log, b"%d" % number, sync=durability is Durability.FSYNC)
            assert len(bench.fs.open_files()) <= 5
    assert all(log.log_end_offset == 3 for log in logs)
    if durability is Durability.INTERVAL:
        # Four are open and wait for their flush; the others had to be flushed before closing.
        unflushed = [log for log in logs if log.unflushed_bytes]
        assert len(unflushed) == 4
        for log in unflushed:
            run_inline(log.flush_job())
            log.mark_flushed(log.log_end_offset)
        append(logs[-1], b"x", sync=False)
        assert logs[-1].unflushed_bytes
    for log in logs:
        log.close_files()
    assert not bench.fs.open_files()
    assert (cache.open_count, cache.index_bytes) == (0, 0)


def test_a_commit_to_more_logs_than_there_are_descriptors(bench: Bench) -> None:
    """All appends of a group commit are planned before the first is carried out."""
    cache = SegmentCache(4)
    logs = open_logs(bench, 10, cache)
    for _ in range(2):
        plans = [log.plan_append([batch()], now_ms=NOW_MS, leader_epoch=0) for log in logs]
        for log, plan in zip(logs, plans, strict=True):
            run_inline(log.append_job(plan, sync=True))
            assert len(bench.fs.open_files()) <= 5
        for log, plan in zip(logs, plans, strict=True):
            log.publish(plan, synced=True)
    assert all(log.log_end_offset == 2 for log in logs)
    assert cache.open_count == 4
    for log in logs:
        log.close_files()
    assert not bench.fs.open_files()


def test_loaded_indexes_stay_within_their_budget(bench: Bench) -> None:
    bench.cache = SegmentCache(8, index_bytes_max=3000)
    bench.config = SMALL
    bench.open()
    bench.fill(100)
    assert bench.log.segment_count > 15
    bench.checkpoint()
    for _ in range(2):
        assert len(bench.read_all()) == 100
        assert bench.cache.index_bytes <= 3000
    bench.fill(5, start=100)
    assert len(bench.read_all()) == 105


def test_a_read_survives_that_its_file_was_closed_for_another(bench: Bench) -> None:
    bench.open()
    bench.fill(3)
    plan = bench.log.locate(0, max_bytes=1 << 20, upper_offset=3)
    assert plan is not None
    assert plan.file is not None
    plan.file.close()
    assert bench.log.read_cached(plan) is None
    assert len(run_inline(bench.log.read_job(plan))) == 1


def test_what_a_job_opened_for_a_closed_log_is_closed(bench: Bench) -> None:
    log = bench.open()
    bench.fill(3)
    log = bench.open(bench.stop())
    plan = log.locate(0, max_bytes=1 << 20, upper_offset=3)
    assert plan is not None
    job = log.read_job(plan)
    log.close_files()
    assert len(run_inline(job)) == 1
    assert bench.open_count == 1
    bench.cache.take_offers()
    assert bench.open_count == 0


def test_an_abandoned_read_closes_what_it_opened(sim_bench: Bench, disk: SimFileSystem) -> None:
    sim_bench.open()
    sim_bench.fill(3)
    log = sim_bench.open(sim_bench.stop())
    plan = log.locate(0, max_bytes=1 << 20, upper_offset=3)
    assert plan is not None
    job = log.read_job(plan)
    result = None
    for _ in range(30):
        function, arguments = job.send(result)
        if "read_at" in str(getattr(function, "__name__", "")) and log.read_cached(plan) is None:
            break
        result = None
        try:
            result = function(*arguments)
        except OSError as error:
            function, arguments = job.throw(error)
            result = function(*arguments)
    job.close()
    log.close_files()
    sim_bench.cache.take_offers()
    assert not disk.open_files()


def test_an_append_under_way_keeps_its_file(bench: Bench) -> None:
    bench.cache = SegmentCache(1)
    first, second = open_logs(bench, 2, bench.cache)
    append(first, b"a", sync=True)
    plan = first.plan_append([batch()], now_ms=NOW_MS, leader_epoch=0)
    append(second, b"b", sync=True)
    assert bench.cache.open_count == 1
    run_inline(first.append_job(plan, sync=True))
    first.publish(plan, synced=True)
    append(second, b"c", sync=True)
    assert (first.log_end_offset, second.log_end_offset) == (2, 2)
    for log in (first, second):
        log.close_files()
    assert not bench.fs.open_files()


def test_closing_while_an_append_is_under_way(bench: Bench) -> None:
    log = bench.open()
    plan = log.plan_append([batch()], now_ms=NOW_MS, leader_epoch=0)
    run_inline(log.append_job(plan, sync=True))
    log.close_files()
    log.publish(plan, synced=True)
    bench.cache.take_offers()
    assert bench.open_count == 0


def test_settings_of_a_log_may_change_while_it_is_open(bench: Bench) -> None:
    log = bench.open()
    bench.fill(5)
    log.config = evolve(log.config, segment_bytes=1024)
    bench.fill(20, start=5)
    assert log.segment_count > 1
    assert len(bench.read_all()) == 25


@pytest.mark.parametrize("taken", ["before", "after"])
@pytest.mark.parametrize("room", [8, 0])
def test_a_file_that_a_read_opened_beside_an_append_is_not_used_for_the_next_one(
    bench: Bench, taken: str, room: int
) -> None:
    """It does not know what was written through the other one."""
    bench.open()
    bench.fill(3)
    log = bench.open(bench.stop())
    bench.cache.files_max = room
    append_plan = log.plan_append([batch()], now_ms=NOW_MS, leader_epoch=0)
    bench.cache.files_max = 8
    read_plan = log.locate(0, max_bytes=1 << 20, upper_offset=3)
    assert read_plan is not None
    assert len(run_inline(log.read_job(read_plan))) == 1
    if taken == "before":
        bench.cache.take_offers()
    run_inline(log.append_job(append_plan, sync=True))
    log.publish(append_plan, synced=True)
    bench.cache.take_offers()
    bench.fill(3, start=4)
    assert log.log_end_offset == 7
    assert len(bench.read_all()) == 7
    log.close_files()
    assert bench.open_count == 0
