"""A log: one replica's record batches on disk, as a row of segments.

Owned by a replica (or the metadata store). All state changes happen here and synchronously, on the
event loop: planning, publishing, abandoning, taking over what a job found. All disk work happens in
jobs, which the owner runs on a lane and which see only the frozen plan they were given. So between
any two statements of the loop the log is consistent, and a failed job leaves nothing to roll back.

Appending: `plan_append` -> `append_job` on a lane -> `publish`, or `abandon` if it failed or never
ran. One at a time. `flush_job`, `checkpoint_job`, `delete_segments_job` and `seal_at_durable_job`
follow the same pattern. Whoever runs those that change segments makes sure that no append is under
way meanwhile. Reading may go on at any time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_broker.config import INT32_MAX, Durability
from trio_broker.errors import ErrorCode
from trio_broker.records.batch import NO_TIMESTAMP
from trio_broker.storage import append, reading, timestamps
from trio_broker.storage.append import (
    Accepted,
    AppendPlan,
    AppendState,
    BatchToAppend,
    Duplicate,
    Outcome,
    Refused,
)
from trio_broker.storage.index import SegmentIndex
from trio_broker.storage.log_retention import LogRetention
from trio_broker.storage.planning import plan_batches
from trio_broker.storage.reading import ReadPlan
from trio_broker.storage.timestamps import TimestampedOffset, TimestampSearch
from trio_broker.storage.upkeep import LogSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_broker.host.interface import Buffer, Job
    from trio_broker.records.batch import BatchHeader
    from trio_broker.storage.append import SegmentWrite

__all__ = [
    "Accepted",
    "AppendPlan",
    "BatchToAppend",
    "Duplicate",
    "Log",
    "LogSettings",
    "Outcome",
    "ReadPlan",
    "Refused",
    "TimestampedOffset",
]


class Log(LogRetention):
    """One replica's log; made by `recovery.open_log_job`."""

    __slots__ = ()

    # Appending.

    def find_duplicate(self, header: BatchHeader) -> Duplicate | None:
        """Find out whether a retry can be answered without an append.

        Args:
            header: validated, of a batch that has just come in.

        Returns:
            Its answer, if its first copy is published and as durable as acknowledgements of this
            log promise; None if the next append has to decide.
        """
        copy = self.producers.stored_copy(header)
        if copy is None or self._is_broken or self._is_closed:
            return None
        if self.durability is Durability.FSYNC and copy.last_offset >= self.durable_offset:
            return None  # stored while less was promised; a flush is on its way
        return Duplicate(copy.base_offset, copy.log_append_time_ms)

    def plan_append(
        self,
        batches: Sequence[BatchToAppend],
        *,
        now_ms: int,
        leader_epoch: int,
        segment_bytes_max: int = INT32_MAX,
        reserve_bytes: int = 0,
    ) -> AppendPlan:
        """Decide what becomes of each batch, and plan how to store those that are accepted.

        Args:
            batches: validated, in the order of arrival. Buffers must not change until the plan is
                published or abandoned.
            now_ms: wall clock.
            leader_epoch: the epoch under which this broker leads.
            segment_bytes_max: segments roll at this size even if `segment.bytes` is larger.
            reserve_bytes: room on the disk to set aside for what comes next, if this is large.

        Returns:
            A plan that must be published or abandoned before the next one is made.
        """
        assert self._appending is None, "an append is under way"
        plan = AppendPlan(self._files, now_ms=now_ms, leader_epoch=leader_epoch)
        self._appending = plan
        if self._is_broken or self._is_closed:
            refusal = Refused(ErrorCode.KAFKA_STORAGE_ERROR, "the log is not available")
            plan.outcomes = [refusal] * len(batches)
            return plan
        active = self._row.active
        plan.reserve_bytes = reserve_bytes
        plan.segment_bytes = min(self.config.segment_bytes, segment_bytes_max)
        plan_batches(
            plan,
            batches,
            active=active,
            active_file=None if active is None else self._cache.file_of(active),
            log_end_offset=self.log_end_offset,
            config=self.config,
            producers=self.producers,
            segment_bytes=plan.segment_bytes,
        )
        if plan.writes:
            self._prepare(plan)
        return plan

    def _prepare(self, plan: AppendPlan) -> None:
        """Give the job what it needs, and hold on to it."""
        row = self._row
        plan.index_interval_bytes = self.config.index_interval_bytes
        first = plan.writes[0]
        plan.load_index = not first.creates and self._cache.index_of(first.segment) is None
        plan.unsynced = [
            (segment, self._cache.file_of(segment))
            for segment in row.unsynced()
            if segment is not first.segment
        ]
        plan.all_durable = row.durable is None
        plan.begins_log = len(row) == 0
        plan.must_sync_names = row.names_unsynced
        for write in plan.writes:
            write.segment.pins += 1
            if write.file is None:
                write.keeps_file = self._cache.reserve()
                plan.reserved += write.keeps_file
        if plan.reserved < sum(write.file is None for write in plan.writes):
            plan.must_sync = self.durability is not Durability.OS

    def append_job(self, plan: AppendPlan, *, sync: bool) -> Job[None]:
        """Carry out a plan on a lane; touches nothing but the plan.

        One vectored write per segment, new segment files where the log rolls, and with `sync` one
        fdatasync that covers all of it.

        Raises:
            AppendFailed: nothing was stored; the files are as before if `cut_back`.
            SyncFailed: what is on disk is unknown.
            CorruptLog: the log on disk is not what it was.
        """
        return append.append_job(plan, sync=sync)

    def publish(self, plan: AppendPlan, *, synced: bool, now_seconds: float = 0.0) -> None:
        """Make a plan that was carried out part of the log.

        Args:
            plan: the one made last.
            synced: whether `append_job` was told to sync.
            now_seconds: Trio time, for `unflushed_since`.
        """
        assert plan.state is AppendState.DONE or not plan.writes
        self._let_go(plan)
        if not plan.writes or self._is_closed:
            return  # stored all the same, but nobody looks at a closed log any more
        assert plan.is_synced or not synced
        row = self._row
        if plan.is_synced:
            for segment in row.unsynced():
                segment.holds_unsynced = False  # the job has synced these too
        else:
            self._count_unsynced(plan, now_seconds)
        for write in plan.writes:
            self._publish_write(plan, write)
        self.epochs.assign(plan.leader_epoch, plan.writes[0].batches[0].base_offset)
        row.appended(plan.end_offset, plan.size_bytes, synced=plan.is_synced)
        if plan.is_synced:
            self._unflushed_since = None

    def _count_unsynced(self, plan: AppendPlan, now_seconds: float) -> None:
        row = self._row
        if row.durable is None:
            row.durable, row.durable_bytes = row.end, row.appended_bytes
        row.names_unsynced = row.names_unsynced or plan.writes[-1].creates
        if self._unflushed_since is None:
            self._unflushed_since = now_seconds
        if self._since_flush_began is None:
            self._since_flush_began = now_seconds
        for write in plan.writes:
            write.segment.holds_unsynced = self.durability is Durability.INTERVAL

    def _publish_write(self, plan: AppendPlan, write: SegmentWrite) -> None:
        segment = write.segment
        if write.creates:
            segment.index = SegmentIndex()
            self._must_checkpoint = self._must_checkpoint or len(self._row) > 0
            self._row.add(segment)
        elif segment.index is None:
            segment.index = plan.loaded_index
        index = segment.index
        assert index is not None
        assert index.covered_bytes == segment.size_bytes, "index and segment have parted"
        note, interval_bytes = index.note, plan.index_interval_bytes
        for header, base_offset, max_timestamp in write.batches:
            relative_offset = base_offset - segment.base_offset
            note(relative_offset, header.size_bytes, max_timestamp, interval_bytes)
            if header.producer_id >= 0:
                self.producers.apply(
                    header, base_offset, plan.now_ms, log_append_time_ms=plan.log_append_time_ms
                )
        last = write.batches[-1]
        segment.end_offset = last.base_offset + last.header.last_offset_delta + 1
        segment.size_bytes += write.size_bytes
        segment.first_timestamp = write.first_timestamp
        segment.max_timestamp = max(segment.max_timestamp, index.max_timestamp)
        segment.modified_ms = plan.now_ms
        segment.may_have_room = segment.may_have_room or write.reserves
        self._cache.count_index(segment)

    def abandon(self, plan: AppendPlan) -> None:
        """Forget a plan whose job failed, or never ran.

        If the job left the files in an unknown state, or was done and is not to be published, the
        log is broken from here on.
        """
        self._let_go(plan)
        for write in plan.writes:
            if write.creates:
                self._cache.forget(write.segment)
            for header, _, _ in write.batches:
                self.producers.refuse(header, plan.now_ms)
        if plan.writes and plan.state not in {AppendState.PLANNED, AppendState.CUT_BACK}:
            self._stray_bases += [w.segment.base_offset for w in plan.writes if w.creates]
            self._is_broken = True
            # While the job has not come back, nobody knows what it will have met.
            is_stuck = plan.state is AppendState.RUNNING
            self._has_failed_sync = self._has_failed_sync or plan.sync_failed or is_stuck

    def _let_go(self, plan: AppendPlan) -> None:
        """End what `_prepare` began, and keep what the job opened."""
        assert self._appending is plan, "this is not the append under way"
        self._appending = None
        for write in plan.writes:
            write.segment.pins -= 1
        self._cache.unreserve(plan.reserved)
        for write in plan.writes:
            if write.segment.file is not write.file:
                # A read has opened it meanwhile, and that one does not know what was written.
                self._cache.close_file(write.segment)
        for segment, file in plan.opened:
            if self._is_closed:
                file.close()
            else:
                self._cache.keep_file(segment, file)

    # Reading.

    def locate(
        self, offset: int, *, max_bytes: int, upper_offset: int, at_least_one: bool = True
    ) -> ReadPlan | None:
        """Find out what to read to get the batches from `offset` on.

        Args:
            offset: the first one wanted; the first batch read is the one that contains it.
            max_bytes: read no more than this, in whole batches.
            upper_offset: read only batches that end below it (high watermark, last stable offset).
            at_least_one: read the first batch even if it is larger than `max_bytes`.

        Returns:
            A plan for `read_cached` and `read_job`, empty if there is nothing at this offset yet;
            None if the offset is out of range.
        """
        row = self._row
        if not self._log_start_offset <= offset <= row.end_offset or self._is_closed:
            return None
        plan = ReadPlan(
            self._files,
            offset,
            upper_offset=upper_offset,
            max_bytes=max_bytes,
            at_least_one=at_least_one,
        )
        if offset >= min(upper_offset, row.end_offset):
            return plan
        segment = row.floor(offset)
        assert segment is not None, "the start offset lies below all segments"
        plan.aim(segment, is_active=segment is row.active)
        plan.file = self._cache.file_of(segment)
        index = self._cache.index_of(segment)
        if index is None:
            plan.index_interval_bytes = self.config.index_interval_bytes
        else:
            plan.find_span(index)
        return plan

    def read_cached(self, plan: ReadPlan) -> list[Buffer] | None:
        """Read on the event loop, without ever waiting for a disk.

        Returns:
            Whole batches, or None if that takes a disk access: then use `read_job`.

        Raises:
            CorruptLog: what is there is not batches.
        """
        return reading.read_cached(plan)

    def read_job(self, plan: ReadPlan) -> Job[list[Buffer]]:
        """Read on a lane. The result is whole batches; empty if the segment has been deleted.

        Raises:
            CorruptLog: what is there is not batches.
            OSError: the disk cannot be read.
        """
        return reading.read_job(plan, self._cache.offers)

    def timestamp_bounds(self, offset: int) -> tuple[int, int] | None:
        """Return between which timestamps the record at an offset was written. Never waits.

        Right where timestamps grow with offsets, and as narrow as what is in memory allows: one
        interval of the index where that is loaded, else the whole segment.

        Returns:
            Milliseconds since 1970, lower bound first; None if there is no such record.
        """
        segment = self._row.floor(offset)
        if segment is None or offset >= segment.end_offset:
            return None
        lower, upper = segment.first_timestamp, segment.max_timestamp
        if lower == NO_TIMESTAMP or upper == NO_TIMESTAMP:
            return None
        if segment.index is not None:
            before, after = segment.index.timestamps_around(offset - segment.base_offset)
            lower = lower if before is None else max(lower, before)
            upper = upper if after is None else min(upper, after)
        return lower, max(lower, upper)

    def offset_by_timestamp_job(
        self, timestamp_ms: int, *, from_offset: int | None = None, upper_offset: int | None = None
    ) -> Job[TimestampedOffset | None]:
        """Find the first batch that has a record at or after a point in time.

        Args:
            timestamp_ms: milliseconds since 1970. With `max_timestamp` it finds the newest record.
            from_offset: leave out batches that end below it; None: the log start offset.
            upper_offset: only batches that end below it; None: the log end offset.

        Returns:
            The batch, whose records the caller looks through (off the event loop if they are
            compressed); None if there is none.

        Raises:
            CorruptLog: what is there is not batches.
            OSError: the disk cannot be read.
        """
        first = self._log_start_offset if from_offset is None else from_offset
        searches = []
        for segment in self._row.all:
            if segment.max_timestamp < timestamp_ms or segment.end_offset <= first:
                continue
            index = self._cache.index_of(segment)
            start = -1 if index is None else index.position_before(timestamp_ms)
            searches.append(
                TimestampSearch(segment, segment.base_offset, segment.size_bytes, start)
            )
        return timestamps.offset_by_timestamp_job(
            self._files,
            searches,
            timestamp_ms,
            from_offset=first,
            upper_offset=self.log_end_offset if upper_offset is None else upper_offset,
            index_interval_bytes=self.config.index_interval_bytes,
            offers=self._cache.offers,
        )
