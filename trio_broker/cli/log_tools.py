"""``trio-broker log inspect|verify``: look at logs on disk, without a running broker.

Finds the replicas under a path and prints what `storage.inspect` knows of them. Changes nothing,
takes no lock: beside a running broker the newest batches may look incomplete.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from trio_broker.cli.output import counted
from trio_broker.errors import TrioBrokerError
from trio_broker.host.real import real_host
from trio_broker.records.iterate import iterate_records
from trio_broker.storage import inspect, paths

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_broker.host.interface import FileSystem

#: Folders between a data_dir and its replicas: data_dir/logs/<replica>.
_DEPTH_MAX = 2
_RECORDS_BYTES_MAX = 256 * 1024 * 1024
_SHOWN_BYTES_MAX = 60


class NoReplicas(TrioBrokerError):
    """There is no replica's directory at or under a path."""


def find_replicas(fs: FileSystem, path: str) -> list[str]:
    """Return the replica directories at or under a path: one, those of a log dir, of a data dir.

    Raises:
        NoReplicas: there are none.
        OSError: a directory cannot be read.
    """
    found = list(_replicas_under(fs, path.rstrip("/") or "/", _DEPTH_MAX))
    if not found:
        raise NoReplicas(f"no replica's directory at or under {path}")
    return found


def _replicas_under(fs: FileSystem, path: str, depth: int) -> Iterator[str]:
    names = fs.list_directory(path)
    if paths.PARTITION_NAME in names or paths.offsets_of(names, paths.LOG_SUFFIX):
        yield path
        return
    for name in names if depth else ():
        if name == paths.QUARANTINE_NAME or name.endswith(paths.DELETED_SUFFIX):
            continue
        info = fs.stat(f"{path}/{name}")
        if info is not None and info.is_directory:
            yield from _replicas_under(fs, f"{path}/{name}", depth - 1)


def inspect_lines(path: str, *, batches: bool, records: bool, from_offset: int) -> Iterator[str]:
    """Yield what is to be printed about every replica under a path.

    Args:
        path: see `find_replicas`.
        batches: whether to list every batch.
        records: whether to list every record, under its batch.
        from_offset: first offset of interest in lists.

    Raises:
        NoReplicas, OSError: see `find_replicas`.
        TrioBrokerError: a sound batch holds records that cannot be read (with `records`).
    """
    fs = real_host().fs
    for directory in find_replicas(fs, path):
        yield from _replica_lines(fs, directory)
        if not batches and not records:
            continue
        for row in inspect.inspect_batches(fs, directory, from_offset=from_offset):
            yield _batch_line(row)
            if records and row.batch:
                for record in iterate_records(row.batch, bytes_max=_RECORDS_BYTES_MAX):
                    if record.offset >= from_offset:
                        yield (
                            f"      {record.offset}  {_time(record.timestamp_ms)}  "
                            f"key={_shown(record.key)}  value={_shown(record.value)}"
                        )


def _replica_lines(fs: FileSystem, directory: str) -> Iterator[str]:
    report = inspect.inspect_replica(fs, directory)
    known = report.metadata or {}
    name = f"{known.get('topic', '(unknown topic)')}-{known.get('partition', '?')}"
    yield f"{name}  {directory}"
    if report.sync_failed:
        yield "  an fsync has failed here; the next start repairs what followed"
    if report.snapshots:
        yield f"  producer state at {', '.join(map(str, report.snapshots))}"
    if not report.segments:
        yield "  no segment: nothing was ever written"
    for segment in inspect.inspect_segments(fs, directory):
        # The last one gets its index when it is sealed; that of another can be lost.
        is_open = segment.index_state == "missing" and segment.base_offset == report.segments[-1]
        yield (
            f"  segment {segment.base_offset}: offsets {segment.base_offset} to "
            f"{segment.end_offset - 1}, {counted(segment.records, 'record')} in "
            f"{segment.batches} {'batch' if segment.batches == 1 else 'batches'}, "
            f"{counted(segment.size_bytes, 'byte')}, newest {_time(segment.max_timestamp)}, "
            f"index {'not written yet' if is_open else segment.index_state}"
        )
        if segment.fault:
            yield f"    at byte {segment.sound_bytes}: {segment.fault}"


def _batch_line(row: inspect.BatchRow) -> str:
    header = row.header
    if header is None:
        return f"    byte {row.position}: {row.fault}"
    line = (
        f"    offsets {header.base_offset} to {header.last_offset}  byte {row.position}  "
        f"{header.size_bytes} bytes  {header.record_count} records  {row.codec}  "
        f"epoch {header.leader_epoch}  newest {_time(header.max_timestamp)}"
    )
    if header.producer_id >= 0:
        line += (
            f"  producer {header.producer_id} epoch {header.producer_epoch} "
            f"sequence {header.base_sequence}"
        )
    return f"{line}  {row.fault}" if row.fault else line


def verify_lines(path: str) -> Iterator[tuple[str, bool]]:
    """Yield (line, is bad) for every finding, and at the end a line that sums up.

    Bad are bytes of a log that cannot be read, wherever they are; not bad is what can be rebuilt.

    Raises:
        NoReplicas, OSError: see `find_replicas`.
    """
    fs = real_host().fs
    replicas = find_replicas(fs, path)
    bad_replicas = 0
    for directory in replicas:
        is_bad = False
        for finding in inspect.verify_replica(fs, directory):
            is_bad_finding = finding.severity is not inspect.Severity.DERIVED
            is_bad = is_bad or is_bad_finding
            yield f"{finding.severity.value:<8}{finding.path}: {finding.message}", is_bad_finding
        bad_replicas += is_bad
    yield (
        f"{counted(len(replicas), 'replica')} read, {bad_replicas} with bytes that are not sound",
        False,
    )


def _time(timestamp_ms: int) -> str:
    """Write a record's timestamp; as a number where the calendar has no such day."""
    if timestamp_ms < 0:
        return "no time"
    try:
        moment = datetime.fromtimestamp(timestamp_ms / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return str(timestamp_ms)
    return moment.isoformat(timespec="milliseconds")


def _shown(data: bytes | None) -> str:
    if data is None:
        return "null"
    text = repr(data[:_SHOWN_BYTES_MAX])[1:]
    return f"{text}... ({len(data)} bytes)" if len(data) > _SHOWN_BYTES_MAX else text
