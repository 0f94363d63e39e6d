"""The real filesystem: names, directories, space, the lock of a log dir, the handle ledger.

Owns the locks it hands out, and through its `FileLedger` knows which files are open and which calls
are under way, so that a directory's lock outlives the last call in it, even one that hangs. Called
by jobs on lane threads; only `open_files` and `DirectoryLock.release` are for the event loop.

Directories are made for the owner alone (0700), files too (0600). No symbolic link is followed as
the last component of a path, so that nothing planted in a data directory leads out of it.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
import stat
import sys
import time
from contextlib import AbstractContextManager, suppress
from typing import TYPE_CHECKING

from trio_broker.errors import LogDirInUse
from trio_broker.host import facts
from trio_broker.host.files import RealFile, make_durable
from trio_broker.host.interface import FileInfo, OpenFile, Space
from trio_broker.host.ledger import FileLedger, OpenFiles
from trio_broker.host.spares import SpareDescriptors

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

_log = logging.getLogger(__name__)

#: Unit of st_blocks (stat(3type)), whatever the filesystem's own is.
_BLOCK_BYTES = 512
_FILE_MODE = 0o600
_DIRECTORY_MODE = 0o700
_NO_LINKS = os.O_NOFOLLOW | os.O_CLOEXEC
_LOCK_NAME = ".lock"
_LOCK_TEXT_BYTES_MAX = 512
#: Free inodes where a filesystem has no fixed number of them (Btrfs reports 0 of 0).
_INODES_UNLIMITED = sys.maxsize


class RealDirectoryLock:
    """A held flock; the terms are those of `interface.DirectoryLock`."""

    __slots__ = ("path", "_descriptor", "_ledger")

    def __init__(self, path: str, descriptor: int, ledger: FileLedger) -> None:
        self.path = path
        self._descriptor = descriptor
        self._ledger = ledger

    def __repr__(self) -> str:
        return f"<RealDirectoryLock {self.path!r} {'held' if self._descriptor >= 0 else 'free'}>"

    def release(self) -> None:
        """Let go, as soon as no call is under way in the directory. Idempotent.

        A call that hangs may still change the directory when it goes on, so until then nobody else
        may have it.
        """
        self._ledger.release_when_quiet(self)

    def give_back(self) -> None:
        """Let go now. Only the ledger calls this."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)  # flock(2): the lock ends with its last descriptor


class RealFileSystem:
    """Names and space of this machine; the terms are those of `interface.FileSystem`."""

    def __init__(self, spares: SpareDescriptors | None = None) -> None:
        self._ledger = FileLedger()
        self._spares = spares or SpareDescriptors()

    def __repr__(self) -> str:
        return f"<RealFileSystem {self._ledger!r}>"

    def open(
        self, path: str, owner: str, *, create: bool = False, read_only: bool = False
    ) -> RealFile:
        """Open a regular file; see `interface.FileSystem.open`."""
        flags = (os.O_RDONLY if read_only else os.O_RDWR) | _NO_LINKS
        if create:
            flags |= os.O_CREAT
        with self._ledger.call(path):
            descriptor = self._spares.open(path, flags, _FILE_MODE)
            try:
                found = os.fstat(descriptor.number)
                if not stat.S_ISREG(found.st_mode):
                    raise OSError(errno.EINVAL, "not a regular file", path)
            except BaseException:
                self._spares.close(descriptor)
                raise
            return RealFile(
                path,
                owner,
                descriptor,
                size=found.st_size,
                reserved_end=found.st_blocks * _BLOCK_BYTES,
                device=found.st_dev,
                opened_at=time.time(),
                ledger=self._ledger,
                spares=self._spares,
            )

    def rename(self, source: str, target: str) -> None:
        """Atomically give `source` the name `target`, replacing a file of that name."""
        with self._ledger.call(source):
            os.rename(source, target)

    def unlink(self, path: str) -> None:
        """Remove the name of a file."""
        with self._ledger.call(path):
            os.unlink(path)

    def make_directory(self, path: str, *, exist_ok: bool = False) -> None:
        """Create one directory (mode 0700)."""
        with self._ledger.call(path):
            try:
                os.mkdir(path, _DIRECTORY_MODE)
            except FileExistsError:
                if not (exist_ok and stat.S_ISDIR(os.lstat(path).st_mode)):
                    raise

    def remove_directory(self, path: str) -> None:
        """Remove an empty directory."""
        with self._ledger.call(path):
            os.rmdir(path)

    def list_directory(self, path: str) -> list[str]:
        """Return the names in a directory, sorted."""
        with self._ledger.call(path):
            return sorted(self._spares.call(os.listdir, path))

    def stat(self, path: str) -> FileInfo | None:
        """Describe a path without following a link, or return None if there is none."""
        with self._ledger.call(path):
            try:
                found = os.lstat(path)
            except FileNotFoundError:
                return None
        return FileInfo(
            size_bytes=found.st_size,
            modified_ms=found.st_mtime_ns // 1_000_000,
            is_directory=stat.S_ISDIR(found.st_mode),
        )

    def sync_directory(self, path: str) -> None:
        """Make the names created, renamed and removed in this directory durable."""
        with self._ledger.call(path):
            descriptor = self._spares.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                make_durable(descriptor.number, data_only=False)
            finally:
                self._spares.close(descriptor)

    def space(self, path: str) -> Space:
        """Return the room on the filesystem that holds `path`."""
        with self._ledger.call(path):
            found = os.statvfs(path)
        return Space(
            total_bytes=found.f_blocks * found.f_frsize,
            free_bytes=found.f_bavail * found.f_frsize,
            free_inodes=found.f_favail if found.f_files else _INODES_UNLIMITED,
        )

    def lock_directory(self, path: str, description: str) -> RealDirectoryLock:
        """Lock `path`/.lock against other processes, and other brokers in this one.

        Raises:
            LogDirInUse: someone else holds it; the message says who.
            OSError: the directory or its lock file is a symbolic link, or the filesystem has no
                locks.
        """
        with self._ledger.call(path):
            directory = _open_own_directory(path)
            try:
                descriptor = os.open(
                    _LOCK_NAME, os.O_RDWR | os.O_CREAT | _NO_LINKS, _FILE_MODE, dir_fd=directory
                )
            finally:
                os.close(directory)
            try:
                _take_lock(path, descriptor, description)
            except BaseException:
                os.close(descriptor)
                raise
        return RealDirectoryLock(path, descriptor, self._ledger)

    def descriptor_paths(self, directories: Sequence[str]) -> list[str]:
        """Return what this process has open below `directories`, by whatever means."""
        found = []
        real = [(os.path.realpath(directory) + "/", directory) for directory in directories]
        for path in facts.descriptor_paths():
            for prefix, given in real:
                if path.startswith(prefix):
                    found.append(f"{given}/{path.removeprefix(prefix)}")
                    break
        return found

    def open_files(self, owners: Collection[str] | None = None) -> Sequence[OpenFile]:
        """Return the files open through this object, also those whose close is deferred."""
        files = self._ledger.files()
        if owners is not None:
            files = [file for file in files if file.owner in owners]
        return OpenFiles(files)

    def spare_descriptors(self, count: int) -> AbstractContextManager[None]:
        """See `interface.FileSystem.spare_descriptors`."""
        return self._spares.hold(count)


def _open_own_directory(path: str) -> int:
    """Open a directory to be locked; refuse a link, and warn of one that strangers can change.

    Only warn, because containers are given just such directories: Kubernetes makes an emptyDir
    writable for every user and other volumes for a group, again at each mount, and a directory of
    the host belongs to whoever made it there.
    """
    if stat.S_ISLNK(os.lstat(path).st_mode):
        raise OSError(errno.ELOOP, "is a symbolic link; name the directory it points to", path)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _NO_LINKS)
    found = os.fstat(descriptor)
    if found.st_mode & stat.S_IWOTH:
        _log.warning("%s can be changed by every user of this machine (chmod o-w %s)", path, path)
    elif found.st_uid not in {0, os.geteuid()}:
        _log.warning("%s belongs to another user (uid %d)", path, found.st_uid)
    return descriptor


def _take_lock(path: str, descriptor: int, description: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.pread(descriptor, _LOCK_TEXT_BYTES_MAX, 0).decode(errors="replace").strip()
        message = f"{path} is in use by {text or 'another process'}"
        raise LogDirInUse(message) from None
    text = f"pid {os.getpid()} on {socket.gethostname()}: {description}\n"
    content = text.encode()[:_LOCK_TEXT_BYTES_MAX]
    # For people only: a full disk must not keep the broker from starting to delete things.
    with suppress(OSError):
        os.pwrite(descriptor, content, 0)
        os.ftruncate(descriptor, len(content))
