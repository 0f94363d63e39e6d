"""What a consumer knows of each partition that it reads: positions, and records fetched ahead.

No I/O. `fetcher.Fetcher` fills it, `consumer.Consumer` takes from it; both run on the event loop,
and nothing here waits.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from attrs import frozen

from trio_broker.client.fetched import ReturnedRecords
from trio_broker.client.types import TopicPartition

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from trio_broker.client.fetched import FetchedRecords
    from trio_broker.records.build import Record


@frozen
class ConsumedBatch:
    """Records of one partition, in order; iterating over it gives them.

    Attributes:
        topic: name of the topic.
        partition: its index.
        records: at least one.
        next_offset: where reading goes on, and what to commit once these are processed.
        high_watermark: end of the log when they were fetched.
    """

    topic: str
    partition: int
    records: list[Record]
    next_offset: int
    high_watermark: int

    @property
    def place(self) -> TopicPartition:
        """Topic and index as one value."""
        return TopicPartition(self.topic, self.partition)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)


class PartitionState:
    """One partition that is read.

    Attributes:
        place: topic and index.
        position: next offset to hand out; None until it is known.
        reset_to: timestamp or `OffsetSpec` to look the position up with, while that is None.
        fetch_offset: next offset to fetch, ahead of `position` by what is buffered.
        is_paused: fetched and handed out no further.
        fetching_epoch: `epoch` when the fetch under way began; None if there is none.
        buffered: answers not taken yet.
        buffered_bytes: their size.
        high_watermark: as last told; -1 if it was not.
        log_start_offset: likewise.
        resume_at: Trio time before which it is not fetched again, after a failure.
        failures: fetches that failed in a row.
        error: what stops it until `seek`; raised to whoever reads.
        epoch: changes whenever what is being fetched has become useless.
    """

    __slots__ = (
        "buffered",
        "buffered_bytes",
        "epoch",
        "error",
        "failures",
        "fetch_offset",
        "fetching_epoch",
        "high_watermark",
        "is_paused",
        "log_start_offset",
        "place",
        "position",
        "reset_to",
        "resume_at",
    )

    def __init__(self, place: TopicPartition) -> None:
        self.place = place
        self.position: int | None = None
        self.reset_to: int | None = None
        self.fetch_offset = -1
        self.is_paused = False
        self.fetching_epoch: int | None = None
        self.buffered: deque[FetchedRecords | ReturnedRecords] = deque()
        self.buffered_bytes = 0
        self.high_watermark = -1
        self.log_start_offset = -1
        self.resume_at = -float("inf")
        self.failures = 0
        self.error: Exception | None = None
        self.epoch = 0

    def __repr__(self) -> str:
        return f"<PartitionState {self.place} at {self.position}>"

    @property
    def is_fetching(self) -> bool:
        """Whether a fetch is under way that will be of use."""
        return self.fetching_epoch == self.epoch

    def seek(self, offset: int) -> None:
        """Read on from an offset; what was fetched ahead is dropped."""
        self._drop()
        self.reset_to = None
        self.position = offset
        self.fetch_offset = offset

    def look_up(self, reset_to: int) -> None:
        """Read on from where a timestamp or an `OffsetSpec` leads, once that is known."""
        self._drop()
        self.position = None
        self.reset_to = reset_to

    def fail(self, error: Exception) -> None:
        """Stop until somebody seeks."""
        self._drop()
        self.error = error

    def _drop(self) -> None:
        self.buffered.clear()
        self.buffered_bytes = 0
        self.error = None
        self.failures = 0
        self.resume_at = -float("inf")
        self.epoch += 1

    def add(self, fetched: FetchedRecords) -> None:
        """Take what was fetched at `fetch_offset`."""
        self.buffered.append(fetched)
        self.buffered_bytes += fetched.size_bytes
        self.fetch_offset = fetched.end_offset

    def put_back(self, records: Sequence[Record], end_offset: int) -> None:
        """Take back the last records that were taken, which are handed out later after all."""
        self.buffered.appendleft(ReturnedRecords(records, end_offset))
        self.position = records[0].offset

    def take(self, count: int) -> list[Record]:
        """Return the next records that are there, at most `count`, and move the position.

        Raises:
            CorruptRecords, CodecUnavailable: the next ones cannot be read; the position stays.
        """
        while self.buffered:
            fetched = self.buffered[0]
            records = fetched.take(count)
            self.position = fetched.next_offset
            if fetched.next_offset >= fetched.end_offset:
                self.buffered.popleft()
                self.buffered_bytes -= fetched.size_bytes
            if records:
                return records
        return []


class ConsumerState:
    """All partitions that are read, in the order in which they are served.

    Attributes:
        partitions: by topic and index.
    """

    def __init__(self) -> None:
        self.partitions: dict[TopicPartition, PartitionState] = {}

    def assign(self, places: Iterable[TopicPartition]) -> list[PartitionState]:
        """Read these and no others; return those that are new. What is kept stays as it is."""
        wanted = dict.fromkeys(places)
        for place in [place for place in self.partitions if place not in wanted]:
            self.partitions.pop(place).epoch += 1
        added = []
        for place in wanted:
            if place not in self.partitions:
                state = self.partitions[place] = PartitionState(place)
                added.append(state)
        return added

    @property
    def buffered_bytes(self) -> int:
        """Size of everything fetched ahead."""
        return sum(state.buffered_bytes for state in self.partitions.values())

    def take(self, count: int) -> ConsumedBatch | None:
        """Return records of the partition that was served longest ago, None if nothing is there.

        Raises:
            Exception: the error of a partition; the position stays.
        """
        for place, state in list(self.partitions.items()):
            if state.is_paused:
                continue
            if state.error is not None:
                raise state.error.with_traceback(None)
            records = state.take(count)
            if records:
                # To the end of the line.
                del self.partitions[place]
                self.partitions[place] = state
                assert state.position is not None
                return ConsumedBatch(
                    place.topic, place.partition, records, state.position, state.high_watermark
                )
        return None
