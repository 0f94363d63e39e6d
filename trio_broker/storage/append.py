"""Appending: the plan made on the event loop, and the job that carries it out on a lane.

A plan is everything an append needs to know, decided before any disk is touched. While its job
runs, the plan belongs to the job; before and after, to the `Log` that made it. The job touches
nothing else, so the log stays as it was until it publishes the plan or abandons it.

What the job leaves behind when it fails (see `AppendState`) is either nothing or a broken log.
"""

from __future__ import annotations

import errno
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, NoReturn, TypeAlias

from trio_broker.errors import (
    AppendFailed,
    CorruptLog,
    ErrorCode,
    StorageError,
    StuckIO,
    SyncFailed,
)
from trio_broker.host import jobs
from trio_broker.storage.files import mark_sync_failed, sync_segments
from trio_broker.storage.index import load_index

if TYPE_CHECKING:
    from trio_broker.host.interface import Buffer, File, Job
    from trio_broker.records.batch import BatchHeader
    from trio_broker.storage.files import ReplicaFiles
    from trio_broker.storage.index import SegmentIndex
    from trio_broker.storage.segment import Segment


#: Logs that are written in pieces of at least this size have room set aside for them.
RESERVING_WRITE_BYTES_MIN = 64 * 1024


class BatchToAppend(NamedTuple):
    """A validated batch on its way into a log.

    Attributes:
        buffer: the whole batch as the client sent it; unchanged until the plan is settled.
        header: its header.
    """

    buffer: Buffer
    header: BatchHeader


class Accepted(NamedTuple):
    """The batch is part of the plan, and stored once that is published.

    Attributes:
        base_offset: where its first record goes.
        log_append_time_ms: the timestamp stamped on it, -1 unless the topic has LogAppendTime.
    """

    base_offset: int
    log_append_time_ms: int


class Duplicate(NamedTuple):
    """A copy of a batch that is stored, or is part of the same plan: answered like that one."""

    base_offset: int
    log_append_time_ms: int


class Refused(NamedTuple):
    """The batch is not appended."""

    code: ErrorCode
    message: str


Outcome: TypeAlias = Accepted | Duplicate | Refused


class PlannedBatch(NamedTuple):
    """One batch of a plan, with what publishing it needs."""

    header: BatchHeader
    base_offset: int
    max_timestamp: int


class SegmentWrite:
    """What a plan writes to one segment.

    Attributes:
        segment: where to; not part of the log before publication if `creates`.
        creates: whether its file has to be made.
        file: its file, None if the job has to open it.
        keeps_file: whether the file stays open after the job.
        start: position of the first byte.
        size_bytes: number of bytes.
        buffers: the bytes.
        batches: the batches they make up.
        first_timestamp: the segment's, with this write.
        reserves: the job has asked for room behind it.
    """

    __slots__ = (
        "batches",
        "buffers",
        "creates",
        "file",
        "first_timestamp",
        "keeps_file",
        "reserves",
        "segment",
        "size_bytes",
        "start",
    )

    def __init__(self, segment: Segment, file: File | None, *, creates: bool) -> None:
        self.segment = segment
        self.file = file
        self.creates = creates
        self.keeps_file = True
        self.reserves = False
        self.start = segment.size_bytes
        self.size_bytes = 0
        self.buffers: list[Buffer] = []
        self.batches: list[PlannedBatch] = []
        self.first_timestamp = segment.first_timestamp


class AppendState(Enum):
    """How far an append has come."""

    PLANNED = "planned"  # nothing on disk has changed
    RUNNING = "running"  # or stuck: what is on disk is unknown
    DONE = "done"
    CUT_BACK = "cut back"  # failed; the files are as they were before
    DAMAGED = "damaged"  # failed; the files have an unknown tail


class AppendPlan:
    """One append to one log.

    Attributes:
        outcomes: what became of each batch, in the order given; promises until published.
        writes: what to write, segment by segment.
        end_offset: the log end offset once published.
        size_bytes: bytes of all writes.
        state: how far it has come.
        sync_failed: an fsync of the job has failed, or a call was given up: what the files show
            need not be on the disk.
        is_synced: the job made everything below `end_offset` durable, older segments included.
        unsynced: segments that hold older bytes which are not durable yet.
        all_durable: everything published before is durable.
        begins_log: the log has no segment yet.
        must_sync_names: the names of the replica's files may not be durable yet.
        reserve_bytes: how much room to set aside behind what is written; 0: none.
        segment_bytes: where segments end, so that none is set aside beyond.
        must_sync: sync in any case, because a file cannot stay open and a failed write must not
            go unnoticed.
        load_index: the active segment's index is not in memory and has to be loaded.
        loaded_index: the result of that.
        opened: files that the job opened, for the log to keep.
        reserved: files for which the cache has promised room.
    """

    __slots__ = (
        "all_durable",
        "begins_log",
        "end_offset",
        "files",
        "index_interval_bytes",
        "is_synced",
        "leader_epoch",
        "load_index",
        "loaded_index",
        "log_append_time_ms",
        "must_sync",
        "must_sync_names",
        "now_ms",
        "opened",
        "outcomes",
        "reserve_bytes",
        "reserved",
        "segment_bytes",
        "size_bytes",
        "state",
        "sync_failed",
        "unsynced",
        "writes",
    )

    def __init__(self, files: ReplicaFiles, *, now_ms: int, leader_epoch: int) -> None:
        self.files = files
        self.now_ms = now_ms
        self.leader_epoch = leader_epoch
        self.log_append_time_ms = -1
        self.index_interval_bytes = 0
        self.outcomes: list[Outcome] = []
        self.writes: list[SegmentWrite] = []
        self.end_offset = 0
        self.size_bytes = 0
        self.state = AppendState.PLANNED
        self.sync_failed = False
        self.is_synced = False
        self.unsynced: list[tuple[Segment, File | None]] = []
        self.reserve_bytes = 0
        self.segment_bytes = 0
        self.must_sync = False
        self.all_durable = False
        self.begins_log = False
        self.must_sync_names = False
        self.load_index = False
        self.loaded_index: SegmentIndex | None = None
        self.opened: list[tuple[Segment, File]] = []
        self.reserved = 0

    @property
    def batch_count(self) -> int:
        """Batches that are stored by it: duplicates and refused ones are not."""
        return sum(len(write.batches) for write in self.writes)

    def __repr__(self) -> str:
        return (
            f"<AppendPlan {len(self.outcomes)} batches {self.size_bytes} B"
            f" in {len(self.writes)} segments, {self.state.value}>"
        )


def append_job(plan: AppendPlan, *, sync: bool) -> Job[None]:
    """Carry out a plan; see `Log.append_job`."""
    if not plan.writes:
        plan.state = AppendState.DONE
        return
    plan.state = AppendState.RUNNING
    written: list[tuple[SegmentWrite, File]] = []
    try:
        plan.is_synced = yield from _write_all(plan, written, sync=sync or plan.must_sync)
    except (SyncFailed, StuckIO):
        # What became of a sync that was given up is as unknown as what one that failed has lost.
        plan.state, plan.sync_failed = AppendState.DAMAGED, True
        yield from mark_sync_failed(plan.files, all_durable=plan.all_durable)
        raise
    except (AppendFailed, CorruptLog, OSError) as error:
        yield from _take_back(plan, written, error)
    finally:
        for write, file in written:
            if not write.keeps_file:
                file.close()
    plan.state = AppendState.DONE


def _write_all(
    plan: AppendPlan, written: list[tuple[SegmentWrite, File]], *, sync: bool
) -> Job[bool]:
    """Write every part; return whether all of it is durable."""
    files = plan.files
    if plan.load_index:
        segment = plan.writes[0].segment
        try:
            plan.loaded_index = yield from load_index(
                files.fs,
                files.directory,
                files.owner,
                segment.base_offset,
                plan.writes[0].start,
                plan.index_interval_bytes,
            )
        except OSError as error:
            path = error.filename or files.path(segment.name)
            number = error.errno or errno.EIO
            raise AppendFailed(path, number, cut_back=True, was_reading=True) from error
    if sync:
        yield from sync_segments(files, plan.unsynced)
    for write in plan.writes:
        if write.creates and written and sync:
            # A segment on disk promises that those before it are complete.
            yield from jobs.sync(written[-1][1])
        file = yield from _open(plan, write, written)
        if file.is_spare and not sync:
            # It is closed at once, and a write that fails later on must not go unnoticed.
            sync = True
            yield from sync_segments(files, plan.unsynced)
            for _, earlier in written[:-1]:
                yield from jobs.sync(earlier)
        if plan.begins_log and write is plan.writes[0]:
            # Durable in every mode: a log whose first segment is not there would seem to begin at
            # its second.
            yield from jobs.sync_directory(files.fs, files.directory)
        if plan.reserve_bytes and write is plan.writes[-1]:
            yield from _reserve(plan, write, file)
        yield from jobs.append_all(file, write.start, write.buffers)
    if sync:
        yield from jobs.sync(written[-1][1])
        has_new_name = written[-1][0].creates and not (plan.begins_log and len(written) == 1)
        if plan.must_sync_names or has_new_name:
            yield from jobs.sync_directory(files.fs, files.directory)
    return sync


def _reserve(plan: AppendPlan, write: SegmentWrite, file: File) -> Job[None]:
    """Set room aside for a log that is written in large pieces, once for several of them."""
    end = write.start + write.size_bytes
    if write.size_bytes >= RESERVING_WRITE_BYTES_MIN and file.reserved_end < end:
        write.reserves = True
        yield file.reserve, (max(end, min(end + plan.reserve_bytes, plan.segment_bytes)),)


def _open(
    plan: AppendPlan, write: SegmentWrite, written: list[tuple[SegmentWrite, File]]
) -> Job[File]:
    """Open or make the file of one write; its size is that of the log's published bytes."""
    files = plan.files
    file = write.file
    if file is None:
        path = files.path(write.segment.name)
        file = yield from jobs.open_file(files.fs, path, files.owner, create=write.creates)
        write.keeps_file = write.keeps_file and not file.is_spare
        if write.keeps_file:
            plan.opened.append((write.segment, file))
    written.append((write, file))
    if file.size < write.start:
        raise CorruptLog(f"{file.path} has {file.size} bytes, {write.start} were stored")
    if file.size > write.start:
        # Left by a crash or a seal, and never acknowledged.
        yield file.truncate, (write.start,)
    return file


def _take_back(
    plan: AppendPlan,
    written: list[tuple[SegmentWrite, File]],
    error: AppendFailed | CorruptLog | OSError,
) -> Job[NoReturn]:
    """Make the files what they were, as far as that is possible, and say so.

    Raises:
        CorruptLog: it was that.
        AppendFailed: the write failed; `cut_back` says whether the files are as before.
        SyncFailed: they are, but not durably.
    """
    cut_back = not isinstance(error, AppendFailed) or error.cut_back
    try:
        cut_back = cut_back and (yield from _undo(plan, written))
    except SyncFailed:
        plan.state, plan.sync_failed = AppendState.DAMAGED, True
        yield from mark_sync_failed(plan.files, all_durable=plan.all_durable)
        raise
    plan.state = AppendState.CUT_BACK if cut_back else AppendState.DAMAGED
    if isinstance(error, CorruptLog) or (isinstance(error, AppendFailed) and error.was_reading):
        raise error
    path = error.path if isinstance(error, AppendFailed) else error.filename
    raise AppendFailed(
        path or plan.files.directory, error.errno or errno.EIO, cut_back=cut_back
    ) from error


def _undo(plan: AppendPlan, written: list[tuple[SegmentWrite, File]]) -> Job[bool]:
    """Take back what a failed job wrote; return whether that worked.

    All of it for good: if refused batches came back after a power cut, they would be found in the
    place of batches accepted since. The file that goes on has the next sync to make its cut
    durable, but not if the next append begins a new segment.

    Raises:
        SyncFailed: they may come back.
    """
    files = plan.files
    created = False
    try:
        for write, file in reversed(written):
            if write.creates:
                created = True
                plan.opened = [entry for entry in plan.opened if entry[1] is not file]
                file.close()
                yield files.fs.unlink, (file.path,)
            elif file.size > write.start:
                yield file.truncate, (write.start,)
    except (OSError, StorageError):
        return False
    for write, file in written:
        if not write.creates:
            yield from jobs.sync(file)
    if created:
        yield from jobs.sync_directory(files.fs, files.directory)
    return True
