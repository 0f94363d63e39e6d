"""What a log keeps in memory of one of its segments.

Owned by `Log` and changed on the event loop only. A segment file is a plain run of record batches;
its name is its first offset. Most segments are sealed: never written again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from trio_broker.records.batch import NO_TIMESTAMP
from trio_broker.storage import paths

if TYPE_CHECKING:
    from trio_broker.host.interface import File
    from trio_broker.storage.index import SegmentIndex

#: Offsets within a segment are stored as 32 bit (Kafka's limit too).
RELATIVE_OFFSET_MAX = 2**31 - 1


class LogPoint(NamedTuple):
    """A place between two batches of a log, as an offset and as a byte.

    Attributes:
        offset: of the batch that begins here, or will.
        segment_base: base offset of the segment whose bytes before `position` come before it.
        position: byte in that segment's file.
    """

    offset: int
    segment_base: int
    position: int


class SegmentFacts(NamedTuple):
    """What is known of a segment without looking into it; goes into checkpoints.

    Attributes:
        base_offset: of its first batch.
        size_bytes: of its file.
        first_timestamp: largest timestamp of its first batch, -1 if it is empty.
        max_timestamp: largest timestamp in it, -1 if it is empty.
        modified_ms: wall clock of its last append.
    """

    base_offset: int
    size_bytes: int
    first_timestamp: int
    max_timestamp: int
    modified_ms: int


class Segment:
    """One segment of an open log.

    Attributes:
        base_offset: of its first batch, and its file's name.
        end_offset: offset after its last batch.
        size_bytes: published bytes.
        first_timestamp: see `SegmentFacts`.
        max_timestamp: see `SegmentFacts`.
        modified_ms: see `SegmentFacts`.
        index: its index, None while not loaded.
        indexed_bytes: bytes of it that its index files cover.
        file: its open file, None while not open.
        pins: operations under way that need `file` and `index` to stay.
        holds_unsynced: closing its file now would lose the report of a failed write (durability
            `interval`).
        may_have_room: room on the disk may have been set aside behind its bytes (`File.reserve`).
        is_dropped: it no longer belongs to an open log, so nothing may be opened for it.
    """

    __slots__ = (
        "base_offset",
        "end_offset",
        "file",
        "first_timestamp",
        "holds_unsynced",
        "index",
        "indexed_bytes",
        "is_dropped",
        "max_timestamp",
        "may_have_room",
        "modified_ms",
        "pins",
        "size_bytes",
    )

    def __init__(self, base_offset: int, created_ms: int) -> None:
        self.base_offset = base_offset
        self.end_offset = base_offset
        self.size_bytes = 0
        self.first_timestamp = NO_TIMESTAMP
        self.max_timestamp = NO_TIMESTAMP
        self.modified_ms = created_ms
        self.index: SegmentIndex | None = None
        self.indexed_bytes = 0
        self.file: File | None = None
        self.pins = 0
        self.holds_unsynced = False
        self.may_have_room = False
        self.is_dropped = False

    def __repr__(self) -> str:
        return (
            f"<Segment {self.base_offset}..{self.end_offset} {self.size_bytes} B"
            f"{' open' if self.file is not None else ''}>"
        )

    @classmethod
    def from_facts(cls, facts: SegmentFacts, end_offset: int) -> Segment:
        """Make one that is already on disk."""
        segment = cls(facts.base_offset, facts.modified_ms)
        segment.end_offset = end_offset
        segment.size_bytes = facts.size_bytes
        segment.first_timestamp = facts.first_timestamp
        segment.max_timestamp = facts.max_timestamp
        return segment

    @property
    def facts(self) -> SegmentFacts:
        """What to write down about it."""
        return SegmentFacts(
            self.base_offset,
            self.size_bytes,
            self.first_timestamp,
            self.max_timestamp,
            self.modified_ms,
        )

    @property
    def name(self) -> str:
        """Name of its file."""
        return paths.offset_name(self.base_offset, paths.LOG_SUFFIX)


def must_roll(
    size_bytes: int,
    first_timestamp: int,
    base_offset: int,
    modified_ms: int,
    *,
    batch_bytes: int,
    batch_timestamp: int,
    last_offset: int,
    now_ms: int,
    segment_bytes: int,
    segment_ms: int,
) -> bool:
    """Say whether a batch must go into a new segment instead of one with these facts.

    As in Apache Kafka (LogSegment.shouldRoll): too large, too old (the batch's timestamp against
    that of the segment's first batch), or too far from the base offset.
    """
    if size_bytes == 0:
        return False
    if size_bytes + batch_bytes > segment_bytes:
        return True
    if last_offset - base_offset > RELATIVE_OFFSET_MAX:
        return True
    if first_timestamp != NO_TIMESTAMP:
        return batch_timestamp - first_timestamp > segment_ms
    return now_ms - modified_ms > segment_ms
