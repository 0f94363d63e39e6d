"""The embedded metadata store: a folder of this broker, journalled and with snapshots.

A commit is a journal append with fsync; the table in memory changes only afterwards, so whatever
is read here is durable. The folder, how it is opened and what is done about damage are in
`embedded_folder`. Opened by `trio_broker.broker.controller`, which also runs the lane: no task is
started here.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import TYPE_CHECKING

import trio
from attrs import frozen

from trio_broker.cluster.embedded_folder import OWNER, FolderToOpen, OpenedFolder, open_folder
from trio_broker.cluster.identity import Identity, new_cluster_id
from trio_broker.cluster.journal import encode_revision
from trio_broker.cluster.snapshots import (
    CONTENT_BYTES_MAX,
    ENTRY_OVERHEAD_BYTES,
    SNAPSHOTS_KEPT,
    SnapshotName,
    remove_snapshots,
    write_snapshot,
)
from trio_broker.cluster.store import OutcomeUnknown, RevisionsGone, StoreUnavailable
from trio_broker.cluster.table import check_limits
from trio_broker.errors import StorageError, StuckIO, SyncFailed
from trio_broker.metadata.transaction import (
    Committed,
    Conflict,
    Operation,
    Put,
    Revision,
    Snapshot,
    Transaction,
)
from trio_broker.records.batch import read_header
from trio_broker.storage.log import Accepted, BatchToAppend

if TYPE_CHECKING:
    from trio_broker.host.interface import Host, Lane

logger = logging.getLogger("trio_broker.cluster")

#: A snapshot is due after this many bytes of journal, or as many as the table has if that is more.
SNAPSHOT_AFTER_BYTES = 1024 * 1024
#: After a failure to write one, the next attempt comes after this many bytes more.
TIDY_AGAIN_BYTES = 64 * 1024


@frozen
class EmbeddedStoreStatistics:
    """What an embedded store is like now.

    Attributes:
        revision: of the last commit.
        keys: how many there are.
        table_bytes: keys and values together.
        journal_bytes: size of the journal on disk.
        journal_bytes_since_snapshot: what a start would have to replay.
        failure: why nothing can be committed any more; empty while all is well.
        tidy_failure: why the last snapshot or recovery point was not written; empty if it was.
    """

    revision: int
    keys: int
    table_bytes: int
    journal_bytes: int
    journal_bytes_since_snapshot: int
    failure: str
    tidy_failure: str


class EmbeddedStore:
    """A `MetadataStore` in a folder. Made by `open_embedded_store`.

    Attributes:
        identity: whose folder it is.
    """

    def __init__(self, host: Host, lane: Lane, folder: OpenedFolder) -> None:
        self.identity: Identity = folder.identity
        self._fs = host.fs
        self._wall = host.wall
        self._lane = lane
        self._directory = folder.directory
        self._log = folder.log
        self._table = folder.table
        self._snapshots = list(folder.snapshots)
        self._journalled_bytes = folder.replayed_bytes
        self._committing = trio.Lock()
        self._changed = trio.Event()
        self._failure = ""
        self._tidy_failure = ""
        self._appended_bytes = 0
        self._tidy_again_at_bytes = 0
        self._must_cut = True  # an earlier life may have left something to cut
        self._is_closed = False

    def __repr__(self) -> str:
        state = (
            " closed" if self._is_closed else f" failed: {self._failure}" if self._failure else ""
        )
        return f"<EmbeddedStore {self._directory} revision={self._table.revision}{state}>"

    def statistics(self) -> EmbeddedStoreStatistics:
        """Return a picture of the moment."""
        return EmbeddedStoreStatistics(
            revision=self._table.revision,
            keys=len(self._table),
            table_bytes=self._table.size_bytes,
            journal_bytes=self._log.size_bytes,
            journal_bytes_since_snapshot=self._journalled_bytes,
            failure=self._failure,
            tidy_failure=self._tidy_failure,
        )

    async def snapshot(self, prefix: str = "") -> Snapshot:
        """See `MetadataStore.snapshot`; here it never waits for a disk."""
        await trio.lowlevel.checkpoint()
        self._check_open()
        return self._table.snapshot(prefix)

    async def commit(self, transaction: Transaction) -> Committed | Conflict:
        """See `MetadataStore.commit`.

        After a failed fsync or a hung disk every later commit raises `StoreUnavailable` until the
        folder is opened anew, since what is on disk is not known.
        """
        check_limits(transaction)
        async with self._committing:
            self._check_usable()
            await self._tidy_journal()
            self._check_usable()
            conflict = self._table.conflict(transaction.guards)
            if conflict is not None:
                return conflict
            operations = self._table.effective(transaction.operations)
            if not operations:
                return Committed(Revision(self._table.revision, ()))
            self._check_room(operations)
            await self._append(Revision(self._table.revision + 1, operations))
            revision = self._table.apply(operations)
        self._changed.set()
        self._changed = trio.Event()
        return Committed(revision)

    def watch(
        self, from_revision: int, prefix: str = ""
    ) -> AbstractAsyncContextManager[AsyncIterator[Revision]]:
        """See `MetadataStore.watch`; revisions from before the last start are partly kept."""
        return nullcontext(_Watch(self, from_revision, prefix))

    async def wait_revision_after(self, number: int) -> Revision:
        """Wait for revision `number` + 1 and return it.

        Raises:
            RevisionsGone: it is no longer kept.
            StoreUnavailable: the store was closed.
        """
        while True:
            await trio.lowlevel.checkpoint_if_cancelled()
            self._check_open()
            try:
                revision = self._table.revision_after(number)
            except LookupError as error:
                raise RevisionsGone(str(error)) from error
            if revision is not None:
                await trio.lowlevel.cancel_shielded_checkpoint()
                return revision
            await self._changed.wait()

    def close(self) -> None:
        """Close the journal. Every later call raises `StoreUnavailable`; waiting watchers wake.

        There is nothing to write: whatever was committed is durable, and a start that scans what
        came after the last recovery point takes milliseconds.
        """
        self._is_closed = True
        self._changed.set()
        self._log.close_files()

    async def _append(self, revision: Revision) -> None:
        """Make a revision durable in the journal.

        Raises:
            StoreUnavailable: it was refused and is not there.
            OutcomeUnknown: it may be there; the store has failed.
        """
        log = self._log
        batch = encode_revision(revision, self._wall.now_ms())
        header = read_header(batch)
        plan = log.plan_append(
            [BatchToAppend(batch, header)], now_ms=self._wall.now_ms(), leader_epoch=0
        )
        assert all(isinstance(outcome, Accepted) for outcome in plan.outcomes)
        failure: StorageError | OSError | None = None
        is_stored = False
        try:
            await self._lane.run(log.append_job(plan, sync=True))
            is_stored = True
        except (StorageError, OSError) as error:
            failure = error
        finally:
            if is_stored:
                log.publish(plan, synced=True)
                self._journalled_bytes += header.size_bytes
                self._appended_bytes += header.size_bytes
            else:
                log.abandon(plan)
        if failure is None:
            return
        if log.is_broken:
            self._fail(failure)
            raise OutcomeUnknown(self._failure) from failure
        raise StoreUnavailable(f"the metadata journal: {failure}") from failure

    def _check_room(self, operations: tuple[Operation, ...]) -> None:
        """Refuse to grow beyond what a snapshot holds; what makes the store smaller always may."""
        growth = 0
        for operation in operations:
            before = self._table.get(operation.key)
            if before is not None:
                growth -= _room_of(before.key, before.value)
            if isinstance(operation, Put):
                growth += _room_of(operation.key, operation.value)
        used = self._table.size_bytes + ENTRY_OVERHEAD_BYTES * len(self._table)
        if growth > 0 and used + growth > CONTENT_BYTES_MAX:
            raise StoreUnavailable(
                f"the metadata store is full: {used} of {CONTENT_BYTES_MAX} bytes are taken"
            )

    async def _tidy_journal(self) -> None:
        """Write a snapshot and cut the journal, or a recovery point, if there is enough of it.

        Failing is no reason to refuse a commit: the journal has everything. The next attempt
        comes after some more of it.
        """
        if self._appended_bytes < self._tidy_again_at_bytes:
            return
        try:
            if self._journalled_bytes >= max(SNAPSHOT_AFTER_BYTES, self._table.size_bytes):
                await self._write_snapshot()
            if self._must_cut:
                await self._cut_journal()
            elif self._log.checkpoint_due:
                self._log.mark_checkpointed(await self._lane.run(self._log.checkpoint_job()))
        except (SyncFailed, StuckIO) as error:
            # Of whichever file: this disk is not to be trusted with a commit any more.
            self._log.mark_broken()
            self._fail(error)
        except (StorageError, OSError) as error:
            self._tidy_failure = str(error)
            self._tidy_again_at_bytes = self._appended_bytes + TIDY_AGAIN_BYTES
            logger.warning("%s: no snapshot or recovery point: %s", self._directory, error)
        else:
            self._tidy_failure = ""

    async def _write_snapshot(self) -> None:
        name = SnapshotName(self._table.revision, self._log.log_end_offset)
        entries = self._table.entries()
        failure: SyncFailed | None = None
        try:
            await self._lane.run(write_snapshot(self._fs, self._directory, OWNER, name, entries))
        except SyncFailed as error:
            failure = error
        if failure is not None:
            # Only this file is in doubt, and nothing depends on it yet.
            await self._lane.run(remove_snapshots(self._fs, self._directory, [name]))
            raise StorageError(f"snapshot {name}: {failure}") from failure
        self._snapshots.insert(0, name)
        self._journalled_bytes = 0
        self._must_cut = True

    async def _cut_journal(self) -> None:
        """Drop what is older than the last snapshot but one. Tried again until it succeeds."""
        log, now_ms = self._log, self._wall.now_ms()
        old = self._snapshots[SNAPSHOTS_KEPT:]
        if old:
            await self._lane.run(remove_snapshots(self._fs, self._directory, old))
            del self._snapshots[SNAPSHOTS_KEPT:]
        if len(self._snapshots) == SNAPSHOTS_KEPT:
            log.advance_start_offset(self._snapshots[-1].journal_offset)
        plan = log.plan_deletion(now_ms)
        if plan is not None:
            log.publish_deletion(await self._lane.run(log.delete_segments_job(plan)), now_ms)
        elif log.checkpoint_due:
            log.mark_checkpointed(await self._lane.run(log.checkpoint_job()))
        self._must_cut = False
        unlinking = log.unlink_deleted_job(now_ms)
        if unlinking is not None and (unlinked := await self._lane.run(unlinking)).refused:
            logger.warning("%s: %s", self._directory, unlinked)

    def _fail(self, error: Exception) -> None:
        """Commit nothing any more: what is on disk is not known."""
        self._failure = f"the metadata store has failed: {error}"
        logger.error("%s: %s", self._directory, self._failure)

    def _check_usable(self) -> None:
        self._check_open()
        if self._failure:
            raise StoreUnavailable(self._failure)

    def _check_open(self) -> None:
        if self._is_closed:
            raise StoreUnavailable("the metadata store is closed")


def _room_of(key: str, value: bytes) -> int:
    return len(key) + len(value) + ENTRY_OVERHEAD_BYTES


class _Watch:
    """An iteration over revisions; see `EmbeddedStore.watch`."""

    def __init__(self, store: EmbeddedStore, from_revision: int, prefix: str) -> None:
        self._store = store
        self._seen = from_revision - 1
        self._prefix = prefix

    def __aiter__(self) -> AsyncIterator[Revision]:
        return self

    async def __anext__(self) -> Revision:
        while True:
            revision = await self._store.wait_revision_after(self._seen)
            self._seen = revision.number
            operations = tuple(
                operation
                for operation in revision.operations
                if operation.key.startswith(self._prefix)
            )
            if operations:
                return Revision(revision.number, operations)


@asynccontextmanager
async def open_embedded_store(
    host: Host, lane: Lane, directory: str, *, node_id: int, cluster_id: str | None = None
) -> AsyncIterator[EmbeddedStore]:
    """Open the store in `directory` for the length of a block, making it if it is missing.

    Args:
        host: the machine.
        lane: for all disk work of this store; being served by the caller, and used by nobody else.
        directory: of this store alone.
        node_id: whose it must be.
        cluster_id: what it must belong to; None: whatever it says, a fresh id if it is new.

    Raises:
        ConfigError: it belongs to another node or cluster.
        LogDirInUse: somebody else has it open.
        FormatTooNew: a newer version of this package wrote in it.
        CorruptMetadata, CorruptLog: something that had been committed is missing or damaged.
        SyncFailed, AppendFailed, StuckIO, OSError: the disk refused.
    """
    wanted = FolderToOpen(
        fs=host.fs,
        directory=directory,
        node_id=node_id,
        cluster_id=cluster_id,
        fresh_cluster_id=new_cluster_id(host.entropy.uuid),
        now_ms=host.wall.now_ms(),
    )
    folder = await lane.run(open_folder(wanted))
    store = EmbeddedStore(host, lane, folder)
    try:
        yield store
    finally:
        store.close()
        folder.lock.release()
