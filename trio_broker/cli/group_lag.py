"""How far a group is behind: in records from offsets, in seconds from the records themselves.

Works with any Kafka broker: the first record that is not processed is fetched for its timestamp.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import trio

from trio_broker.cli.now import now_ms
from trio_broker.cli.output import say
from trio_broker.cli.watermarks import Extent, extents, is_served
from trio_broker.client.options import ConsumerOptions
from trio_broker.errors import CodecUnavailable, CorruptRecords, ErrorCode, RequestError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from trio_broker.client.client import Client
    from trio_broker.client.types import CommittedOffset, TopicPartition

#: How long to wait for records that should be there.
_READ_SECONDS_MAX = 5.0
_READ_BYTES = 64 * 1024


class Lag(NamedTuple):
    """A group's place in a partition.

    Attributes:
        committed: offset of the next record to process; None: nothing is committed.
        extent: of the log; None: the partition is gone, or has no leader.
        seconds: age of the oldest record not processed; None: not known.
    """

    committed: int | None
    extent: Extent | None
    seconds: float | None

    @property
    def records(self) -> int | None:
        """Records not processed that are still there."""
        if self.committed is None or self.extent is None:
            return None
        return max(0, self.extent.end - max(self.committed, self.extent.start))

    @property
    def lost_records(self) -> int:
        """Records that went before they were processed."""
        if self.committed is None or self.extent is None:
            return 0
        return max(0, self.extent.start - self.committed)


async def extents_that_are(
    client: Client, places: Iterable[TopicPartition]
) -> dict[TopicPartition, Extent]:
    """Ask for the ends of partitions; those that nobody serves are left out.

    Raises:
        RequestError, RequestTimedOut: see `Admin.list_offsets`.
    """
    found: dict[TopicPartition, Extent] = {}
    by_topic: dict[str, list[TopicPartition]] = {}
    for place in places:
        by_topic.setdefault(place.topic, []).append(place)
    for topic, of_topic in sorted(by_topic.items()):
        try:
            there = (await client.admin.describe_topic(topic)).partitions
            served = {index for index, partition in there.items() if is_served(partition)}
            found |= await extents(client, [one for one in of_topic if one.partition in served])
        except RequestError as error:
            if error.code != ErrorCode.UNKNOWN_TOPIC_OR_PARTITION:
                raise
    return found


async def lags(
    client: Client,
    committed: Mapping[TopicPartition, CommittedOffset],
    places: Iterable[TopicPartition],
) -> dict[TopicPartition, Lag]:
    """Return how far a group is behind in each of some partitions.

    Raises:
        RequestError, RequestTimedOut: a broker refuses, or does not answer.
    """
    wanted = sorted(set(places))
    found = await extents_that_are(client, wanted)
    behind = {
        place: max(committed[place].offset, found[place].start)
        for place in wanted
        if place in committed
        and place in found
        and committed[place].offset < found[place].end > found[place].start
    }
    times = await _first_times(client, behind)
    now = now_ms()
    result = {}
    for place in wanted:
        at = committed.get(place)
        seconds: float | None = None
        if place in times:
            seconds = max(0, now - times[place]) / 1000
        elif at is not None and place in found and place not in behind:
            seconds = 0.0
        result[place] = Lag(None if at is None else at.offset, found.get(place), seconds)
    return result


async def _first_times(
    client: Client, starts: Mapping[TopicPartition, int]
) -> dict[TopicPartition, int]:
    """Return the timestamp of the first record of each partition from an offset on."""
    if not starts:
        return {}
    times: dict[TopicPartition, int] = {}
    options = ConsumerOptions(
        auto_offset_reset="earliest", records_max=1, partition_fetch_bytes=_READ_BYTES
    )
    async with client.open_consumer(options) as consumer:
        await consumer.assign(starts)
        with trio.move_on_after(_READ_SECONDS_MAX):
            while len(times) < len(starts):
                try:
                    batch = await consumer.next_batch()
                except (CorruptRecords, CodecUnavailable, RequestError) as error:
                    say(f"no lag in seconds: {error}")
                    break
                times[batch.place] = batch.records[0].timestamp_ms
                consumer.pause([batch.place])
    return {place: at_ms for place, at_ms in times.items() if at_ms >= 0}


def lag_row(place: TopicPartition, lag: Lag) -> dict[str, Any]:
    """Return the fields of `shapes.DESCRIBED_OFFSET` that say where a group is."""
    return {
        "topic": place.topic,
        "partition": place.partition,
        "committed_offset": lag.committed,
        "start_offset": lag.extent.start if lag.extent else None,
        "end_offset": lag.extent.end if lag.extent else None,
        "lag": lag.records,
        "lag_seconds": lag.seconds,
        "lost_records": lag.lost_records,
    }
