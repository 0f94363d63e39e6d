"""What a log does about its age and size: deletion, giving space back, sealing when idle.

Between `LogUpkeep` and `Log`; nobody else uses it. The decisions are `storage.retention`'s, the
pattern is that of all of them: plan, job, publish.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_broker.storage import maintenance
from trio_broker.storage.index import SegmentIndex
from trio_broker.storage.maintenance import DeletionPlan, Unlinked
from trio_broker.storage.retention import deletion_reasons, expiry_ms
from trio_broker.storage.segment import Segment
from trio_broker.storage.upkeep import LogUpkeep

if TYPE_CHECKING:
    from trio_broker.host.interface import Job
    from trio_broker.storage.retention import DeletionReason

#: Producers that have expired are looked for this often in a log that nobody writes to.
_PRODUCERS_LOOK_MS = 60 * 60 * 1000


class LogRetention(LogUpkeep):
    """A log whose segments can be deleted."""

    __slots__ = ()

    def advance_start_offset(self, offset: int) -> None:
        """Stop serving everything below `offset` (DeleteRecords); never goes back.

        Durable with the next checkpoint, which is due from now on. The space is given back by
        retention.
        """
        assert offset <= self.log_end_offset
        if offset > self._log_start_offset:
            self._log_start_offset = offset
            self.epochs.truncate_from_start(offset)
            self._must_checkpoint = True

    def next_deletion_ms(self, now_ms: int, *, upper_offset: int | None = None) -> int | None:
        """Return the wall clock at which age takes away the oldest segment, None if it never will.

        As far as is known now: an append to that segment puts it off.
        """
        return expiry_ms(
            self._row.all,
            retention_ms=self.config.retention_ms,
            upper_offset=self.log_end_offset if upper_offset is None else upper_offset,
            now_ms=now_ms,
        )

    def upkeep_due_ms(self, now_ms: int, *, upper_offset: int | None = None) -> int | None:
        """Return the wall clock at which upkeep has something to do, None if never without a write.

        That is a deletion, giving back the space of an earlier one, sealing an idle segment, or
        forgetting producers. A time that is not after `now_ms` means now.
        """
        if self._is_broken or self._is_closed:
            return None
        row = self._row
        dues = [
            self.next_deletion_ms(now_ms, upper_offset=upper_offset),
            self._doomed.due_ms(self.config.file_delete_delay_ms, now_ms),
        ]
        if row.active is not None and row.active.size_bytes:
            dues.append(row.active.modified_ms + self.config.segment_ms + 1)
        if len(self.producers):
            expiration_ms = self._settings.producer_id_expiration_ms
            dues.append(now_ms + min(_PRODUCERS_LOOK_MS, expiration_ms))
        if self._deletion_reasons(now_ms, upper_offset, 0):
            dues.append(now_ms)
        return min((due for due in dues if due is not None), default=None)

    def _deletion_reasons(
        self, now_ms: int, upper_offset: int | None, giving_way: int
    ) -> list[DeletionReason]:
        return deletion_reasons(
            self._row.all,
            size_bytes=self._row.size_bytes,
            retention_ms=self.config.retention_ms,
            retention_bytes=self.config.retention_bytes,
            log_start_offset=self._log_start_offset,
            upper_offset=self.log_end_offset if upper_offset is None else upper_offset,
            now_ms=now_ms,
            giving_way=giving_way,
        )

    def plan_deletion(
        self, now_ms: int, *, upper_offset: int | None = None, give_way_offset: int = -1
    ) -> DeletionPlan | None:
        """Decide what retention takes away now; also forgets producers that have expired.

        Args:
            now_ms: wall clock.
            upper_offset: the high watermark if it is not the log end offset.
            give_way_offset: segments that begin at or below it give way to the node budget.

        Returns:
            What to give to `delete_segments_job`, None if there is nothing to do. No append may be
            planned before that has been published or has failed.
        """
        self.producers.expire(now_ms)
        if self._is_broken or self._is_closed or self._appending is not None:
            return None
        segments = self._row.all
        giving_way = self._row.count_to(give_way_offset)
        reasons = self._deletion_reasons(now_ms, upper_offset, giving_way)
        count = len(reasons)
        if not count:
            return None
        created = Segment(self.log_end_offset, now_ms) if count == len(segments) else None
        start_offset = max(self._log_start_offset, segments[count - 1].end_offset)
        doomed = [segment.base_offset for segment in segments[:count]]
        sizes = [segment.size_bytes for segment in segments[:count]]
        return DeletionPlan(
            self._plan_checkpoint(self._plan_flush(), start_offset, count, created),
            doomed,
            created,
            [],
            list(zip(reasons, sizes, strict=True)),
        )

    def delete_segments_job(self, plan: DeletionPlan) -> Job[DeletionPlan]:
        """Take segments out of the log on disk; on success call `publish_deletion`.

        Their files stay under another name until `unlink_deleted_job`.

        Raises:
            SyncFailed: as for `flush_job`.
            AppendFailed, OSError: it could not be written down; all segments are still there.
        """
        return self._noting_failed_sync(maintenance.delete_segments_job(plan))

    def publish_deletion(self, plan: DeletionPlan, now_ms: int) -> None:
        """Take the segments out of the log; its start offset moves up."""
        removed = self._row.remove_oldest(len(plan.base_offsets))
        for segment in removed:
            self._cache.forget(segment)
        if plan.created is not None:
            plan.created.index = SegmentIndex()
            self._row.add(plan.created)
            self._cache.count_index(plan.created)
        size_bytes = sum(segment.size_bytes for segment in removed)
        self._doomed.add(now_ms, plan.deleted_paths, size_bytes)
        self._log_start_offset = max(self._log_start_offset, plan.checkpoint.state.log_start_offset)
        self.epochs.truncate_from_start(self._log_start_offset)
        self.mark_checkpointed(plan.checkpoint)
        self._has_removed_names = True

    def unlink_deleted_job(self, now_ms: int, *, at_once: bool = False) -> Job[Unlinked] | None:
        """Give back the space of segments deleted longer than `file.delete.delay.ms` ago.

        Args:
            now_ms: wall clock.
            at_once: do not wait for that delay: the space is needed.

        Returns:
            A job that returns what it removed, None if nothing is old enough. What it cannot remove
            is left for the next time.
        """
        delay_ms = 0 if at_once else self.config.file_delete_delay_ms
        doomed = self._doomed.take(delay_ms, now_ms)
        if not doomed:
            return None
        self._has_removed_names = True
        return maintenance.unlink_job(self._files, doomed)

    def seal_idle(self, now_ms: int) -> bool:
        """Let the next append begin a new segment if the last one was `segment.ms` ago.

        Appends see to this themselves as long as there are any. Durable with the next checkpoint,
        which is due from now on; until then a restart goes on in the old segment.

        Returns:
            Whether there was an active segment as old as that.
        """
        row = self._row
        active = row.active
        if active is None or not active.size_bytes or self._appending is not None:
            return False
        if self._is_broken or now_ms - active.modified_ms <= self.config.segment_ms:
            return False
        row.active = None
        self._must_checkpoint = True
        if not active.pins and not active.holds_unsynced:
            self._cache.close_file(active)
        return True
