"""Handles of a simulated disk: open files and held directory locks.

Made by `disk.SimFileSystem`, whose module documents the fault model; the terms are those of
`trio_broker.host.interface`.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from trio_broker.errors import StuckIO
from trio_broker.host.interface import WRITE_BUFFERS_MAX, Buffer
from trio_broker.testing.sim.volume import os_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_broker.testing.sim.disk import RunningOperation, SimFileSystem
    from trio_broker.testing.sim.inodes import Inode


class SimFile:
    """One open file of a `SimFileSystem`.

    Attributes:
        fs: the filesystem it belongs to.
        opened_at: civil time in seconds.
        is_spare: it was opened beyond `DiskFaults.open_files_max`, with a spare descriptor.
    """

    def __init__(
        self,
        fs: SimFileSystem,
        inode: Inode,
        path: str,
        owner: str,
        *,
        read_only: bool,
        is_spare: bool,
    ) -> None:
        self.fs = fs
        self.is_spare = is_spare
        self.opened_at = fs.now_ms() / 1000
        self._inode = inode
        self._path = path
        self._owner = owner
        self._read_only = read_only
        self._size = len(inode.data)
        self._in_call: str | None = None
        self._is_closed = False
        self._is_released = False
        self._is_stuck = False
        self._is_tainted = False

    def __repr__(self) -> str:
        marks = [f"size={self._size}"]
        if self._is_closed:
            marks.append("closed" if self._is_released else "closing")
        if self._is_stuck:
            marks.append("stuck")
        if self._is_tainted:
            marks.append("tainted")
        return f"<SimFile {self._path!r} of {self._owner} {' '.join(marks)}>"

    @property
    def path(self) -> str:
        """Path given to `open`."""
        return self._path

    @property
    def owner(self) -> str:
        """Who must close it."""
        return self._owner

    @property
    def size(self) -> int:
        """Length in bytes as this handle knows it."""
        return self._size

    def write_at(self, offset: int, buffers: Sequence[Buffer]) -> int:
        """Write to the page cache; may write less than asked."""
        assert len(buffers) <= WRITE_BUFFERS_MAX
        if offset < 0:
            raise os_error(errno.EINVAL, self._path)
        data = b"".join(buffers)
        with self._operation("write_at") as operation:
            if self._read_only:
                raise os_error(errno.EBADF, self._path)
            written = self.fs.write(self._inode, offset, data, operation)
            self._size = max(self._size, offset + written)
            return written

    def read_at(self, offset: int, length: int) -> bytes:
        """Return what the page cache holds."""
        if offset < 0 or length < 0:
            raise os_error(errno.EINVAL, self._path)
        with self._operation("read_at") as operation:
            operation.raise_error()
            return bytes(self._inode.data[offset : offset + length])

    def read_cached(self, offset: int, length: int) -> bytes | None:
        """Return the bytes, or None as often as the faults say."""
        self.fs.check_alive()
        if self._is_closed or self._is_tainted or self._is_stuck:
            return None
        if self.fs.draws("cache").random() >= self.fs.faults.cached_read_rate:
            return None
        return bytes(self._inode.data[offset : offset + length])

    def forget_cached(self, offset: int) -> bool:
        """Let readers see what is on the disk, with what is pending."""
        if offset < 0:
            raise os_error(errno.EINVAL, self._path)
        with self._operation("forget_cached"):
            self._inode.forget_cached()
        return True

    def truncate(self, size: int) -> None:
        """Change the length, durable only after `sync`."""
        if size < 0:
            raise os_error(errno.EINVAL, self._path)
        with self._operation("truncate") as operation:
            if self._read_only:
                raise os_error(errno.EINVAL, self._path)
            operation.raise_error()
            self.fs.resize(self._inode, size, self._path)
            self._size = self._inode.reserved_end = size

    @property
    def reserved_end(self) -> int:
        """Up to where room was wanted; at least `size`."""
        return max(self._size, self._inode.reserved_end)

    def reserve(self, end: int) -> None:
        """Take note of what is wanted; a simulated disk gives no room before it is used."""
        with self._operation("reserve"):
            self._inode.reserved_end = max(self._inode.reserved_end, end)

    def allocate(self, size: int) -> None:
        """Make the file longer by writing zeros, all of them or none."""
        with self._operation("allocate") as operation:
            if self._read_only:
                raise os_error(errno.EBADF, self._path)
            before = len(self._inode.data)
            missing = bytes(max(size - before, 0))
            if self.fs.write(self._inode, before, missing, operation) < len(missing):
                self.fs.resize(self._inode, before, self._path)
                raise os_error(errno.ENOSPC, self._path)
            self._size = max(self._size, size)

    def sync(self) -> None:
        """Make the file's content and length durable, or fail and lose some of it."""
        with self._operation("sync") as operation:
            if operation.error_number:
                self._is_tainted = True
                self._inode.fail_sync(operation.random)
                operation.raise_error()
            self._inode.sync()

    def close(self) -> None:
        """Give the handle back, as soon as no operation on it is under way. Idempotent."""
        self._is_closed = True
        if self._in_call is None and not self._is_released:
            self._is_released = True
            self.fs.release(self, self._inode)

    def _operation(self, call: str) -> RunningOperation:
        """Begin an operation, or say why this handle may not be used."""
        self.fs.check_alive()
        # A call that was in the kernel before the close goes on.
        if self._is_closed and self._in_call is None:
            raise os_error(errno.EBADF, self._path)
        if self._is_tainted:
            raise os_error(errno.EIO, self._path)
        return self.fs.operation(call, self._path)

    # ---------------------------------------------------------------------------- used by lanes

    @property
    def is_in_call(self) -> bool:
        """True while a lane has an operation on it in the simulated kernel."""
        return self._in_call is not None

    def enter_call(self, call: str) -> None:
        """Tell that an operation goes into the simulated kernel.

        Raises:
            StuckIO: an earlier one has not come back.
            OSError: the file is closed.
        """
        if self._is_closed:
            raise os_error(errno.EBADF, self._path)
        if self._is_stuck:
            raise StuckIO(f"{self._path}: an earlier call on this file has not returned")
        assert self._in_call is None, (
            f"{call} of {self._path} while {self._in_call} is under way: operations on one file "
            "must not overlap"
        )
        self._in_call = call

    def mark_stuck(self) -> None:
        """Refuse every further operation until the one under way comes back."""
        self._is_stuck = self._in_call is not None

    def leave_call(self) -> None:
        """Tell that the operation has come back; a close that waited for it happens now."""
        self._in_call = None
        self._is_stuck = False
        if self._is_closed:
            self.close()


class SimDirectoryLock:
    """A held lock of a simulated directory.

    Attributes:
        path: the directory.
        description: who holds it.
    """

    def __init__(self, fs: SimFileSystem, path: str, description: str) -> None:
        self._fs = fs
        self.path = path
        self.description = description

    def release(self) -> None:
        """Let go, as soon as no call is under way in the directory. Idempotent."""
        self._fs.unlock(self)
