"""Looking at a replica's directory from outside: what is in it, and whether it is sound.

For the command line's ``log inspect`` and ``log verify``. Only reads, takes no lock, and so may
look at the log of a running broker, whose newest batches it may find incomplete. Blocking: for
offline tools, never for an event loop.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

from trio_broker.host.jobs import run_inline
from trio_broker.records.batch import HEADER_BYTES, LENGTH_MIN, BatchHeader, read_header
from trio_broker.records.validation import check_stored
from trio_broker.storage import paths
from trio_broker.storage.checkpoint import read_checkpoint, read_snapshot
from trio_broker.storage.files import ReplicaFiles, read_derived
from trio_broker.storage.index import SegmentIndex, index_paths
from trio_broker.storage.replica_directory import read_partition_metadata

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_broker.host.interface import File, FileSystem
    from trio_broker.storage.checkpoint import LogState

OWNER = "inspect"
_READ_BYTES = 1024 * 1024


class BatchRow(NamedTuple):
    """One batch as it lies on the disk.

    Attributes:
        segment: base offset of its segment.
        position: byte in the segment's file.
        header: its header, None if there are too few bytes for one.
        codec: name of its compression.
        fault: what is wrong with it, empty if nothing is. Nothing follows a fault in a segment.
        batch: all its bytes, for reading the records; empty after a fault.
    """

    segment: int
    position: int
    header: BatchHeader | None
    codec: str
    fault: str
    batch: bytes


class SegmentReport(NamedTuple):
    """One segment.

    Attributes:
        base_offset: by its name.
        end_offset: offset after its last sound batch.
        size_bytes: of its file.
        sound_bytes: up to the first fault.
        batches: sound ones.
        records: in these.
        max_timestamp: largest in these, -1 if there are none.
        index_state: ``ok``, ``missing``, ``covers N of M bytes``, or what is wrong.
        fault: what is wrong behind the sound bytes, empty if nothing is.
    """

    base_offset: int
    end_offset: int
    size_bytes: int
    sound_bytes: int
    batches: int
    records: int
    max_timestamp: int
    index_state: str
    fault: str


class ReplicaReport(NamedTuple):
    """A replica's directory, without its batches.

    Attributes:
        metadata: what its metadata file says (topic, topic_id, partition), None if unreadable.
        checkpoint: its checkpoint, None if it is missing or damaged.
        segments: base offsets.
        snapshots: offsets of snapshots of producer state.
        sync_failed: an fsync had failed, and what followed has not been repaired.
        names: everything in the directory.
    """

    metadata: dict[str, Any] | None
    checkpoint: LogState | None
    segments: list[int]
    snapshots: list[int]
    sync_failed: bool
    names: list[str]


class Severity(Enum):
    """How bad a finding is."""

    DAMAGE = "damage"  # something that was promised to be stored
    TAIL = "tail"  # behind the recovery point: the next recovery cuts it off
    DERIVED = "derived"  # is rebuilt when it is needed


class Finding(NamedTuple):
    """Something that is not as it should be."""

    severity: Severity
    path: str
    message: str


def inspect_replica(fs: FileSystem, directory: str) -> ReplicaReport:
    """Describe a replica's directory.

    Raises:
        OSError: it cannot be read.
    """
    files = ReplicaFiles(fs, directory, OWNER)
    names = fs.list_directory(directory)
    return ReplicaReport(
        run_inline(read_partition_metadata(files)),
        run_inline(read_checkpoint(files)),
        paths.offsets_of(names, paths.LOG_SUFFIX),
        paths.offsets_of(names, paths.SNAPSHOT_SUFFIX),
        paths.SYNC_FAILED_NAME in names,
        names,
    )


def inspect_batches(fs: FileSystem, directory: str, *, from_offset: int = 0) -> Iterator[BatchRow]:
    """Yield every batch of a replica with its CRC checked, from the one with `from_offset` on.

    Raises:
        OSError: a file cannot be read.
    """
    bases = paths.offsets_of(fs.list_directory(directory), paths.LOG_SUFFIX)
    first = max((base for base in bases if base <= from_offset), default=0)
    for base in bases:
        if base < first:
            continue
        for row in _batches(fs, directory, base):
            if row.header is None or row.header.last_offset >= from_offset:
                yield row


def inspect_segments(fs: FileSystem, directory: str) -> Iterator[SegmentReport]:
    """Yield a report on every segment, oldest first, after reading all of it.

    Raises:
        OSError: a file cannot be read.
    """
    for base in paths.offsets_of(fs.list_directory(directory), paths.LOG_SUFFIX):
        yield _segment_report(fs, directory, base)


def verify_replica(fs: FileSystem, directory: str) -> Iterator[Finding]:
    """Read everything and yield what is wrong; nothing if all is sound.

    Raises:
        OSError: a file cannot be read.
    """
    files = ReplicaFiles(fs, directory, OWNER)
    report = inspect_replica(fs, directory)
    checkpoint = report.checkpoint
    if checkpoint is None and paths.CHECKPOINT_NAME in report.names:
        path = files.path(paths.CHECKPOINT_NAME)
        yield Finding(Severity.DERIVED, path, "damaged; the whole log is scanned after a crash")
    if report.metadata is None:
        yield Finding(Severity.DERIVED, files.path(paths.PARTITION_NAME), "missing or damaged")
    if report.sync_failed:
        path = files.path(paths.SYNC_FAILED_NAME)
        yield Finding(Severity.TAIL, path, "an fsync has failed; recovery writes the tail again")
    for offset in report.snapshots:
        if run_inline(read_snapshot(files, offset)) is None:
            path = files.path(paths.offset_name(offset, paths.SNAPSHOT_SUFFIX))
            yield Finding(Severity.DERIVED, path, "damaged; the producer state is replayed")
    promised = {}
    if checkpoint is not None:
        promised = {facts.base_offset: facts.size_bytes for facts in checkpoint.segments}
    for base in sorted(promised.keys() - set(report.segments)):
        path = files.path(paths.offset_name(base, paths.LOG_SUFFIX))
        yield Finding(Severity.DAMAGE, path, f"missing, {promised[base]} bytes were stored in it")
    expected: int | None = None
    for base in report.segments:
        segment = _segment_report(fs, directory, base)
        path = files.path(paths.offset_name(base, paths.LOG_SUFFIX))
        if expected is not None and base != expected:
            is_promised = checkpoint is not None and base <= checkpoint.end.segment_base
            severity = Severity.DAMAGE if is_promised else Severity.TAIL
            yield Finding(
                severity, path, f"begins at offset {base}, the one before ends at {expected}"
            )
        if segment.sound_bytes < promised.get(base, 0):
            fault = segment.fault or "the file ends early"
            yield Finding(Severity.DAMAGE, path, f"at byte {segment.sound_bytes}: {fault}")
        elif segment.fault:
            yield Finding(Severity.TAIL, path, f"at byte {segment.sound_bytes}: {segment.fault}")
        if segment.index_state not in {"ok", "missing"} and not segment.index_state.startswith(
            "covers"
        ):
            yield Finding(Severity.DERIVED, index_paths(directory, base)[0], segment.index_state)
        expected = segment.end_offset


def _batches(fs: FileSystem, directory: str, base_offset: int) -> Iterator[BatchRow]:
    """Yield the batches of one segment, up to and with the first that is not sound."""
    path = f"{directory}/{paths.offset_name(base_offset, paths.LOG_SUFFIX)}"
    file = fs.open(path, OWNER, read_only=True)
    try:
        expected = base_offset
        for position, header, batch in _raw_batches(file):
            if header is None:
                yield BatchRow(base_offset, position, None, "", f"{len(batch)} bytes left", b"")
                return
            checked = check_stored(batch, 0)
            fault = checked if isinstance(checked, str) else ""
            if not fault and header.base_offset != expected:
                fault = f"offset {header.base_offset} instead of {expected}"
            yield BatchRow(
                base_offset, position, header, _codec(header), fault, b"" if fault else batch
            )
            if fault:
                return
            expected = header.last_offset + 1
    finally:
        file.close()


def _raw_batches(file: File) -> Iterator[tuple[int, BatchHeader | None, bytes]]:
    """Yield (position, header, bytes) by the lengths in the headers, whatever else they hold."""
    end = file.size
    position = at = 0
    data = b""
    while position < end:
        if len(data) - at < HEADER_BYTES:
            data, at = file.read_at(position, min(_READ_BYTES, end - position)), 0
            if len(data) < HEADER_BYTES:
                yield position, None, data
                return
        header = read_header(data, at)
        size_bytes = header.size_bytes
        if header.length < LENGTH_MIN or position + size_bytes > end:
            yield position, header, data[at:]
            return
        if len(data) - at < size_bytes:
            data, at = file.read_at(position, max(size_bytes, min(_READ_BYTES, end - position))), 0
        yield position, header, data[at : at + size_bytes]
        at += size_bytes
        position += size_bytes


def _codec(header: BatchHeader) -> str:
    try:
        return header.compression.name.lower()
    except ValueError:
        return f"unknown ({header.attributes & 7})"


def _segment_report(fs: FileSystem, directory: str, base_offset: int) -> SegmentReport:
    path = f"{directory}/{paths.offset_name(base_offset, paths.LOG_SUFFIX)}"
    info = fs.stat(path)
    size_bytes = 0 if info is None else info.size_bytes
    index, index_state = _index(fs, directory, base_offset)
    pending = dict(index.entries) if index is not None else {}
    times = list(reversed(index.time_entries)) if index is not None else []
    end_offset, sound_bytes, batches, records, max_timestamp, fault = base_offset, 0, 0, 0, -1, ""
    for row in _batches(fs, directory, base_offset):
        if row.fault or row.header is None:
            fault = row.fault
            break
        header = row.header
        relative_offset = header.base_offset - base_offset
        position = pending.pop(relative_offset, row.position)
        if position != row.position:
            index_state = f"entry of offset {header.base_offset} points to byte {position}"
        max_timestamp = max(max_timestamp, header.max_timestamp)
        while times and times[-1][1] <= relative_offset:
            timestamp_ms, at = times.pop()
            if at == relative_offset and timestamp_ms < max_timestamp:
                index_state = (
                    f"timestamp {timestamp_ms} at offset {header.base_offset} is too small"
                )
        end_offset = header.last_offset + 1
        sound_bytes = row.position + header.size_bytes
        batches += 1
        records += header.record_count
    if pending and not fault:
        index_state = f"entry of offset {base_offset + min(pending)} points to no batch"
    if index is not None and index_state == "ok" and index.covered_bytes < sound_bytes:
        index_state = f"covers {index.covered_bytes} of {sound_bytes} bytes"
    return SegmentReport(
        base_offset,
        end_offset,
        size_bytes,
        sound_bytes,
        batches,
        records,
        max_timestamp,
        index_state,
        fault,
    )


def _index(fs: FileSystem, directory: str, base_offset: int) -> tuple[SegmentIndex | None, str]:
    """Read a segment's index files; say what state they are in."""
    offset_path, time_path = index_paths(directory, base_offset)
    if fs.stat(offset_path) is None and fs.stat(time_path) is None:
        return None, "missing"
    payloads = [run_inline(read_derived(fs, path, OWNER)) for path in (offset_path, time_path)]
    if payloads[0] is None or payloads[1] is None:
        return None, "damaged"
    index = SegmentIndex.from_payloads(base_offset, payloads[0], payloads[1])
    return (index, "ok") if index is not None else (None, "the two index files do not match")
