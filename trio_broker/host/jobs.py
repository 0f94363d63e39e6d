"""Disk jobs that several folders need, and `run_inline`, which drives one without a lane.

Owns the generators that put the calls of `File` and `FileSystem` into their safe order: append and
cut back, write-sync-rename-sync, create and remove trees. `storage` and `cluster` compose them with
``yield from``. Nothing here touches Trio, a thread or the disk by itself: a job only *says* what to
call, and the real or simulated lane calls it.

Two rules keep jobs safe to abandon. A job cleans up with further calls only after `OSError` or
`StorageError`, never in a bare ``finally``, because a lane that is being closed ends the generator
with GeneratorExit and runs no more calls. `File.close` alone is called directly, since it is safe
on any thread and never waits.
"""

from __future__ import annotations

import errno
import posixpath
import struct
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from zlib import crc32

import outcome

from trio_broker.errors import AppendFailed, FormatTooNew, StorageError, SyncFailed
from trio_broker.host.interface import WRITE_BUFFERS_MAX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_broker.host.interface import Buffer, File, FileSystem, Job

T = TypeVar("T")

#: Name a small file has until it is complete and durable. Start-up removes what a crash left.
TEMPORARY_SUFFIX = ".tmp"
#: Most bytes `write_small_file` takes, so that a damaged length can never ask for all the memory.
SMALL_FILE_BYTES_MAX = 64 * 1024 * 1024

_SMALL_FILE_MAGIC = b"TBsf"
_SMALL_FILE_VERSION = 1
#: Big-endian magic, frame version, reserved (0), payload length, CRC-32 (zlib) of the payload.
_SMALL_FILE_FRAME = struct.Struct(">4sHHII")


def run_inline(job: Job[T]) -> T:
    """Run `job` to its end on the calling thread and return its result.

    For offline tools and tests: it blocks, so never call it on the event loop of a broker.

    Raises:
        Exception: whatever the job lets out.
    """
    result: outcome.Outcome[Any] = outcome.Value(None)
    while True:
        try:
            function, arguments = result.send(job)
        except StopIteration as stop:
            value: T = stop.value
            return value
        result = outcome.capture(function, *arguments)


def single_call(function: Any, arguments: tuple[Any, ...]) -> Job[Any]:
    """Make one call a job of its own."""
    return (yield function, arguments)


def open_file(
    fs: FileSystem, path: str, owner: str, *, create: bool = False, read_only: bool = False
) -> Job[File]:
    """Open a file; see `FileSystem.open`, whose keywords a plain call could not carry."""
    file: File = yield partial(fs.open, create=create, read_only=read_only), (path, owner)
    return file


def append_all(file: File, offset: int, buffers: Sequence[Buffer]) -> Job[int]:
    """Write every byte of `buffers` at `offset`, the end of the file; return the bytes written.

    Loops over short writes and over more than `WRITE_BUFFERS_MAX` buffers. When a write fails, the
    file is cut back to `offset` before anything else, so that it ends where it did.

    Raises:
        AppendFailed: a write failed; `cut_back` says whether the file is as it was.
        StuckIO: a write outlived its deadline. Once it returned, the file is cut back if it is
            still open.
    """
    try:
        written = yield from _write_all(file, offset, buffers)
    except OSError as error:
        cut_back = yield from _cut_back(file, offset)
        raise AppendFailed(file.path, error.errno or errno.EIO, cut_back=cut_back) from error
    except StorageError:
        yield from _cut_back(file, offset)
        raise
    return written


def _write_all(file: File, offset: int, buffers: Sequence[Buffer]) -> Job[int]:
    position = offset
    first = 0
    rest: memoryview | None = None  # what a short write left of buffers[first]
    while first < len(buffers):
        chunk: Sequence[Buffer] = buffers[first : first + WRITE_BUFFERS_MAX]
        if rest is not None:
            chunk = [rest, *chunk[1:]]
        length = sum(map(len, chunk))
        written: int = yield file.write_at, (position, chunk)
        if written == length:
            first += len(chunk)
            rest = None
        elif written > 0:
            skipped, rest = _unwritten(chunk, written)
            first += skipped
        else:
            # No system call says so today, but looping on it would hang the lane for ever.
            raise OSError(errno.ENOSPC, "a write accepted no byte", file.path)
        position += written
    return position - offset


def _unwritten(chunk: Sequence[Buffer], written: int) -> tuple[int, memoryview | None]:
    """Return how many buffers a short write finished, and what it left of the next one."""
    skipped = 0
    for buffer in chunk:
        if written < len(buffer):
            break
        written -= len(buffer)
        skipped += 1
    return skipped, memoryview(chunk[skipped])[written:] if written else None


def _cut_back(file: File, size: int) -> Job[bool]:
    try:
        yield file.truncate, (size,)
    except (OSError, StorageError):
        return False
    return True


def sync(file: File) -> Job[None]:
    """Make what was written to `file` durable.

    Raises:
        SyncFailed: it is not, and never will be: the file is tainted and must not be synced again.
    """
    try:
        yield file.sync, ()
    except OSError as error:
        raise SyncFailed(file.path, error.errno or errno.EIO) from error


def sync_directory(fs: FileSystem, path: str) -> Job[None]:
    """Make the names in directory `path` durable.

    Raises:
        SyncFailed: they may not be.
    """
    try:
        yield fs.sync_directory, (path,)
    except OSError as error:
        raise SyncFailed(path, error.errno or errno.EIO) from error


def write_small_file(fs: FileSystem, path: str, owner: str, payload: Buffer) -> Job[None]:
    """Atomically replace `path` by `payload`, framed with a magic, a version and a CRC.

    Temporary file, write, sync, rename, sync of the directory: after a crash at any point `path`
    holds either all of the old or all of the new content, and after this returns the new one.

    Raises:
        AppendFailed: no room, or the disk refused; `path` is unchanged.
        SyncFailed: before the rename `path` is unchanged, after it either content may survive.
        OSError: the temporary file could not be opened or renamed; `path` is unchanged.
    """
    if len(payload) > SMALL_FILE_BYTES_MAX:
        message = f"{path}: {len(payload)} bytes are more than {SMALL_FILE_BYTES_MAX}"
        raise ValueError(message)
    temporary = path + TEMPORARY_SUFFIX
    frame = _SMALL_FILE_FRAME.pack(
        _SMALL_FILE_MAGIC, _SMALL_FILE_VERSION, 0, len(payload), crc32(payload)
    )
    try:
        yield from _write_whole_file(fs, temporary, owner, [frame, payload])
        yield fs.rename, (temporary, path)
    except (OSError, StorageError):
        # Its bytes may be just those that a full disk lacks. What cannot be removed now is removed
        # at the next start; the reason that counts is the first one.
        try:
            yield fs.unlink, (temporary,)
        except (OSError, StorageError):
            pass
        raise
    yield from sync_directory(fs, _parent(path))


def _write_whole_file(
    fs: FileSystem, path: str, owner: str, buffers: Sequence[Buffer]
) -> Job[None]:
    file = yield from open_file(fs, path, owner, create=True)
    try:
        if file.size:
            yield file.truncate, (0,)  # left by a crash
        yield from append_all(file, 0, [buffer for buffer in buffers if len(buffer)])
        yield from sync(file)
    finally:
        file.close()


def read_small_file(fs: FileSystem, path: str, owner: str) -> Job[bytes | None]:
    """Return what `write_small_file` last put at `path`, or None if it is missing or damaged.

    For derived data None means "rebuild it". Who must tell missing from damaged asks
    `FileSystem.stat` as well.

    Raises:
        FormatTooNew: the frame is of a later version of this package.
        OSError: the file is there but cannot be read.
    """
    try:
        file = yield from open_file(fs, path, owner, read_only=True)
    except FileNotFoundError:
        return None
    try:
        if file.size > SMALL_FILE_BYTES_MAX + _SMALL_FILE_FRAME.size:
            return None
        content: bytes = yield file.read_at, (0, file.size)
    finally:
        file.close()
    return _unframe(path, content)


def _unframe(path: str, content: bytes) -> bytes | None:
    if len(content) < _SMALL_FILE_FRAME.size:
        return None
    magic, version, reserved, length, checksum = _SMALL_FILE_FRAME.unpack_from(content)
    if magic != _SMALL_FILE_MAGIC:
        return None
    if version > _SMALL_FILE_VERSION:
        message = f"{path} has frame version {version}, this program knows {_SMALL_FILE_VERSION}"
        raise FormatTooNew(message)
    payload = content[_SMALL_FILE_FRAME.size :]
    if version != _SMALL_FILE_VERSION or reserved != 0:
        return None
    if len(payload) != length or crc32(payload) != checksum:
        return None
    return payload


def make_directories(fs: FileSystem, path: str) -> Job[None]:
    """Create directory `path` and the parents it lacks, durably. One that exists is left alone.

    Raises:
        SyncFailed: a new name may not survive a power cut.
        OSError: something else has that name (also a symbolic link), or the system refused.
    """
    try:
        yield partial(fs.make_directory, exist_ok=True), (path,)
    except FileNotFoundError:
        parent = _parent(path)
        if parent == path:
            raise
        yield from make_directories(fs, parent)
        yield partial(fs.make_directory, exist_ok=True), (path,)
    try:
        yield from sync_directory(fs, _parent(path))
    except SyncFailed as failure:
        # A parent that may be entered but not read cannot be synced, nor one below a mount that is
        # read-only for us (`path` being another mount). Then nobody but an administrator made
        # `path`: making a name in the parent would have needed the same rights. If it is the disk
        # that has become read-only, everything that is written in `path` meets that.
        if failure.errno not in {errno.EACCES, errno.EPERM, errno.EROFS}:
            raise


def remove_tree(fs: FileSystem, path: str) -> Job[int]:
    """Remove directory `path` and all in it; return how many files. Missing names are no error.

    So it may run again after a crash. Symbolic links are removed, never followed. Not synced: the
    caller syncs the parent if the removal must survive.

    Raises:
        OSError: something could not be removed; the rest is still there.
    """
    try:
        names: list[str] = yield fs.list_directory, (path,)
    except FileNotFoundError:
        return 0
    removed = 0
    for name in names:
        child = posixpath.join(path, name)
        info = yield fs.stat, (child,)
        if info is not None and info.is_directory:
            removed += yield from remove_tree(fs, child)
        else:
            removed += yield from _unlink_if_there(fs, child)
    try:
        yield fs.remove_directory, (path,)
    except FileNotFoundError:
        pass
    return removed


def _unlink_if_there(fs: FileSystem, path: str) -> Job[int]:
    try:
        yield fs.unlink, (path,)
    except FileNotFoundError:
        return 0
    return 1


def _parent(path: str) -> str:
    """Return the directory that holds the name `path`."""
    return posixpath.dirname(path.rstrip("/")) or ("/" if path.startswith("/") else ".")
