"""The directory of one replica: made when first opened, tidied when opened after a crash.

Its metadata file is for people and tools, who could not tell from a topic id which topic it is; the
broker never reads it back except to see that it is right. So it is plain JSON, and not synced.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from trio_broker.errors import LogMissing, SyncFailed
from trio_broker.host import jobs
from trio_broker.storage import paths
from trio_broker.storage.files import unlink_if_there

if TYPE_CHECKING:
    from trio_broker.host.interface import Job
    from trio_broker.names import TopicName, TopicPartition
    from trio_broker.storage.files import ReplicaFiles

_VERSION = 1
_PARTITION_BYTES_MAX = 4096


def prepare_replica_directory(
    files: ReplicaFiles,
    topic_partition: TopicPartition,
    topic_name: TopicName,
    *,
    is_durable: bool,
    may_make: bool,
) -> Job[list[str]]:
    """Make sure that the directory is there, durably, and tidy; return the names in it.

    With `is_durable` the caller knows that the name of the directory, if it exists, is durable.
    Without `may_make` he knows that it was there before, durably, or would not be without it.

    What a crash left behind half done is finished: temporary files are removed, and so are segments
    that had been deleted.

    Raises:
        LogMissing: it is not there, and must not be made anew.
        SyncFailed: the directory's name may not be durable; it has been removed again.
        AppendFailed: no room for the metadata file.
        OSError: the system refused.
    """
    fs = files.fs
    try:
        names: list[str] = yield fs.list_directory, (files.directory,)
    except FileNotFoundError:
        if not may_make:
            raise log_missing(files.directory) from None
        yield fs.make_directory, (files.directory,)
        names = []
        is_durable = False
    is_empty = not paths.offsets_of(names, paths.LOG_SUFFIX) and paths.CHECKPOINT_NAME not in names
    if is_empty and may_make and not is_durable:
        # New, or left by a crash right after it was made. Whoever stores data in it later relies on
        # its name, which must not be one whose fsync has failed. (One that is known to have been
        # there is left alone: if it were removed, and the process ended, it would be missing.)
        try:
            yield from jobs.sync_directory(fs, files.parent)
        except SyncFailed:
            yield from jobs.remove_tree(fs, files.directory)
            raise
    kept = []
    for name in names:
        if name.endswith((jobs.TEMPORARY_SUFFIX, paths.LOG_SUFFIX + paths.DELETED_SUFFIX)):
            yield from unlink_if_there(fs, files.path(name))
        else:
            kept.append(name)
    content = _partition_content(topic_partition, topic_name)
    if paths.PARTITION_NAME not in names or (yield from _read_partition(files)) != content:
        yield from _write_partition(files, content)
    return kept


def log_missing(directory: str) -> LogMissing:
    """Return what is wrong where the directory of a log is gone, and what can be done about it."""
    return LogMissing(
        f"{directory} is missing, and with it all that was stored there. Stop the broker and put "
        "it back; or, to accept that these records are lost, make an empty file "
        f"{directory}{paths.ACCEPT_LOSS_SUFFIX} before the next start"
    )


def _partition_content(topic_partition: TopicPartition, topic_name: TopicName) -> bytes:
    """Return what the metadata file is to say.

    Indented by hand: the encoder that indents leaves much for the cyclic collector, and thousands
    of these files are made at a time.
    """
    fields = {
        "version": _VERSION,
        "topic": topic_name,
        "topic_id": str(topic_partition.topic_id),
        "partition": topic_partition.partition,
    }
    lines = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in fields.items()]
    return ("{\n" + ",\n".join(lines) + "\n}").encode()


def read_partition_metadata(files: ReplicaFiles) -> Job[dict[str, Any] | None]:
    """Return what the metadata file says (topic, topic_id, partition), None if it says nothing."""
    content = yield from _read_partition(files)
    if content is None:
        return None
    try:
        values = json.loads(content)
    except ValueError:
        return None
    return values if isinstance(values, dict) else None


def _read_partition(files: ReplicaFiles) -> Job[bytes | None]:
    path = files.path(paths.PARTITION_NAME)
    try:
        file = yield from jobs.open_file(files.fs, path, files.owner, read_only=True)
    except FileNotFoundError:
        return None
    try:
        content: bytes = yield file.read_at, (0, _PARTITION_BYTES_MAX)
    finally:
        file.close()
    return content


def _write_partition(files: ReplicaFiles, content: bytes) -> Job[None]:
    path = files.path(paths.PARTITION_NAME)
    file = yield from jobs.open_file(files.fs, path, files.owner, create=True)
    try:
        if file.size:
            yield file.truncate, (0,)
        yield from jobs.append_all(file, 0, [content])
    finally:
        file.close()
