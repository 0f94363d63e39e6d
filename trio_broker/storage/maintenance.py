"""The jobs beside appending and reading: flush, checkpoint, deletion, sealing, closing.

Each takes a frozen plan that `Log` made on the event loop, touches nothing else, and leaves it to
the log to take over the result. `Log` wraps each in `files.noting_failed_sync`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from trio_broker.errors import AppendFailed, CorruptLog, StorageError
from trio_broker.host import jobs
from trio_broker.storage import paths
from trio_broker.storage.checkpoint import (
    LogState,
    read_checkpoint,
    write_checkpoint,
    write_snapshot,
)
from trio_broker.storage.files import sync_segments, unlink_if_there
from trio_broker.storage.index import index_paths, write_index_files

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_broker.host.interface import File, FileInfo, Job
    from trio_broker.storage.files import ReplicaFiles
    from trio_broker.storage.retention import DeletionReason
    from trio_broker.storage.segment import LogPoint, Segment

#: Less room than this behind a segment is no matter; it may be nothing but the end of a block.
_ROOM_BYTES_MIN = 64 * 1024


class FlushPlan(NamedTuple):
    """What makes everything up to `end` durable.

    Attributes:
        files: of the log.
        end: where the log ended when the plan was made.
        appended_bytes: see `SegmentRow`, at that time.
        segments: those that hold bytes not yet durable, oldest first, with their open files.
        must_sync_names: names of files may not be durable yet.
    """

    files: ReplicaFiles
    end: LogPoint
    appended_bytes: int
    segments: Sequence[tuple[Segment, File | None]]
    must_sync_names: bool


class CheckpointPlan(NamedTuple):
    """What makes a checkpoint.

    Attributes:
        flush: carried out first: nothing may refer to bytes that could still be lost.
        state: to be written.
        producers: snapshot for `state.end`, None if there are no producers.
        indexes: index files to write: base offset, bytes covered, contents.
        complete: segments that are never written again and may still have room on the disk that
            was set aside for more: base offset, size in bytes.
        old_snapshots: offsets of snapshots that are not needed any more.
    """

    flush: FlushPlan
    state: LogState
    producers: bytes | None
    indexes: Sequence[tuple[int, int, tuple[bytes, bytes]]]
    complete: Sequence[tuple[int, int]]
    old_snapshots: Sequence[int]


class DeletionPlan(NamedTuple):
    """What takes the oldest segments out of a log.

    Attributes:
        checkpoint: the log as it will be; once it is durable the segments are gone for good.
        base_offsets: the segments.
        created: a new, empty segment that must exist because no other is left.
        deleted_paths: filled by the job: what their files are called until they are unlinked.
        reasons: why each segment goes, and its size in bytes.
    """

    checkpoint: CheckpointPlan
    base_offsets: Sequence[int]
    created: Segment | None
    deleted_paths: list[str]
    reasons: Sequence[tuple[DeletionReason, int]]


def flush_job(plan: FlushPlan) -> Job[None]:
    """Make everything up to the plan's end durable; see `Log.flush_job`."""
    files = plan.files
    yield from sync_segments(files, plan.segments)
    if plan.must_sync_names:
        yield from jobs.sync_directory(files.fs, files.directory)


def flush_unsound_job(plan: FlushPlan, *, after_failed_sync: bool) -> Job[None]:
    """Make everything that a log has published durable, although nothing may be appended to it.

    Args:
        plan: for all of it.
        after_failed_sync: an fsync of it has failed, whether or not there is a note of that.

    Raises:
        StorageError: not after a failed fsync: a second one would succeed and mean nothing.
        SyncFailed, OSError: as for `flush_job`.
    """
    files = plan.files
    note: FileInfo | None = yield files.fs.stat, (files.path(paths.SYNC_FAILED_NAME),)
    if note is not None or after_failed_sync:
        raise _lost(files)
    yield from flush_job(plan)


def flush_closed_job(files: ReplicaFiles, *, after_failed_sync: bool) -> Job[None]:
    """Make durable what the files of a log show that is not open, and perhaps cannot be opened.

    That is what lies behind its recovery point. Nothing is read but the checkpoint, and nothing is
    judged: the next start does that.

    Args:
        files: of the log.
        after_failed_sync: as for `flush_unsound_job`.

    Raises:
        StorageError: as for `flush_unsound_job`.
        SyncFailed, OSError: some of it may not be durable.
    """
    names: list[str] = yield files.fs.list_directory, (files.directory,)
    if after_failed_sync or paths.SYNC_FAILED_NAME in names:
        raise _lost(files)
    checkpoint = yield from read_checkpoint(files)
    first = -1 if checkpoint is None else checkpoint.end.segment_base
    for base_offset in paths.offsets_of(names, paths.LOG_SUFFIX):
        if base_offset >= first:
            path = files.path(paths.offset_name(base_offset, paths.LOG_SUFFIX))
            file = yield from jobs.open_file(files.fs, path, files.owner, read_only=True)
            try:
                yield from jobs.sync(file)
            finally:
                file.close()
    yield from jobs.sync_directory(files.fs, files.directory)


def _lost(files: ReplicaFiles) -> StorageError:
    return StorageError(
        f"an fsync in {files.directory} has failed before, and acknowledged records may be lost"
    )


def nothing_job() -> Job[None]:
    """Do nothing."""
    yield from ()


def checkpoint_job(plan: CheckpointPlan) -> Job[CheckpointPlan]:
    """Write a checkpoint; see `Log.checkpoint_job`."""
    files = plan.flush.files
    yield from flush_job(plan.flush)
    for base_offset, _, payloads in plan.indexes:
        yield from write_index_files(files.fs, files.directory, files.owner, base_offset, payloads)
    for base_offset, size_bytes in plan.complete:
        yield from _give_room_back(files, base_offset, size_bytes)
    if plan.producers is not None:
        yield from write_snapshot(files, plan.state.end.offset, plan.producers)
    for offset in plan.old_snapshots:
        path = files.path(paths.offset_name(offset, paths.SNAPSHOT_SUFFIX))
        yield from unlink_if_there(files.fs, path)
    yield from write_checkpoint(files, plan.state)
    return plan


def _give_room_back(files: ReplicaFiles, base_offset: int, size_bytes: int) -> Job[None]:
    """Give back what was set aside for a segment and has not come to use."""
    path = files.path(paths.offset_name(base_offset, paths.LOG_SUFFIX))
    try:
        file = yield from jobs.open_file(files.fs, path, files.owner)
    except FileNotFoundError:
        return  # by a deletion that was given up when a call hung, and came true after that
    try:
        if file.size == size_bytes and file.reserved_end - size_bytes >= _ROOM_BYTES_MIN:
            yield file.truncate, (size_bytes,)
    finally:
        file.close()


def delete_segments_job(plan: DeletionPlan) -> Job[DeletionPlan]:
    """Take segments out of a log; see `Log.delete_segments_job`.

    The checkpoint decides: a crash before it leaves all of them, after it none, since the next
    start removes files below the start offset. So nothing after it may fail, and nothing after it
    has to be durable.
    """
    files = plan.checkpoint.flush.files
    if plan.created is not None:
        # Its name keeps the offsets going on even if the checkpoint should be lost.
        yield from _make_empty_segment(files, plan.created.name)
    try:
        yield from checkpoint_job(plan.checkpoint)
    except (AppendFailed, OSError):
        if plan.created is not None:
            yield from unlink_if_there(files.fs, files.path(plan.created.name))
        raise
    for base_offset in plan.base_offsets:
        path = files.path(paths.offset_name(base_offset, paths.LOG_SUFFIX))
        try:
            yield files.fs.rename, (path, path + paths.DELETED_SUFFIX)
        except FileNotFoundError:
            # By a job that was given up when this call hung, and came back after that.
            plan.deleted_paths.append(path + paths.DELETED_SUFFIX)
        except OSError:
            plan.deleted_paths.append(path)  # to be unlinked under the name it has
        else:
            plan.deleted_paths.append(path + paths.DELETED_SUFFIX)
        plan.deleted_paths.extend(index_paths(files.directory, base_offset))
    return plan


def _make_empty_segment(files: ReplicaFiles, name: str) -> Job[None]:
    file = yield from jobs.open_file(files.fs, files.path(name), files.owner, create=True)
    try:
        if file.size:
            yield file.truncate, (0,)
        yield from jobs.sync(file)
    finally:
        file.close()
    yield from jobs.sync_directory(files.fs, files.directory)


class Unlinked(NamedTuple):
    """What became of files that are to be removed.

    Attributes:
        removed: how many are gone.
        refused: how many cannot be removed now.
        error: why the first of those cannot.
    """

    removed: int = 0
    refused: int = 0
    error: OSError | None = None

    def __str__(self) -> str:
        return (
            f"{self.refused} files of deleted segments cannot be removed now, which is tried again:"
            f" {self.error}"
        )


#: What most logs have to say.
NOTHING_UNLINKED = Unlinked()


def unlink_job(files: ReplicaFiles, doomed: list[str]) -> Job[Unlinked]:
    """Give back the space of deleted segments; return what became of their files.

    What is gone is struck out of `doomed`; what cannot be removed now stays there. To say so is the
    caller's business: there may be thousands of logs on a disk that refuses.
    """
    removed, refused = 0, 0
    first_error: OSError | None = None
    for path in tuple(doomed):
        try:
            removed += yield from unlink_if_there(files.fs, path)
        except OSError as error:
            refused += 1
            first_error = first_error or error
        else:
            doomed.remove(path)
    return Unlinked(removed, refused, first_error)


def seal_job(plan: CheckpointPlan, doomed: Sequence[int], names: Sequence[int]) -> Job[None]:
    """Cut a log back to the end of the plan's state; see `Log.seal_at_durable_job`.

    Nothing is read back. The file of the last segment kept is cut through a new handle, since the
    old one is tainted; what follows goes on in a new file (Rebello et al., ATC 2020: after a failed
    fsync the pages are marked clean, so what a read shows need not be on the disk).

    Args:
        plan: the checkpoint of the log as it will be; its flush is not carried out.
        doomed: base offsets of segment files that hold nothing durable, if they exist.
        names: base offsets of all segments that have index files which may reach too far.
    """
    files = plan.flush.files
    end = plan.state.end
    if end.position > 0:
        path = files.path(paths.offset_name(end.segment_base, paths.LOG_SUFFIX))
        file = yield from jobs.open_file(files.fs, path, files.owner)
        try:
            if file.size < end.position:  # to "cut" it would put zeros in their place
                raise CorruptLog(f"{path} has {file.size} bytes, {end.position} were durable")
            yield file.truncate, (end.position,)
            yield from jobs.sync(file)
        finally:
            file.close()
    for base_offset in reversed(doomed):  # newest first: what is left never has a gap
        yield from quarantine_file(files, paths.offset_name(base_offset, paths.LOG_SUFFIX))
    for base_offset in names:
        for index_path in index_paths(files.directory, base_offset):
            yield from unlink_if_there(files.fs, index_path)
    if plan.producers is not None:
        yield from write_snapshot(files, end.offset, plan.producers)
    yield from write_checkpoint(files, plan.state)
    yield from unlink_if_there(files.fs, files.path(paths.SYNC_FAILED_NAME))
    yield from jobs.sync_directory(files.fs, files.directory)


def quarantine_file(files: ReplicaFiles, name: str) -> Job[str | None]:
    """Move one file of a replica out of the way, to be looked at by people.

    Data is never deleted because it was not expected. Returns where it is, None if there is none.
    """
    if (yield files.fs.stat, (files.path(name),)) is None:
        return None
    replica = files.directory.rpartition("/")[2]
    quarantine = f"{files.parent}/{paths.QUARANTINE_NAME}"
    target_directory = f"{quarantine}/{replica}"
    yield from jobs.make_directories(files.fs, target_directory)
    target = f"{target_directory}/{name}"
    number = 0
    while (yield files.fs.stat, (target,)) is not None:
        number += 1
        target = f"{target_directory}/{name}.{number}"
    yield files.fs.rename, (files.path(name), target)
    yield from jobs.sync_directory(files.fs, target_directory)
    yield from jobs.sync_directory(files.fs, files.directory)
    return target
