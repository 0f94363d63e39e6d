"""Plans an append: who is a duplicate, which offset a batch gets, where a new segment begins.

Pure: reads the log's state, changes nothing but the plan it fills. Called by `Log.plan_append` on
the event loop, once per group commit and log, with all batches of that log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_broker.config import TimestampType
from trio_broker.records.batch import NO_TIMESTAMP
from trio_broker.records.stamp import stamp
from trio_broker.replication import producer_state
from trio_broker.storage.append import Accepted, Duplicate, PlannedBatch, Refused, SegmentWrite
from trio_broker.storage.segment import Segment, must_roll

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_broker.config import TopicConfig
    from trio_broker.host.interface import File
    from trio_broker.records.batch import BatchHeader
    from trio_broker.replication.producer_state import ProducerStateTable
    from trio_broker.storage.append import AppendPlan, BatchToAppend


def plan_batches(
    plan: AppendPlan,
    batches: Sequence[BatchToAppend],
    *,
    active: Segment | None,
    active_file: File | None,
    log_end_offset: int,
    config: TopicConfig,
    producers: ProducerStateTable,
    segment_bytes: int,
) -> None:
    """Decide about each batch, in order, and collect what to write.

    Args:
        plan: empty; its outcomes, writes, end offset and size are filled in.
        batches: validated.
        active: segment to go on in, None to begin with a new one.
        active_file: its file, if that is open.
        log_end_offset: where the first batch goes.
        config: of the topic.
        producers: state of idempotent producers, which is asked and not changed.
        segment_bytes: where a segment rolls because of its size.
    """
    now_ms = plan.now_ms
    stamps_time = config.message_timestamp_type is TimestampType.LOG_APPEND_TIME
    if stamps_time:
        plan.log_append_time_ms = now_ms
    stamped_time = now_ms if stamps_time else None
    pending = producer_state.PendingProducers(producers)
    offset = log_end_offset
    write: SegmentWrite | None = None
    if active is not None:
        write = SegmentWrite(active, active_file, creates=False)
    for buffer, header in batches:
        if header.producer_id >= 0:
            verdict = producers.check(header, pending)
            if not isinstance(verdict, producer_state.Accept):
                plan.outcomes.append(_outcome(verdict, plan.log_append_time_ms))
                continue
            pending.add(header, offset)
        max_timestamp = header.max_timestamp if stamped_time is None else stamped_time
        if write is None or _rolls(
            write, header, offset, max_timestamp, now_ms, segment_bytes, config.segment_ms
        ):
            if write is not None and write.batches:
                plan.writes.append(write)
            write = SegmentWrite(Segment(offset, now_ms), None, creates=True)
        if write.first_timestamp == NO_TIMESTAMP:
            write.first_timestamp = max_timestamp
        prefix, rest = stamp(
            buffer,
            header,
            base_offset=offset,
            leader_epoch=plan.leader_epoch,
            log_append_time_ms=stamped_time,
        )
        write.buffers += (prefix, rest)
        write.size_bytes += header.size_bytes
        write.batches.append(PlannedBatch(header, offset, max_timestamp))
        plan.size_bytes += header.size_bytes
        plan.outcomes.append(Accepted(offset, plan.log_append_time_ms))
        offset += header.last_offset_delta + 1
    if write is not None and write.batches:
        plan.writes.append(write)
    plan.end_offset = offset


def _outcome(verdict: producer_state.Verdict, log_append_time_ms: int) -> Duplicate | Refused:
    match verdict:
        case producer_state.Duplicate():
            return Duplicate(verdict.base_offset, verdict.log_append_time_ms)
        case producer_state.DuplicateInFlight():
            return Duplicate(verdict.base_offset, log_append_time_ms)
        case producer_state.Reject():
            return Refused(verdict.code, verdict.message)
        case producer_state.Accept():
            raise AssertionError("an accepted batch has no such outcome")


def _rolls(
    write: SegmentWrite,
    header: BatchHeader,
    offset: int,
    max_timestamp: int,
    now_ms: int,
    segment_bytes: int,
    segment_ms: int,
) -> bool:
    return must_roll(
        write.start + write.size_bytes,
        write.first_timestamp,
        write.segment.base_offset,
        write.segment.modified_ms,
        batch_bytes=header.size_bytes,
        batch_timestamp=max_timestamp,
        last_offset=offset + header.last_offset_delta,
        now_ms=now_ms,
        segment_bytes=segment_bytes,
        segment_ms=segment_ms,
    )
