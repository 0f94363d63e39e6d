"""Metric families about room: what retention keeps, what it took, how full the logs' budget is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trio_broker.admin.families import Family, Row, Shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_broker.admin.statistics import RetentionStatistics

_TOPIC = ("topic",)
_LOG_DIR = ("log_dir",)


def _topics(shown: Shown) -> Iterator[tuple[str, RetentionStatistics]]:
    for topic in shown.statistics.topics:
        yield topic.name, topic.retention


def _deleted_bytes(shown: Shown) -> Iterator[Row]:
    for name, retention in _topics(shown):
        for deleted in retention.deleted:
            yield (name, deleted.reason), deleted.size_bytes


def _deleted_segments(shown: Shown) -> Iterator[Row]:
    for name, retention in _topics(shown):
        for deleted in retention.deleted:
            yield (name, deleted.reason), deleted.segments


def _next_deletion(shown: Shown) -> Iterator[Row]:
    for name, retention in _topics(shown):
        if retention.next_deletion_ms is not None:
            yield (name,), retention.next_deletion_ms / 1000


def _age(shown: Shown) -> Iterator[Row]:
    for name, retention in _topics(shown):
        yield (name,), -1 if retention.retention_ms < 0 else retention.retention_ms / 1000


def _size(shown: Shown) -> Iterator[Row]:
    for name, retention in _topics(shown):
        yield (name,), retention.retention_bytes


def _gives_way(shown: Shown) -> Iterator[Row]:
    for name, retention in _topics(shown):
        yield (name,), retention.gives_way


def _log_bytes(shown: Shown) -> Iterator[Row]:
    for log_dir in shown.statistics.log_dirs:
        yield (log_dir.path,), log_dir.log_bytes


def _log_bytes_max(shown: Shown) -> Iterator[Row]:
    for log_dir in shown.statistics.log_dirs:
        if log_dir.log_bytes_max is not None:
            yield (log_dir.path,), log_dir.log_bytes_max


def _refused(shown: Shown) -> Iterator[Row]:
    for log_dir in shown.statistics.log_dirs:
        yield (log_dir.path,), bool(log_dir.produce_refusal)


RETENTION_FAMILIES: Final = (
    Family(
        "trio_broker_retention_deleted_bytes_total",
        "counter",
        ("topic", "reason"),
        "Log deleted because of age, size, start_offset (DeleteRecords), or node_budget (logs took "
        "too much room).",
        _deleted_bytes,
    ),
    Family(
        "trio_broker_retention_deleted_segments_total",
        "counter",
        ("topic", "reason"),
        "Segments deleted, likewise.",
        _deleted_segments,
    ),
    Family(
        "trio_broker_retention_next_deletion_timestamp_seconds",
        "gauge",
        _TOPIC,
        "When age takes away the next segment, since the Unix epoch. No series if none will go.",
        _next_deletion,
    ),
    Family(
        "trio_broker_retention_age_seconds",
        "gauge",
        _TOPIC,
        "The age that is kept (retention.ms); -1: any.",
        _age,
    ),
    Family(
        "trio_broker_retention_partition_bytes",
        "gauge",
        _TOPIC,
        "The size of a partition that is kept (retention.bytes); -1: any.",
        _size,
    ),
    Family(
        "trio_broker_retention_gives_way",
        "gauge",
        _TOPIC,
        "1 if the oldest segments go when logs take too much room, 0 if all is promised.",
        _gives_way,
    ),
)

BUDGET_FAMILIES: Final = (
    Family(
        "trio_broker_log_bytes",
        "gauge",
        _LOG_DIR,
        "Bytes that logs take, deleted segments included until they are gone.",
        _log_bytes,
    ),
    Family(
        "trio_broker_log_bytes_max",
        "gauge",
        _LOG_DIR,
        "Bytes that they may take: here, or with storage.bytes_max in all log dirs together.",
        _log_bytes_max,
    ),
    Family(
        "trio_broker_produce_refused",
        "gauge",
        _LOG_DIR,
        "1 while produce is refused, because of the disk or because all that is left is promised.",
        _refused,
    ),
)
