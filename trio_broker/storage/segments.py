"""The row of segments that make up a log, and how much of it is durable.

Owned by `Log`; changed on the event loop only. No I/O: it keeps count.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

from trio_broker.storage.segment import LogPoint, Segment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_broker.storage.segment import SegmentFacts


class SegmentRow:
    """Segments, oldest first, without gaps.

    Attributes:
        active: the last segment if the log goes on in it, None if the next append begins another.
        end_offset: the log end offset.
        size_bytes: of all segments.
        appended_bytes: ever appended; only differences mean anything.
        durable: up to here everything is durable; None if all of it is.
        durable_bytes: `appended_bytes` at that point.
        names_unsynced: a file's name may not be durable.
    """

    __slots__ = (
        "_bases",
        "_segments",
        "active",
        "appended_bytes",
        "durable",
        "durable_bytes",
        "end_offset",
        "names_unsynced",
        "size_bytes",
    )

    def __init__(self, segments: Sequence[Segment], end_offset: int) -> None:
        self._segments = list(segments)
        self._bases = [segment.base_offset for segment in segments]
        self.active = segments[-1] if segments else None
        if self.active is not None:
            self.active.may_have_room = True  # an earlier process may have been ended at any time
        self.end_offset = end_offset
        self.size_bytes = sum(segment.size_bytes for segment in segments)
        self.appended_bytes = 0
        self.durable: LogPoint | None = None
        self.durable_bytes = 0
        self.names_unsynced = False

    def __len__(self) -> int:
        return len(self._segments)

    @property
    def all(self) -> Sequence[Segment]:
        """The segments, oldest first; not to be changed."""
        return self._segments

    @property
    def facts(self) -> tuple[SegmentFacts, ...]:
        """What to write down about them."""
        return tuple(segment.facts for segment in self._segments)

    @property
    def end(self) -> LogPoint:
        """Where the next batch goes."""
        if not self._segments:
            return LogPoint(self.end_offset, self.end_offset, 0)
        last = self._segments[-1]
        return LogPoint(self.end_offset, last.base_offset, last.size_bytes)

    @property
    def durable_end(self) -> LogPoint:
        """Up to where everything is durable."""
        return self.end if self.durable is None else self.durable

    @property
    def unsynced_bytes(self) -> int:
        """Bytes appended that are not known to be durable."""
        return 0 if self.durable is None else self.appended_bytes - self.durable_bytes

    def floor(self, offset: int) -> Segment | None:
        """Return the segment that an offset belongs to, None if it is below all of them."""
        at = bisect_right(self._bases, offset) - 1
        return self._segments[at] if at >= 0 else None

    def count_to(self, offset: int) -> int:
        """Return how many segments begin at or below an offset."""
        return bisect_right(self._bases, offset)

    def unsynced(self) -> list[Segment]:
        """Return the segments that hold bytes not known to be durable, oldest first."""
        if self.durable is None:
            return []
        found = []
        for segment in reversed(self._segments):
            if segment.end_offset <= self.durable.offset:
                break
            found.append(segment)
        found.reverse()
        return found

    def add(self, segment: Segment) -> None:
        """Append a new active segment."""
        self._segments.append(segment)
        self._bases.append(segment.base_offset)
        self.active = segment
        self.size_bytes += segment.size_bytes

    def appended(self, end_offset: int, size_bytes: int, *, synced: bool) -> None:
        """Count an append whose segments have been updated already.

        Args:
            end_offset: the new end.
            size_bytes: of the append.
            synced: everything up to the new end is durable.
        """
        self.end_offset = end_offset
        self.size_bytes += size_bytes
        self.appended_bytes += size_bytes
        if synced:
            self.all_durable()

    def all_durable(self) -> None:
        """Take note that everything up to the end is durable, names included."""
        self.durable = None
        self.names_unsynced = False

    def remove_oldest(self, count: int) -> list[Segment]:
        """Take out the oldest segments and return them."""
        removed = self._segments[:count]
        del self._segments[:count]
        del self._bases[:count]
        self.size_bytes -= sum(segment.size_bytes for segment in removed)
        if self.active in removed:
            self.active = None
        return removed

    def cut(self, end: LogPoint) -> list[Segment]:
        """Drop everything from `end` on, whether durable or not; return the segments removed.

        The next append begins a new segment.
        """
        removed = [s for s in self._segments if s.base_offset >= end.offset]
        del self._segments[len(self._segments) - len(removed) :]
        del self._bases[len(self._segments) :]
        if self._segments and self._bases[-1] == end.segment_base:
            self._segments[-1].size_bytes = end.position
            self._segments[-1].end_offset = end.offset
        self.size_bytes = sum(segment.size_bytes for segment in self._segments)
        self.end_offset = end.offset
        self.active = None
        self.all_durable()
        return removed
