"""Log lines about topics that come, grow and go, for who wonders later. Called by `controller`."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_broker.metadata.image import MetadataImage
    from trio_broker.names import TopicId

logger = logging.getLogger("trio_broker.topics")

#: Topics named in a line; one request may create or delete thousands.
_SHOWN = 5


def tell_of_new_partitions(
    before: MetadataImage, after: MetadataImage, topic_ids: Sequence[TopicId]
) -> None:
    """Name topics that were created, and those that have more partitions than before."""
    created: list[str] = []
    grown: list[str] = []
    for topic_id in topic_ids:
        topic = after.topics_by_id[topic_id]
        count = len(topic.partitions)
        text = f"{topic.name} ({count} partition{'' if count == 1 else 's'})"
        (grown if topic_id in before.topics_by_id else created).append(text)
    if created:
        logger.info("created: %s", _some(created))
    if grown:
        logger.info("more partitions: %s", _some(grown))


def tell_of_deletions(before: MetadataImage, topic_ids: Sequence[TopicId]) -> None:
    """Name topics that were deleted."""
    logger.info("deleted: %s", _some([before.topics_by_id[each].name for each in topic_ids]))


def _some(texts: Sequence[str]) -> str:
    more = len(texts) - _SHOWN
    return ", ".join(texts[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
