"""Where logs begin and end, and how large they are: what several commands ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from trio_broker.client.connection import VersionMismatch
from trio_broker.client.metadata import NOBODY
from trio_broker.client.types import OffsetSpec, TopicPartition
from trio_broker.errors import ErrorCode, RequestError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from trio_broker.client.client import Client
    from trio_broker.client.metadata import PartitionView, TopicView
    from trio_broker.client.types import ListedOffset


_UNSERVED = frozenset({ErrorCode.LEADER_NOT_AVAILABLE, ErrorCode.KAFKA_STORAGE_ERROR})


class Extent(NamedTuple):
    """What a log holds: from its oldest offset to the next one to come."""

    start: int
    end: int

    @property
    def records(self) -> int:
        """Offsets between the two."""
        return self.end - self.start


async def extents(client: Client, places: Iterable[TopicPartition]) -> dict[TopicPartition, Extent]:
    """Ask for the ends of logs.

    Raises:
        RequestError, RequestTimedOut: see `Admin.list_offsets`.
    """
    wanted = list(places)
    starts = await _listed(client, wanted, OffsetSpec.EARLIEST)
    ends = await _listed(client, wanted, OffsetSpec.LATEST)
    # Retention may have moved the start behind the end that was asked for a moment earlier.
    return {
        place: Extent(starts[place].offset, max(starts[place].offset, ends[place].offset))
        for place in wanted
    }


async def _listed(
    client: Client, places: Iterable[TopicPartition], spec: OffsetSpec
) -> dict[TopicPartition, ListedOffset]:
    return await client.admin.list_offsets(dict.fromkeys(places, int(spec)))


def is_served(partition: PartitionView) -> bool:
    """Whether somebody leads a partition and can: of others nobody knows anything.

    A broker whose disk has failed still is the leader, and says with its metadata that it is none
    at the moment.
    """
    return partition.leader != NOBODY and partition.error_code not in _UNSERVED


def led_places(topics: Iterable[TopicView]) -> list[TopicPartition]:
    """Return the partitions that are served."""
    return [
        TopicPartition(topic.name, index)
        for topic in topics
        for index, partition in sorted(topic.partitions.items())
        if is_served(partition)
    ]


async def sizes(client: Client, topics: Iterable[TopicView]) -> dict[TopicPartition, int]:
    """Ask brokers for the sizes of partitions that they lead; who does not tell is left out.

    Raises:
        RequestTimedOut: a broker does not answer.
    """
    leaders: dict[int, list[TopicPartition]] = {}
    for topic in topics:
        for index, partition in topic.partitions.items():
            if is_served(partition):
                place = TopicPartition(topic.name, index)
                leaders.setdefault(partition.leader, []).append(place)
    found: dict[TopicPartition, int] = {}
    for leader, places in sorted(leaders.items()):
        try:
            log_dirs = await client.admin.describe_log_dirs(leader)
        except (RequestError, VersionMismatch):
            continue
        told: dict[TopicPartition, int] = {}
        for log_dir in log_dirs:
            told |= log_dir.partition_bytes
        found |= {place: told[place] for place in places if place in told}
    return found


def sum_if_complete(
    values: Mapping[TopicPartition, int], places: Iterable[TopicPartition]
) -> int | None:
    """Return the sum over some partitions, None if one of them is not known."""
    total = 0
    for place in places:
        if place not in values:
            return None
        total += values[place]
    return total


def check_partitions(topic: TopicView, partitions: Iterable[int]) -> None:
    """Raise RequestError if a topic does not have some of these partitions."""
    for index in partitions:
        if index not in topic.partitions:
            count = len(topic.partitions)
            there = "only partition 0" if count == 1 else f"{count} partitions, 0 to {count - 1}"
            raise RequestError(
                ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
                f"{topic.name!r} has {there}, and no partition {index}",
            )
