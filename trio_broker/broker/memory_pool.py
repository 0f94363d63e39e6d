"""Bounds on memory that requests and replies hold, over all connections together."""

from __future__ import annotations

from collections import deque

import trio


class MemoryPool:
    """Counts bytes in use; who finds no room waits, oldest first.

    Attributes:
        limit_bytes: above this nobody new starts; what has started may go over it.
        used_bytes: held now.
    """

    __slots__ = ("_waiting", "limit_bytes", "used_bytes")

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self._waiting: deque[trio.Event] = deque()

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
        if self._waiting and self.has_room:
            self._waiting.popleft().set()

    async def wait_for_room(self) -> None:
        """Wait until the pool is below its limit. Cancellation has no other effect."""
        while not self.has_room:
            turn = trio.Event()
            self._waiting.append(turn)
            try:
                await turn.wait()
            finally:
                if turn in self._waiting:
                    self._waiting.remove(turn)
        if self._waiting and self.has_room:
            self._waiting.popleft().set()
