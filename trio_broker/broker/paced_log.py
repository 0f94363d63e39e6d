"""Log lines of which there could be many: one at once, then at most one per 10 s and cause."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

import trio

from trio_broker.storage.retention import DeletionReason

if TYPE_CHECKING:
    import logging

#: Least time between two lines about the same cause.
INTERVAL_SECONDS = 10.0

_RULES = {
    DeletionReason.START_OFFSET: "lie below their log's start offset",
    DeletionReason.AGE: "are older than retention.ms",
    DeletionReason.SIZE: "are more than retention.bytes",
    DeletionReason.NODE_BUDGET: "give way, since the logs take too much room",
}


class PacedLog:
    """Writes lines, and counts those that it leaves out."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._written_at: dict[str, float] = {}
        self._left_out: Counter[str] = Counter()

    def is_time(self, cause: str) -> bool:
        """Tell whether a line about this cause may be written now; the caller then writes one."""
        now = trio.current_time()
        if now - self._written_at.get(cause, -math.inf) < INTERVAL_SECONDS:
            return False
        self._written_at[cause] = now
        return True

    def log(
        self, level: int, cause: str, message: str, *, exc_info: BaseException | None = None
    ) -> None:
        """Write a line, unless there was one about this cause a moment ago."""
        if not self.is_time(cause):
            self._left_out[cause] += 1
            return
        left_out = self._left_out.pop(cause, 0)
        more = f" ({left_out} more lines like this were left out)" if left_out else ""
        self._logger.log(level, "%s%s", message, more, exc_info=exc_info)


class DeletionLog:
    """Says what retention has taken away: sums since the last line, by rule."""

    def __init__(self, logger: logging.Logger, path: str) -> None:
        self._logger = logger
        self._path = path
        self._paced = PacedLog(logger)
        self._segments: Counter[DeletionReason] = Counter()
        self._bytes: Counter[DeletionReason] = Counter()

    def deleted(self, reason: DeletionReason, partition: str, segments: int, size: int) -> None:
        """Take in what one partition has lost."""
        self._segments[reason] += segments
        self._bytes[reason] += size
        if self._paced.is_time(reason.value):
            self._logger.info(
                "log dir %s: %d segments with %d bytes deleted that %s; the last of %s",
                self._path,
                self._segments.pop(reason),
                self._bytes.pop(reason),
                _RULES[reason],
                partition,
            )
