"""The sparse index of one segment: from offsets and timestamps to positions in its file.

Arrays in memory while it is used (about 20 bytes per `index.interval.bytes` of log), two small
files with a CRC once the segment is sealed or a checkpoint is written. Both are derived data: what
the files do not cover is found by walking the headers of the batches, and a missing or damaged file
covers nothing. No mmap: on a full disk a sparse mapped file kills the process with SIGBUS.

Owned by `Segment`; filled when a `Log` publishes, by recovery, and by `load_index`.
"""

from __future__ import annotations

import struct
import sys
from array import array
from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING

from trio_broker.errors import CorruptLog
from trio_broker.host import jobs
from trio_broker.records.batch import LENGTH_MIN, LOG_OVERHEAD_BYTES, NO_TIMESTAMP
from trio_broker.storage import paths
from trio_broker.storage.files import read_derived

if TYPE_CHECKING:
    from trio_broker.host.interface import File, FileSystem, Job

assert array("I").itemsize == 4, "offsets and positions are stored as 32 bit"

#: Base offset, covered bytes, bytes since the last entry, number of entries; then the entries'
#: relative offsets and positions as two arrays. All integers are big-endian.
_OFFSET_HEAD = struct.Struct(">qqqI")
#: Base offset, covered bytes, max timestamp, number of entries; then timestamps, relative offsets.
_TIME_HEAD = struct.Struct(">qqqI")
#: Base offset, batch length and max timestamp of a batch header.
_WALK = struct.Struct(">qi23xq")
_WALK_BYTES = 256 * 1024
_EMPTY_BYTES = 600


class SegmentIndex:
    """Index of one segment; offsets are relative to the segment's base offset.

    An entry of the offset index is the exact start of a batch. An entry of the time index says that
    no batch up to and including that offset has a larger timestamp.

    Attributes:
        covered_bytes: bytes of the log, from the start of the file, that have been noted.
        max_timestamp: largest timestamp noted, -1 if none.
    """

    __slots__ = (
        "_bytes_since_entry",
        "_offsets",
        "_positions",
        "_time_offsets",
        "_timestamps",
        "covered_bytes",
        "max_timestamp",
    )

    def __init__(self) -> None:
        self._offsets = array("I")
        self._positions = array("I")
        self._timestamps = array("q")
        self._time_offsets = array("I")
        self._bytes_since_entry = 0
        self.covered_bytes = 0
        self.max_timestamp = NO_TIMESTAMP

    def __repr__(self) -> str:
        return (
            f"<SegmentIndex {len(self._offsets)} offsets, {len(self._timestamps)} timestamps,"
            f" covers {self.covered_bytes} B>"
        )

    @property
    def memory_bytes(self) -> int:
        """What it takes in memory, about."""
        return _EMPTY_BYTES + 8 * len(self._offsets) + 12 * len(self._timestamps)

    @property
    def entries(self) -> list[tuple[int, int]]:
        """Offset index as (relative offset, position), for tools."""
        return list(zip(self._offsets, self._positions, strict=True))

    @property
    def time_entries(self) -> list[tuple[int, int]]:
        """Time index as (timestamp, relative offset), for tools."""
        return list(zip(self._timestamps, self._time_offsets, strict=True))

    def note(
        self, relative_offset: int, size_bytes: int, max_timestamp: int, interval_bytes: int
    ) -> None:
        """Take note of the batch that follows the bytes covered so far.

        Args:
            relative_offset: its base offset minus that of the segment.
            size_bytes: its whole size.
            max_timestamp: its largest timestamp.
            interval_bytes: an entry is made when more bytes than these came since the last one.
        """
        if max_timestamp > self.max_timestamp:
            self.max_timestamp = max_timestamp
        if self._bytes_since_entry > interval_bytes:
            self._offsets.append(relative_offset)
            self._positions.append(self.covered_bytes)
            self._bytes_since_entry = 0
            timestamps = self._timestamps
            if self.max_timestamp > (timestamps[-1] if timestamps else NO_TIMESTAMP):
                timestamps.append(self.max_timestamp)
                self._time_offsets.append(relative_offset)
        self._bytes_since_entry += size_bytes
        self.covered_bytes += size_bytes

    def floor(self, relative_offset: int) -> tuple[int, int]:
        """Return the last entry at or before an offset as (relative offset, position)."""
        at = bisect_right(self._offsets, relative_offset) - 1
        return (self._offsets[at], self._positions[at]) if at >= 0 else (0, 0)

    def boundary(self, position: int) -> int:
        """Return the last position at or before `position` where a batch is known to begin."""
        at = bisect_right(self._positions, position) - 1
        return self._positions[at] if at >= 0 else 0

    def timestamps_around(self, relative_offset: int) -> tuple[int | None, int | None]:
        """Return the timestamps of the entries before and after an offset, None where none is."""
        at = bisect_right(self._time_offsets, relative_offset)
        count = len(self._timestamps)
        before = self._timestamps[at - 1] if at > 0 else None
        return before, self._timestamps[at] if at < count else None

    def position_before(self, timestamp_ms: int) -> int:
        """Return a position at or before the first batch with this or a later timestamp."""
        at = bisect_left(self._timestamps, timestamp_ms) - 1
        return self.floor(self._time_offsets[at])[1] if at >= 0 else 0

    def to_payloads(self, base_offset: int) -> tuple[bytes, bytes]:
        """Return the contents of the offset index file and the time index file."""
        offset_head = _OFFSET_HEAD.pack(
            base_offset, self.covered_bytes, self._bytes_since_entry, len(self._offsets)
        )
        time_head = _TIME_HEAD.pack(
            base_offset, self.covered_bytes, self.max_timestamp, len(self._timestamps)
        )
        return (
            offset_head + _big_endian(self._offsets) + _big_endian(self._positions),
            time_head + _big_endian(self._timestamps) + _big_endian(self._time_offsets),
        )

    @classmethod
    def from_payloads(
        cls, base_offset: int, offset_payload: bytes, time_payload: bytes
    ) -> SegmentIndex | None:
        """Read what `to_payloads` returned; None if the two do not fit the segment or each other.

        They do not where a crash came between writing the one and the other.
        """
        if len(offset_payload) < _OFFSET_HEAD.size or len(time_payload) < _TIME_HEAD.size:
            return None
        base, covered, since, count = _OFFSET_HEAD.unpack_from(offset_payload)
        time_base, time_covered, max_timestamp, time_count = _TIME_HEAD.unpack_from(time_payload)
        if (base, covered) != (time_base, time_covered) or base != base_offset:
            return None
        if len(offset_payload) != _OFFSET_HEAD.size + 8 * count:
            return None
        if len(time_payload) != _TIME_HEAD.size + 12 * time_count:
            return None
        index = cls()
        start = _OFFSET_HEAD.size
        _fill(index._offsets, offset_payload[start : start + 4 * count])
        _fill(index._positions, offset_payload[start + 4 * count :])
        start = _TIME_HEAD.size
        _fill(index._timestamps, time_payload[start : start + 8 * time_count])
        _fill(index._time_offsets, time_payload[start + 8 * time_count :])
        index._bytes_since_entry = since
        index.covered_bytes = covered
        index.max_timestamp = max_timestamp
        return index


def _big_endian(values: array[int]) -> bytes:
    if sys.byteorder == "little":
        values = values[:]
        values.byteswap()
    return values.tobytes()


def _fill(values: array[int], data: bytes) -> None:
    values.frombytes(data)
    if sys.byteorder == "little":
        values.byteswap()


def index_paths(directory: str, base_offset: int) -> tuple[str, str]:
    """Return the paths of a segment's offset index and time index."""
    stem = f"{directory}/{base_offset:020d}"
    return stem + paths.INDEX_SUFFIX, stem + paths.TIME_INDEX_SUFFIX


def read_index_files(
    fs: FileSystem, directory: str, owner: str, base_offset: int, size_bytes: int
) -> Job[SegmentIndex]:
    """Read a segment's index files; an empty index if they are missing, damaged or too long.

    One that covers more than `size_bytes`, the size of the segment, is of bytes cut off since.
    """
    offset_path, time_path = index_paths(directory, base_offset)
    offset_payload = yield from read_derived(fs, offset_path, owner)
    if offset_payload is not None:
        time_payload = yield from read_derived(fs, time_path, owner)
        if time_payload is not None:
            index = SegmentIndex.from_payloads(base_offset, offset_payload, time_payload)
            if index is not None and index.covered_bytes <= size_bytes:
                return index
    return SegmentIndex()


def write_index_files(
    fs: FileSystem, directory: str, owner: str, base_offset: int, payloads: tuple[bytes, bytes]
) -> Job[None]:
    """Write a segment's index files; the failures are those of `jobs.write_small_file`."""
    for path, payload in zip(index_paths(directory, base_offset), payloads, strict=True):
        yield from jobs.write_small_file(fs, path, owner, payload)


def load_index(
    fs: FileSystem,
    directory: str,
    owner: str,
    base_offset: int,
    size_bytes: int,
    interval_bytes: int,
) -> Job[SegmentIndex]:
    """Return the index of a segment's first `size_bytes`, from its files as far as they go.

    Raises:
        CorruptLog: the headers of the batches do not fill these bytes.
        OSError: the segment could not be read.
    """
    index = yield from read_index_files(fs, directory, owner, base_offset, size_bytes)
    if index.covered_bytes < size_bytes:
        path = f"{directory}/{paths.offset_name(base_offset, paths.LOG_SUFFIX)}"
        file = yield from jobs.open_file(fs, path, owner, read_only=True)
        try:
            yield from _walk(file, index, base_offset, size_bytes, interval_bytes)
        finally:
            file.close()
    return index


def _walk(
    file: File, index: SegmentIndex, base_offset: int, end: int, interval_bytes: int
) -> Job[None]:
    """Note every batch from where the index ends up to position `end`, by headers alone."""
    unpack, head_bytes = _WALK.unpack_from, _WALK.size
    position = index.covered_bytes
    while position < end:
        data: bytes = yield file.read_at, (position, min(_WALK_BYTES, end - position))
        at = 0
        while at + head_bytes <= len(data):
            batch_offset, length, max_timestamp = unpack(data, at)
            size_bytes = LOG_OVERHEAD_BYTES + length
            if (
                length < LENGTH_MIN
                or batch_offset < base_offset
                or position + at + size_bytes > end
            ):
                raise CorruptLog(f"{file.path}: no batch header at position {position + at}")
            index.note(batch_offset - base_offset, size_bytes, max_timestamp, interval_bytes)
            at += size_bytes
        if at == 0:
            raise CorruptLog(f"{file.path}: no batch header at position {position}")
        position += at
