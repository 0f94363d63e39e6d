"""What both kinds of consumers share: handing out what was fetched, and positions."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Self

import trio
from attrs import define, evolve

from trio_broker.client.consumer_state import ConsumedBatch, ConsumerState, PartitionState
from trio_broker.client.errors import ClientClosed
from trio_broker.client.fetcher import Fetcher
from trio_broker.client.offsets import list_offsets
from trio_broker.client.types import ListedOffset, OffsetSpec, TopicPartition

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from trio_broker.client.cluster import Cluster
    from trio_broker.client.options import ConsumerOptions
    from trio_broker.client.scope import TaskScope


class ConsumedRecord(NamedTuple):
    """A record, with where it comes from.

    Attributes:
        topic: name of the topic.
        partition: its index.
        offset: in the partition.
        timestamp_ms: milliseconds since 1970; -1 for none.
        key: None if there is none.
        value: None is a tombstone.
        headers: names, which may repeat, with their values.
    """

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


@define
class OpenedBatch:
    """A batch whose records are handed out one by one.

    Attributes:
        batch: what was taken.
        state: of its partition, then; one that is given up and read again has another.
        epoch: of that, then.
        index: of the next record.
    """

    batch: ConsumedBatch
    state: PartitionState
    epoch: int
    index: int = 0


class Reader:
    """Reads partitions; see `Consumer` and `GroupConsumer`.

    One task reads; the other methods may be called by any.
    """

    def __init__(
        self, cluster: Cluster, options: ConsumerOptions, scope: TaskScope, purpose: str
    ) -> None:
        self._cluster = cluster
        self._options = options
        self._scope = scope.child()
        self._purpose = purpose
        self._state = ConsumerState()
        self._fetcher = Fetcher(cluster, self._state, options, self._scope, purpose)
        #: Offsets behind what was handed out, and behind what was handed out before that.
        self._handed: dict[TopicPartition, int] = {}
        self._processed: dict[TopicPartition, int] = {}
        self._last_place: TopicPartition | None = None
        self._opened: OpenedBatch | None = None
        self._is_closed = False

    def __repr__(self) -> str:
        places = ", ".join(map(str, self._state.partitions))
        return f"<{type(self).__name__} of {places or 'nothing'}>"

    # ---------------------------------------------------------------------------------------- reads

    async def next_batch(self) -> ConsumedBatch:
        """Wait for records and return those of one partition, at most `records_max`.

        Partitions with records take turns. By asking for the next batch the program says that it
        has processed the one before.

        Raises:
            RequestError: OFFSET_OUT_OF_RANGE without `auto_offset_reset`, or that the partition may
                not be read. It is raised again until `seek` or a new assignment.
            CorruptRecords, CodecUnavailable: the next records cannot be read; likewise.
            ClientClosed: the consumer is closed.

        Cancellation: nothing is lost; the next call returns what this one would have.
        """
        await trio.lowlevel.checkpoint()
        self._all_processed()
        return await self._wait_for_batch()

    async def next_record(self) -> ConsumedRecord:
        """Wait for a record and return it.

        By asking for the next record the program says that it has processed the one before.

        Raises:
            RequestError, CorruptRecords, CodecUnavailable, ClientClosed: as `next_batch`.

        Cancellation: nothing is lost; the next call returns what this one would have.
        """
        await trio.lowlevel.checkpoint()
        self._all_processed()
        opened = self._current_opened()
        if opened is None:
            batch = await self._wait_for_batch()
            state = self._partition(batch.place)
            opened = self._opened = OpenedBatch(batch, state, state.epoch)
        batch = opened.batch
        record = batch.records[opened.index]
        opened.index += 1
        is_last = opened.index == len(batch.records)
        self._handed[batch.place] = batch.next_offset if is_last else record.offset + 1
        return ConsumedRecord(
            batch.topic,
            batch.partition,
            record.offset,
            record.timestamp_ms,
            record.key,
            record.value,
            record.headers,
        )

    async def _wait_for_batch(self) -> ConsumedBatch:
        while True:
            self._check_open()
            batch = self._take()
            if batch is not None:
                self._last_place = batch.place
                self._handed[batch.place] = batch.next_offset
                self._fetcher.wake()
                return batch
            self._fetcher.wake()
            await self._fetcher.arrived.park()

    def _take(self) -> ConsumedBatch | None:
        """Return what can be handed out now, None if nothing can."""
        opened = self._current_opened()
        if opened is not None:
            self._opened = None
            return evolve(opened.batch, records=opened.batch.records[opened.index :])
        return self._state.take(self._options.records_max)

    def _current_opened(self) -> OpenedBatch | None:
        """Return the batch of which the next single record may be handed out."""
        return self._unfinished()

    def _unfinished(self) -> OpenedBatch | None:
        """Return the batch of which single records were taken, if the rest of it still counts."""
        opened = self._opened
        if opened is None:
            return None
        state = self._state.partitions.get(opened.batch.place)
        is_current = state is opened.state and state.epoch == opened.epoch
        return opened if is_current and opened.index < len(opened.batch.records) else None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ConsumedBatch:
        """See `next_batch`; the iteration has no end."""
        return await self.next_batch()

    def records(self) -> RecordIterator:
        """Return an iterator over single records, without end.

        By asking for the next record the program says that it has processed the one before.
        """
        return RecordIterator(self)

    def _all_processed(self) -> None:
        """Take note that the program has processed what it was given."""
        place = self._last_place
        if place is not None and place in self._handed:
            self._processed[place] = self._handed[place]

    # ------------------------------------------------------------------------------------ positions

    @property
    def assignment(self) -> frozenset[TopicPartition]:
        """Partitions that are read."""
        return frozenset(self._state.partitions)

    def seek(self, place: tuple[str, int], offset: int) -> None:
        """Go on reading elsewhere.

        Args:
            place: topic and index of a partition that is read.
            offset: an offset, or an `OffsetSpec`. See `seek_to_time` for times.

        Raises:
            KeyError: the partition is not read.
        """
        state = self._partition(place)
        self._forget(state.place)
        if offset >= 0:
            state.seek(offset)
        else:
            state.look_up(OffsetSpec(offset))
        self._fetcher.interrupt()

    def seek_to_time(self, place: tuple[str, int], timestamp_ms: int) -> None:
        """Go on reading at the first record of a time (milliseconds since 1970) or later.

        If there is none yet, with the records to come.

        Raises:
            KeyError: the partition is not read.
            ValueError: the time is before 1970.
        """
        if timestamp_ms < 0:
            raise ValueError(f"{timestamp_ms} is before 1970")
        state = self._partition(place)
        self._forget(state.place)
        state.look_up(timestamp_ms)
        self._fetcher.interrupt()

    async def position(self, place: tuple[str, int]) -> int:
        """Return the offset behind the last record that was handed out; wait until it is known.

        Raises:
            KeyError: the partition is not read.
            RequestError: its position cannot be found.
            ClientClosed: the consumer is closed.
        """
        await trio.lowlevel.checkpoint()
        while True:
            self._check_open()
            state = self._partition(place)
            handed = self._handed.get(state.place, state.position)
            if handed is not None:
                return handed
            if state.error is not None:
                raise state.error.with_traceback(None)
            await self._fetcher.arrived.park()

    def read_to(self, place: tuple[str, int]) -> int | None:
        """Return the offset before which nothing is left to hand out, None if it is not known yet.

        Unlike `position` it also moves over what is never handed out: the markers of transactions,
        and records that were aborted or compacted away. So it reaches the end of a log that ends
        with such.

        Raises:
            KeyError: the partition is not read.
        """
        state = self._partition(place)
        opened = self._unfinished()
        if opened is not None and opened.state is state:
            return opened.batch.records[opened.index].offset
        return state.position

    def pause(self, places: Iterable[tuple[str, int]]) -> None:
        """Hand out nothing more of some partitions; fetch nothing more either.

        Raises:
            KeyError: one of them is not read.
        """
        for place in places:
            state = self._partition(place)
            state.is_paused = True
            opened = self._unfinished()
            if opened is not None and opened.state is state:
                # Another batch may be opened before this one goes on.
                state.put_back(opened.batch.records[opened.index :], opened.batch.next_offset)
                self._opened = None

    def resume(self, places: Iterable[tuple[str, int]]) -> None:
        """Undo `pause`.

        Raises:
            KeyError: one of them is not read.
        """
        for place in places:
            self._partition(place).is_paused = False
        self._fetcher.arrived.unpark_all()
        self._fetcher.interrupt()

    @property
    def paused(self) -> frozenset[TopicPartition]:
        """Partitions that are paused."""
        return frozenset(
            place for place, state in self._state.partitions.items() if state.is_paused
        )

    def high_watermark(self, place: tuple[str, int]) -> int | None:
        """Return the end of the log as the last fetch told it, None if there was none.

        Raises:
            KeyError: the partition is not read.
        """
        known = self._partition(place).high_watermark
        return known if known >= 0 else None

    async def offsets_for_times(
        self, times_ms: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, ListedOffset]:
        """Return the first record of a time or later, for any partitions.

        Args:
            times_ms: milliseconds since 1970, or an `OffsetSpec`, by partition.

        Returns:
            An entry for each; its offset is -1 if there is no such record.

        Raises:
            RequestError: there is no such partition.
            RequestTimedOut: its leader does not answer.
        """
        return await list_offsets(self._cluster, times_ms, isolation=self._options.isolation)

    def _partition(self, place: tuple[str, int]) -> PartitionState:
        state = self._state.partitions.get(TopicPartition(*place))
        if state is None:
            raise KeyError(f"{place[0]}-{place[1]} is not read here")
        return state

    def _forget(self, place: TopicPartition) -> None:
        """Forget what was handed out of a partition."""
        self._handed.pop(place, None)
        self._processed.pop(place, None)

    # ------------------------------------------------------------------------------------------ end

    def _check_open(self) -> None:
        if self._is_closed:
            raise ClientClosed("the consumer is closed")

    def _end_tasks(self) -> None:
        """Tell the tasks to end, and end whatever waits."""
        self._is_closed = True
        self._scope.cancel()
        self._fetcher.arrived.unpark_all()

    async def _close(self) -> None:
        """End the tasks, and only then close their connections.

        A task that is about to run would take a closed one for a broken one.

        Cancellation: one that does not end in time is not waited for.
        """
        self._end_tasks()
        try:
            await self._scope.end()
        finally:
            self._cluster.close_purpose(self._purpose)

    async def _fetch_forever(self) -> None:
        """Be the consumer's first task."""
        try:
            await self._fetcher.supervise()
        finally:
            self._end_tasks()


class RecordIterator:
    """Single records, without end; `Reader.records` makes it."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ConsumedRecord:
        """See `Reader.next_record`."""
        return await self._reader.next_record()
