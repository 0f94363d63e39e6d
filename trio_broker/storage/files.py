"""Small disk jobs on the files of one replica that several parts of storage/ need.

Frozen input, no state: see `host.jobs` for the rules they keep.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from trio_broker.errors import FormatTooNew, StorageError, StuckIO, SyncFailed
from trio_broker.host import jobs
from trio_broker.storage import paths

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_broker.host.interface import File, FileSystem, Job
    from trio_broker.storage.segment import Segment

T = TypeVar("T")

_NOTE_ATTEMPTS = 3
_ALL_DURABLE = b"all that was acknowledged is durable\n"


class ReplicaFiles(NamedTuple):
    """Where a log's files are, and in whose name they are opened.

    Attributes:
        fs: the filesystem.
        directory: the replica's directory.
        owner: see `paths.owner_name`.
    """

    fs: FileSystem
    directory: str
    owner: str

    def path(self, name: str) -> str:
        """Return the path of a file in the replica's directory."""
        return f"{self.directory}/{name}"

    @property
    def parent(self) -> str:
        """The log dir."""
        return self.directory.rpartition("/")[0] or "."


def read_derived(fs: FileSystem, path: str, owner: str) -> Job[bytes | None]:
    """Return the content of a small file that can be done without; None if it is not sound.

    A newer version of its frame counts as damage here: the log dir itself says which versions may
    touch it, so more likely a bit has flipped.
    """
    try:
        return (yield from jobs.read_small_file(fs, path, owner))
    except FormatTooNew:
        return None


def sync_segments(
    files: ReplicaFiles, segments: Sequence[tuple[Segment, File | None]]
) -> Job[None]:
    """Make segments durable that may hold bytes which are not.

    Raises:
        SyncFailed: some of it is not durable and must not be synced again.
        OSError: a file could not be opened; nothing is lost, and all may be tried again.
    """
    for segment, file in segments:
        yield from _sync_segment(files, segment, file)


def _sync_segment(files: ReplicaFiles, segment: Segment, file: File | None) -> Job[None]:
    if file is not None:
        try:
            yield file.sync, ()
        except OSError as error:
            if error.errno != errno.EBADF:
                raise SyncFailed(file.path, error.errno or errno.EIO) from error
            # Closed since this was planned, to make room for another: open it again.
        else:
            return
    path = files.path(segment.name)
    file = yield from jobs.open_file(files.fs, path, files.owner)
    try:
        yield from jobs.sync(file)
    finally:
        file.close()


def noting_failed_sync(files: ReplicaFiles, job: Job[T], *, all_durable: bool = False) -> Job[T]:
    """Run a job, and if an fsync fails or is given up, leave a note in the directory first."""
    try:
        return (yield from job)
    except (SyncFailed, StuckIO):
        yield from mark_sync_failed(files, all_durable=all_durable)
        raise


def mark_sync_failed(files: ReplicaFiles, *, all_durable: bool = False) -> Job[None]:
    """Leave a note in the directory that an fsync has failed.

    With `all_durable` it says that everything acknowledged was durable before.

    From then on the page cache may show bytes and names that are not on the disk. In durability
    `fsync` recovery drops that cache anyway, in the other modes a process started later on the same
    machine would believe it. The note needs not survive a power cut, because the cache does not
    either; so it is not synced. Where the disk refuses it for good, its cache is dropped too before
    it works again (a new mount), or so one must hope.
    """
    path = files.path(paths.SYNC_FAILED_NAME)
    for _ in range(_NOTE_ATTEMPTS):
        try:
            is_new = (yield files.fs.stat, (path,)) is None
            file = yield from jobs.open_file(files.fs, path, files.owner, create=True)
        except (OSError, StorageError):
            continue
        try:
            if all_durable and is_new:
                yield file.write_at, (0, [_ALL_DURABLE])
            elif not all_durable and file.size:
                yield file.truncate, (0,)
        except (OSError, StorageError):
            pass  # an empty note says less, which is right in any case
        finally:
            file.close()
        return


def read_sync_failed(files: ReplicaFiles) -> Job[bool]:
    """Return whether the note says that everything acknowledged was durable before."""
    path = files.path(paths.SYNC_FAILED_NAME)
    file = yield from jobs.open_file(files.fs, path, files.owner, read_only=True)
    try:
        content: bytes = yield file.read_at, (0, len(_ALL_DURABLE))
    finally:
        file.close()
    return content == _ALL_DURABLE


def unlink_if_there(fs: FileSystem, path: str) -> Job[bool]:
    """Remove a file's name; return whether there was one."""
    try:
        yield fs.unlink, (path,)
    except FileNotFoundError:
        return False
    return True
