"""The folder of the embedded store, and how it is opened after whatever happened to it.

Layout: ``identity`` (whose it is), ``journal/`` (a log, one batch per revision), two files
``<revision>-<offset>.snapshot``, ``quarantine/`` (what was damaged), ``.lock``.

Opening takes the newest snapshot that is whole and the journal from its offset on. A damaged
snapshot is moved to quarantine: the journal reaches back to the one before it. A torn end of the
journal is cut off by the log's own recovery: nobody was told that it had been committed. Anything
else that is missing was promised to somebody, so the folder does not open and stays as it is.

One job, run by `embedded` on the store's lane.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from attrs import frozen

from trio_broker.cluster.identity import Identity, check_identity, read_identity, write_identity
from trio_broker.cluster.journal import decode_revision
from trio_broker.cluster.snapshots import (
    SnapshotName,
    list_snapshots,
    quarantine_snapshot,
    read_snapshot,
)
from trio_broker.cluster.table import KeyValueTable
from trio_broker.config import KIB, MIB, Durability, TopicConfig
from trio_broker.errors import CorruptMetadata
from trio_broker.host.jobs import TEMPORARY_SUFFIX, make_directories
from trio_broker.metadata.records import CLUSTER_KEY, ClusterRecord, decode_record
from trio_broker.names import TopicName, TopicPartition
from trio_broker.records.iterate import iterate_batches
from trio_broker.storage.handles import SegmentCache
from trio_broker.storage.log import LogSettings
from trio_broker.storage.recovery import open_log_job

if TYPE_CHECKING:
    from trio_broker.host.interface import DirectoryLock, FileSystem, Job
    from trio_broker.storage.log import Log

logger = logging.getLogger("trio_broker.cluster")

#: Under what the store's own files are in the handle ledger; the journal's are its log's.
OWNER = "metadata"
JOURNAL_NAME = "journal"
#: Kafka's names for its metadata log.
JOURNAL_TOPIC_NAME = TopicName("__cluster_metadata")
JOURNAL_PARTITION = TopicPartition(UUID(int=1), 0)
#: The store decides itself what is deleted, by the log's start offset; so nothing expires.
JOURNAL_CONFIG = TopicConfig(
    segment_bytes=MIB, retention_ms=-1, retention_bytes=-1, file_delete_delay_ms=0
)
#: Damage before a recovery point is told apart from a torn end, so it is written often.
JOURNAL_SETTINGS = LogSettings(
    producer_ids_max=1, producer_id_expiration_ms=1, recovery_point_bytes=256 * KIB
)
JOURNAL_FILES_MAX = 4
_REPLAY_BYTES = MIB


@frozen(kw_only=True)
class FolderToOpen:
    """Which folder to open, and who we are.

    Attributes:
        fs: the filesystem.
        directory: the folder, made if it is missing.
        node_id: ours.
        cluster_id: ours; None: whatever the folder says.
        fresh_cluster_id: what a new folder gets if `cluster_id` is None.
        now_ms: wall clock.
    """

    fs: FileSystem
    directory: str
    node_id: int
    cluster_id: str | None
    fresh_cluster_id: str
    now_ms: int


class OpenedFolder(NamedTuple):
    """What an open folder holds.

    Attributes:
        directory: the folder.
        lock: to be released last.
        identity: whose it is.
        log: the journal.
        table: the state after the last commit.
        snapshots: those that are whole or were not needed, newest first.
        replayed_bytes: how much of the journal the newest snapshot does not cover.
    """

    directory: str
    lock: DirectoryLock
    identity: Identity
    log: Log
    table: KeyValueTable
    snapshots: tuple[SnapshotName, ...]
    replayed_bytes: int


def open_folder(wanted: FolderToOpen) -> Job[OpenedFolder]:
    """Open the folder; on failure nothing of it stays open or locked.

    Raises:
        ConfigError: it belongs to another node or cluster.
        LogDirInUse: somebody else has it open.
        FormatTooNew: a newer version of this package wrote in it.
        CorruptMetadata, CorruptLog: something that had been committed is missing or damaged.
        SyncFailed, AppendFailed, OSError: the disk refused.
    """
    fs, directory = wanted.fs, wanted.directory
    yield from make_directories(fs, directory)
    description = f"metadata of node {wanted.node_id}"
    lock: DirectoryLock = yield fs.lock_directory, (directory, description)
    log: Log | None = None
    try:
        identity = yield from read_identity(fs, directory, OWNER)
        if identity is not None:
            check_identity(
                directory, identity, node_id=wanted.node_id, cluster_id=wanted.cluster_id
            )
        names = yield from _tidy(fs, directory)
        table = KeyValueTable()
        snapshots, start_offset = yield from _load_snapshot(fs, directory, table)
        if identity is None and not snapshots and JOURNAL_NAME not in names:
            identity = Identity(wanted.cluster_id or wanted.fresh_cluster_id, wanted.node_id)
            yield from write_identity(fs, directory, OWNER, identity)
        log = yield from _open_journal(wanted)
        replayed_bytes = yield from _replay(log, table, start_offset)
        if identity is None:
            identity = yield from _restore_identity(wanted, table)
    except BaseException:
        if log is not None:
            log.close_files()
        lock.release()
        raise
    return OpenedFolder(directory, lock, identity, log, table, tuple(snapshots), replayed_bytes)


def _tidy(fs: FileSystem, directory: str) -> Job[set[str]]:
    """Remove what a crash left half written; return the names there are."""
    names: list[str] = yield fs.list_directory, (directory,)
    for name in names:
        if name.endswith(TEMPORARY_SUFFIX):
            yield fs.unlink, (f"{directory}/{name}",)
    return set(names)


def _load_snapshot(
    fs: FileSystem, directory: str, table: KeyValueTable
) -> Job[tuple[list[SnapshotName], int]]:
    """Fill the table from the newest snapshot that is whole.

    Returns the snapshots there are, newest first, and the journal offset to go on from.
    """
    snapshots = yield from list_snapshots(fs, directory)
    while snapshots:
        newest = snapshots[0]
        stored = yield from read_snapshot(fs, directory, OWNER, newest)
        if stored is not None:
            table.load(newest.revision, stored.entries)
            return snapshots, newest.journal_offset
        logger.error("%s/%s is damaged; using the one before it", directory, newest)
        yield from quarantine_snapshot(fs, directory, newest)
        del snapshots[0]
    return [], 0


def _open_journal(wanted: FolderToOpen) -> Job[Log]:
    log = yield from open_log_job(
        wanted.fs,
        f"{wanted.directory}/{JOURNAL_NAME}",
        topic_partition=JOURNAL_PARTITION,
        topic_name=JOURNAL_TOPIC_NAME,
        config=JOURNAL_CONFIG,
        durability=Durability.FSYNC,
        settings=JOURNAL_SETTINGS,
        cache=SegmentCache(JOURNAL_FILES_MAX),
        summary=None,
        now_ms=wanted.now_ms,
    )
    if log.recovery.bytes_truncated:
        logger.warning(
            "%s: cut %d bytes of an unfinished commit off the journal (%s)",
            wanted.directory,
            log.recovery.bytes_truncated,
            log.recovery.fault,
        )
    return log


def _replay(log: Log, table: KeyValueTable, start_offset: int) -> Job[int]:
    """Apply the journal from an offset on; return how many bytes that were."""
    if not log.log_start_offset <= start_offset <= log.log_end_offset:
        raise CorruptMetadata(
            f"{log.directory} has offsets {log.log_start_offset} to {log.log_end_offset}, but the "
            f"newest snapshot that is whole ends at {start_offset}"
        )
    offset, replayed_bytes = start_offset, 0
    end = log.log_end_offset
    while offset < end:
        plan = log.locate(offset, max_bytes=_REPLAY_BYTES, upper_offset=end)
        assert plan is not None, "the offset is within the log"
        buffers = yield from log.read_job(plan)
        before = offset
        for buffer in buffers:
            for header, batch in iterate_batches(buffer):
                if header.base_offset != offset:
                    raise CorruptMetadata(
                        f"{log.directory}: a batch at offset {header.base_offset}, not {offset}"
                    )
                revision = decode_revision(batch)
                if revision.number != table.revision + 1:
                    raise CorruptMetadata(
                        f"{log.directory}: revision {revision.number} at offset {offset} follows "
                        f"revision {table.revision}"
                    )
                table.apply(revision.operations)
                offset = header.base_offset + header.last_offset_delta + 1
                replayed_bytes += header.size_bytes
        if offset == before:
            raise CorruptMetadata(f"{log.directory}: no batch at offset {offset}")
    return replayed_bytes


def _restore_identity(wanted: FolderToOpen, table: KeyValueTable) -> Job[Identity]:
    """Write the lost identity of a folder again, as far as its content tells."""
    entry = table.get(CLUSTER_KEY)
    if entry is not None:
        cluster_id = decode_record(ClusterRecord, entry.key, entry.value).cluster_id
    elif table.revision == 0:
        cluster_id = wanted.cluster_id or wanted.fresh_cluster_id
    else:
        raise CorruptMetadata(f"{wanted.directory} does not say which cluster it belongs to")
    identity = Identity(cluster_id, wanted.node_id)
    check_identity(wanted.directory, identity, node_id=wanted.node_id, cluster_id=wanted.cluster_id)
    logger.error(
        "%s had lost its identity file; taking it for that of node %d in cluster %s",
        wanted.directory,
        identity.node_id,
        identity.cluster_id,
    )
    yield from write_identity(wanted.fs, wanted.directory, OWNER, identity)
    return identity
