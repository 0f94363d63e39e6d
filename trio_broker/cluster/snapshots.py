"""Snapshot files of the embedded store: the whole table as of one revision.

A snapshot is derived data as long as the journal reaches back to the one before it, which is why
the embedded store keeps two. A damaged file is moved to ``quarantine/`` and the next older one
counts. Jobs and bytes only; `embedded` decides when.

File ``<revision>-<journal offset>.snapshot``, both as 20 digits, in the frame of
`host.jobs.write_small_file`; inside, big-endian: format (2 bytes), revision, journal offset (8
each), number of entries (4); then per entry the lengths of key and value (2 and 4), create and
mod revision (8 each), key (UTF-8) and value.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

from trio_broker.errors import FormatTooNew
from trio_broker.host.interface import FileSystem, Job
from trio_broker.host.jobs import (
    SMALL_FILE_BYTES_MAX,
    read_small_file,
    sync_directory,
    write_small_file,
)
from trio_broker.metadata.transaction import KeyValue

SNAPSHOT_FORMAT = 1
#: Snapshots kept: the newest, and one to fall back on.
SNAPSHOTS_KEPT = 2
QUARANTINE = "quarantine"

_HEAD = struct.Struct(">HQQI")
_ENTRY = struct.Struct(">HIQQ")
_NAME = re.compile(r"([0-9]{20})-([0-9]{20})\.snapshot")
#: What an entry takes beside its key and value.
ENTRY_OVERHEAD_BYTES = _ENTRY.size
#: Keys, values and overhead of all entries that a snapshot can hold.
CONTENT_BYTES_MAX = SMALL_FILE_BYTES_MAX - _HEAD.size


class SnapshotName(NamedTuple):
    """What the name of a snapshot file says.

    Attributes:
        revision: the state it holds is as of this revision.
        journal_offset: the journal goes on from here.
    """

    revision: int
    journal_offset: int

    def __str__(self) -> str:
        return f"{self.revision:020d}-{self.journal_offset:020d}.snapshot"


class StoredSnapshot(NamedTuple):
    """What a snapshot file holds."""

    name: SnapshotName
    entries: tuple[KeyValue, ...]


def encode_snapshot(name: SnapshotName, entries: Iterable[KeyValue]) -> bytes:
    """Return the payload of a snapshot file; entries are sorted, so that it is reproducible."""
    parts = [b""]
    ordered = sorted(entries)
    for entry in ordered:
        key = entry.key.encode()
        parts.append(
            _ENTRY.pack(len(key), len(entry.value), entry.create_revision, entry.mod_revision)
        )
        parts.append(key)
        parts.append(entry.value)
    parts[0] = _HEAD.pack(SNAPSHOT_FORMAT, name.revision, name.journal_offset, len(ordered))
    return b"".join(parts)


def decode_snapshot(path: str, payload: bytes) -> StoredSnapshot | None:
    """Read a snapshot's payload, whose checksum was right; None if it makes no sense.

    Raises:
        FormatTooNew: a newer version of this package wrote it.
    """
    if len(payload) < _HEAD.size:
        return None
    snapshot_format, revision, journal_offset, count = _HEAD.unpack_from(payload)
    if snapshot_format > SNAPSHOT_FORMAT:
        raise FormatTooNew(
            f"{path} has format {snapshot_format}, this version reads up to {SNAPSHOT_FORMAT}"
        )
    entries = []
    position = _HEAD.size
    try:
        for _ in range(count):
            key_bytes, value_bytes, created, modified = _ENTRY.unpack_from(payload, position)
            key_start = position + _ENTRY.size
            value_start = key_start + key_bytes
            position = value_start + value_bytes
            key = payload[key_start:value_start].decode()
            entries.append(KeyValue(key, payload[value_start:position], created, modified))
    except (struct.error, UnicodeDecodeError):
        return None
    if position != len(payload):
        return None
    return StoredSnapshot(SnapshotName(revision, journal_offset), tuple(entries))


def list_snapshots(fs: FileSystem, directory: str) -> Job[list[SnapshotName]]:
    """Return the snapshots there are, newest first."""
    names: list[str] = yield fs.list_directory, (directory,)
    found = []
    for name in names:
        match = _NAME.fullmatch(name)
        if match is not None:
            found.append(SnapshotName(int(match[1]), int(match[2])))
    return sorted(found, reverse=True)


def read_snapshot(
    fs: FileSystem, directory: str, owner: str, name: SnapshotName
) -> Job[StoredSnapshot | None]:
    """Read one snapshot; None if it is damaged.

    Raises:
        FormatTooNew: a newer version of this package wrote it.
        OSError: it cannot be read.
    """
    path = f"{directory}/{name}"
    payload = yield from read_small_file(fs, path, owner)
    if payload is None:
        return None
    stored = decode_snapshot(path, payload)
    return stored if stored is not None and stored.name == name else None


def write_snapshot(
    fs: FileSystem, directory: str, owner: str, name: SnapshotName, entries: list[KeyValue]
) -> Job[None]:
    """Write a snapshot durably; the errors are those of `host.jobs.write_small_file`."""
    payload: bytes = yield encode_snapshot, (name, entries)
    yield from write_small_file(fs, f"{directory}/{name}", owner, payload)


def quarantine_snapshot(fs: FileSystem, directory: str, name: SnapshotName) -> Job[None]:
    """Move a damaged snapshot out of the way, keeping its bytes."""
    folder = f"{directory}/{QUARANTINE}"
    yield partial(fs.make_directory, exist_ok=True), (folder,)
    yield fs.rename, (f"{directory}/{name}", f"{folder}/{name}")
    yield from sync_directory(fs, folder)
    yield from sync_directory(fs, directory)


def remove_snapshots(fs: FileSystem, directory: str, names: Iterable[SnapshotName]) -> Job[None]:
    """Remove snapshots that newer ones replace. Not synced: one that comes back does no harm."""
    for name in names:
        try:
            yield fs.unlink, (f"{directory}/{name}",)
        except FileNotFoundError:
            pass
