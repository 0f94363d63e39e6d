"""The consumer that is told which partitions to read.

async with client.open_consumer(ConsumerOptions(auto_offset_reset="earliest")) as consumer:
await consumer.assign([("orders", 0), ("orders", 1)])
async for batch in consumer:
for record in batch:
...
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import trio

from trio_broker.client.errors import request_error
from trio_broker.client.offsets import commit_offsets, fetch_committed
from trio_broker.client.reader import Reader
from trio_broker.client.types import CommittedOffset, OffsetSpec, TopicPartition
from trio_broker.errors import ErrorCode

if TYPE_CHECKING:
    from trio_broker.client.cluster import Cluster
    from trio_broker.client.consumer_state import PartitionState
    from trio_broker.client.options import ConsumerOptions
    from trio_broker.client.scope import TaskScope

#: Offsets to commit, as callers give them.
Offsets = Mapping[tuple[str, int], "int | CommittedOffset"]


class Consumer(Reader):
    """Reads the partitions it is told to; `Client.open_consumer` makes it.

    One task reads; the other methods may be called by any.
    """

    def __init__(
        self,
        cluster: Cluster,
        options: ConsumerOptions,
        scope: TaskScope,
        purpose: str,
        group: str | None,
    ) -> None:
        super().__init__(cluster, options, scope, purpose)
        self._group = group

    async def assign(
        self, places: Iterable[tuple[str, int]] | Mapping[tuple[str, int], int | None]
    ) -> None:
        """Read these partitions and no others.

        What was read before and stays keeps its position, unless one is given. Others begin at
        the one given, else at what the group has committed (if there is a group), else where
        `auto_offset_reset` says.

        Args:
            places: topics and indexes; with a mapping, the offset or `OffsetSpec` to begin with.

        Raises:
            RequestError: there is no such partition; OFFSET_OUT_OF_RANGE if there is no position
                for one, and `auto_offset_reset` is "none".
            RequestTimedOut: the committed offsets cannot be found out.

        Cancellation: nothing has changed.
        """
        await trio.lowlevel.checkpoint()
        self._check_open()
        given: dict[TopicPartition, int | None]
        if isinstance(places, Mapping):
            given = {TopicPartition(*place): offset for place, offset in places.items()}
        else:
            given = {TopicPartition(*place): None for place in places}
        for topic, partition in given:
            view = await self._cluster.topic(topic)
            if partition not in view.partitions:
                raise request_error(
                    ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"{topic!r} has no partition {partition}"
                )
        known = self._state.partitions
        unknown = [place for place in given if given[place] is None and place not in known]
        committed: Mapping[TopicPartition, CommittedOffset] = {}
        if self._group is not None and unknown:
            committed = await fetch_committed(
                self._cluster,
                self._group,
                unknown,
                require_stable=True,
            )
        starts = {
            place: committed[place].offset if place in committed else _reset(self._options, place)
            for place in unknown
        }
        starts.update({place: offset for place, offset in given.items() if offset is not None})
        self._state.assign(given)
        for place in [place for place in self._handed if place not in given]:
            self._forget(place)
        for place, offset in starts.items():
            self._forget(place)
            begin(self._state.partitions[place], offset)
        self._fetcher.interrupt()

    async def committed(
        self, places: Iterable[tuple[str, int]]
    ) -> dict[TopicPartition, CommittedOffset]:
        """Return what the group has committed, an entry for each partition for which it has.

        Raises:
            ValueError: there is no group.
            RequestError: the coordinator refuses.
            RequestTimedOut: it does not answer.
        """
        return await fetch_committed(self._cluster, self._check_group(), places)

    async def commit(self, offsets: Offsets | None = None) -> None:
        """Commit offsets for the group; they are durable when this returns.

        Args:
            offsets: of the next record to process, by partition; None: of everything that was
                handed out, including the last batch or record.

        Raises:
            ValueError: there is no group.
            RequestError: UNKNOWN_MEMBER_ID if the group has members of its own, and so on.
            RequestTimedOut: the coordinator does not answer.

        Cancellation: unknown whether they were committed; doing it again does no harm.
        """
        await trio.lowlevel.checkpoint()
        group = self._check_group()
        await commit_offsets(
            self._cluster, group, to_commit(self._handed if offsets is None else offsets)
        )

    def _check_group(self) -> str:
        if self._group is None:
            raise ValueError("a consumer without a group has no committed offsets")
        return self._group

    def start(self) -> None:
        """Start the tasks; called by `Client.open_consumer`."""
        self._scope.start("consumer", self._fetch_forever)

    async def close(self) -> None:
        """End the tasks; called by `Client.open_consumer`."""
        await self._close()


def begin(state: PartitionState, offset: int) -> None:
    """Begin to read a partition at an offset or an `OffsetSpec`."""
    if offset >= 0:
        state.seek(offset)
    else:
        state.look_up(OffsetSpec(offset))


def _reset(options: ConsumerOptions, place: TopicPartition) -> OffsetSpec:
    if options.auto_offset_reset is None:
        raise no_position(place)
    return options.auto_offset_reset


def no_position(place: TopicPartition) -> Exception:
    """Return the error of a partition without a position, when none may be made up."""
    return request_error(
        ErrorCode.OFFSET_OUT_OF_RANGE,
        f"nothing is committed for {place}, and auto_offset_reset is 'none'",
    )


def to_commit(
    offsets: Mapping[tuple[str, int], int | CommittedOffset]
    | Mapping[TopicPartition, int | CommittedOffset]
    | Mapping[TopicPartition, int],
) -> dict[TopicPartition, CommittedOffset]:
    """Return offsets in the form that requests are made of."""
    return {
        TopicPartition(*place): CommittedOffset(offset) if isinstance(offset, int) else offset
        for place, offset in offsets.items()
    }
