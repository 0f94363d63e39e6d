"""Which segments go when, and that they go whole or not at all."""

from __future__ import annotations

import errno
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.storage.bench import NOW_MS, TOPIC_PARTITION, Bench, batch
from tests.storage.test_log_dir import open_directory
from trio_broker.config import TopicConfig
from trio_broker.errors import AppendFailed
from trio_broker.host.jobs import run_inline
from trio_broker.storage import paths
from trio_broker.storage.retention import (
    FUTURE_MS_MAX,
    DeletionReason,
    RetainedSegment,
    deletion_reasons,
    expiry_ms,
    newest_ms,
)
from trio_broker.testing.sim.disk import SimFileSystem
from trio_broker.testing.sim.faults import DiskFaults

KEEP = {"retention_ms": -1, "retention_bytes": -1, "log_start_offset": 0}


def count(segments: list[RetainedSegment], **options: int) -> int:
    return len(reasons(segments, **options))


def reasons(segments: list[RetainedSegment], **options: int) -> list[DeletionReason]:
    options = KEEP | {"upper_offset": 1 << 62, "now_ms": NOW_MS} | options
    size_bytes = sum(segment.size_bytes for segment in segments)
    return deletion_reasons(segments, size_bytes=size_bytes, **options)


def three(*ages_ms: int) -> list[RetainedSegment]:
    return [
        RetainedSegment(10 * (number + 1), 100, NOW_MS - age, NOW_MS)
        for number, age in enumerate(ages_ms or (300, 200, 100))
    ]


def test_nothing_goes_without_a_limit() -> None:
    assert count(three()) == 0


def test_by_age_of_the_newest_record() -> None:
    assert [count(three(), retention_ms=limit) for limit in (300, 299, 200, 150, 99, 0)] == [
        0, 1, 1, 2, 3, 3,
    ]  # fmt: skip


def test_the_oldest_goes_first_even_if_a_later_one_is_older() -> None:
    assert count(three(100, 300, 300), retention_ms=200) == 0


def test_by_size_at_least_the_limit_stays() -> None:
    assert [count(three(), retention_bytes=limit) for limit in (300, 250, 200, 199, 100, 0)] == [
        0, 0, 1, 1, 2, 3,
    ]  # fmt: skip


def test_what_lies_below_the_start_offset_goes() -> None:
    assert [count(three(), log_start_offset=offset) for offset in (0, 9, 10, 25, 30)] == [
        0, 0, 1, 2, 3,
    ]  # fmt: skip


def test_nothing_goes_above_the_high_watermark() -> None:
    assert [count(three(), retention_ms=0, upper_offset=offset) for offset in (9, 10, 29, 30)] == [
        0, 1, 2, 3,
    ]  # fmt: skip


def test_a_timestamp_far_in_the_future_does_not_keep_a_segment() -> None:
    segment = RetainedSegment(10, 100, NOW_MS + FUTURE_MS_MAX + 1, NOW_MS - 500)
    assert newest_ms(segment, NOW_MS) == NOW_MS - 500
    assert count([segment], retention_ms=499) == 1
    near = segment._replace(max_timestamp=NOW_MS + FUTURE_MS_MAX)
    assert count([near], retention_ms=0) == 0


def test_a_clock_that_jumps_back_deletes_nothing() -> None:
    assert count(three(), retention_ms=0, now_ms=NOW_MS - 10**9) == 0


@given(
    sizes=st.lists(st.integers(1, 50), max_size=8),
    retention_bytes=st.integers(0, 200),
)
def test_what_stays_is_the_least_that_reaches_the_limit(
    sizes: list[int], retention_bytes: int
) -> None:
    segments = [RetainedSegment(n + 1, size, NOW_MS, NOW_MS) for n, size in enumerate(sizes)]
    kept = sizes[count(segments, retention_bytes=retention_bytes) :]
    assert sum(kept) >= min(retention_bytes, sum(sizes))
    assert not kept or sum(kept[1:]) < retention_bytes


def test_the_reason_is_the_first_rule_that_holds() -> None:
    segments = three(300, 200, 100)
    found = reasons(segments, log_start_offset=10, retention_ms=150, retention_bytes=0)
    assert found == [DeletionReason.START_OFFSET, DeletionReason.AGE, DeletionReason.SIZE]
    found = reasons(segments, retention_bytes=200, giving_way=2)
    assert found == [DeletionReason.SIZE, DeletionReason.NODE_BUDGET]


def test_giving_way_stops_at_the_high_watermark() -> None:
    assert count(three(), giving_way=3, upper_offset=20) == 2


@given(
    ages=st.lists(st.integers(0, 400), min_size=1, max_size=4),
    retention_ms=st.integers(0, 300),
)
def test_the_expiry_is_the_first_moment_at_which_age_deletes(
    ages: list[int], retention_ms: int
) -> None:
    segments = three(*ages)
    due_ms = expiry_ms(segments, retention_ms=retention_ms, upper_offset=1 << 62, now_ms=NOW_MS)
    assert due_ms is not None
    assert count(segments, retention_ms=retention_ms, now_ms=due_ms - 1) == 0
    assert count(segments, retention_ms=retention_ms, now_ms=due_ms) > 0


def test_what_never_expires_has_no_expiry() -> None:
    def expiry(segments: list[RetainedSegment], **options: int) -> int | None:
        return expiry_ms(
            segments, **({"retention_ms": 5, "upper_offset": 1 << 62, "now_ms": NOW_MS} | options)
        )

    assert expiry(three()) is not None
    assert expiry([]) is None
    assert expiry(three(), retention_ms=-1) is None
    assert expiry(three(), upper_offset=5) is None
    assert expiry([RetainedSegment(0, 0, -1, NOW_MS)]) is None


# ------------------------------------------------------------------------------------- on a log


def fill(bench: Bench, **config: int) -> None:
    bench.config = TopicConfig(segment_bytes=1024, index_interval_bytes=150, **config)
    bench.open()
    bench.fill(30)


def delete(bench: Bench, now_ms: int = NOW_MS) -> bool:
    plan = bench.log.plan_deletion(now_ms)
    if plan is None:
        return False
    bench.log.publish_deletion(run_inline(bench.log.delete_segments_job(plan)), now_ms)
    return True


def test_deleted_segments_are_gone_at_once_and_their_files_later(bench: Bench) -> None:
    fill(bench, retention_bytes=2500, file_delete_delay_ms=1000)
    assert delete(bench)
    log = bench.log
    start = log.log_start_offset
    assert start > 0
    assert log.size_bytes <= 2500 + 1024
    assert bench.read(start - 1) is None
    assert [offset for offset, _ in bench.read_all()] == list(range(start, 30))
    deleted = [name for name in bench.names() if name.endswith(paths.DELETED_SUFFIX)]
    assert deleted
    assert log.unlink_deleted_job(NOW_MS + 999) is None
    job = log.unlink_deleted_job(NOW_MS + 1000)
    assert job is not None
    run_inline(job)
    bases = paths.offsets_of(bench.names(), paths.LOG_SUFFIX)
    assert bases[0] == start
    assert {int(name[:20]) for name in bench.names() if name[0] == "0"} <= {*bases, 30}
    assert not delete(bench)
    bench.open()
    assert bench.log.log_start_offset == start


def test_an_expired_log_is_emptied_and_keeps_its_offsets(bench: Bench) -> None:
    fill(bench, retention_ms=1000)
    assert delete(bench, NOW_MS + 1001)
    log = bench.log
    assert (log.log_start_offset, log.log_end_offset, log.size_bytes) == (30, 30, 0)
    assert not delete(bench, NOW_MS + 5000)
    bench.open()
    assert (bench.log.log_start_offset, bench.log.log_end_offset) == (30, 30)
    # Even without the checkpoint, the name of the empty segment keeps the offsets.
    bench.crash()
    bench.fs.unlink(f"{bench.directory}/{paths.CHECKPOINT_NAME}")
    bench.open()
    assert (bench.log.log_start_offset, bench.log.log_end_offset) == (30, 30)
    bench.fill(3, start=30)
    assert [offset for offset, _ in bench.read_all()] == [30, 31, 32]


def test_the_start_offset_moves_into_a_segment(bench: Bench) -> None:
    fill(bench)
    log = bench.log
    log.advance_start_offset(8)
    assert log.checkpoint_due
    assert bench.read(7) is None
    assert bench.read_all()[0][0] == 8
    log.advance_start_offset(3)
    assert log.log_start_offset == 8
    bench.checkpoint()
    assert bench.open().log_start_offset == 8
    assert delete(bench)
    assert 0 < paths.offsets_of(bench.names(), paths.LOG_SUFFIX)[0] <= 8
    assert bench.log.log_start_offset == 8
    assert bench.open(bench.stop()).log_start_offset == 8


def test_a_read_that_comes_too_late_gets_nothing(bench: Bench) -> None:
    fill(bench, retention_bytes=0)
    plan = bench.log.locate(0, max_bytes=300, upper_offset=30)
    assert plan is not None
    job = bench.log.read_job(plan)
    assert delete(bench)
    assert run_inline(job) == []
    assert bench.log.locate(0, max_bytes=300, upper_offset=30) is None


@pytest.mark.parametrize("is_loaded", [True, False])
def test_a_search_by_time_that_comes_too_late_finds_what_is_left(
    bench: Bench, *, is_loaded: bool
) -> None:
    bench.config = TopicConfig(segment_bytes=1024, retention_bytes=2500, file_delete_delay_ms=0)
    bench.open()
    for number in range(30):
        bench.append(batch([b"v" * 100], timestamp_ms=NOW_MS + number))
    log = bench.log
    if not is_loaded:
        bench.open(bench.stop())
        log = bench.log
    job = log.offset_by_timestamp_job(NOW_MS)
    assert delete(bench)
    unlinking = log.unlink_deleted_job(NOW_MS)
    assert unlinking is not None
    run_inline(unlinking)
    found = run_inline(job)
    assert found is not None
    assert found.offset == log.log_start_offset > 0


def test_a_deletion_that_cannot_be_written_down_does_not_happen(
    sim_bench: Bench, disk: SimFileSystem
) -> None:
    fill(sim_bench, retention_ms=1000)
    expected = sim_bench.read_all()
    names = set(sim_bench.names())
    disk.faults = DiskFaults(capacity_bytes=disk.used_bytes)
    with pytest.raises((AppendFailed, OSError)) as failure:
        delete(sim_bench, NOW_MS + 1001)
    assert getattr(failure.value, "errno", None) == errno.ENOSPC
    disk.faults = DiskFaults()
    assert sim_bench.read_all() == expected
    assert {name for name in sim_bench.names() if name.endswith(".log")} <= names
    sim_bench.fill(3)
    assert len(sim_bench.read_all()) == 33
    sim_bench.open()
    assert len(sim_bench.read_all()) == 33


def test_files_that_cannot_be_removed_are_tried_again(
    sim_bench: Bench, disk: SimFileSystem
) -> None:
    fill(sim_bench, retention_bytes=2500, file_delete_delay_ms=0)
    assert delete(sim_bench)
    doomed = [name for name in sim_bench.names() if name.endswith(paths.DELETED_SUFFIX)]
    job = sim_bench.log.unlink_deleted_job(NOW_MS)
    assert job is not None
    disk.faults = DiskFaults(name_error_rate=1.0)
    told = run_inline(job)
    assert told.removed == 0
    assert told.refused >= len(doomed)
    assert "cannot be removed now" in str(told)
    disk.faults = DiskFaults()
    job = sim_bench.log.unlink_deleted_job(NOW_MS)
    assert job is not None
    assert run_inline(job).removed == len(doomed)
    assert not [name for name in sim_bench.names() if name.endswith(paths.DELETED_SUFFIX)]
    assert sim_bench.log.unlink_deleted_job(NOW_MS) is None


def test_files_that_a_stop_cannot_remove_are_removed_by_the_next_start(
    sim_bench: Bench, disk: SimFileSystem
) -> None:
    """A start that believes what the stop says of a log does not look into its directory."""
    fill(sim_bench, retention_bytes=2500, file_delete_delay_ms=0)
    assert delete(sim_bench)
    sim_bench.checkpoint()
    expected = sim_bench.read_all()
    with patch.object(disk, "unlink", side_effect=PermissionError(errno.EACCES, "no")):
        run_inline(sim_bench.log.close_job())
    assert sim_bench.log.last_unlinked.refused
    assert sim_bench.log.clean_summary is None
    sim_bench.open()
    assert not [name for name in sim_bench.names() if name.endswith(paths.DELETED_SUFFIX)]
    assert sim_bench.read_all() == expected


def test_a_file_that_was_renamed_by_a_job_given_up_is_removed_too(
    sim_bench: Bench, disk: SimFileSystem
) -> None:
    """The call had hung, and came back when the deletion had been given up."""
    fill(sim_bench, retention_bytes=2500, file_delete_delay_ms=0)
    oldest = f"{sim_bench.directory}/{min(n for n in sim_bench.names() if n.endswith('.log'))}"
    disk.rename(oldest, oldest + paths.DELETED_SUFFIX)
    assert delete(sim_bench)
    job = sim_bench.log.unlink_deleted_job(NOW_MS)
    assert job is not None
    run_inline(job)
    assert not [name for name in sim_bench.names() if name.endswith(paths.DELETED_SUFFIX)]


def test_a_clock_that_jumps_back_does_not_put_off_the_removal_of_files(bench: Bench) -> None:
    fill(bench, retention_bytes=2500, file_delete_delay_ms=1000)
    assert delete(bench, NOW_MS + 3_600_000)
    assert bench.log.unlink_deleted_job(NOW_MS + 3_600_500) is None
    assert bench.log.upkeep_due_ms(NOW_MS + 3_600_500) == NOW_MS + 3_601_000
    assert bench.log.upkeep_due_ms(NOW_MS) == NOW_MS
    job = bench.log.unlink_deleted_job(NOW_MS)
    assert job is not None
    run_inline(job)
    assert not [name for name in bench.names() if name.endswith(paths.DELETED_SUFFIX)]


def test_files_are_not_forgotten_if_their_removal_never_begins(bench: Bench) -> None:
    fill(bench, retention_bytes=2500, file_delete_delay_ms=0)
    assert delete(bench)
    job = bench.log.unlink_deleted_job(NOW_MS)
    assert job is not None
    job.close()  # who wanted it was cancelled
    bench.stop()
    assert not [name for name in bench.names() if name.endswith(paths.DELETED_SUFFIX)]


@pytest.mark.parametrize("unlinks_before", [False, True])
def test_what_was_removed_does_not_come_back_after_a_clean_stop(
    seed: int, unlinks_before: bool
) -> None:
    """Not even if the power fails after it: the next start believes the summary, and looks not."""
    for attempt in range(10):
        fs = SimFileSystem(seed + attempt)
        fs.prepare_directory("/logs")
        with Bench(fs, "/logs") as bench:
            fill(bench, retention_bytes=2500, file_delete_delay_ms=0)
            assert delete(bench)
            if unlinks_before:
                job = bench.log.unlink_deleted_job(NOW_MS)
                assert job is not None
                run_inline(job)
            bases = [segment.base_offset for segment in bench.log.segments]
            summary = bench.stop()
        with Bench(fs.crash(), "/logs") as after:
            after.open(summary)
            assert paths.offsets_of(after.names(), paths.LOG_SUFFIX) == bases
            assert not [name for name in after.names() if name.endswith(paths.DELETED_SUFFIX)]


def test_expired_producers_are_forgotten(bench: Bench) -> None:
    bench.open()
    bench.append(batch(producer_id=5))
    assert bench.log.plan_deletion(NOW_MS + 86_400_000) is None
    assert bench.log.producers.get(5) is None


def test_segments_give_way_up_to_an_offset(bench: Bench) -> None:
    fill(bench)
    log = bench.log
    bases = [segment.base_offset for segment in log.segments]
    plan = log.plan_deletion(NOW_MS, give_way_offset=bases[1])
    assert plan is not None
    assert [reason for reason, _ in plan.reasons] == [DeletionReason.NODE_BUDGET] * 2
    before_bytes, gone_bytes = log.size_bytes, sum(size for _, size in plan.reasons)
    log.publish_deletion(run_inline(log.delete_segments_job(plan)), NOW_MS)
    assert (log.log_start_offset, log.size_bytes) == (bases[2], before_bytes - gone_bytes)
    assert (log.deleted_bytes, log.disk_bytes) == (gone_bytes, before_bytes)
    assert log.unlink_deleted_job(NOW_MS) is None
    job = log.unlink_deleted_job(NOW_MS, at_once=True)
    assert job is not None
    run_inline(job)
    assert (log.deleted_bytes, log.disk_bytes) == (0, log.size_bytes)


def test_giving_way_altogether_leaves_an_empty_segment(bench: Bench) -> None:
    fill(bench)
    plan = bench.log.plan_deletion(NOW_MS, give_way_offset=30)
    assert plan is not None
    bench.log.publish_deletion(run_inline(bench.log.delete_segments_job(plan)), NOW_MS)
    assert (bench.log.log_start_offset, bench.log.size_bytes) == (30, 0)
    bench.fill(2, start=30)
    assert [offset for offset, _ in bench.read_all()] == [30, 31]


def test_upkeep_is_due_when_there_is_something_to_do(bench: Bench) -> None:
    bench.config = TopicConfig(retention_ms=1000, segment_ms=5000, file_delete_delay_ms=300)
    bench.open()
    log = bench.log
    assert log.upkeep_due_ms(NOW_MS) is None
    bench.append(batch(timestamp_ms=NOW_MS - 400))
    assert log.next_deletion_ms(NOW_MS) == log.upkeep_due_ms(NOW_MS) == NOW_MS + 601
    assert log.upkeep_due_ms(NOW_MS, upper_offset=0) == NOW_MS + 5001
    assert not delete(bench, NOW_MS + 600)
    assert delete(bench, NOW_MS + 601)
    assert log.next_deletion_ms(NOW_MS + 601) is None
    assert log.upkeep_due_ms(NOW_MS + 601) == NOW_MS + 901
    bench.append(batch(timestamp_ms=NOW_MS))
    log.advance_start_offset(2)
    assert log.upkeep_due_ms(NOW_MS) == NOW_MS
    bench.stop()
    assert log.upkeep_due_ms(NOW_MS) is None


def test_producers_are_looked_at_without_any_other_reason(bench: Bench) -> None:
    bench.config = TopicConfig(retention_ms=-1, segment_ms=1 << 60)
    bench.open()
    bench.append(batch(producer_id=5))
    due_ms = bench.log.upkeep_due_ms(NOW_MS)
    assert due_ms is not None
    assert NOW_MS < due_ms <= NOW_MS + 3_600_000


def test_an_idle_segment_is_sealed_by_time_and_the_log_goes_on(bench: Bench) -> None:
    bench.config = TopicConfig(segment_ms=1000, retention_ms=-1)
    bench.open()
    bench.fill(3)
    log = bench.log
    assert log.upkeep_due_ms(NOW_MS) == NOW_MS + 1001
    assert not log.seal_idle(NOW_MS + 1000)
    assert (log.segment_count, log.sealed_count) == (1, 0)
    assert log.seal_idle(NOW_MS + 1001)
    assert not log.seal_idle(NOW_MS + 1001)
    assert (log.segment_count, log.sealed_count) == (1, 1)
    assert log.upkeep_due_ms(NOW_MS + 1001) is None
    assert bench.open_count == 0
    assert log.checkpoint_due
    bench.checkpoint()
    assert len(bench.read_all()) == 3
    bench.fill(2, start=3)
    assert (log.segment_count, log.sealed_count) == (2, 1)
    assert [offset for offset, _ in bench.read_all()] == list(range(5))
    bench.open()
    assert [offset for offset, _ in bench.read_all()] == list(range(5))


def test_segments_roll_early_where_they_may_have_to_give_way(bench: Bench) -> None:
    bench.open()
    log = bench.log
    for number in range(6):
        batches = [batch([b"%08d" % number])]
        plan = log.plan_append(batches, now_ms=NOW_MS, leader_epoch=0, segment_bytes_max=200)
        run_inline(log.append_job(plan, sync=True))
        log.publish(plan, synced=True)
    assert log.segment_count > 2
    assert len(bench.read_all()) == 6


# ------------------------------------------------------------------------------ deleting a replica


def test_a_deleted_replica_holds_no_file_and_no_directory(bench: Bench) -> None:
    directory = open_directory(bench.fs, bench.log_dir)
    fill(bench)
    bench.read_all()
    assert bench.open_count > 0
    bench.log.close_files()
    assert bench.open_count == 0
    for _ in range(2):  # once more does no harm
        assert run_inline(directory.move_away_job([TOPIC_PARTITION])) == {}
    assert bench.fs.stat(bench.directory) is None
    assert bench.fs.stat(bench.directory + paths.DELETED_SUFFIX) is not None
    assert run_inline(directory.remove_deleted_job(paths.deleted_name(TOPIC_PARTITION)))
    assert bench.fs.stat(bench.directory + paths.DELETED_SUFFIX) is None
    directory.release()
    bench.open()
    assert bench.log.log_end_offset == 0
