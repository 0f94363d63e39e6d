"""A log's state, and what keeps it in order: flush, checkpoint, sealing, closing.

The base of `LogRetention` and `Log`, which add deletion, appending and reading; nobody else uses
it. The pattern is the same everywhere: a plan or a mark made synchronously, a job that sees nothing
else, and a synchronous method that takes over its result. All of it on the event loop, except the
jobs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from attrs import frozen

from trio_broker.config import Durability
from trio_broker.host import jobs
from trio_broker.records.batch import NO_TIMESTAMP
from trio_broker.replication.leader_epochs import LeaderEpochCache
from trio_broker.replication.producer_state import ProducerStateTable
from trio_broker.storage import maintenance
from trio_broker.storage.checkpoint import (
    SUMMARY_PRODUCER_BYTES_MAX,
    SUMMARY_SEGMENTS_MAX,
    LogState,
    LogSummary,
)
from trio_broker.storage.doomed import DoomedFiles
from trio_broker.storage.files import noting_failed_sync
from trio_broker.storage.maintenance import CheckpointPlan, FlushPlan
from trio_broker.storage.segment import LogPoint, Segment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_broker.config import LimitsConfig, StorageConfig, TopicConfig
    from trio_broker.host.interface import Job
    from trio_broker.names import TopicPartition
    from trio_broker.storage.append import AppendPlan
    from trio_broker.storage.files import ReplicaFiles
    from trio_broker.storage.handles import SegmentCache
    from trio_broker.storage.recovery import RecoveryReport
    from trio_broker.storage.segments import SegmentRow

T = TypeVar("T")

#: With more bytes than these since its checkpoint, a log that is closed in order writes one.
CLOSE_CHECKPOINT_BYTES = 1024 * 1024
#: Snapshots of producer state kept: the newest, and one in case that is damaged.
_SNAPSHOTS_KEPT = 2


@frozen(kw_only=True)
class LogSettings:
    """What all logs of a broker have in common.

    Attributes:
        producer_ids_max: idempotent producers remembered per log.
        producer_id_expiration_ms: forget one this long after its last batch.
        recovery_point_bytes: a checkpoint is due after this many bytes.
    """

    producer_ids_max: int
    producer_id_expiration_ms: int
    recovery_point_bytes: int

    @classmethod
    def from_config(cls, limits: LimitsConfig, storage: StorageConfig) -> LogSettings:
        """Take them from a broker's configuration."""
        return cls(
            producer_ids_max=limits.producer_ids_per_partition_max,
            producer_id_expiration_ms=limits.producer_id_expiration_ms,
            recovery_point_bytes=storage.recovery_point_bytes,
        )


class LogUpkeep:
    """State and upkeep of one replica's log.

    Attributes:
        topic_partition: whose log it is.
        config: of the topic; may be replaced at any time.
        durability: what acknowledgements of this topic mean; may be replaced at any time.
        producers: state of idempotent producers.
        epochs: which leader epoch wrote which offsets.
        recovery: what opening it found.
        clean_summary: set by `close_job`: what the log dir's clean marker says about this log.
        last_unlinked: the same: what became of the files of deleted segments.
    """

    __slots__ = (
        "_appending",
        "_cache",
        "_checkpointed_bytes",
        "_doomed",
        "_files",
        "_flush",
        "_has_failed_sync",
        "_has_removed_names",
        "_is_broken",
        "_is_closed",
        "_log_start_offset",
        "_must_checkpoint",
        "_row",
        "_settings",
        "_since_flush_began",
        "_snapshot_offsets",
        "_stray_bases",
        "_unflushed_since",
        "clean_summary",
        "last_unlinked",
        "config",
        "durability",
        "epochs",
        "producers",
        "recovery",
        "topic_partition",
    )

    def __init__(
        self,
        files: ReplicaFiles,
        topic_partition: TopicPartition,
        *,
        row: SegmentRow,
        log_start_offset: int,
        producers: ProducerStateTable,
        epochs: LeaderEpochCache,
        config: TopicConfig,
        durability: Durability,
        settings: LogSettings,
        cache: SegmentCache,
        recovery: RecoveryReport,
        unchecked_bytes: int,
        snapshot_offsets: Sequence[int],
    ) -> None:
        self.topic_partition = topic_partition
        self.config = config
        self.durability = durability
        self.producers = producers
        self.epochs = epochs
        self.recovery = recovery
        self.clean_summary: LogSummary | None = None
        self.last_unlinked = maintenance.NOTHING_UNLINKED
        self._files = files
        self._row = row
        self._cache = cache
        self._settings = settings
        self._log_start_offset = log_start_offset
        self._is_broken = False
        self._has_failed_sync = False
        self._is_closed = False
        self._appending: AppendPlan | None = None
        self._flush: FlushPlan | None = None
        self._unflushed_since: float | None = None
        self._since_flush_began: float | None = None
        self._checkpointed_bytes = -unchecked_bytes
        self._must_checkpoint = False
        self._has_removed_names = False  # since the directory was last synced
        self._snapshot_offsets = list(snapshot_offsets)
        self._doomed = DoomedFiles()
        self._stray_bases: list[int] = []  # of files made by appends that failed

    def __repr__(self) -> str:
        state = " broken" if self._is_broken else " closed" if self._is_closed else ""
        return (
            f"<Log {self.topic_partition} {self._log_start_offset}..{self.log_end_offset}"
            f" {self.size_bytes} B in {self.segment_count} segments{state}>"
        )

    @property
    def directory(self) -> str:
        """The replica's directory."""
        return self._files.directory

    @property
    def owner(self) -> str:
        """Under what its files are in the handle ledger."""
        return self._files.owner

    @property
    def log_start_offset(self) -> int:
        """First offset that may be read."""
        return self._log_start_offset

    @property
    def log_end_offset(self) -> int:
        """Offset of the next record; all below are published."""
        return self._row.end_offset

    @property
    def durable_offset(self) -> int:
        """All offsets below are on stable storage."""
        return self._row.durable_end.offset

    @property
    def size_bytes(self) -> int:
        """Bytes of all segments."""
        return self._row.size_bytes

    @property
    def disk_bytes(self) -> int:
        """Bytes of all segments, and of deleted ones whose space is not given back yet."""
        return self._row.size_bytes + self._doomed.size_bytes

    @property
    def deleted_bytes(self) -> int:
        """Bytes of deleted segments whose space is not given back yet."""
        return self._doomed.size_bytes

    @property
    def segments(self) -> Sequence[Segment]:
        """The segments, oldest first; to be looked at only."""
        return self._row.all

    @property
    def sealed_count(self) -> int:
        """How many of the segments are never written again."""
        return len(self._row) - (self._row.active is not None)

    @property
    def segment_count(self) -> int:
        """Number of segments; a log that was never written to has none."""
        return len(self._row)

    @property
    def max_timestamp(self) -> int:
        """Largest timestamp in the log, -1 if it is empty."""
        return max((s.max_timestamp for s in self._row.all), default=NO_TIMESTAMP)

    @property
    def unflushed_bytes(self) -> int:
        """Published bytes that are not known to be durable."""
        return self._row.unsynced_bytes

    @property
    def unflushed_since(self) -> float | None:
        """When (Trio time) the oldest unflushed bytes were published, None if there are none."""
        return self._unflushed_since

    @property
    def is_broken(self) -> bool:
        """Whether what is on disk is unknown: appends are refused until sealed or reopened."""
        return self._is_broken

    @property
    def has_failed_sync(self) -> bool:
        """Whether it is broken because an fsync failed, or was given up.

        What its files show then need not be on the disk, and syncing once more means nothing.
        """
        return self._has_failed_sync

    @property
    def is_durable(self) -> bool:
        """Whether everything published is on stable storage, names of files included."""
        return self._row.durable is None

    @property
    def checkpoint_due(self) -> bool:
        """Whether `checkpoint_job` should run: enough written, a roll, or a new start offset."""
        since_bytes = self._row.appended_bytes - self._checkpointed_bytes
        return self._must_checkpoint or since_bytes >= self._settings.recovery_point_bytes

    def mark_broken(self) -> None:
        """Refuse appends from now on: what is on disk is unknown (a failed fsync, a stuck call)."""
        self._is_broken = self._has_failed_sync = True

    def _noting_failed_sync(self, job: Job[T]) -> Job[T]:
        all_durable = self._row.durable is None
        return noting_failed_sync(self._files, job, all_durable=all_durable)

    # Flushing.

    def _plan_flush(self) -> FlushPlan:
        row = self._row
        return FlushPlan(
            self._files,
            row.end,
            row.appended_bytes,
            [(segment, self._cache.file_of(segment)) for segment in row.unsynced()],
            row.names_unsynced,
        )

    def flush_job(self) -> Job[None]:
        """Make everything published until now durable; on success call `mark_flushed`.

        Raises:
            SyncFailed: it is not, and must not be tried again: call `mark_broken`.
            OSError: a file could not be opened; it may be tried again.
        """
        self._flush = self._plan_flush()
        self._since_flush_began = None
        return self._noting_failed_sync(maintenance.flush_job(self._flush))

    def mark_flushed(self, end_offset: int) -> None:
        """Take note that the last `flush_job` succeeded.

        Args:
            end_offset: the log end offset when that job was made.
        """
        if self._flush is not None and self._flush.end.offset == end_offset:
            self._take_flush(self._flush)
        self._flush = None

    def _take_flush(self, plan: FlushPlan) -> None:
        row = self._row
        if row.durable is None or row.durable.offset >= plan.end.offset:
            return
        for segment, _ in plan.segments:
            segment.holds_unsynced = False
        if plan.end.offset == row.end_offset:
            row.all_durable()
            self._unflushed_since = None
        else:
            row.durable, row.durable_bytes = plan.end, plan.appended_bytes
            self._unflushed_since = self._since_flush_began
            for segment in row.unsynced():
                segment.holds_unsynced = self.durability is Durability.INTERVAL

    # Checkpoints.

    def checkpoint_job(self) -> Job[CheckpointPlan]:
        """Flush, and write down where recovery may begin; hand the result to `mark_checkpointed`.

        Raises:
            SyncFailed: as for `flush_job`.
            AppendFailed: there was no room; the old checkpoint stands.
            OSError: a file could not be made; the old checkpoint stands.
        """
        self._since_flush_began = None
        plan = self._plan_checkpoint(self._plan_flush(), self._log_start_offset, 0, None)
        return self._noting_failed_sync(maintenance.checkpoint_job(plan))

    def _plan_checkpoint(
        self, flush: FlushPlan, log_start_offset: int, skipped: int, added: Segment | None
    ) -> CheckpointPlan:
        """Plan the checkpoint of this log without its oldest segments and with a new one."""
        segments = [*self._row.all[skipped:], *([added] if added is not None else [])]
        end = flush.end if added is None else LogPoint(added.base_offset, added.base_offset, 0)
        producers = self.producers.to_bytes() if len(self.producers) else None
        state = LogState(
            log_start_offset,
            end,
            tuple(segment.facts for segment in segments),
            self.epochs.to_bytes(),
            producers is not None,
        )
        indexes = [
            (
                segment.base_offset,
                segment.size_bytes,
                segment.index.to_payloads(segment.base_offset),
            )
            for segment in segments
            if segment.index is not None and segment.indexed_bytes < segment.size_bytes
        ]
        complete = [
            (segment.base_offset, segment.size_bytes)
            for segment in segments
            if segment.may_have_room and segment is not self._row.active
        ]
        snapshots = sorted({*self._snapshot_offsets, end.offset})
        old_snapshots = snapshots[:-_SNAPSHOTS_KEPT]
        return CheckpointPlan(flush, state, producers, indexes, complete, old_snapshots)

    def mark_checkpointed(self, plan: CheckpointPlan) -> None:
        """Take over what `checkpoint_job` returned."""
        self._take_flush(plan.flush)
        self._checkpointed_bytes = plan.flush.appended_bytes
        self._has_removed_names = False
        written = {base_offset: size_bytes for base_offset, size_bytes, _ in plan.indexes}
        for segment in self._row.all:
            segment.indexed_bytes = written.get(segment.base_offset, segment.indexed_bytes)
            if segment.may_have_room and (segment.base_offset, segment.size_bytes) in plan.complete:
                segment.may_have_room = False
        written_segments = plan.state.segments
        has_rolled = (
            bool(written_segments)
            and len(self._row) > 0
            and written_segments[-1].base_offset != self._row.all[-1].base_offset
        )
        self._must_checkpoint = has_rolled or plan.state.log_start_offset != self._log_start_offset
        kept = [o for o in self._snapshot_offsets if o not in plan.old_snapshots]
        if plan.producers is not None and plan.state.end.offset not in kept:
            kept.append(plan.state.end.offset)
        self._snapshot_offsets = kept

    # After a failed fsync.

    def seal_at_durable_job(self) -> Job[None]:
        """Cut the log back to its durable offset, to go on in a new segment; then `apply_seal`.

        For a log that is broken because an fsync failed, once its disk works again. In durability
        `fsync` nothing above that offset was ever acknowledged. In the other modes it was: whoever
        runs this accepts the loss.

        Raises:
            CorruptLog: what was durable is not there any more.
            SyncFailed, AppendFailed, OSError: the disk does not work; the log stays broken.
        """
        row = self._row
        for segment in reversed(row.all):
            self._cache.close_file(segment)  # tainted, or about to be cut
        end = row.durable_end
        kept = [segment for segment in row.all if segment.base_offset < end.offset]
        flush = FlushPlan(self._files, end, row.appended_bytes, [], must_sync_names=False)
        plan = self._plan_checkpoint(flush, self._log_start_offset, 0, None)
        facts = [segment.facts for segment in kept]
        if facts and facts[-1].base_offset == end.segment_base:
            facts[-1] = facts[-1]._replace(size_bytes=end.position)
        producers = ProducerStateTable.from_bytes(
            self.producers.to_bytes(),
            producer_ids_max=self._settings.producer_ids_max,
            expiration_ms=self._settings.producer_id_expiration_ms,
        )
        producers.truncate_to(end.offset)
        epochs = LeaderEpochCache.from_bytes(self.epochs.to_bytes())
        epochs.truncate_from_end(end.offset)
        state = plan.state._replace(
            segments=tuple(facts), epochs=epochs.to_bytes(), has_producers=len(producers) > 0
        )
        doomed = [segment.base_offset for segment in row.all[len(kept) :]]
        doomed += [base for base in self._stray_bases if base not in doomed]
        names = [segment.base_offset for segment in kept[-1:]] + doomed
        snapshot = producers.to_bytes() if len(producers) else None
        plan = plan._replace(state=state, producers=snapshot, indexes=())
        return self._noting_failed_sync(maintenance.seal_job(plan, doomed, names))

    def apply_seal(self) -> None:
        """Take over what `seal_at_durable_job` did; the log works again."""
        row = self._row
        end = row.durable_end
        self.producers.truncate_to(end.offset)
        self.epochs.truncate_from_end(end.offset)
        for segment in row.cut(end):
            self._cache.forget(segment)
        if row.all:
            last = row.all[-1]
            last.indexed_bytes = 0
            last.holds_unsynced = False
            self._cache.drop_index(last)
        self._checkpointed_bytes = row.appended_bytes
        self._unflushed_since = self._since_flush_began = None
        self._stray_bases.clear()
        self._is_broken = self._has_failed_sync = False

    # The end.

    def close_job(self) -> Job[None]:
        """Make everything durable and set `clean_summary`; then call `close_files`.

        There is no summary where files of deleted segments could not be removed.

        No append may be under way or come after. A broken log is only flushed, see
        `flush_unsound_job`.

        Raises:
            SyncFailed, AppendFailed, OSError: there is no summary.
            StorageError: see `flush_unsound_job`.
        """
        if self._is_closed:
            return maintenance.nothing_job()
        if self._is_broken:
            return self.flush_unsound_job()
        flush = self._plan_flush()
        checkpoint = self._plan_checkpoint(flush, self._log_start_offset, 0, None)
        state, producers = checkpoint.state, checkpoint.producers
        unchecked_bytes = self._row.appended_bytes - self._checkpointed_bytes
        is_small = len(state.segments) <= SUMMARY_SEGMENTS_MAX and (
            producers is None or len(producers) <= SUMMARY_PRODUCER_BYTES_MAX
        )
        must_checkpoint = (
            self._must_checkpoint
            or unchecked_bytes > CLOSE_CHECKPOINT_BYTES
            or (unchecked_bytes > 0 and not is_small)
        )
        if must_checkpoint:
            unchecked_bytes = 0
        summary_state = None
        if is_small:
            summary_state = state._replace(producers=producers, unchecked_bytes=unchecked_bytes)
        closing = self._close(
            checkpoint if must_checkpoint else None,
            flush,
            self._doomed.paths,
            LogSummary(state.end.offset, summary_state),
            must_sync_names=self._has_removed_names,
        )
        return self._noting_failed_sync(closing)

    def flush_unsound_job(self) -> Job[None]:
        """Make durable what was published, of a log that something is wrong with.

        It gets no summary, and so is recovered by the next start.

        Raises:
            SyncFailed, OSError: some of it may not be durable.
            StorageError: the same, because an fsync has failed before. That is never tried again.
        """
        if self._is_closed or self.is_durable:
            return maintenance.nothing_job()
        flush = maintenance.flush_unsound_job(
            self._plan_flush(), after_failed_sync=self._has_failed_sync
        )
        return self._noting_failed_sync(flush)

    def _close(
        self,
        checkpoint: CheckpointPlan | None,
        flush: FlushPlan,
        doomed: list[str],
        summary: LogSummary,
        *,
        must_sync_names: bool,
    ) -> Job[None]:
        if checkpoint is not None:
            yield from maintenance.checkpoint_job(checkpoint)
        else:
            yield from maintenance.flush_job(flush)
        unlinked = yield from maintenance.unlink_job(self._files, doomed)
        if unlinked.removed or must_sync_names:
            # The next start believes the summary and does not look for files that had gone, and
            # that a power cut has brought back.
            yield from jobs.sync_directory(self._files.fs, self._files.directory)
        # What a job tells a log that nobody uses any more.
        self.last_unlinked = unlinked
        # Without a summary the next start looks into the directory, and removes what is left there.
        self.clean_summary = summary if not unlinked.refused else None

    def close_files(self) -> None:
        """Close every file, newest first, and refuse everything from now on. Idempotent."""
        self._is_closed = True
        self._cache.take_offers()
        for segment in reversed(self._row.all):
            self._cache.forget(segment)
