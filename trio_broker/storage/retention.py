"""Retention: which segments of a log have outlived what its topic promises.

Pure. The rules are Apache Kafka's (UnifiedLog.deleteOldSegments): whole segments only, oldest
first, never beyond the high watermark; by age of the newest record in a segment, by the size of the
log, and what lies below the log start offset.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from trio_broker.records.batch import NO_TIMESTAMP

if TYPE_CHECKING:
    from collections.abc import Sequence

#: A timestamp further ahead of the wall clock than this says nothing about a segment's age.
FUTURE_MS_MAX = 60 * 60 * 1000


class RetainedSegment(NamedTuple):
    """What retention needs to know of a segment.

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


def segments_to_delete(
    segments: Sequence[RetainedSegment],
    *,
    retention_ms: int,
    retention_bytes: int,
    log_start_offset: int,
    upper_offset: int,
    now_ms: int,
) -> int:
    """Return how many segments, from the oldest on, may go.

    Args:
        segments: oldest first.
        retention_ms: keep records this long; -1 for ever.
        retention_bytes: keep at least this much of the log; -1 all.
        log_start_offset: segments that end at or below it go in any case.
        upper_offset: the high watermark; segments beyond it stay in any case.
        now_ms: wall clock.
    """
    excess_bytes = sum(segment.size_bytes for segment in segments) - retention_bytes
    count = 0
    for segment in segments:
        if segment.end_offset > upper_offset or segment.size_bytes == 0:
            break
        is_excess = retention_bytes >= 0 and excess_bytes >= segment.size_bytes
        is_old = retention_ms >= 0 and now_ms - newest_ms(segment, now_ms) > retention_ms
        if not (is_excess or is_old or segment.end_offset <= log_start_offset):
            break
        excess_bytes -= segment.size_bytes
        count += 1
    return count


def newest_ms(segment: RetainedSegment, now_ms: int) -> int:
    """Return when the newest record of a segment was made, by the most credible clock.

    A timestamp far in the future (a producer's wrong clock, or ours that has jumped back) would
    keep the segment for ever; then the time of the last append counts.
    """
    if segment.max_timestamp == NO_TIMESTAMP or segment.max_timestamp > now_ms + FUTURE_MS_MAX:
        return segment.modified_ms
    return segment.max_timestamp
