"""One real file: positional reads and writes, sync, and a close that waits for a hung call.

Owns a descriptor. Made by `file_system.RealFileSystem.open`; used by jobs on a lane's thread, and
by the event loop only through `size`, `read_cached` and `close`. It knows nothing of Trio.

A descriptor number must never be given back while a thread is inside a system call on it: the next
file opened would get the number, and the old call, once it goes on, would write into it. So every
operation is counted in and out, and `close` leaves the descriptor to the last one that goes out.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import logging
import mmap
import os
import sys
import threading
from typing import TYPE_CHECKING, cast

from trio_broker.buffers import BUFFER_SIZES_BYTES
from trio_broker.errors import StuckIO
from trio_broker.host.interface import WRITE_BUFFERS_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trio_broker.host.interface import Buffer
    from trio_broker.host.ledger import FileLedger
    from trio_broker.host.spares import OpenedDescriptor, SpareDescriptors

_log = logging.getLogger(__name__)

#: Linux: read only what is in the page cache, else EAGAIN (preadv2(2)). 0: no such flag here.
_READ_NOWAIT: int = getattr(os, "RWF_NOWAIT", 0)
#: What the system answers where kernel or filesystem do not know a flag or command (preadv2 with
#: RWF_NOWAIT on tmpfs and overlayfs).
_UNKNOWN_HERE = frozenset({errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL})
#: macOS: fsync alone leaves the bytes in the drive's own cache (fsync(2) there).
_FULL_SYNC: int | None = getattr(fcntl, "F_FULLFSYNC", None)
_sync_data: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)
#: What the question after an fsync may be answered with and mean nothing: somebody else's file, a
#: filesystem that keeps no times, or one with no room for its own bookkeeping.
_SAYS_NOTHING_OF_THE_DISK = _UNKNOWN_HERE | {
    errno.EPERM,
    errno.EACCES,
    errno.ENOSPC,
    errno.EDQUOT,
}
#: Linux: FALLOC_FL_KEEP_SIZE.
_KEEP_SIZE = 1
_HAS_VECTORED_WRITE = hasattr(os, "pwritev")


def make_durable(descriptor: int, *, data_only: bool) -> None:
    """Flush a file or directory through every cache that the system knows of.

    Args:
        descriptor: what to flush.
        data_only: leave out metadata that reading does not need (fdatasync), where that exists.

    Raises:
        OSError: it may not be durable.
    """
    if _FULL_SYNC is not None:
        try:
            fcntl.fcntl(descriptor, _FULL_SYNC)
        except OSError as error:
            if error.errno not in _UNKNOWN_HERE | {errno.ENOTTY}:
                raise
        else:
            return
    if data_only:
        _sync_data(descriptor)
    else:
        os.fsync(descriptor)
    if sys.platform == "linux":
        _ask_whether_it_failed(descriptor)


def _ask_whether_it_failed(descriptor: int) -> None:
    """Raise OSError if the filesystem has failed under an fsync that reported success.

    ext4 (at least up to Linux 6.18) does that in two cases. An fsync that finds its transaction
    gone takes it for committed, but an aborted journal has dropped it. And where writing back could
    not record that blocks are in use, because of such a journal, no error is kept for the file.
    The names and bytes in question are lost with the next mount.

    Whoever starts a change of an inode meets the aborted journal. Times are set to what they are:
    the first time this may have to find out that the journal is aborted, which makes the filesystem
    read-only but is not reported; the second call is refused then. 5 to 10 µs for all.
    """
    found = os.fstat(descriptor)
    times = (found.st_atime_ns, found.st_mtime_ns)
    try:
        os.utime(descriptor, ns=times)
        os.utime(descriptor, ns=times)
    except OSError as error:
        if error.errno not in _SAYS_NOTHING_OF_THE_DISK:
            raise


@functools.cache
def _load_fallocate() -> Callable[[int, int, int, int], int] | None:
    """Return fallocate(2), which the standard library has without its flags only."""
    if sys.platform != "linux" or sys.maxsize < 1 << 32:  # off_t has 64 bits
        return None
    import ctypes  # here, since only busy servers need it

    try:
        function = ctypes.CDLL(None).fallocate
    except (OSError, AttributeError):
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    function.restype = ctypes.c_int
    return cast("Callable[[int, int, int, int], int]", function)


def reserve_room(descriptor: int, offset: int, size_bytes: int) -> None:
    """Set room aside on the disk for a part of a file, whose length stays as it is.

    Without a word where that fails: whoever writes there learns what is wrong with the disk.
    """
    fallocate = _load_fallocate()
    if fallocate is not None:
        fallocate(descriptor, _KEEP_SIZE, offset, size_bytes)


class RealFile:
    """An open file; the terms are those of `interface.File`.

    Attributes:
        path: as given to `open`.
        owner: who must close it.
        size: length in bytes, as far as this object knows: nobody else writes to the file.
        opened_at: civil time in seconds, for people.
    """

    __slots__ = (
        "path",
        "owner",
        "size",
        "opened_at",
        "_opened",
        "_descriptor",
        "_device",
        "_ledger",
        "_spares",
        "_lock",
        "_calls",
        "_is_closed",
        "_is_stuck",
        "_is_tainted",
        "_reserved_end",
    )

    def __init__(
        self,
        path: str,
        owner: str,
        opened: OpenedDescriptor,
        *,
        size: int,
        reserved_end: int,
        device: int,
        opened_at: float,
        ledger: FileLedger,
        spares: SpareDescriptors,
    ) -> None:
        """Take over a descriptor.

        Args:
            path: see the attributes.
            owner: see the attributes.
            opened: closed by this object from now on.
            size: see the attributes.
            reserved_end: up to where there may be room on the disk already.
            device: the filesystem (st_dev).
            opened_at: see the attributes.
            ledger: where this file is entered until its descriptor is gone.
            spares: where the descriptor comes from.
        """
        self.path = path
        self.owner = owner
        self.size = size
        self.opened_at = opened_at
        self._opened = opened
        self._descriptor = opened.number
        self._device = device
        self._ledger = ledger
        self._spares = spares
        self._lock = threading.Lock()
        self._calls = 0
        self._is_closed = False
        self._is_stuck = False
        self._is_tainted = False
        self._reserved_end = reserved_end
        ledger.add(self)

    def __repr__(self) -> str:
        marks = [f"size={self.size}"]
        if self._is_closed:
            marks.append("closing" if self._calls else "closed")
        if self._is_stuck:
            marks.append("stuck")
        if self._is_tainted:
            marks.append("tainted")
        return f"<RealFile {self.path!r} of {self.owner} {' '.join(marks)}>"

    @property
    def is_spare(self) -> bool:
        """Whether it has a spare descriptor, and so must be closed soon."""
        return self._opened.is_spare

    @property
    def reserved_end(self) -> int:
        """Up to where the file has room on the disk, as far as is known; at least `size`."""
        return max(self.size, self._reserved_end)

    @property
    def is_in_call(self) -> bool:
        """True while a thread is in a system call on this file."""
        return self._calls > 0

    def write_at(self, offset: int, buffers: Sequence[Buffer]) -> int:
        """Write `buffers` with one system call; return the bytes written, perhaps too few."""
        assert len(buffers) <= WRITE_BUFFERS_MAX
        descriptor = self._begin()
        try:
            if _HAS_VECTORED_WRITE:
                written = os.pwritev(descriptor, buffers, offset)
            else:
                written = os.pwrite(descriptor, b"".join(buffers), offset)
        finally:
            self._end()
        self.size = max(self.size, offset + written)
        return written

    def read_at(self, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset`, or fewer only at the end of the file."""
        descriptor = self._begin()
        try:
            content = os.pread(descriptor, length, offset)
            if len(content) == length or not content:
                return content
            parts = [content]
            missing = length - len(content)
            while missing:  # a system call reads at most 2 GiB, and may be interrupted
                content = os.pread(descriptor, missing, offset + length - missing)
                if not content:
                    break
                parts.append(content)
                missing -= len(content)
        finally:
            self._end()
        return b"".join(parts)

    def read_cached(self, offset: int, length: int) -> bytearray | memoryview | None:
        """Return what `read_at` would, if the page cache holds all of it, else None."""
        if not (_READ_NOWAIT and self._ledger.may_read_nowait(self._device)):
            return None
        try:
            descriptor = self._begin()
        except (OSError, StuckIO):
            return None  # read_at will say why
        # One buffer, filled once and handed on as it is: a `bytes` would cost another copy.
        content: bytearray | memoryview
        if length < BUFFER_SIZES_BYTES[0]:
            content = bytearray(length)
        else:
            pool = self._ledger.read_buffers
            content = pool.reuse(length) or pool.make(length) or bytearray(length)
        try:
            count = os.preadv(descriptor, [content], offset, _READ_NOWAIT)
            # Short either because the file ends or because the rest is not in memory. `size` cannot
            # tell: another object may have appended to the file.
            if count < length and offset + count < os.fstat(descriptor).st_size:
                return None
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno in _UNKNOWN_HERE:
                self._ledger.refuses_nowait(self._device)
            return None  # any other fault: read_at will meet it too, where it can be waited for
        finally:
            self._end()
        return content if count == length else memoryview(content)[:count]

    def forget_cached(self, offset: int) -> bool:
        """Drop what the page cache holds from `offset` on; return whether the system knows how."""
        if not hasattr(os, "posix_fadvise"):
            return False  # macOS
        first = offset - offset % mmap.PAGESIZE  # only whole pages are dropped
        descriptor = self._begin()
        try:
            os.posix_fadvise(descriptor, first, 0, os.POSIX_FADV_DONTNEED)
        finally:
            self._end()
        return True

    def truncate(self, size: int) -> None:
        """Cut (or extend with zeros) to `size` bytes."""
        descriptor = self._begin()
        try:
            os.ftruncate(descriptor, size)
        finally:
            self._end()
        self.size = self._reserved_end = size

    def reserve(self, end: int) -> None:
        """Set room aside up to `end`, if the system knows how and has it."""
        if end <= self.size:
            return
        descriptor = self._begin()
        try:
            reserve_room(descriptor, self.size, end - self.size)
        finally:
            self._end()
        self._reserved_end = end  # or it is not to be had, and need not be asked for again

    def allocate(self, size: int) -> None:
        """Make the file `size` bytes long, with room on the disk for all of them."""
        descriptor = self._begin()
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(descriptor, 0, size)
            else:
                os.pwrite(descriptor, bytes(size), 0)  # macOS
        finally:
            self._end()
        self.size = size

    def sync(self) -> None:
        """Make everything written so far durable; a failure taints the file for good."""
        descriptor = self._begin()
        try:
            make_durable(descriptor, data_only=True)
        except OSError:
            # The kernel has marked the pages clean: another fsync would report success for bytes
            # that are lost, and a read might still show them (Rebello et al., ATC 2020).
            self._is_tainted = True
            raise
        finally:
            self._end()

    def close(self) -> None:
        """Give the descriptor back, as soon as no call is in it. Idempotent.

        Closing the last descriptor of a file that was unlinked frees its blocks, which takes disk
        time: close before unlinking, or close in a job.
        """
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            if self._calls:
                return  # the call's `_end` gives the descriptor back
        self._give_back()

    def mark_stuck(self) -> None:
        """Refuse every further operation until the one now running has returned."""
        with self._lock:
            if self._calls:
                self._is_stuck = True

    def _begin(self) -> int:
        """Count an operation in and return the descriptor, or say why it may not be used."""
        with self._lock:
            if self._is_closed:
                raise OSError(errno.EBADF, "file is closed", self.path)
            if self._is_tainted:
                raise OSError(errno.EIO, "an fsync of this file has failed", self.path)
            if self._is_stuck:
                message = f"{self.path}: an earlier call on this file has not returned"
                raise StuckIO(message)
            self._calls += 1
            return self._descriptor

    def _end(self) -> None:
        with self._lock:
            self._calls -= 1
            if self._calls:
                return
            self._is_stuck = False
            is_closed = self._is_closed
        if is_closed:
            self._give_back()
        else:
            self._ledger.call_ended()

    def _give_back(self) -> None:
        """Close the descriptor. Reached once: by `close`, or by the last call after it."""
        try:
            self._spares.close(self._opened)
        except OSError as error:
            # The number is free all the same (close(2)). What mattered was synced before.
            _log.warning("closing %s: %s", self.path, error)
        finally:
            self._descriptor = -1
            self._ledger.remove(self)
