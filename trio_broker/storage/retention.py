"""Retention: which segments of a log have outlived what its topic promises, and when the next does.

Pure. The rules are Apache Kafka's (UnifiedLog.deleteOldSegments): whole segments only, oldest
first, never beyond the high watermark; by age of the newest record in a segment, by the size of the
log, and what lies below the log start offset. One rule more is ours: segments that give way to the
byte budget of the node (`storage.pressure`).
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, Protocol

from trio_broker.records.batch import NO_TIMESTAMP

if TYPE_CHECKING:
    from collections.abc import Sequence

#: A timestamp further ahead of the wall clock than this says nothing about a segment's age.
FUTURE_MS_MAX = 60 * 60 * 1000


class DeletionReason(Enum):
    """The rule by which a segment goes; the first that holds."""

    START_OFFSET = "start_offset"  # DeleteRecords, or the offsets topic writing itself anew
    AGE = "age"  # retention.ms
    SIZE = "size"  # retention.bytes
    NODE_BUDGET = "node_budget"  # storage.bytes_max, or a disk that is nearly full


class SegmentFacts(Protocol):
    """What retention needs to know of a segment; see `RetainedSegment`."""

    @property
    def end_offset(self) -> int: ...  # noqa: D102
    @property
    def size_bytes(self) -> int: ...  # noqa: D102
    @property
    def max_timestamp(self) -> int: ...  # noqa: D102
    @property
    def modified_ms(self) -> int: ...  # noqa: D102


class RetainedSegment(NamedTuple):
    """The least that is a `SegmentFacts`.

    Attributes:
        end_offset: offset after its last batch.
        size_bytes: of its file.
        max_timestamp: largest timestamp in it, -1 if there is none.
        modified_ms: wall clock of its last append.
    """

    end_offset: int
    size_bytes: int
    max_timestamp: int
    modified_ms: int


def deletion_reasons(
    segments: Sequence[SegmentFacts],
    *,
    size_bytes: int,
    retention_ms: int,
    retention_bytes: int,
    log_start_offset: int,
    upper_offset: int,
    now_ms: int,
    giving_way: int = 0,
) -> list[DeletionReason]:
    """Return why each segment goes that goes now, from the oldest on; empty if none does.

    Looks no further than the first segment that stays.

    Args:
        segments: oldest first.
        size_bytes: of all of them.
        retention_ms: keep records this long; -1 for ever.
        retention_bytes: keep at least this much of the log; -1 all.
        log_start_offset: segments that end at or below it go in any case.
        upper_offset: the high watermark; segments beyond it stay in any case.
        now_ms: wall clock.
        giving_way: so many of the oldest have to give way to the node budget.
    """
    excess_bytes = size_bytes - retention_bytes if retention_bytes >= 0 else -1
    reasons: list[DeletionReason] = []
    for number, segment in enumerate(segments):
        if segment.end_offset > upper_offset or segment.size_bytes == 0:
            break
        if segment.end_offset <= log_start_offset:
            reason = DeletionReason.START_OFFSET
        elif retention_ms >= 0 and now_ms - newest_ms(segment, now_ms) > retention_ms:
            reason = DeletionReason.AGE
        elif excess_bytes >= segment.size_bytes:
            reason = DeletionReason.SIZE
        elif number < giving_way:
            reason = DeletionReason.NODE_BUDGET
        else:
            break
        excess_bytes -= segment.size_bytes
        reasons.append(reason)
    return reasons


def expiry_ms(
    segments: Sequence[SegmentFacts], *, retention_ms: int, upper_offset: int, now_ms: int
) -> int | None:
    """Return the first millisecond at which age takes away the oldest segment; None: it never will.

    That is all there is to know: the others follow it. It may be in the past.
    """
    if retention_ms < 0 or not segments:
        return None
    oldest = segments[0]
    if oldest.size_bytes == 0 or oldest.end_offset > upper_offset:
        return None
    return newest_ms(oldest, now_ms) + retention_ms + 1


def newest_ms(segment: SegmentFacts, now_ms: int) -> int:
    """Return when the newest record of a segment was made, by the most credible clock.

    A timestamp far in the future (a producer's wrong clock, or ours that has jumped back) would
    keep the segment for ever; then the time of the last append counts.
    """
    if segment.max_timestamp == NO_TIMESTAMP or segment.max_timestamp > now_ms + FUTURE_MS_MAX:
        return segment.modified_ms
    return segment.max_timestamp
