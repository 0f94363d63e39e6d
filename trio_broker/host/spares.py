"""Spare descriptors: with none left to the process, files still open, one at a time and briefly.

A process that has used up its descriptors (RLIMIT_NOFILE, also one that was lowered while it runs)
could not write a checkpoint, sync a directory or begin a segment, and clients that are connected
already would suffer from those that are not. Nor could it take those out of the backlog whom it
cannot serve. So a broker holds a few descriptors on ``/dev/null`` from its start on, and gives one
up for each call that the system refuses. Who got a file in this way (`OpenedDescriptor.is_spare`)
closes it as soon as it is done, and the number is taken back in the same system call that closes
it, so that nobody can get in between. A number that another thread has caught all the same comes
back in the same way: as long as one is missing, every file that is opened counts as spare.

Safe on any thread. Nothing waits here, and no lock is held during a call that could hang.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

T = TypeVar("T")

#: What the system says when the process, or the whole machine, has no descriptor left.
NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE})


class OpenedDescriptor(NamedTuple):
    """A descriptor, and whether it was a spare one."""

    number: int
    is_spare: bool


class SpareDescriptors:
    """Descriptors held back, for the files and the listeners of one host.

    Attributes:
        held_count: how many are held now.
        lent_count: how many are in use, by files that will be closed soon.
    """

    __slots__ = ("_lock", "_numbers", "_wanted", "lent_count")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers: list[int] = []
        self._wanted = 0
        self.lent_count = 0

    def __repr__(self) -> str:
        return f"<SpareDescriptors {self.held_count} of {self._wanted}, {self.lent_count} lent>"

    @property
    def held_count(self) -> int:
        """How many are held now."""
        return len(self._numbers)

    @contextmanager
    def hold(self, count: int) -> Iterator[None]:
        """Hold `count` descriptors (more) for the length of a block, or as many as there are."""
        self.want(count)
        try:
            yield
        finally:
            self.want(-count)

    def want(self, more: int) -> None:
        """Hold so many more, or as many of them as there are; fewer, if it is negative."""
        with self._lock:
            self._wanted += more
            kept = max(0, self._wanted - self.lent_count)
            surplus = self._numbers[kept:]
            del self._numbers[kept:]
        for number in surplus:
            os.close(number)
        self._refill()

    def open(
        self, path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None
    ) -> OpenedDescriptor:
        """Open a path as `os.open` does, with a spare descriptor if there is no other.

        Raises:
            OSError: as `os.open`; EMFILE or ENFILE if the spare ones are in use too.
        """

        def call() -> int:
            return os.open(path, flags, mode, dir_fd=dir_fd)

        try:
            number = call()
        except OSError as error:
            if error.errno not in NO_DESCRIPTORS:
                raise
        else:
            if not self._is_short or self._refill():
                return OpenedDescriptor(number, is_spare=False)
            with self._lock:
                self.lent_count += 1
            return OpenedDescriptor(number, is_spare=True)
        number = self._call_with_spare(call)
        with self._lock:
            self.lent_count += 1
        return OpenedDescriptor(number, is_spare=True)

    def close(self, descriptor: OpenedDescriptor) -> None:
        """Close a descriptor, and keep its number if it is a spare one that is still wanted."""
        number, is_spare = descriptor
        if not is_spare:
            os.close(number)
            return
        with self._lock:
            source = self._numbers.pop() if self._numbers else None
            if source is not None:
                self.lent_count += 1  # nobody else may give it up, and its number be another file's
        free = [] if source is None else [source]
        if source is not None and self._take_over(number, source):
            free.append(number)
        else:
            os.close(number)
        with self._lock:
            self.lent_count -= 1 if source is None else 2
            surplus = free[max(0, self._wanted - len(self._numbers) - self.lent_count) :]
            self._numbers += free[: len(free) - len(surplus)]
        for number in surplus:
            os.close(number)
        self._refill()

    def call(self, function: Callable[..., T], *arguments: object) -> T:
        """Make a call that needs a descriptor only while it runs, such as `os.listdir`.

        Called again if another thread has caught the descriptor that was given up for it.

        Raises:
            OSError: what it raises; EMFILE or ENFILE if the spare ones are in use too.
        """
        try:
            return function(*arguments)
        except OSError as error:
            if error.errno not in NO_DESCRIPTORS:
                raise
        try:
            return self._call_with_spare(lambda: function(*arguments))
        finally:
            self._refill()

    @property
    def _is_short(self) -> bool:
        return len(self._numbers) + self.lent_count < self._wanted

    def _call_with_spare(self, call: Callable[[], T]) -> T:
        """Give up a spare descriptor and make a call; another one, if somebody is quicker."""
        while True:
            with self._lock:
                number = self._numbers.pop() if self._numbers else None
            if number is not None:
                os.close(number)
            try:
                return call()
            except OSError as error:
                if error.errno in NO_DESCRIPTORS and number is not None:
                    continue
                self._refill()
                raise

    def _take_over(self, number: int, source: int) -> bool:
        """Close a descriptor and hold its number in one step; False if that is not possible."""
        try:
            os.dup2(source, number, inheritable=False)
        except OSError:  # the limit was lowered below this number
            return False
        return True

    def _refill(self) -> bool:
        """Hold as many as are wanted; False if there are not as many."""
        while self._is_short:
            try:
                number = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                return False
            if not self._keep(number):  # another thread has been quicker
                os.close(number)
        return True

    def _keep(self, number: int) -> bool:
        with self._lock:
            is_wanted = self._is_short
            if is_wanted:
                self._numbers.append(number)
        return is_wanted
