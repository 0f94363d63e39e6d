"""Opening a log: believing what an orderly stop wrote down, or finding out what a crash left.

After an orderly stop the log dir's clean marker has a summary of each replica, and no file of it is
opened. Otherwise the log is scanned from its recovery point on: header, length, CRC-32C, offsets
without gaps. From the first thing that is not sound, everything is cut off or moved to quarantine:
it was never promised. Before the recovery point nothing is cut: what is missing there was promised,
so the log does not open (`CorruptLog`).

What is scanned is fsynced before anybody can refer to it, because after a crash of the process it
may exist in the page cache only. If an fsync had failed before, not even that helps, since those
pages pass for clean. So where acknowledgements wait for fsync the page cache is dropped first, and
the disk is scanned. Where they do not, and there is a note of a failed fsync
(`files.mark_sync_failed`), segments are copied from the page cache into new files. With that note
the checkpoint is written again too, and so are segments whose names may be in doubt.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from attrs import frozen

from trio_broker.config import Durability
from trio_broker.host import jobs
from trio_broker.replication.leader_epochs import LeaderEpochCache
from trio_broker.replication.producer_state import ProducerStateTable
from trio_broker.storage import paths
from trio_broker.storage.checkpoint import read_checkpoint, read_snapshot, write_checkpoint
from trio_broker.storage.files import (
    ReplicaFiles,
    noting_failed_sync,
    read_sync_failed,
    unlink_if_there,
)
from trio_broker.storage.log import Log
from trio_broker.storage.maintenance import flush_closed_job
from trio_broker.storage.replica_directory import prepare_replica_directory
from trio_broker.storage.scan import Scan
from trio_broker.storage.segments import SegmentRow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_broker.config import TopicConfig
    from trio_broker.host.interface import FileSystem, Job
    from trio_broker.names import TopicName, TopicPartition
    from trio_broker.storage.checkpoint import LogSummary
    from trio_broker.storage.handles import SegmentCache
    from trio_broker.storage.log import LogSettings

logger = logging.getLogger("trio_broker.storage")


@frozen
class RecoveryReport:
    """What opening a log found.

    Attributes:
        is_trusted: an orderly stop had written everything down; nothing was read.
        bytes_scanned: of log read and checked.
        batches: found sound in these bytes.
        bytes_truncated: cut off or moved away behind the last sound batch.
        fault: what was wrong there, empty if nothing was.
        quarantined: paths of segments moved away.
        rebuilt: derived files that were missing or damaged.
    """

    is_trusted: bool = False
    bytes_scanned: int = 0
    batches: int = 0
    bytes_truncated: int = 0
    fault: str = ""
    quarantined: tuple[str, ...] = ()
    rebuilt: tuple[str, ...] = ()


# Of most logs; there may be ten thousand that keep their report.
_TRUSTED = RecoveryReport(is_trusted=True)
_NOTHING_FOUND = RecoveryReport()


@frozen
class LogToOpen:
    """Everything about a log that is not on its disk."""

    files: ReplicaFiles
    topic_partition: TopicPartition
    topic_name: TopicName
    config: TopicConfig
    durability: Durability
    settings: LogSettings
    cache: SegmentCache
    now_ms: int

    def producers_from(self, data: bytes | None) -> ProducerStateTable | None:
        """Restore producer state, or return None if the bytes are not that."""
        if data is None:
            return None
        try:
            return ProducerStateTable.from_bytes(
                data,
                producer_ids_max=self.settings.producer_ids_max,
                expiration_ms=self.settings.producer_id_expiration_ms,
            )
        except ValueError:
            return None

    def no_producers(self) -> ProducerStateTable:
        """Return the state of a log without producers."""
        return ProducerStateTable(
            self.settings.producer_ids_max, self.settings.producer_id_expiration_ms
        )

    def log(
        self,
        row: SegmentRow,
        log_start_offset: int,
        producers: ProducerStateTable,
        epochs: LeaderEpochCache,
        report: RecoveryReport,
        *,
        unchecked_bytes: int,
        snapshot_offsets: list[int],
    ) -> Log:
        """Make the log."""
        return Log(
            self.files,
            self.topic_partition,
            row=row,
            log_start_offset=log_start_offset,
            producers=producers,
            epochs=epochs,
            config=self.config,
            durability=self.durability,
            settings=self.settings,
            cache=self.cache,
            recovery=report,
            unchecked_bytes=unchecked_bytes,
            snapshot_offsets=snapshot_offsets,
        )


def open_log_job(
    fs: FileSystem,
    directory: str,
    *,
    topic_partition: TopicPartition,
    topic_name: TopicName,
    config: TopicConfig,
    durability: Durability,
    settings: LogSettings,
    cache: SegmentCache,
    summary: LogSummary | None,
    now_ms: int,
    after_failed_sync: bool = False,
    is_durable: bool = False,
    may_make: bool = True,
) -> Job[Log]:
    """Open a replica's log, making its directory if there is none and it may be made.

    Args:
        fs: the filesystem.
        directory: of the replica, inside a log dir whose lock is held.
        topic_partition: whose log it is.
        topic_name: for the metadata file.
        config: of the topic.
        durability: of the topic.
        settings: of the broker.
        cache: where its open files and indexes count.
        summary: what the clean marker said; None after a crash, which means a scan.
        now_ms: wall clock.
        after_failed_sync: this process knows that an fsync of this log has failed, whether or not
            it could leave a note of that.
        is_durable: if there is a directory, its name is known to be durable, which saves an fsync
            for a log without data. So it is while a `LogDirectory` is open, for the replicas that
            it has found or made.
        may_make: the directory may be made if it is not there. Else it is known to have been, and
            nothing acknowledged may be forgotten in silence.

    Raises:
        LogMissing: it is not there, and may not be made.
        CorruptLog: something acknowledged is missing or damaged; nothing was changed.
        SyncFailed: what was found could not be made durable.
        AppendFailed, OSError: the disk refused.
    """
    files = ReplicaFiles(fs, directory, paths.owner_name(topic_partition))
    opening = LogToOpen(
        files, topic_partition, topic_name, config, durability, settings, cache, now_ms
    )
    if summary is not None:
        log = yield from _open_trusted(opening, summary)
        if log is not None:
            return log
        logger.warning("%s: what the clean marker says cannot be used, scanning", directory)
    return (
        yield from noting_failed_sync(
            files,
            _open_scanned(
                opening,
                after_failed_sync=after_failed_sync,
                is_durable=is_durable,
                may_make=may_make,
            ),
            all_durable=durability is Durability.FSYNC,
        )
    )


def flush_closed_log_job(
    fs: FileSystem,
    directory: str,
    topic_partition: TopicPartition,
    *,
    after_failed_sync: bool,
) -> Job[None]:
    """Make durable, before a stop, what is in the files of a log that is not open.

    Args:
        fs: the filesystem.
        directory: of the replica.
        topic_partition: whose log it is.
        after_failed_sync: as for `open_log_job`.

    Raises:
        StorageError: an fsync has failed before, which is never tried again.
        SyncFailed, OSError: some of it may not be durable.
    """
    files = ReplicaFiles(fs, directory, paths.owner_name(topic_partition))
    flush = flush_closed_job(files, after_failed_sync=after_failed_sync)
    return noting_failed_sync(files, flush)


def _open_trusted(opening: LogToOpen, summary: LogSummary) -> Job[Log | None]:
    state = summary.state
    if state is None:
        state = yield from read_checkpoint(opening.files)
    if state is None or state.end.offset != summary.end_offset:
        return None
    producers: ProducerStateTable | None = opening.no_producers()
    if state.has_producers:
        data = state.producers
        if data is None:
            data = yield from read_snapshot(opening.files, state.end.offset)
        producers = opening.producers_from(data)
    try:
        epochs = LeaderEpochCache.from_bytes(state.epochs)
    except ValueError:
        return None
    if producers is None:
        return None
    segments = state.make_segments()
    if segments:
        segments[-1].indexed_bytes = 0  # unknown; the next checkpoint writes its index again
    return opening.log(
        SegmentRow(segments, state.end.offset),
        state.log_start_offset,
        producers,
        epochs,
        _TRUSTED,
        unchecked_bytes=state.unchecked_bytes,
        snapshot_offsets=[],
    )


def _open_scanned(
    opening: LogToOpen, *, after_failed_sync: bool, is_durable: bool, may_make: bool
) -> Job[Log]:
    files = opening.files
    names = yield from prepare_replica_directory(
        files,
        opening.topic_partition,
        opening.topic_name,
        is_durable=is_durable,
        may_make=may_make,
    )
    has_note = paths.SYNC_FAILED_NAME in names
    all_durable = has_note and (yield from read_sync_failed(files))
    scan = Scan(
        opening,
        must_rewrite=after_failed_sync or has_note,
        is_in_doubt=has_note and not all_durable,
        may_lose=paths.ACCEPT_LOSS_NAME in names,
    )
    bases = paths.offsets_of(names, paths.LOG_SUFFIX)
    snapshots = paths.offsets_of(names, paths.SNAPSHOT_SUFFIX)
    checkpoint = None
    if paths.CHECKPOINT_NAME in names:
        checkpoint = yield from read_checkpoint(files)
        if checkpoint is None:
            scan.lost_checkpoint()
    if checkpoint is not None:
        if scan.must_rewrite:
            yield from write_checkpoint(files, checkpoint)
        bases = yield from scan.trust(checkpoint, bases)
        yield from scan.restore_producers(checkpoint, snapshots)
    elif bases:
        scan.begin_at(bases[0])
    yield from scan.run(bases)
    if bases:
        yield from jobs.sync_directory(files.fs, files.directory)
    if scan.must_rewrite:
        for name in (paths.SYNC_FAILED_NAME, paths.ACCEPT_LOSS_NAME):
            yield from unlink_if_there(files.fs, files.path(name))
        yield from jobs.sync_directory(files.fs, files.directory)
    for offset in snapshots:
        if offset > scan.end_offset:
            path = files.path(paths.offset_name(offset, paths.SNAPSHOT_SUFFIX))
            yield from unlink_if_there(files.fs, path)
    yield from _remove_stray_indexes(files, names, scan)
    if scan.index is not None:
        opening.cache.offers.append((scan.segments[-1], scan.index))
    report = RecoveryReport(
        bytes_scanned=scan.bytes_scanned,
        batches=scan.batches,
        bytes_truncated=scan.bytes_truncated,
        fault=scan.fault,
        quarantined=tuple(scan.quarantined),
        rebuilt=tuple(scan.rebuilt),
    )
    return opening.log(
        SegmentRow(scan.segments, scan.end_offset),
        scan.log_start_offset,
        scan.producers,
        scan.epochs,
        report if report != _NOTHING_FOUND else _NOTHING_FOUND,
        unchecked_bytes=scan.bytes_scanned,
        snapshot_offsets=[offset for offset in snapshots if offset <= scan.end_offset],
    )


def _remove_stray_indexes(files: ReplicaFiles, names: Sequence[str], scan: Scan) -> Job[None]:
    """Remove index files of segments that had been deleted, and whose own files are gone."""
    bases = {segment.base_offset for segment in scan.segments}
    for suffix in (paths.INDEX_SUFFIX, paths.TIME_INDEX_SUFFIX):
        for offset in paths.offsets_of(names, suffix):
            if offset not in bases:
                path = files.path(paths.offset_name(offset, suffix))
                yield from unlink_if_there(files.fs, path)
