"""A log dir: whose it is, its lock, its clean marker, and what lies in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from tests.storage.bench import NOW_MS, TOPIC_PARTITION, Bench, batch
from trio_broker.errors import ConfigError, CorruptLog, FormatTooNew, LogDirInUse, SyncFailed
from trio_broker.host.file_system import RealFileSystem
from trio_broker.host.jobs import run_inline, write_small_file
from trio_broker.names import TopicPartition
from trio_broker.storage import paths
from trio_broker.storage.checkpoint import LogSummary, decode_summaries, encode_summaries
from trio_broker.storage.log_dir import LogDirectory, open_log_directory_job
from trio_broker.storage.recovery import open_log_job
from trio_broker.testing.sim.disk import SimFileSystem
from trio_broker.testing.sim.faults import DiskFaults

if TYPE_CHECKING:
    from pathlib import Path

    from trio_broker.host.interface import FileSystem

DIRECTORY_ID = UUID(int=5)


def open_directory(fs: FileSystem, path: str, **options: Any) -> LogDirectory:
    options = {
        "cluster_id": "c1",
        "node_id": 3,
        "new_directory_id": DIRECTORY_ID,
        "description": "a test",
    } | options
    return run_inline(open_log_directory_job(fs, path, **options))


def test_a_new_directory_gets_an_identity_and_keeps_it(tmp_path: Path) -> None:
    fs = RealFileSystem()
    path = str(tmp_path / "a" / "logs")
    directory = open_directory(fs, path)
    assert (directory.directory_id, directory.was_clean) == (DIRECTORY_ID, False)
    directory.release()
    directory = open_directory(fs, path, new_directory_id=UUID(int=6))
    assert directory.directory_id == DIRECTORY_ID
    assert (directory.replicas, directory.deleted, directory.strays) == ([], [], [])
    directory.release()
    assert not fs.open_files()


def test_only_one_may_have_it(tmp_path: Path) -> None:
    directory = open_directory(RealFileSystem(), str(tmp_path), description="the first")
    with pytest.raises(LogDirInUse, match="the first"):
        open_directory(RealFileSystem(), str(tmp_path))
    directory.release()
    open_directory(RealFileSystem(), str(tmp_path)).release()


@pytest.mark.parametrize("other", [{"cluster_id": "c2"}, {"node_id": 4}])
def test_a_directory_of_somebody_else_is_refused(tmp_path: Path, other: dict[str, Any]) -> None:
    fs = RealFileSystem()
    open_directory(fs, str(tmp_path)).release()
    with pytest.raises(ConfigError, match="belongs to node 3 of cluster 'c1'"):
        open_directory(fs, str(tmp_path), **other)
    open_directory(fs, str(tmp_path)).release()


def test_a_newer_format_is_refused_and_left_alone(tmp_path: Path) -> None:
    fs = RealFileSystem()
    open_directory(fs, str(tmp_path)).release()
    meta = str(tmp_path / paths.META_NAME)
    run_inline(write_small_file(fs, meta, "test", b'{"format": 99, "whatever": 1}'))
    marker = str(tmp_path / paths.CLEAN_MARKER_NAME)
    run_inline(write_small_file(fs, marker, "test", b"of the future"))
    with pytest.raises(FormatTooNew, match="format 99"):
        open_directory(fs, str(tmp_path))
    assert fs.stat(marker) is not None


def test_logs_of_which_nobody_knows_whose_they_are_stay_untouched(disk: SimFileSystem) -> None:
    open_directory(disk, "/logs").release()
    disk.make_directory(f"/logs/{paths.replica_name(TOPIC_PARTITION)}")
    disk.rot(f"/logs/{paths.META_NAME}", bits=9)
    for fault in ("damaged", "missing"):
        with pytest.raises((CorruptLog, FormatTooNew)):
            open_directory(disk, "/logs")
        if fault == "damaged":
            disk.unlink(f"/logs/{paths.META_NAME}")


def test_everything_found_is_sorted_out(disk: SimFileSystem) -> None:
    open_directory(disk, "/logs").release()
    replica = paths.replica_name(TOPIC_PARTITION)
    other = TOPIC_PARTITION._replace(partition=12)
    for name in (replica, paths.replica_name(other) + paths.DELETED_SUFFIX, "holiday photos"):
        disk.make_directory(f"/logs/{name}")
    for name in (f"{replica}x", f"{TOPIC_PARTITION.topic_id}-007", "notes.deleted"):
        disk.make_directory(f"/logs/{name}")
    disk.open("/logs/clean-shutdown.tmp", "test", create=True).close()
    directory = open_directory(disk, "/logs")
    assert directory.replicas == [TOPIC_PARTITION]
    assert directory.deleted == [paths.replica_name(other) + paths.DELETED_SUFFIX]
    assert set(directory.strays) == {
        "holiday photos",
        f"{replica}x",
        f"{TOPIC_PARTITION.topic_id}-007",
        "notes.deleted",
    }
    assert disk.stat("/logs/clean-shutdown.tmp") is None
    assert run_inline(directory.remove_deleted_job(directory.deleted[0]))
    for number, name in enumerate(("holiday photos", "holiday photos")):
        if number:
            disk.make_directory(f"/logs/{name}")
        place = run_inline(directory.quarantine_job(name))
        assert disk.stat(place) is not None
    directory.release()
    directory = open_directory(disk, "/logs")
    assert directory.deleted == []
    assert "holiday photos" not in directory.strays


def test_what_an_operator_has_accepted_is_forgotten_once_the_directory_is_there(
    disk: SimFileSystem,
) -> None:
    open_directory(disk, "/logs").release()
    path = f"/logs/{paths.replica_name(TOPIC_PARTITION)}"
    disk.open(path + paths.ACCEPT_LOSS_SUFFIX, "operator", create=True).close()
    disk.sync_directory("/logs")
    for _ in range(2):
        directory = open_directory(disk, "/logs")
        assert directory.accepted == {TOPIC_PARTITION}
        assert not directory.strays
        directory.release()
    disk.make_directory(path)
    directory = open_directory(disk, "/logs")
    assert not directory.accepted
    assert disk.stat(path + paths.ACCEPT_LOSS_SUFFIX) is None


# --------------------------------------------------------------------------------- clean markers


class Stand:
    """A log dir with some logs."""

    def __init__(self, fs: SimFileSystem) -> None:
        self.fs = fs
        self.bench = Bench(fs, "/logs")
        self.directory = open_directory(fs, "/logs")
        run_inline(self.directory.begin_job())
        self.logs: dict[TopicPartition, Any] = {}

    def open(self, count: int, *, is_durable: bool = False) -> None:
        for number in range(count):
            replica = TOPIC_PARTITION._replace(partition=number)
            self.logs[replica] = run_inline(
                open_log_job(
                    self.fs,
                    self.directory.replica_path(replica),
                    topic_partition=replica,
                    topic_name=self.bench.topic_name,
                    config=self.bench.config,
                    durability=self.bench.durability,
                    settings=self.bench.settings,
                    cache=self.bench.cache,
                    summary=self.directory.take_summary(replica),
                    now_ms=NOW_MS,
                    is_durable=is_durable,
                )
            )

    def fill(self) -> None:
        for log in self.logs.values():
            plan = log.plan_append([batch()], now_ms=NOW_MS, leader_epoch=0)
            run_inline(log.append_job(plan, sync=True))
            log.publish(plan, synced=True)

    def stop(self) -> None:
        summaries = {}
        for replica, log in self.logs.items():
            run_inline(log.close_job())
            log.close_files()
            if log.clean_summary is not None:
                summaries[replica] = log.clean_summary
        run_inline(self.directory.mark_clean_job(summaries))
        self.directory.release()


def test_after_an_orderly_stop_no_log_byte_is_scanned(disk: SimFileSystem) -> None:
    stand = Stand(disk)
    stand.open(5)
    stand.fill()
    stand.stop()
    stand = Stand(disk.crash())
    assert stand.directory.was_clean
    stand.open(5)
    assert all(log.recovery.is_trusted for log in stand.logs.values())
    assert all(log.log_end_offset == 1 for log in stand.logs.values())
    assert not stand.fs.open_files()


def test_the_marker_is_gone_for_good_before_anything_else_happens(disk: SimFileSystem) -> None:
    stand = Stand(disk)
    stand.open(2)
    stand.fill()
    stand.stop()
    stand = Stand(disk.restart())
    stand = Stand(stand.fs.crash())
    assert not stand.directory.was_clean
    stand.open(2)
    assert not any(log.recovery.is_trusted for log in stand.logs.values())


@pytest.mark.parametrize("disk_seed", range(8))
def test_a_marker_does_not_come_back_if_its_removal_was_not_synced(disk_seed: int) -> None:
    disk = SimFileSystem(disk_seed)
    disk.prepare_directory("/logs")
    stand = Stand(disk)
    stand.open(1)
    stand.fill()
    stand.stop()
    disk = disk.restart()
    disk.faults = DiskFaults(sync_error_rate=1.0)
    with pytest.raises(SyncFailed):
        Stand(disk)
    disk = disk.restart()
    disk.faults = DiskFaults()
    stand = Stand(disk)
    stand.open(1)
    stand.fill()
    stand = Stand(disk.crash())
    stand.open(1)
    assert [log.log_end_offset for log in stand.logs.values()] == [2]


def test_a_full_disk_does_not_keep_a_log_dir_from_opening(disk: SimFileSystem) -> None:
    stand = Stand(disk)
    stand.open(2)
    stand.fill()
    stand.stop()
    disk = disk.restart()
    disk.faults = DiskFaults(capacity_bytes=disk.used_bytes)
    stand = Stand(disk)
    assert stand.directory.was_clean
    stand.open(2)
    assert all(log.recovery.is_trusted for log in stand.logs.values())
    assert not Stand(disk.crash()).directory.was_clean


def test_a_log_that_was_not_closed_in_order_is_recovered(disk: SimFileSystem) -> None:
    stand = Stand(disk)
    stand.open(3)
    stand.fill()
    replicas = list(stand.logs)
    stand.logs[replicas[1]].mark_broken()
    stand.stop()
    stand = Stand(disk.restart())
    stand.open(3)
    trusted = [stand.logs[replica].recovery.is_trusted for replica in replicas]
    assert trusted == [True, False, True]


def test_a_damaged_marker_means_recovery(disk: SimFileSystem) -> None:
    stand = Stand(disk)
    stand.open(2)
    stand.fill()
    stand.stop()
    disk.rot(f"/logs/{paths.CLEAN_MARKER_NAME}", bits=4)
    stand = Stand(disk.restart())
    assert not stand.directory.was_clean
    stand.open(2)
    assert all(log.log_end_offset == 1 for log in stand.logs.values())


def test_summaries_of_a_future_version_are_not_believed() -> None:
    summaries = {"a": LogSummary(7, None)}
    assert decode_summaries(encode_summaries(summaries)) == summaries
    assert decode_summaries(b'{"version": 2, "replicas": {}}') == {}
    assert decode_summaries(b"[]") == {}
    assert decode_summaries(b"\xff") == {}
    text = b'{"version": 1, "replicas": {"a": {"end_offset": 7, "state": {"version": 2}}}}'
    assert decode_summaries(text) == {}


def test_many_directories_are_made_with_one_sync(disk: SimFileSystem) -> None:
    stand = Stand(disk)
    replicas = [TOPIC_PARTITION._replace(partition=number) for number in range(20)]
    before = disk.count_calls()
    run_inline(stand.directory.make_replicas_job(replicas))
    run_inline(stand.directory.make_replicas_job(replicas))
    assert (disk.count_calls() - before)["sync_directory"] == 2
    before = disk.count_calls()
    stand.open(20, is_durable=True)
    assert (disk.count_calls() - before)["sync_directory"] == 0
    stand.fill()
    stand = Stand(disk.crash())
    assert len(stand.directory.replicas) == 20
    stand.open(20, is_durable=True)
    assert all(log.log_end_offset == 1 for log in stand.logs.values())


def test_directories_whose_names_are_not_durable_are_removed_again(disk: SimFileSystem) -> None:
    stand = Stand(disk)
    disk.faults = DiskFaults(sync_error_rate=1.0)
    with pytest.raises(SyncFailed):
        run_inline(stand.directory.make_replicas_job([TOPIC_PARTITION]))
    assert disk.stat(stand.directory.replica_path(TOPIC_PARTITION)) is None
