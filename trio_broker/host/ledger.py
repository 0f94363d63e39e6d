"""The handle ledger: which files are open, which calls are under way, which locks must wait.

Owns no descriptor. One per `RealFileSystem`, shared with its files and locks, safe on any thread.
It exists for two questions: "whose files are open?" (asked before a topic counts as deleted) and
"is anybody still inside this directory?" (asked before its lock is let go: a system call that
hangs may still change the directory when it goes on).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from trio_broker.buffers import BufferPool
from trio_broker.host.interface import OpenFile

if TYPE_CHECKING:
    from collections.abc import Iterator


class LedgerFile(Protocol):
    """What the ledger needs of a file."""

    @property
    def path(self) -> str:
        """Where it was opened."""

    @property
    def owner(self) -> str:
        """Who must close it."""

    @property
    def opened_at(self) -> float:
        """Civil time in seconds."""

    @property
    def size(self) -> int:
        """Length in bytes, as far as the file object knows."""

    @property
    def is_in_call(self) -> bool:
        """True while a thread is in a system call on it."""


class LedgerLock(Protocol):
    """What the ledger needs of a directory lock."""

    @property
    def path(self) -> str:
        """The directory."""

    def give_back(self) -> None:
        """Let go now."""


class OpenFiles(Sequence[OpenFile]):
    """Files that were open at one moment; each entry is made when it is looked at.

    So to ask is quick where there are ten thousand, and who looks at them can do so in parts.
    Equal to another one if the same files were open, whatever their sizes were.
    """

    __slots__ = ("_files",)

    def __init__(self, files: Sequence[LedgerFile]) -> None:
        self._files = files

    def __repr__(self) -> str:
        return f"<OpenFiles {len(self._files)}>"

    def __len__(self) -> int:
        return len(self._files)

    def __iter__(self) -> Iterator[OpenFile]:
        return map(_entry, self._files)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return OpenFiles(self._files[index])
        return _entry(self._files[index])

    def __eq__(self, other: object) -> bool:
        if isinstance(other, OpenFiles):
            return self._files == other._files
        return list(self) == other if isinstance(other, list) else NotImplemented

    __hash__ = None  # type: ignore[assignment]


def _entry(file: LedgerFile) -> OpenFile:
    return OpenFile(file.path, file.owner, file.opened_at, file.size)


class FileLedger:
    """Open files, calls under way, and locks that wait for those calls.

    Attributes:
        read_buffers: for what files read on the event loop.
    """

    __slots__ = ("read_buffers", "_lock", "_files", "_calls", "_leaving", "_without_nowait")

    def __init__(self) -> None:
        self.read_buffers = BufferPool()
        self._lock = threading.Lock()
        self._files: dict[LedgerFile, None] = {}  # in order of opening
        self._calls: dict[object, str] = {}  # calls that have no file, by path
        self._leaving: list[LedgerLock] = []  # released, but a call may still be under way
        self._without_nowait: set[int] = set()

    def __repr__(self) -> str:
        return f"<FileLedger files={len(self._files)} calls={len(self._calls)}>"

    def files(self) -> list[LedgerFile]:
        """Return every open file, oldest first, with those whose close is deferred."""
        with self._lock:
            return list(self._files)

    def add(self, file: LedgerFile) -> None:
        """Enter a file just opened."""
        with self._lock:
            self._files[file] = None

    def remove(self, file: LedgerFile) -> None:
        """Strike a file off whose descriptor is gone."""
        with self._lock:
            del self._files[file]
        self.call_ended()

    @contextmanager
    def call(self, path: str) -> Iterator[None]:
        """Count a call on a name in and out."""
        token = object()
        with self._lock:
            self._calls[token] = path
        try:
            yield
        finally:
            with self._lock:
                del self._calls[token]
            self.call_ended()

    def call_ended(self) -> None:
        """Let go of locks that waited for the call that just ended. Cheap when none waits."""
        if self._leaving:
            self._settle()

    def release_when_quiet(self, lock: LedgerLock) -> None:
        """Let go of `lock` now, or when the last call under way in its directory has ended."""
        # Entered first and looked at second: a call that ends meanwhile sees it or is seen gone.
        with self._lock:
            if lock not in self._leaving:
                self._leaving.append(lock)
        self._settle()

    def may_read_nowait(self, device: int) -> bool:
        """Return False once filesystem `device` has refused to read without waiting."""
        return device not in self._without_nowait

    def refuses_nowait(self, device: int) -> None:
        """Note that filesystem `device` cannot read without waiting."""
        self._without_nowait.add(device)

    def _settle(self) -> None:
        with self._lock:
            quiet = [lock for lock in self._leaving if not self._is_busy(lock.path)]
            for lock in quiet:
                self._leaving.remove(lock)
        for lock in quiet:
            lock.give_back()

    def _is_busy(self, directory: str) -> bool:
        """Return whether a call is under way on a name or file in `directory`. Needs the lock."""
        inside = directory.rstrip("/") + "/"
        paths = [*self._calls.values(), *(file.path for file in self._files if file.is_in_call)]
        return any(path == directory or path.startswith(inside) for path in paths)
