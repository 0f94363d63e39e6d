"""Starting after a crash, with whatever that left, and starting after an orderly stop."""

from __future__ import annotations

import pytest

from tests.storage.bench import NOW_MS, Bench, batch
from trio_broker.config import TopicConfig
from trio_broker.errors import CorruptLog, SyncFailed
from trio_broker.host.jobs import run_inline
from trio_broker.storage import paths
from trio_broker.storage.log import Accepted, Duplicate
from trio_broker.testing.sim.disk import SimFileSystem
from trio_broker.testing.sim.faults import DiskFaults

SMALL = TopicConfig(segment_bytes=1024, index_interval_bytes=150)


def path_of(bench: Bench, offset: int, suffix: str = paths.LOG_SUFFIX) -> str:
    return f"{bench.directory}/{paths.offset_name(offset, suffix)}"


def segments_of(bench: Bench) -> list[int]:
    return paths.offsets_of(bench.names(), paths.LOG_SUFFIX)


def append_bytes(disk: SimFileSystem, path: str, data: bytes) -> None:
    file = disk.open(path, "vandal")
    file.write_at(file.size, [data])
    file.sync()
    file.close()


# ------------------------------------------------------------------------------------- the tail


@pytest.mark.parametrize(
    "tail",
    [b"\0" * 100, b"x" * 13, b"\xff" * 5000, bytes(batch([b"again"]).buffer)],
    ids=["zeros", "few", "huge length", "a sound batch with a wrong offset"],
)
def test_a_torn_tail_is_cut_off(sim_bench: Bench, disk: SimFileSystem, tail: bytes) -> None:
    sim_bench.open()
    sim_bench.fill(5)
    expected = sim_bench.read_all()
    append_bytes(disk, path_of(sim_bench, 0), tail)
    log = sim_bench.open()
    assert log.recovery.bytes_truncated == len(tail)
    assert log.recovery.fault
    assert sim_bench.read_all() == expected
    sim_bench.fill(1)
    assert sim_bench.open().recovery.fault == ""
    assert len(sim_bench.read_all()) == 6


@pytest.mark.parametrize("missing_bytes", [1, 60, 61, 100])
def test_a_batch_that_is_not_all_there_is_cut_off(
    sim_bench: Bench, disk: SimFileSystem, missing_bytes: int
) -> None:
    sim_bench.open()
    sim_bench.fill(3)
    expected = sim_bench.read_all()
    sim_bench.fill(1)
    sim_bench.crash()
    file = disk.open(path_of(sim_bench, 0), "vandal")
    file.truncate(file.size - missing_bytes)
    file.close()
    sim_bench.open()
    assert sim_bench.read_all() == expected


def test_what_follows_a_damaged_batch_is_kept_in_quarantine(
    sim_bench: Bench, disk: SimFileSystem
) -> None:
    sim_bench.config = SMALL
    sim_bench.open()
    sim_bench.fill(30)
    bases = segments_of(sim_bench)
    content = {base: disk.content(path_of(sim_bench, base)) for base in bases}
    sim_bench.crash()
    disk.damage(path_of(sim_bench, bases[2]), 300, b"??")
    log = sim_bench.open()
    assert log.log_end_offset == bases[2] + 1
    assert segments_of(sim_bench) == bases[:3]
    for base in bases[3:]:
        (place,) = [p for p in log.recovery.quarantined if p.endswith(f"{base:020d}.log")]
        assert disk.content(place) == content[base]
        assert "/quarantine/" in place
    sim_bench.fill(20)
    assert [offset for offset, _ in sim_bench.read_all()] == list(range(log.log_end_offset))
    # A second time, the places in quarantine are taken.
    sim_bench.crash()
    disk.damage(path_of(sim_bench, bases[2]), 300, b"??")
    sim_bench.open()
    assert len([p for p in disk.tree() if "/quarantine/" in p and ".log" in p]) > len(bases) - 3


def test_a_missing_segment_ends_the_log_before_it(sim_bench: Bench, disk: SimFileSystem) -> None:
    sim_bench.config = SMALL
    sim_bench.open()
    sim_bench.fill(30)
    bases = segments_of(sim_bench)
    sim_bench.crash()
    disk.unlink(path_of(sim_bench, bases[2]))
    log = sim_bench.open()
    assert log.log_end_offset == bases[2]
    assert len(log.recovery.quarantined) == len(bases) - 3


def test_recovery_makes_what_it_found_durable_before_anybody_relies_on_it(
    sim_bench: Bench, disk: SimFileSystem
) -> None:
    """The process is killed before its fsync; its successor sees the bytes, in the page cache."""
    log = sim_bench.open()
    sent = batch([b"seen"], producer_id=1)
    plan = log.plan_append([sent], now_ms=NOW_MS, leader_epoch=0)
    job = log.append_job(plan, sync=True)
    function, arguments = next(job)
    try:
        while "sync" not in str(getattr(function, "__name__", "")):
            function, arguments = job.send(function(*arguments))
    finally:
        job.close()
        log.abandon(plan)
    sim_bench.crash()
    disk = sim_bench.fs = disk.restart()
    sim_bench.open()
    assert sim_bench.append(sent) == [Duplicate(0, -1)]
    sim_bench.crash()
    sim_bench.fs = disk.crash()
    sim_bench.open()
    assert sim_bench.read_all() == [(0, b"seen")]


def test_recovery_that_cannot_sync_does_not_open(sim_bench: Bench, disk: SimFileSystem) -> None:
    sim_bench.open()
    sim_bench.fill(3)
    expected = sim_bench.read_all()
    sim_bench.crash()
    disk.faults = DiskFaults(sync_error_rate=1.0)
    with pytest.raises(SyncFailed):
        sim_bench.open()
    disk.faults = DiskFaults()
    sim_bench.open()
    assert sim_bench.read_all() == expected


def test_a_disk_that_is_full_during_recovery_loses_nothing(
    sim_bench: Bench, disk: SimFileSystem
) -> None:
    sim_bench.config = SMALL
    sim_bench.open()
    sim_bench.fill(30)
    expected = sim_bench.read_all()
    sim_bench.crash()
    disk.faults = DiskFaults(capacity_bytes=disk.used_bytes)
    with pytest.raises(Exception, match=r"ENOSPC|space"):
        sim_bench.open()
    disk.faults = DiskFaults()
    sim_bench.open()
    assert sim_bench.read_all() == expected


# --------------------------------------------------------------------------- the recovery point


def test_recovery_begins_at_the_last_checkpoint(sim_bench: Bench) -> None:
    sim_bench.config = SMALL
    log = sim_bench.open()
    sim_bench.fill(20)
    assert log.checkpoint_due
    sim_bench.checkpoint()
    assert not log.checkpoint_due
    before = log.size_bytes
    sim_bench.append(batch([b"after"]))
    expected = sim_bench.read_all()
    log = sim_bench.open()
    assert log.recovery.bytes_scanned == log.size_bytes - before
    assert log.recovery.batches == 1
    assert sim_bench.read_all() == expected


def test_a_checkpoint_is_due_after_enough_bytes(sim_bench: Bench) -> None:
    log = sim_bench.open()
    while log.size_bytes < sim_bench.settings.recovery_point_bytes:
        assert not log.checkpoint_due
        sim_bench.append(batch([b"x" * 100_000]))
    assert log.checkpoint_due


@pytest.mark.parametrize("which", ["shorter", "missing"])
def test_bytes_missing_below_the_recovery_point_are_never_cut_off_silently(
    sim_bench: Bench, disk: SimFileSystem, which: str
) -> None:
    sim_bench.config = SMALL
    sim_bench.open()
    sim_bench.fill(20)
    sim_bench.checkpoint()
    sim_bench.crash()
    path = path_of(sim_bench, segments_of(sim_bench)[1])
    if which == "missing":
        disk.unlink(path)
    else:
        file = disk.open(path, "vandal")
        file.truncate(file.size - 1)
        file.close()
    before = disk.tree()
    with pytest.raises(CorruptLog, match="recovery point"):
        sim_bench.open()
    assert disk.tree() == before


def test_a_damaged_checkpoint_means_a_full_scan(sim_bench: Bench, disk: SimFileSystem) -> None:
    sim_bench.config = SMALL
    sim_bench.open()
    sim_bench.append(batch([b"p"], producer_id=5))
    sim_bench.fill(20)
    sim_bench.checkpoint()
    expected = sim_bench.read_all()
    sim_bench.crash()
    disk.damage(f"{sim_bench.directory}/{paths.CHECKPOINT_NAME}", 30, b"\xff\xff")
    log = sim_bench.open()
    assert log.recovery.bytes_scanned == log.size_bytes
    assert paths.CHECKPOINT_NAME in log.recovery.rebuilt
    assert sim_bench.read_all() == expected
    assert sim_bench.append(batch([b"p"], producer_id=5)) == [Duplicate(0, -1)]


def test_damage_is_not_cut_off_while_nobody_knows_the_recovery_point(
    sim_bench: Bench, disk: SimFileSystem
) -> None:
    sim_bench.config = SMALL
    sim_bench.open()
    sim_bench.fill(20)
    sim_bench.checkpoint()
    sim_bench.crash()
    disk.damage(f"{sim_bench.directory}/{paths.CHECKPOINT_NAME}", 30, b"\xff\xff")
    disk.damage(path_of(sim_bench, 0), 100, b"\xff\xff")
    with pytest.raises(CorruptLog, match="checkpoint is damaged"):
        sim_bench.open()


@pytest.mark.parametrize("snapshots_lost", [1, 2])
def test_lost_snapshots_of_producers_only_cost_time(
    sim_bench: Bench, disk: SimFileSystem, snapshots_lost: int
) -> None:
    sim_bench.config = SMALL
    sim_bench.open()
    sent = [batch([b"x" * 200], producer_id=5, sequence=number) for number in range(12)]
    for number, one in enumerate(sent):
        assert sim_bench.append(one) == [Accepted(number, -1)]
        if number in {4, 8}:
            sim_bench.checkpoint()
    sim_bench.crash()
    snapshots = paths.offsets_of(sim_bench.names(), paths.SNAPSHOT_SUFFIX)
    assert snapshots == [5, 9]
    for offset in snapshots[-snapshots_lost:]:
        disk.rot(path_of(sim_bench, offset, paths.SNAPSHOT_SUFFIX), bits=3)
    log = sim_bench.open()
    assert log.recovery.rebuilt == (paths.offset_name(9, paths.SNAPSHOT_SUFFIX),)
    for number in range(7, 12):
        assert sim_bench.append(sent[number]) == [Duplicate(number, -1)]
    following = batch([b"y"], producer_id=5, sequence=12)
    assert sim_bench.append(following) == [Accepted(12, -1)]


def test_old_snapshots_are_removed(sim_bench: Bench) -> None:
    sim_bench.open()
    for number in range(6):
        sim_bench.append(batch([b"x"], producer_id=5, sequence=number))
        sim_bench.checkpoint()
    assert paths.offsets_of(sim_bench.names(), paths.SNAPSHOT_SUFFIX) == [5, 6]


# ----------------------------------------------------------------------------------- the indexes


@pytest.mark.parametrize("what", ["gone", "rotten", "of another segment"])
def test_indexes_are_rebuilt_when_they_are_needed(
    sim_bench: Bench, disk: SimFileSystem, what: str
) -> None:
    sim_bench.config = SMALL
    sim_bench.open()
    sim_bench.fill(30)
    sim_bench.checkpoint()
    expected = sim_bench.read_all()
    summary = sim_bench.stop()
    names = [name for name in sim_bench.names() if name.endswith((".index", ".timeindex"))]
    assert len(names) >= 10
    for name in names:
        path = f"{sim_bench.directory}/{name}"
        if what == "gone":
            disk.unlink(path)
        elif what == "rotten":
            disk.rot(path, bits=5)
        else:
            suffix = name.partition(".")[2]
            first = disk.content(path_of(sim_bench, 0, f".{suffix}"))
            if path != path_of(sim_bench, 0, f".{suffix}"):
                file = disk.open(path, "vandal")
                file.truncate(0)
                file.close()
                append_bytes(disk, path, first)
    sim_bench.open(summary)
    assert sim_bench.read_all() == expected
    found = run_inline(sim_bench.log.offset_by_timestamp_job(NOW_MS))
    assert found is not None
    assert found.offset == 0


def test_a_cut_segment_does_not_find_its_old_index(sim_bench: Bench, disk: SimFileSystem) -> None:
    """An index file that covers more than is left must never fit again after further appends."""
    sim_bench.config = TopicConfig(index_interval_bytes=0)
    sim_bench.open()
    sim_bench.fill(20)
    sim_bench.checkpoint()
    sim_bench.crash()
    disk.unlink(f"{sim_bench.directory}/{paths.CHECKPOINT_NAME}")
    disk.damage(path_of(sim_bench, 0), 700, b"\xff")
    sim_bench.open()
    end = sim_bench.log.log_end_offset
    assert end < 20
    for number in range(40):
        sim_bench.append(batch([b"y" * (number % 7)]))
    sim_bench.open(sim_bench.stop())
    assert [offset for offset, _ in sim_bench.read_all()] == list(range(end + 40))


# ------------------------------------------------------------------------------- an orderly stop


def test_a_clean_start_reads_nothing(sim_bench: Bench, disk: SimFileSystem) -> None:
    sim_bench.open()
    sim_bench.append(batch([b"p"], producer_id=5))
    sim_bench.fill(5)
    summary = sim_bench.stop()
    operations = disk.operation_count
    log = sim_bench.open(summary)
    assert disk.operation_count == operations
    assert log.recovery.is_trusted
    assert len(sim_bench.read_all()) == 6
    assert sim_bench.append(batch([b"p"], producer_id=5)) == [Duplicate(0, -1)]


def test_a_large_log_keeps_its_state_in_its_own_directory(
    sim_bench: Bench, disk: SimFileSystem
) -> None:
    sim_bench.config = SMALL
    sim_bench.open()
    sim_bench.append(batch([b"p"], producer_id=5))
    sim_bench.fill(100)
    expected = sim_bench.read_all()
    for _ in range(2):
        summary = sim_bench.stop()
        assert summary.state is None
        before = disk.count_calls()
        log = sim_bench.open(summary)
        reads = disk.count_calls() - before
        assert reads["open"] == 2  # checkpoint and snapshot
        assert log.recovery.is_trusted
        assert sim_bench.read_all() == expected
        assert sim_bench.append(batch([b"p"], producer_id=5)) == [Duplicate(0, -1)]


def test_a_summary_that_does_not_fit_is_not_believed(sim_bench: Bench, disk: SimFileSystem) -> None:
    sim_bench.config = SMALL
    sim_bench.open()
    sim_bench.fill(100)
    expected = sim_bench.read_all()
    summary = sim_bench.stop()
    disk.rot(f"{sim_bench.directory}/{paths.CHECKPOINT_NAME}")
    log = sim_bench.open(summary)
    assert not log.recovery.is_trusted
    assert log.recovery.bytes_scanned == log.size_bytes
    assert sim_bench.read_all() == expected


def test_an_idle_log_closes_without_touching_the_disk(
    sim_bench: Bench, disk: SimFileSystem
) -> None:
    sim_bench.open()
    sim_bench.fill(2)
    sim_bench.open(sim_bench.stop())
    operations = disk.operation_count
    sim_bench.open(sim_bench.stop())
    assert disk.operation_count == operations


def test_a_broken_log_gets_no_summary(sim_bench: Bench) -> None:
    log = sim_bench.open()
    sim_bench.fill(2)
    log.mark_broken()
    run_inline(log.close_job())
    assert log.clean_summary is None


# ------------------------------------------------------------------------------------ directories


def test_what_a_crash_left_half_done_is_tidied(sim_bench: Bench, disk: SimFileSystem) -> None:
    sim_bench.config = SMALL
    sim_bench.open()
    sim_bench.fill(10)
    expected = sim_bench.read_all()
    sim_bench.crash()
    for name in ("checkpoint.tmp", f"{99:020d}.log.deleted", "00000000000000000000.index.tmp"):
        disk.open(f"{sim_bench.directory}/{name}", "vandal", create=True).close()
    sim_bench.open()
    assert sim_bench.read_all() == expected
    assert not [n for n in sim_bench.names() if n.endswith((".tmp", ".deleted"))]


def test_the_directory_says_which_topic_it_is(bench: Bench) -> None:
    bench.open()
    text = bench.fs.open(f"{bench.directory}/{paths.PARTITION_NAME}", "test", read_only=True)
    try:
        assert b'"topic": "orders"' in text.read_at(0, 1000)
    finally:
        text.close()
    bench.fill(1)
    bench.crash()
    bench.fs.unlink(f"{bench.directory}/{paths.PARTITION_NAME}")
    bench.open()
    assert paths.PARTITION_NAME in bench.names()


def test_a_directory_survives_from_the_moment_it_is_made(
    sim_bench: Bench, disk: SimFileSystem
) -> None:
    sim_bench.open()
    sim_bench.fill(1)
    sim_bench.crash()
    sim_bench.fs = disk.crash()
    sim_bench.open()
    assert len(sim_bench.read_all()) == 1


def test_leader_epochs_survive_with_and_without_a_checkpoint(sim_bench: Bench) -> None:
    sim_bench.open()
    for epoch in range(4):
        sim_bench.leader_epoch = epoch
        sim_bench.fill(2)
        if epoch == 1:
            sim_bench.checkpoint()
    sim_bench.open()
    assert [tuple(entry) for entry in sim_bench.log.epochs.entries] == [
        (0, 0),
        (1, 2),
        (2, 4),
        (3, 6),
    ]
