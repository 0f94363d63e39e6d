"""What retention does to a topic, collected for statistics, and put into words for DescribeConfigs.

Reads memory only.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from trio_broker.admin.statistics import DeletionStatistics, RetentionStatistics

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trio_broker.broker.log_dir import LogDir
    from trio_broker.broker.topics import RoutedTopic

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: Later times are not worth a date: the end of the year 9999.
_DATE_MS_MAX = 253_402_300_799_999


def retention_of(topic: RoutedTopic, next_deletion_ms: int | None) -> RetentionStatistics:
    """Collect it for one topic.

    Args:
        topic: which.
        next_deletion_ms: the earliest of its partitions, from `earliest_deletion_ms`.
    """
    traffic = topic.traffic
    segment_bytes = topic.config.segment_bytes
    if topic.rolls_early:
        limits = {log_dir.keeper.segment_bytes_max for log_dir in _log_dirs(topic)}
        segment_bytes = min({segment_bytes, *limits})
    return RetentionStatistics(
        retention_ms=topic.config.retention_ms,
        retention_bytes=topic.config.retention_bytes,
        segment_bytes=segment_bytes,
        gives_way=topic.gives_way,
        next_deletion_ms=next_deletion_ms,
        deleted=tuple(
            DeletionStatistics(
                reason=reason.value, segments=segments, size_bytes=traffic.deleted_bytes[reason]
            )
            for reason, segments in traffic.deleted_segments.items()
        ),
    )


def earliest_deletion_ms(topic: RoutedTopic, now_ms: int) -> int | None:
    """Return when age takes away the next segment of any partition, None if never."""
    dues = (
        replica.log.next_deletion_ms(now_ms, upper_offset=replica.high_watermark)
        for replica in topic.replicas
        if replica is not None and replica.has_log
    )
    return min((due for due in dues if due is not None), default=None)


def _log_dirs(topic: RoutedTopic) -> Iterable[LogDir]:
    return dict.fromkeys(replica.shard.log_dir for replica in topic.replicas if replica is not None)


def explain(topic: RoutedTopic, now_ms: int) -> str:
    """Say in sentences what retention does to a topic, for people who wonder where data went."""
    facts = retention_of(topic, earliest_deletion_ms(topic, now_ms))
    if topic.is_internal:
        rule = "This topic is the broker's own and never gives way."
    elif facts.gives_way:
        rule = (
            "Neither retention.ms nor retention.bytes was set for this topic, so its oldest "
            "segments give way if logs take too much room (storage.bytes_max)."
        )
    else:
        rule = (
            "retention.ms or retention.bytes was set for this topic, so nothing of it gives way: "
            "if logs take too much room (storage.bytes_max), produce is refused instead."
        )
    sentences = [rule]
    budgets = {log_dir.keeper.scope: log_dir.keeper for log_dir in _log_dirs(topic)}
    sentences += [
        f"The logs {scope} take {keeper.shared_bytes} of {keeper.limit_bytes} bytes that they may."
        for scope, keeper in budgets.items()
        if keeper.limit_bytes is not None
    ]
    if facts.segment_bytes < topic.config.segment_bytes:
        sentences.append(f"Segments roll at {facts.segment_bytes} bytes, to give way in pieces.")
    due_ms = facts.next_deletion_ms
    if due_ms is None or due_ms > _DATE_MS_MAX:
        sentences.append("Nothing is going to be deleted because of its age.")
    else:
        sentences.append(f"The next deletion because of age is due at {_date(due_ms)}.")
    deleted = [each for each in facts.deleted if each.segments]
    if deleted:
        parts = (f"{each.segments} ({each.size_bytes} bytes) by {each.reason}" for each in deleted)
        sentences.append(f"Segments deleted since the broker started: {', '.join(parts)}.")
    else:
        sentences.append("Nothing was deleted since the broker started.")
    return " ".join(sentences)


def _date(at_ms: int) -> str:
    at = _EPOCH + timedelta(milliseconds=at_ms)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
