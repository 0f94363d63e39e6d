"""The names under which kafka_exporter shows the same values, for dashboards made for those.

Families, labels and meanings are those of https://github.com/danielqsj/kafka_exporter 1.9. The
exporter itself also works with this broker, over the Kafka protocol.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from trio_broker.admin.families import Family, Row, Shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trio_broker.admin.statistics import CommittedOffset, PartitionStatistics

_PARTITION = ("topic", "partition")
_OFFSET = ("consumergroup", "topic", "partition")


def _brokers(_: Shown) -> Iterator[Row]:
    yield (), 1


def _topic_partitions(shown: Shown) -> Iterator[Row]:
    for topic in shown.statistics.topics:
        yield (topic.name,), len(topic.partitions)


def _partition(
    name: str, help_text: str, value_of: Callable[[PartitionStatistics], int | None]
) -> Family:
    def rows(shown: Shown) -> Iterator[Row]:
        for topic, partition in shown.partitions:
            value = value_of(partition)
            if value is not None:
                yield (topic.name, str(partition.partition)), value

    return Family(f"kafka_topic_partition_{name}", "gauge", _PARTITION, help_text, rows)


def _offset(name: str, help_text: str, value_of: Callable[[CommittedOffset], int | None]) -> Family:
    def rows(shown: Shown) -> Iterator[Row]:
        for group, found in shown.offsets:
            value = value_of(found)
            if value is not None:
                yield (group.group_id, found.topic, str(found.partition)), value

    return Family(f"kafka_consumergroup_{name}", "gauge", _OFFSET, help_text, rows)


def _offset_sum(
    name: str, help_text: str, value_of: Callable[[CommittedOffset], int | None]
) -> Family:
    def rows(shown: Shown) -> Iterator[Row]:
        for group in shown.statistics.groups[: shown.series_max]:
            sums: Counter[str] = Counter()
            for found in group.offsets:
                sums[found.topic] += value_of(found) or 0
            for topic, value in sums.items():
                yield (group.group_id, topic), value

    labels = ("consumergroup", "topic")
    return Family(f"kafka_consumergroup_{name}", "gauge", labels, help_text, rows)


def _members(shown: Shown) -> Iterator[Row]:
    for group in shown.statistics.groups[: shown.series_max]:
        if group.members is not None:
            yield (group.group_id,), group.members


def _known(offset: int) -> int | None:
    return offset if offset >= 0 else None


FAMILIES: Final = (
    Family("kafka_brokers", "gauge", (), "Number of Brokers in the Kafka Cluster.", _brokers),
    Family(
        "kafka_topic_partitions",
        "gauge",
        ("topic",),
        "Number of partitions for this Topic",
        _topic_partitions,
    ),
    _partition(
        "current_offset",
        "Current Offset of a Broker at Topic/Partition",
        lambda partition: _known(partition.high_watermark),
    ),
    _partition(
        "oldest_offset",
        "Oldest Offset of a Broker at Topic/Partition",
        lambda partition: _known(partition.log_start_offset),
    ),
    _partition(
        "in_sync_replica",
        "Number of In-Sync Replicas for this Topic/Partition",
        lambda partition: partition.in_sync_replicas,
    ),
    _partition(
        "leader",
        "Leader Broker ID of this Topic/Partition",
        lambda partition: partition.leader,
    ),
    _partition(
        "leader_is_preferred",
        "1 if Topic/Partition is using the Preferred Broker",
        lambda partition: int(partition.leader >= 0),
    ),
    _partition(
        "replicas",
        "Number of Replicas for this Topic/Partition",
        lambda partition: partition.replicas,
    ),
    _partition(
        "under_replicated_partition",
        "1 if Topic/Partition is under Replicated",
        lambda partition: int(partition.in_sync_replicas < partition.replicas),
    ),
    _offset(
        "current_offset",
        "Current Offset of a ConsumerGroup at Topic/Partition",
        lambda found: found.offset,
    ),
    _offset(
        "lag",
        "Current Approximate Lag of a ConsumerGroup at Topic/Partition",
        lambda found: found.lag_records,
    ),
    _offset_sum(
        "current_offset_sum",
        "Current Offset of a ConsumerGroup at Topic for all partitions",
        lambda found: found.offset,
    ),
    _offset_sum(
        "lag_sum",
        "Current Approximate Lag of a ConsumerGroup at Topic for all partitions",
        lambda found: found.lag_records,
    ),
    Family(
        "kafka_consumergroup_members",
        "gauge",
        ("consumergroup",),
        "Amount of members in a consumer group",
        _members,
    ),
)
