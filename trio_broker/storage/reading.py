"""Reading: from an offset to the bytes of whole batches.

`locate` work is pure and done on the event loop against the segment's index; the bytes come from
the page cache without leaving the loop where that is possible (`read_cached`), else through a job.
Where the index is not loaded, the job loads it and locates first.

A read needs no lock and no pin. Its file may be closed under it to make room for another, or its
segment deleted: the job then opens the file again, and if there is none any more, the result is
empty, and the next attempt finds the offset out of range.
"""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from trio_broker.errors import CorruptLog
from trio_broker.host import jobs
from trio_broker.records.batch import LENGTH_MIN, LOG_OVERHEAD_BYTES
from trio_broker.storage import paths
from trio_broker.storage.index import load_index

if TYPE_CHECKING:
    from collections.abc import Generator

    from trio_broker.host.interface import Buffer, File, Job
    from trio_broker.storage.files import ReplicaFiles
    from trio_broker.storage.handles import Offers
    from trio_broker.storage.index import SegmentIndex
    from trio_broker.storage.segment import Segment

    #: Asks for (position, length), is sent bytes, returns the buffers read.
    Reading: TypeAlias = Generator[tuple[int, int], Buffer, list[Buffer]]

#: Base offset, batch length and last offset delta of a batch header.
_HEAD = struct.Struct(">qi11xi")
_HEAD_BYTES = _HEAD.size
#: Least to read at a time while looking for a batch.
_SEARCH_BYTES = 16 * 1024


class Span(NamedTuple):
    """Which bytes of a segment to read.

    Attributes:
        start: where a batch begins, at or before the one asked for.
        end: where to stop.
        starts_exactly: the batch at `start` is the one asked for.
        ends_whole: a batch ends at `end`, and all before may be returned.
    """

    start: int
    end: int
    starts_exactly: bool
    ends_whole: bool


class ReadPlan:
    """One read of one segment, with all it needs to know of the log.

    Attributes:
        offset: first offset wanted.
        is_empty: there is nothing to read at this offset yet.
    """

    __slots__ = (
        "at_least_one",
        "base_offset",
        "end_offset",
        "file",
        "files",
        "index_interval_bytes",
        "is_active",
        "is_empty",
        "max_bytes",
        "offset",
        "segment",
        "segment_bytes",
        "span",
        "upper_offset",
    )

    def __init__(
        self,
        files: ReplicaFiles,
        offset: int,
        *,
        upper_offset: int,
        max_bytes: int,
        at_least_one: bool,
    ) -> None:
        self.files = files
        self.offset = offset
        self.upper_offset = upper_offset
        self.max_bytes = max_bytes
        self.at_least_one = at_least_one
        self.is_empty = True
        self.segment: Segment | None = None
        self.base_offset = self.end_offset = self.segment_bytes = 0
        self.is_active = False
        self.file: File | None = None
        self.span: Span | None = None
        self.index_interval_bytes = 0

    def __repr__(self) -> str:
        return f"<ReadPlan offset={self.offset} segment={self.base_offset} span={self.span}>"

    @property
    def size_bytes(self) -> int:
        """How many bytes the read will return, about; 0 if and only if there is nothing yet."""
        if self.is_empty:
            return 0
        if self.span is None:
            return max(1, min(self.max_bytes, self.segment_bytes))
        return self.span.end - self.span.start

    @property
    def available_bytes(self) -> int:
        """About how much there is, up to `max_bytes`: for deciding whether to wait for more.

        Not in whole batches, of which a little less fits: waiting would bring nothing then.
        """
        if self.is_empty:
            return 0
        start = 0 if self.span is None else self.span.start
        return min(self.max_bytes, self.segment_bytes - start)

    @property
    def can_grow(self) -> bool:
        """Whether what is written next could be part of it: so it is in the newest segment."""
        return self.is_empty or self.is_active

    @property
    def path(self) -> str:
        """The segment's file."""
        return self.files.path(paths.offset_name(self.base_offset, paths.LOG_SUFFIX))

    def aim(self, segment: Segment, *, is_active: bool) -> None:
        """Settle which segment to read, in its present state."""
        self.is_empty = False
        self.segment = segment
        self.base_offset = segment.base_offset
        self.end_offset = segment.end_offset
        self.segment_bytes = segment.size_bytes
        self.is_active = is_active

    def find_span(self, index: SegmentIndex) -> None:
        """Settle which bytes to read."""
        relative_offset = self.offset - self.base_offset
        floor_offset, start = index.floor(relative_offset)
        starts_exactly = floor_offset == relative_offset
        limit, ends_whole = self.segment_bytes, True
        if self.upper_offset < self.end_offset:
            _, upper_position = index.floor(self.upper_offset - self.base_offset)
            if upper_position > start:
                limit = upper_position
            else:
                ends_whole = False
        end = min(limit, start + self.max_bytes)
        if end < limit:
            boundary = index.boundary(end)
            if boundary > start:
                end = boundary
            else:
                ends_whole = False
        if not ends_whole or end == start:
            end = min(limit, max(end, start + _SEARCH_BYTES))
            ends_whole = ends_whole and end == limit
        self.span = Span(start, end, starts_exactly, ends_whole)


def read_steps(plan: ReadPlan) -> Reading:
    """Read what `plan` asks for, whoever does the reading.

    Raises:
        CorruptLog: the bytes are not those of batches.
    """
    assert plan.span is not None
    start, end, starts_exactly, ends_whole = plan.span
    data = yield from _exactly(plan, start, end - start)
    if starts_exactly and ends_whole and end - start <= plan.max_bytes:
        return [data]
    position, at = start, 0
    while True:  # walk to the batch that holds the offset
        if at + _HEAD_BYTES > len(data):
            position, at, ends_whole = position + at, 0, False
            length = min(max(plan.max_bytes, _SEARCH_BYTES), plan.segment_bytes - position)
            data = yield from _exactly(plan, position, length)
        size_bytes, last_offset = _head(plan, data, at, position)
        if last_offset >= plan.offset:
            break
        at += size_bytes
    if ends_whole and len(data) - at <= plan.max_bytes:
        return [memoryview(data)[at:]]
    stop = at
    while stop + _HEAD_BYTES <= len(data):
        size_bytes, last_offset = _head(plan, data, stop, position)
        if last_offset >= plan.upper_offset:
            break
        if stop + size_bytes > min(len(data), at + plan.max_bytes):
            if stop == at and (plan.at_least_one or size_bytes <= plan.max_bytes):
                # The first batch is larger than was asked for, or than was read.
                data = yield from _exactly(plan, position + at, size_bytes)
                return [data]
            break
        stop += size_bytes
    return [memoryview(data)[at:stop]] if stop > at else []


def _exactly(
    plan: ReadPlan, position: int, length: int
) -> Generator[tuple[int, int], Buffer, Buffer]:
    """Read `length` bytes, and find it strange if there are not as many."""
    data = yield position, length
    if len(data) != length or length < _HEAD_BYTES:
        raise CorruptLog(f"{plan.path}: {len(data)} bytes at position {position}, not {length}")
    return data


def _head(plan: ReadPlan, data: Buffer, at: int, position: int) -> tuple[int, int]:
    """Return size and last offset of the batch at `at`."""
    base_offset, length, last_offset_delta = _HEAD.unpack_from(data, at)
    size_bytes = LOG_OVERHEAD_BYTES + length
    if length < LENGTH_MIN or position + at + size_bytes > plan.segment_bytes:
        raise CorruptLog(f"{plan.path}: no record batch at position {position + at}")
    return size_bytes, base_offset + last_offset_delta


def read_cached(plan: ReadPlan) -> list[Buffer] | None:
    """Read without touching the disk, or return None if that is not possible."""
    if plan.is_empty:
        return []
    file = plan.file
    if file is None or plan.span is None:
        return None
    steps = read_steps(plan)
    try:
        position, length = next(steps)
        while True:
            data = file.read_cached(position, length)
            if data is None:
                steps.close()
                return None
            position, length = steps.send(data)
    except StopIteration as stop:
        buffers: list[Buffer] = stop.value
        return buffers


def read_job(plan: ReadPlan, offers: Offers) -> Job[list[Buffer]]:
    """Read with the disk; see `Log.read_job`."""
    if plan.is_empty:
        return []
    files, segment = plan.files, plan.segment
    assert segment is not None
    file, opened = plan.file, None
    try:
        if plan.span is None:
            index = yield from load_index(
                files.fs,
                files.directory,
                files.owner,
                plan.base_offset,
                plan.segment_bytes,
                plan.index_interval_bytes,
            )
            plan.find_span(index)
            offers.append((segment, index))
        if file is None:
            file = opened = yield from open_for_reading(plan)
        try:
            buffers = yield from _drive(plan, file)
        except OSError as error:
            if error.errno != errno.EBADF or opened is not None:
                raise
            # Closed since the read was planned, to make room for another.
            file = opened = yield from open_for_reading(plan)
            buffers = yield from _drive(plan, file)
    except FileNotFoundError:
        return []  # deleted since the read was planned
    except BaseException:
        if opened is not None:
            opened.close()
        raise
    if opened is not None:
        if opened.is_spare:
            opened.close()
        else:
            offers.append((segment, opened))
    return buffers


def open_for_reading(plan: ReadPlan) -> Job[File]:
    """Open a segment's file, also for writing where the log may go on in it."""
    files = plan.files
    return (
        yield from jobs.open_file(files.fs, plan.path, files.owner, read_only=not plan.is_active)
    )


def _drive(plan: ReadPlan, file: File) -> Job[list[Buffer]]:
    steps = read_steps(plan)
    try:
        position, length = next(steps)
        while True:
            data: bytes = yield file.read_at, (position, length)
            position, length = steps.send(data)
    except StopIteration as stop:
        buffers: list[Buffer] = stop.value
        return buffers
