"""Names on disk: of replica directories inside a log dir, and of files inside a replica directory.

Pure. Every path that storage/ touches is built here, and every name found on disk is read here, so
that no name from outside ever becomes a path. docs/reference/on-disk-format.md describes them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from uuid import UUID

from trio_broker.names import TopicPartition

if TYPE_CHECKING:
    from collections.abc import Iterable

LOG_SUFFIX = ".log"
INDEX_SUFFIX = ".index"
TIME_INDEX_SUFFIX = ".timeindex"
SNAPSHOT_SUFFIX = ".snapshot"
DELETED_SUFFIX = ".deleted"

#: Names inside a log dir.
META_NAME = "log-dir.meta"
CLEAN_MARKER_NAME = "clean-shutdown"
QUARANTINE_NAME = "quarantine"
LOCK_NAME = ".lock"
#: Room that is given back when the disk is full, see `broker.disk_guard`.
BALLAST_NAME = "ballast"

#: Names inside a replica directory.
PARTITION_NAME = "partition.json"
CHECKPOINT_NAME = "checkpoint"
#: Present while an fsync has failed and what followed has not been repaired, see `recovery`.
SYNC_FAILED_NAME = "sync-failed"
#: Put there by an operator who accepts that acknowledged records are lost after that.
ACCEPT_LOSS_NAME = "accept-loss"
#: The same, in the log dir, for a replica whose directory is gone: ends its name.
ACCEPT_LOSS_SUFFIX = "." + ACCEPT_LOSS_NAME

_REPLICA = re.compile(
    r"([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})-(0|[1-9][0-9]{0,9})\Z"
)
_OFFSET = re.compile(r"[0-9]{20}\Z")


def replica_name(topic_partition: TopicPartition) -> str:
    """Return the directory name of a replica, ``<topic id>-<partition>``."""
    return f"{topic_partition.topic_id}-{topic_partition.partition}"


def deleted_name(topic_partition: TopicPartition) -> str:
    """Return the directory name of a replica that is deleted."""
    return replica_name(topic_partition) + DELETED_SUFFIX


def owner_name(topic_partition: TopicPartition) -> str:
    """Return what a replica's files are entered under in the handle ledger."""
    return f"replica/{topic_partition.topic_id}-{topic_partition.partition}"


def parse_replica_name(name: str) -> TopicPartition | None:
    """Read a directory name, or return None if it is not that of a replica."""
    match = _REPLICA.match(name)
    if match is None:
        return None
    return TopicPartition(UUID(match[1]), int(match[2]))


def offset_name(offset: int, suffix: str) -> str:
    """Return the name of a file that belongs to an offset: 20 digits and a suffix."""
    return f"{offset:020d}{suffix}"


def parse_offset_name(name: str, suffix: str) -> int | None:
    """Read the offset out of a file name, or return None if it is not such a file."""
    if not name.endswith(suffix):
        return None
    digits = name[: -len(suffix)]
    return int(digits) if _OFFSET.match(digits) else None


def offsets_of(names: Iterable[str], suffix: str) -> list[int]:
    """Return the offsets of all names with that suffix, in ascending order."""
    return sorted(
        offset for name in names if (offset := parse_offset_name(name, suffix)) is not None
    )
