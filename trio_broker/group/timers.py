"""Deadlines by key, made for what a group coordinator does most: push one into the future.

A member's deadline moves with each heartbeat. That only writes into a dictionary; the heap keeps
the old, earlier entry, and when that comes up the deadline is looked up and queued again.
"""

from __future__ import annotations

import heapq
import itertools
from typing import Generic, TypeVar

Key = TypeVar("Key")

#: Stale entries that may stay in the heap beside as many as there are others.
_STALE_ENTRIES_MAX = 64


class Timers(Generic[Key]):
    """A set of keys, each with one deadline in milliseconds of any clock."""

    def __init__(self) -> None:
        self._deadlines: dict[Key, int] = {}
        # At least one entry for each key, at its deadline or before; others are stale.
        self._heap: list[tuple[int, int, Key]] = []
        self._queued_ms: dict[Key, int] = {}
        self._order = itertools.count()

    def __len__(self) -> int:
        return len(self._deadlines)

    def __contains__(self, key: Key) -> bool:
        return key in self._deadlines

    def deadline_ms(self, key: Key) -> int | None:
        """Return when a key is due, or None."""
        return self._deadlines.get(key)

    def set(self, key: Key, deadline_ms: int) -> None:
        """Make a key due at that time instead of any other."""
        self._deadlines[key] = deadline_ms
        queued_ms = self._queued_ms.get(key)
        if queued_ms is None or deadline_ms < queued_ms:
            self._queue(key, deadline_ms)

    def cancel(self, key: Key) -> None:
        """Forget a key, if there is such a key."""
        self._deadlines.pop(key, None)

    def clear(self) -> None:
        """Forget all keys."""
        self._deadlines.clear()
        self._queued_ms.clear()
        self._heap.clear()

    def next_ms(self) -> int | None:
        """Return when the first key is due, or None."""
        heap = self._heap
        while heap:
            queued_ms, _, key = heap[0]
            if self._queued_ms.get(key) == queued_ms:
                deadline_ms = self._deadlines.get(key)
                if deadline_ms == queued_ms:
                    return queued_ms
                del self._queued_ms[key]
                if deadline_ms is not None:
                    heapq.heappop(heap)
                    self._queue(key, deadline_ms)
                    continue
            heapq.heappop(heap)
        return None

    def pop_due(self, now_ms: int) -> Key | None:
        """Forget the key that has been due longest and return it; None if none is due."""
        next_ms = self.next_ms()
        if next_ms is None or next_ms > now_ms:
            return None
        _, _, key = heapq.heappop(self._heap)
        del self._queued_ms[key]
        del self._deadlines[key]
        return key

    def _queue(self, key: Key, deadline_ms: int) -> None:
        if len(self._heap) > _STALE_ENTRIES_MAX + 2 * len(self._deadlines):
            self._queued_ms = dict(self._deadlines)
            self._heap = [(at_ms, next(self._order), of) for of, at_ms in self._deadlines.items()]
            heapq.heapify(self._heap)
            return
        self._queued_ms[key] = deadline_ms
        heapq.heappush(self._heap, (deadline_ms, next(self._order), key))
