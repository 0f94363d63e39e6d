"""Files of deleted segments, until their space is given back.

Owned by a `Log`, changed on the event loop, except that jobs strike out what they have removed. A
job that is cancelled before it begins has struck out nothing, so nothing is forgotten by that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

#: What could not be removed is tried again after this long.
RETRY_MS = 30_000


class _Doomed(NamedTuple):
    deleted_ms: int
    paths: Sequence[str]
    size_bytes: int


class DoomedFiles:
    """Segments that were deleted and still take room on the disk.

    Attributes:
        size_bytes: of those segments.
        due: paths to be removed now, and those that could not be; emptied by jobs.
    """

    __slots__ = ("_waiting", "due", "size_bytes")

    def __init__(self) -> None:
        self.size_bytes = 0
        self.due: list[str] = []
        self._waiting: list[_Doomed] = []

    def add(self, deleted_ms: int, paths: Sequence[str], size_bytes: int) -> None:
        """Take in what one deletion left behind."""
        self._waiting.append(_Doomed(deleted_ms, paths, size_bytes))
        self.size_bytes += size_bytes

    @property
    def paths(self) -> list[str]:
        """All that is still to be removed."""
        return [path for doomed in self._waiting for path in doomed.paths] + self.due

    def due_ms(self, delay_ms: int, now_ms: int) -> int | None:
        """Return when something is to be removed next, None if there is nothing."""
        dues = [
            now_ms if _is_due(doomed, delay_ms, now_ms) else doomed.deleted_ms + delay_ms
            for doomed in self._waiting
        ]
        if self.due:
            dues.append(now_ms + RETRY_MS)
        return min(dues, default=None)

    def take(self, delay_ms: int, now_ms: int) -> list[str]:
        """Make due what was deleted `delay_ms` ago or before, and return `due`, sorted."""
        taken = [doomed for doomed in self._waiting if _is_due(doomed, delay_ms, now_ms)]
        self._waiting = [d for d in self._waiting if not _is_due(d, delay_ms, now_ms)]
        self.size_bytes -= sum(doomed.size_bytes for doomed in taken)
        found = {path for doomed in taken for path in doomed.paths}
        self.due = sorted(found.union(self.due))
        return self.due


def _is_due(doomed: _Doomed, delay_ms: int, now_ms: int) -> bool:
    """Whether files have waited for long enough; those from a clock that was ahead have."""
    return doomed.deleted_ms + delay_ms <= now_ms or doomed.deleted_ms > now_ms
