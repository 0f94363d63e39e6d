"""Log lines about topics that come, grow and go, for who wonders later. Owned by `controller`.

A few at a time are told one by one. When there are many, as when somebody creates ten thousand
topics one after another, they are told in sums; each of them only at level DEBUG.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_broker.metadata.image import MetadataImage
    from trio_broker.names import TopicId

logger = logging.getLogger("trio_broker.topics")

#: Topics named in a line; one request may create or delete thousands.
_SHOWN = 5
#: So many lines are written at once, and then one of each kind in each interval.
LINES_AT_ONCE = 20
INTERVAL_SECONDS = 10.0


class TopicNews:
    """Tells of topics, and adds up what it does not tell at once; that is told by `run`."""

    def __init__(self) -> None:
        self._is_running = False
        self._interval_ends_at = -math.inf
        self._lines = 0
        self._names: dict[str, list[str]] = {}  # by kind, not more than are shown
        self._counts: dict[str, int] = {}
        self._added = trio.Event()

    def __repr__(self) -> str:
        return f"<TopicNews {self._counts}>"

    def tell_of_new_partitions(
        self, before: MetadataImage, after: MetadataImage, topic_ids: Sequence[TopicId]
    ) -> None:
        """Name topics that were created, and those that have more partitions than before."""
        created: list[str] = []
        grown: list[str] = []
        for topic_id in topic_ids:
            topic = after.topics_by_id[topic_id]
            count = len(topic.partitions)
            text = f"{topic.name} ({count} partition{'' if count == 1 else 's'})"
            (grown if topic_id in before.topics_by_id else created).append(text)
        self._tell("created", created)
        self._tell("more partitions", grown)

    def tell_of_deletions(self, before: MetadataImage, topic_ids: Sequence[TopicId]) -> None:
        """Name topics that were deleted."""
        self._tell("deleted", [before.topics_by_id[each].name for each in topic_ids])

    async def run(self) -> None:
        """Tell the sums when their time has come; until cancelled, and then what is left."""
        self._is_running = True
        try:
            while True:
                await self._added.wait()
                await trio.sleep_until(self._interval_ends_at)
                self._tell_sums()
                self._interval_ends_at = trio.current_time() + INTERVAL_SECONDS
        finally:
            self._is_running = False
            self._tell_sums()

    def _tell(self, kind: str, texts: Sequence[str]) -> None:
        if not texts:
            return
        if self._may_write():
            _write(kind, texts[:_SHOWN], len(texts))
            return
        for text in texts:
            logger.debug("%s: %s", kind, text)
        names = self._names.setdefault(kind, [])
        names += texts[: _SHOWN - len(names)]
        self._counts[kind] = self._counts.get(kind, 0) + len(texts)
        self._added.set()

    def _may_write(self) -> bool:
        """Whether a line may be written now; counts it."""
        if not self._is_running:
            return True  # nobody would tell the sum
        if self._counts:
            return False  # or what is later would be told first
        now = trio.current_time()
        if now >= self._interval_ends_at:
            self._interval_ends_at = now + INTERVAL_SECONDS
            self._lines = 0
        self._lines += 1
        return self._lines <= LINES_AT_ONCE

    def _tell_sums(self) -> None:
        for kind, count in self._counts.items():
            _write(kind, self._names[kind], count)
        self._names.clear()
        self._counts.clear()
        self._added = trio.Event()


def _write(kind: str, names: Sequence[str], count: int) -> None:
    more = f" and {count - len(names)} more" if count > len(names) else ""
    logger.info("%s: %s%s", kind, ", ".join(names), more)
