"""Bounds on memory that requests and replies hold, over all connections together."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import trio


class _Waiter(NamedTuple):
    """Somebody who waits for room; with `owner` for more of it than they hold already."""

    turn: trio.Event
    owner: object | None


class MemoryPool:
    """Counts bytes in use; who finds no room waits, oldest first.

    Those who hold memory and need more of it before they can give any back could wait for each
    other for ever. So one of them at a time, the finisher, goes on whether there is room or not.

    Attributes:
        limit_bytes: above this nobody new starts, and of those who have started one goes on.
        used_bytes: held now.
    """

    __slots__ = ("_finisher", "_waiting", "limit_bytes", "used_bytes")

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self._waiting: deque[_Waiter] = deque()
        self._finisher: object | None = None

    def __repr__(self) -> str:
        return f"<MemoryPool {self.used_bytes}/{self.limit_bytes} B, {len(self._waiting)} waiting>"

    @property
    def has_room(self) -> bool:
        """Whether the pool is below its limit."""
        return self.used_bytes < self.limit_bytes

    def take(self, size_bytes: int) -> None:
        """Count bytes as in use."""
        self.used_bytes += size_bytes

    def give_back(self, size_bytes: int) -> None:
        """Count bytes as free again and let the oldest waiter go on."""
        self.used_bytes -= size_bytes
        self._wake_next()

    def finished(self, owner: object) -> None:
        """Take note that `owner` needs no more than it holds; the next one may finish then."""
        if self._finisher is owner:
            self._finisher = None
            self._wake_next()

    async def wait_for_room(self, owner: object | None = None) -> None:
        """Wait until the pool is below its limit. Cancellation has no other effect.

        Args:
            owner: who already holds memory, and calls `finished` in the end; None: nobody.
        """
        has_waited = False
        while not self.has_room:
            if owner is not None and (self._finisher is None or self._finisher is owner):
                self._finisher = owner
                return
            waiter = _Waiter(trio.Event(), owner)
            if has_waited:  # others were quicker; they do not get its place too
                self._waiting.appendleft(waiter)
            else:
                self._waiting.append(waiter)
            try:
                await waiter.turn.wait()
            except trio.Cancelled:
                self._give_up(waiter)
                raise
            has_waited = True
        self._wake_next()

    def _give_up(self, waiter: _Waiter) -> None:
        """Take a waiter out, or pass on the turn that it was given and does not use."""
        if waiter in self._waiting:
            self._waiting.remove(waiter)
        elif waiter.owner is not None and self._finisher is waiter.owner:
            self.finished(waiter.owner)
        else:
            self._wake_next()

    def _wake_next(self) -> None:
        if not self._waiting:
            return
        if self.has_room:
            self._waiting.popleft().turn.set()
        elif self._finisher is None:
            waiter = next((waiter for waiter in self._waiting if waiter.owner is not None), None)
            if waiter is not None:
                self._finisher = waiter.owner
                self._waiting.remove(waiter)
                waiter.turn.set()
