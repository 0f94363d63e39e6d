"""Finding the first batch with a timestamp, by the time indexes and then by headers.

The job returns the whole batch, because which record of it is meant only its records can tell, and
reading those (possibly decompressing them) is up to the caller, off the event loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from trio_broker.errors import CorruptLog
from trio_broker.host import jobs
from trio_broker.records.batch import HEADER_BYTES, LENGTH_MIN, BatchHeader, read_header
from trio_broker.storage import paths
from trio_broker.storage.index import load_index

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_broker.host.interface import File, Job
    from trio_broker.storage.files import ReplicaFiles
    from trio_broker.storage.handles import Offers
    from trio_broker.storage.segment import Segment

_WALK_BYTES = 64 * 1024


class TimestampedOffset(NamedTuple):
    """The first batch with a record at or after a point in time.

    Attributes:
        offset: its base offset.
        timestamp_ms: its largest timestamp.
        header: its header.
        batch: the whole of it.
    """

    offset: int
    timestamp_ms: int
    header: BatchHeader
    batch: bytes


class TimestampSearch(NamedTuple):
    """One segment to search.

    Attributes:
        segment: for handing back what was loaded.
        base_offset: its base offset.
        size_bytes: published bytes.
        start: position to begin at, -1 if the index is not loaded.
    """

    segment: Segment
    base_offset: int
    size_bytes: int
    start: int


def offset_by_timestamp_job(
    files: ReplicaFiles,
    searches: Sequence[TimestampSearch],
    timestamp_ms: int,
    *,
    from_offset: int,
    upper_offset: int,
    index_interval_bytes: int,
    offers: Offers,
) -> Job[TimestampedOffset | None]:
    """Search segments, oldest first; see `Log.offset_by_timestamp_job`."""
    for search in searches:
        path = files.path(paths.offset_name(search.base_offset, paths.LOG_SUFFIX))
        try:
            start = yield from _start_of(files, search, timestamp_ms, index_interval_bytes, offers)
            file = yield from jobs.open_file(files.fs, path, files.owner, read_only=True)
        except FileNotFoundError:
            continue  # deleted since the search was planned
        try:
            found = yield from _walk(file, start, search.size_bytes, timestamp_ms, from_offset)
        finally:
            file.close()
        if found is not None:
            return found if found.header.last_offset < upper_offset else None
    return None


def _start_of(
    files: ReplicaFiles,
    search: TimestampSearch,
    timestamp_ms: int,
    index_interval_bytes: int,
    offers: Offers,
) -> Job[int]:
    """Return the position in a segment at which to begin."""
    if search.start >= 0:
        return search.start
    index = yield from load_index(
        files.fs,
        files.directory,
        files.owner,
        search.base_offset,
        search.size_bytes,
        index_interval_bytes,
    )
    offers.append((search.segment, index))
    return index.position_before(timestamp_ms)


def _walk(
    file: File, position: int, end: int, timestamp_ms: int, from_offset: int
) -> Job[TimestampedOffset | None]:
    while position < end:
        data: bytes = yield file.read_at, (position, min(_WALK_BYTES, end - position))
        at = 0
        while at + HEADER_BYTES <= len(data):
            header = read_header(data, at)
            if header.length < LENGTH_MIN or position + at + header.size_bytes > end:
                raise CorruptLog(f"{file.path}: no record batch at position {position + at}")
            if header.max_timestamp >= timestamp_ms and header.last_offset >= from_offset:
                batch = data[at : at + header.size_bytes]
                if len(batch) < header.size_bytes:
                    batch = yield file.read_at, (position + at, header.size_bytes)
                return TimestampedOffset(header.base_offset, header.max_timestamp, header, batch)
            at += header.size_bytes
        if at == 0:
            raise CorruptLog(f"{file.path}: no record batch at position {position}")
        position += at
    return None
