"""What a failed write or a failed fsync leaves behind, on a simulated disk."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING
from unittest.mock import patch

import pytest

from tests.storage.bench import NOW_MS, TOPIC_PARTITION, Bench, batch
from trio_broker.config import Durability, TopicConfig
from trio_broker.errors import AppendFailed, CorruptLog, StorageError, SyncFailed
from trio_broker.host.jobs import run_inline
from trio_broker.storage import paths
from trio_broker.storage.log import Accepted, Duplicate, Refused
from trio_broker.storage.recovery import flush_closed_log_job
from trio_broker.testing.sim.disk import SimFileSystem
from trio_broker.testing.sim.faults import DiskFaults

if TYPE_CHECKING:
    from trio_broker.host.interface import Job

SMALL = TopicConfig(segment_bytes=1024, index_interval_bytes=150)


def fail_call(disk: SimFileSystem, call: str, number: int = errno.EIO, *, skip: int = 0) -> None:
    """Let the next operation of that name fail, after `skip` others of that name."""
    left = skip

    original = disk.begin_operation

    def begin(name: str, path: str, random: object) -> tuple[int, bool]:
        nonlocal left
        drawn = original(name, path, random)  # type: ignore[arg-type]
        if name != call:
            return drawn
        left -= 1
        if left >= 0:
            return drawn
        disk.begin_operation = original  # type: ignore[method-assign]
        return number, False

    disk.begin_operation = begin  # type: ignore[method-assign]


def log_bytes(disk: SimFileSystem, bench: Bench) -> int:
    return sum(
        len(content or b"")
        for path, content in disk.tree().items()
        if path.startswith(bench.directory) and path.endswith(paths.LOG_SUFFIX)
    )


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_failed_write_is_cut_back_and_the_log_goes_on(
    sim_bench: Bench, disk: SimFileSystem, number: int
) -> None:
    log = sim_bench.open()
    sim_bench.fill(3)
    before = log.size_bytes
    fail_call(disk, "write_at", number)
    with pytest.raises(AppendFailed) as failure:
        sim_bench.append(batch([b"x" * 500]), batch([b"y" * 500]))
    assert failure.value.cut_back
    assert failure.value.errno == number
    assert (log.log_end_offset, log.size_bytes, log_bytes(disk, sim_bench)) == (3, before, before)
    assert not log.is_broken
    sim_bench.fill(2, start=3)
    expected = sim_bench.read_all()
    assert len(expected) == 5
    sim_bench.open()
    assert sim_bench.read_all() == expected


def test_a_full_disk_refuses_and_works_again_when_there_is_room(
    sim_bench: Bench, disk: SimFileSystem
) -> None:
    log = sim_bench.open()
    disk.faults = DiskFaults(capacity_bytes=40_000)
    with pytest.raises(AppendFailed) as failure:
        for number in range(20):
            sim_bench.append(batch([b"%d" % number * 4000]))
    assert (failure.value.errno, failure.value.cut_back) == (errno.ENOSPC, True)
    end = log.log_end_offset
    disk.faults = DiskFaults()
    sim_bench.fill(1)
    assert log.log_end_offset == end + 1
    assert len(sim_bench.read_all()) == end + 1


def test_a_failed_roll_takes_everything_back(sim_bench: Bench, disk: SimFileSystem) -> None:
    sim_bench.config = SMALL
    log = sim_bench.open()
    sim_bench.fill(3)
    before = disk.tree()
    wide = [batch([b"%d" % number * 400]) for number in range(6)]
    fail_call(disk, "write_at", errno.ENOSPC, skip=2)
    with pytest.raises(AppendFailed) as failure:
        sim_bench.append(*wide)
    assert failure.value.cut_back
    assert disk.tree() == before
    assert not log.is_broken
    assert sim_bench.open_count == 1
    outcomes = sim_bench.append(*wide)
    assert outcomes == [Accepted(offset, -1) for offset in range(3, 9)]


def test_a_write_that_cannot_even_be_cut_back_breaks_the_log(
    sim_bench: Bench, disk: SimFileSystem
) -> None:
    log = sim_bench.open()
    sim_bench.fill(2)
    expected = sim_bench.read_all()
    disk.faults = DiskFaults(fail_from=(disk.operation_count + 1, errno.EIO))
    with pytest.raises(AppendFailed) as failure:
        sim_bench.append(batch([b"x" * 600]))
    assert not failure.value.cut_back
    disk.faults = DiskFaults()
    assert log.is_broken
    assert isinstance(sim_bench.append(batch())[0], Refused)
    assert sim_bench.read_all() == expected
    sim_bench.open()
    assert sim_bench.read_all() == expected


def test_a_failed_fsync_is_never_repeated_and_the_log_goes_on_in_a_new_segment(
    sim_bench: Bench, disk: SimFileSystem
) -> None:
    log = sim_bench.open()
    sim_bench.append(batch([b"kept"], producer_id=4))
    fail_call(disk, "sync")
    lost = batch([b"lost"], producer_id=4, sequence=1)
    with pytest.raises(SyncFailed):
        sim_bench.append(lost)
    assert log.is_broken
    assert log.durable_offset == 1
    assert paths.SYNC_FAILED_NAME in sim_bench.names()
    synced = disk.count_calls()["sync"]
    assert isinstance(sim_bench.append(lost)[0], Refused)
    assert disk.count_calls()["sync"] == synced
    run_inline(log.seal_at_durable_job())
    log.apply_seal()
    assert paths.SYNC_FAILED_NAME not in sim_bench.names()
    assert not log.is_broken
    assert sim_bench.append(lost) == [Accepted(1, -1)]
    assert log.segment_count == 2
    expected = [(0, b"kept"), (1, b"lost")]
    assert sim_bench.read_all() == expected
    sim_bench.crash()
    sim_bench.fs = disk.crash()
    sim_bench.open()
    assert sim_bench.read_all() == expected
    assert sim_bench.append(lost) == [Duplicate(1, -1)]


@pytest.mark.parametrize("durability", [Durability.OS, Durability.INTERVAL])
def test_what_a_log_acknowledged_before_it_broke_is_durable_after_an_orderly_stop(
    sim_bench: Bench, disk: SimFileSystem, durability: Durability
) -> None:
    """A stop promises that the machine may be switched off, whatever acknowledgements mean."""
    sim_bench.durability = durability
    sim_bench.config = SMALL
    log = sim_bench.open()
    sim_bench.fill(12)
    expected = sim_bench.read_all()
    fail_call(disk, "truncate")
    fail_call(disk, "write_at")
    with pytest.raises(AppendFailed):
        sim_bench.append(batch([b"refused"]))
    assert log.is_broken
    run_inline(log.close_job())
    assert log.clean_summary is None
    sim_bench.crash()
    sim_bench.fs = disk.crash()
    sim_bench.open()
    assert sim_bench.read_all() == expected


def test_a_log_that_a_failed_fsync_broke_is_not_synced_once_more_at_the_stop(
    sim_bench: Bench, disk: SimFileSystem
) -> None:
    """That would succeed, and mean nothing."""
    sim_bench.durability = Durability.OS
    log = sim_bench.open()
    sim_bench.fill(2)
    fail_call(disk, "sync")
    with pytest.raises(SyncFailed):
        run_inline(log.flush_job())
    log.mark_broken()
    synced = disk.count_calls()["sync"]
    with pytest.raises(StorageError, match="has failed before"):
        run_inline(log.close_job())
    assert log.clean_summary is None
    disk.unlink(f"{sim_bench.directory}/{paths.SYNC_FAILED_NAME}")
    with pytest.raises(StorageError, match="has failed before"):
        run_inline(log.close_job())
    assert disk.count_calls()["sync"] == synced


def test_a_stop_has_nothing_to_make_durable_where_acknowledgements_waited_for_fsync(
    sim_bench: Bench, disk: SimFileSystem
) -> None:
    log = sim_bench.open()
    sim_bench.fill(2)
    fail_call(disk, "sync")
    with pytest.raises(SyncFailed):
        sim_bench.append(batch([b"refused"]))
    operations = disk.operation_count
    run_inline(log.close_job())
    assert log.clean_summary is None
    assert disk.operation_count == operations


@pytest.mark.parametrize("has_checkpoint", [False, True])
def test_what_is_in_the_files_of_a_log_that_is_not_open_is_made_durable(
    sim_bench: Bench, disk: SimFileSystem, has_checkpoint: bool
) -> None:
    sim_bench.durability, sim_bench.config = Durability.OS, SMALL
    sim_bench.open()
    sim_bench.fill(12)
    if has_checkpoint:
        sim_bench.checkpoint()
        sim_bench.fill(12, start=12)
    expected = sim_bench.read_all()
    segments = [segment.base_offset for segment in sim_bench.log.segments]
    sim_bench.crash()
    before = disk.count_calls()["sync"]
    run_inline(closed_flush(sim_bench))
    synced = disk.count_calls()["sync"] - before
    assert 1 < synced < len(segments) if has_checkpoint else synced == len(segments)
    assert sim_bench.open_count == 0
    sim_bench.fs = disk.crash()
    sim_bench.open()
    assert sim_bench.read_all() == expected


@pytest.mark.parametrize("has_note", [False, True])
def test_a_log_that_is_not_open_is_not_synced_after_a_failed_fsync(
    sim_bench: Bench, disk: SimFileSystem, has_note: bool
) -> None:
    sim_bench.durability = Durability.OS
    sim_bench.open()
    sim_bench.fill(3)
    sim_bench.crash()
    fail_call(disk, "sync")
    with pytest.raises(SyncFailed):
        run_inline(closed_flush(sim_bench))
    note = f"{sim_bench.directory}/{paths.SYNC_FAILED_NAME}"
    assert paths.SYNC_FAILED_NAME in sim_bench.names()
    if not has_note:
        disk.unlink(note)
    synced = disk.count_calls()["sync"]
    with pytest.raises(StorageError, match="has failed before"):
        run_inline(closed_flush(sim_bench, after_failed_sync=not has_note))
    assert disk.count_calls()["sync"] == synced
    assert sim_bench.open_count == 0


def closed_flush(bench: Bench, *, after_failed_sync: bool = False) -> Job[None]:
    return flush_closed_log_job(
        bench.fs, bench.directory, TOPIC_PARTITION, after_failed_sync=after_failed_sync
    )


def test_a_log_that_could_not_be_cut_back_has_no_failed_fsync(
    sim_bench: Bench, disk: SimFileSystem
) -> None:
    """So nothing acknowledged is in doubt, and no operator is needed to open it again."""
    sim_bench.durability = Durability.OS
    log = sim_bench.open()
    sim_bench.fill(2)
    fail_call(disk, "truncate")
    fail_call(disk, "write_at")
    with pytest.raises(AppendFailed):
        sim_bench.append(batch([b"x" * 600]))
    assert (log.is_broken, log.has_failed_sync) == (True, False)
    fail_call(disk, "sync")
    with pytest.raises(SyncFailed):
        run_inline(log.flush_job())
    log.mark_broken()
    assert log.has_failed_sync


def test_sealing_a_first_segment_of_which_nothing_is_durable(
    sim_bench: Bench, disk: SimFileSystem
) -> None:
    log = sim_bench.open()
    fail_call(disk, "sync")
    with pytest.raises(SyncFailed):
        sim_bench.append(batch([b"lost"]))
    run_inline(log.seal_at_durable_job())
    log.apply_seal()
    assert sim_bench.append(batch([b"new"])) == [Accepted(0, -1)]
    assert [path for path in disk.tree() if "quarantine" in path and path.endswith(".log")]
    sim_bench.crash()
    sim_bench.fs = disk.crash()
    sim_bench.open()
    assert sim_bench.read_all() == [(0, b"new")]


def test_sealing_cuts_back_what_was_never_flushed(sim_bench: Bench, disk: SimFileSystem) -> None:
    """Durability interval, an operator having accepted the loss."""
    sim_bench.durability, sim_bench.config = Durability.INTERVAL, SMALL
    log = sim_bench.open()
    sim_bench.fill(10)
    end_offset = log.log_end_offset
    run_inline(log.flush_job())
    log.mark_flushed(end_offset)
    sim_bench.leader_epoch = 1
    sim_bench.fill(10, start=10)
    fail_call(disk, "sync")
    with pytest.raises(SyncFailed):
        run_inline(log.flush_job())
    log.mark_broken()
    run_inline(log.seal_at_durable_job())
    log.apply_seal()
    assert log.log_end_offset == log.durable_offset == 10
    assert log.epochs.latest == (0, 0)
    sim_bench.fill(5, start=50)
    assert [offset for offset, _ in sim_bench.read_all()] == list(range(15))


def test_a_log_whose_durable_part_is_gone_is_not_filled_up_with_zeros(
    sim_bench: Bench, disk: SimFileSystem
) -> None:
    log = sim_bench.open()
    sim_bench.fill(3)
    fail_call(disk, "sync")
    with pytest.raises(SyncFailed):
        sim_bench.append(batch())
    file = disk.open(f"{sim_bench.directory}/{0:020d}.log", "vandal")
    file.truncate(100)
    file.close()
    with pytest.raises(CorruptLog, match="has 100 bytes"):
        run_inline(log.seal_at_durable_job())
    assert log.is_broken
    assert len(disk.content(f"{sim_bench.directory}/{0:020d}.log")) == 100


def test_a_process_started_after_a_failed_fsync_does_not_trust_the_page_cache(
    sim_bench: Bench, disk: SimFileSystem
) -> None:
    sim_bench.open()
    sim_bench.fill(1)
    disk.faults = DiskFaults(sync_error_rate=1.0)
    with pytest.raises(SyncFailed):
        sim_bench.append(batch([b"x" * 3000]))
    sim_bench.crash()
    disk = disk.restart()
    disk.faults = DiskFaults()
    sim_bench.fs = disk
    sim_bench.open()
    # The batch may be there or not. If it is, it must stay.
    sim_bench.fill(1)
    expected = sim_bench.read_all()
    sim_bench.crash()
    sim_bench.fs = disk.crash()
    sim_bench.open()
    assert sim_bench.read_all() == expected


@pytest.mark.parametrize("durability, is_killed, is_raised", [
    (Durability.FSYNC, False, False), (Durability.FSYNC, True, False),
    (Durability.INTERVAL, False, False), (Durability.OS, False, False),
    (Durability.OS, False, True),
])  # fmt: skip
@pytest.mark.parametrize("seed", range(4))
def test_what_is_served_after_a_failed_fsync_and_a_restart_is_on_the_disk(
    durability: Durability, seed: int, *, is_killed: bool, is_raised: bool
) -> None:
    """Also if the process was killed before it could leave a note, as while its fsync hung.

    And what was acknowledged is kept, as far as the page cache has it, even if the topic has come
    to promise more meanwhile.
    """
    disk = SimFileSystem(seed)
    disk.prepare_directory("/logs")
    with Bench(disk, "/logs") as bench:
        bench.durability = durability
        log = bench.open()
        bench.fill(1)
        log.mark_checkpointed(run_inline(log.checkpoint_job()))
        written = batch([b"x" * 9000])
        disk.faults = DiskFaults(sync_error_rate=1.0)
        with pytest.raises(SyncFailed):
            bench.append(written)
            run_inline(log.flush_job())
        disk.faults = DiskFaults()
        if is_killed:
            disk.unlink(f"{bench.directory}/{paths.SYNC_FAILED_NAME}")
        bench.crash()
        disk = bench.fs = disk.restart()
        if is_raised:
            bench.durability = Durability.FSYNC
        bench.open()
        expected = bench.read_all()
        if durability is not Durability.FSYNC:
            assert len(expected) == 2, "it was acknowledged, and the page cache still has it"
        bench.fill(3)
        expected = bench.read_all()
        run_inline(bench.log.flush_job())
        bench.crash()
        bench.fs = disk.crash()
        bench.open()
        assert bench.read_all() == expected


def test_a_note_that_lost_its_content_in_a_power_cut_keeps_no_log_offline(
    sim_bench: Bench, disk: SimFileSystem
) -> None:
    """The note is not synced: its name may survive, and what it says may not."""
    sim_bench.open()
    sim_bench.fill(5)
    expected = sim_bench.read_all()
    fail_call(disk, "sync")
    with pytest.raises(SyncFailed):
        sim_bench.append(batch([b"x" * 9000]))
    sim_bench.crash()
    note = disk.open(f"{sim_bench.directory}/{paths.SYNC_FAILED_NAME}", "power")
    assert note.size
    note.truncate(0)
    note.close()
    log_file = disk.open(f"{sim_bench.directory}/{0:020d}.log", "power")
    log_file.truncate(log_file.size - 100)
    log_file.close()
    sim_bench.open()
    assert sim_bench.read_all() == expected
    assert paths.SYNC_FAILED_NAME not in sim_bench.names()


def test_a_damaged_tail_after_a_failed_fsync_is_for_an_operator_to_accept(
    sim_bench: Bench, disk: SimFileSystem
) -> None:
    sim_bench.durability = Durability.INTERVAL
    log = sim_bench.open()
    sim_bench.fill(5)
    fail_call(disk, "sync")
    with pytest.raises(SyncFailed):
        run_inline(log.flush_job())
    size_bytes = log.size_bytes
    sim_bench.crash()
    disk.damage(f"{sim_bench.directory}/{0:020d}.log", size_bytes - 3, b"\0\0")
    with pytest.raises(CorruptLog, match=paths.ACCEPT_LOSS_NAME):
        sim_bench.open()
    disk.open(f"{sim_bench.directory}/{paths.ACCEPT_LOSS_NAME}", "operator", create=True).close()
    sim_bench.open()
    assert len(sim_bench.read_all()) == 4
    assert not {paths.SYNC_FAILED_NAME, paths.ACCEPT_LOSS_NAME} & set(sim_bench.names())


def test_a_refused_first_batch_is_not_overtaken(sim_bench: Bench, disk: SimFileSystem) -> None:
    sim_bench.open()
    first, second = batch([b"a"], producer_id=3), batch([b"b"], producer_id=3, sequence=1)
    fail_call(disk, "write_at", errno.ENOSPC)
    with pytest.raises(AppendFailed):
        sim_bench.append(first)
    assert isinstance(sim_bench.append(second)[0], Refused)
    assert sim_bench.append(first) == [Accepted(0, -1)]
    assert sim_bench.append(second) == [Accepted(1, -1)]


def test_an_append_that_never_ran_changes_nothing(sim_bench: Bench, disk: SimFileSystem) -> None:
    log = sim_bench.open()
    sim_bench.fill(1)
    before = disk.tree()
    plan = log.plan_append([batch()], now_ms=NOW_MS, leader_epoch=0)
    log.append_job(plan, sync=True).close()
    log.abandon(plan)
    assert not log.is_broken
    assert disk.tree() == before
    sim_bench.fill(1)


def test_an_append_that_was_done_and_not_published_breaks_the_log(sim_bench: Bench) -> None:
    log = sim_bench.open()
    sim_bench.fill(1)
    plan = log.plan_append([batch([b"unseen"])], now_ms=NOW_MS, leader_epoch=0)
    run_inline(log.append_job(plan, sync=True))
    log.abandon(plan)
    assert log.is_broken
    run_inline(log.seal_at_durable_job())
    log.apply_seal()
    sim_bench.fill(1)
    assert len(sim_bench.read_all()) == 2
    assert b"unseen" not in dict(sim_bench.read_all()).values()


def test_too_many_open_files_is_a_refusal(sim_bench: Bench, disk: SimFileSystem) -> None:
    sim_bench.open()
    sim_bench.fill(1)
    sim_bench.cache.close_file(sim_bench.log._row.all[0])
    disk.faults = DiskFaults(open_files_max=0)
    with pytest.raises(AppendFailed) as failure:
        sim_bench.fill(1)
    assert failure.value.errno == errno.EMFILE
    disk.faults = DiskFaults()
    sim_bench.fill(1)
    assert len(sim_bench.read_all()) == 2


def test_a_segment_that_shrank_is_noticed_before_anything_is_written(
    sim_bench: Bench, disk: SimFileSystem
) -> None:
    sim_bench.open()
    sim_bench.fill(3)
    sim_bench.open(sim_bench.stop())
    path = f"{sim_bench.directory}/{0:020d}.log"
    file = disk.open(path, "vandal")
    file.truncate(file.size - 1)
    file.close()
    with pytest.raises(CorruptLog):
        sim_bench.fill(1)


@pytest.mark.parametrize("disk_seed", range(12))
def test_a_refused_batch_never_comes_back_in_the_place_of_others(disk_seed: int) -> None:
    """The cut must be durable although the next append goes to another file."""
    disk = SimFileSystem(disk_seed)
    disk.prepare_directory("/logs")
    with Bench(disk, "/logs") as bench:
        bench.config = SMALL
        bench.open()
        bench.append(batch([b"a" * 300]))
        fail_call(disk, "write_at", errno.ENOSPC, skip=1)
        with pytest.raises(AppendFailed):
            bench.append(batch([b"b" * 300]), batch([b"c" * 600]))
        bench.append(batch([b"d" * 900]))
        assert bench.log.segment_count == 2
        expected = bench.read_all()
        bench.crash()
        bench.fs = disk.crash()
        bench.open()
        assert bench.read_all() == expected


def test_sealing_a_log_whose_last_segment_is_empty(sim_bench: Bench, disk: SimFileSystem) -> None:
    sim_bench.config = SMALL
    sim_bench.open()
    sim_bench.fill(10)
    expected = sim_bench.read_all()
    sim_bench.crash()
    disk.open(f"{sim_bench.directory}/{10:020d}.log", "an append", create=True).close()
    log = sim_bench.open()
    assert log.log_end_offset == 10
    fail_call(disk, "sync")
    with pytest.raises(SyncFailed):
        sim_bench.fill(1)
    run_inline(log.seal_at_durable_job())
    log.apply_seal()
    assert sim_bench.read_all() == expected
    sim_bench.fill(2, start=10)
    sim_bench.open()
    assert len(sim_bench.read_all()) == 12


def test_an_empty_log_that_was_there_is_not_removed_for_a_failed_fsync(
    sim_bench: Bench, disk: SimFileSystem
) -> None:
    """Or it would be missing from then on, and wait for an operator."""
    sim_bench.open()
    sim_bench.may_make = False
    with patch.object(disk, "sync_directory", side_effect=OSError(errno.EIO, "no")):
        sim_bench.open()
    assert sim_bench.names()
    sim_bench.open()
    sim_bench.fill(1)
    assert [offset for offset, _ in sim_bench.read_all()] == [0]
