"""What a producer holds: batches of records on their way, and the queue of each partition.

The queue decides what may be sent and what becomes of a batch that was answered, refused or lost.
It does no I/O. It keeps three promises:

Order
    A partition's records are stored in the order in which they were given. With idempotence
    several batches may be under way, as the broker takes them only in sequence; without it one.
    After a failure nothing new is sent until everything under way is answered, and then what
    failed goes first, in its order.
No duplicates (idempotent producers, KIP-98)
    A batch whose outcome is unknown is sent again with the same producer id, epoch and sequence.
No gaps in the sequence
    A batch that is refused for good leaves its sequence numbers to the next one. Where that is not
    possible (a batch timed out with its outcome unknown; the broker has lost track), the queue
    gives up its identity and goes on with a fresh one from sequence 0 (KIP-360).

A broker that knows nothing of a producer takes any sequence number (KIP-360 again), therefore the
first batch under a new identity, and the first after a failure, flies alone.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import trio

from trio_broker.client.errors import DeliveryTimedOut
from trio_broker.records.batch import NO_SEQUENCE, NO_TIMESTAMP, SEQUENCE_MASK
from trio_broker.records.build import Record

if TYPE_CHECKING:
    from trio_broker.errors import TrioBrokerError


class Identity(NamedTuple):
    """What a broker knows an idempotent producer by; from InitProducerId."""

    producer_id: int
    producer_epoch: int


class RecordMetadata(NamedTuple):
    """Where a record was stored.

    Attributes:
        topic: name of the topic.
        partition: its index.
        offset: in the partition; -1 if nobody tells (acks=0, or a duplicate of an old batch).
        timestamp_ms: the record's own, or the broker's if the topic is configured so.
    """

    topic: str
    partition: int
    offset: int
    timestamp_ms: int


class ProducerBatch:
    """Records of one partition that are sent together.

    Attributes:
        queue: of its partition.
        records: in order.
        size_bytes: before compression, estimated from above.
        created: Trio time of the first record.
        deadline: Trio time after which it is not sent again.
        sequence: of the first record; None until one is assigned.
        attempts: how often it was sent and failed.
        maybe_stored: whether it was sent and nobody has said that it was refused.
        done: set when its outcome is known.
        error: why it failed; None if it did not.
        base_offset: of the first record, once stored.
        append_time_ms: of the broker, if that is what timestamps are.
        parts: what it was split into, since it was too large; it is done then.
        is_reported: whether somebody was told of its error.
    """

    __slots__ = (
        "append_time_ms",
        "attempts",
        "base_offset",
        "created",
        "deadline",
        "done",
        "error",
        "is_reported",
        "maybe_stored",
        "parts",
        "queue",
        "records",
        "sequence",
        "size_bytes",
    )

    def __init__(self, queue: PartitionQueue, created: float, deadline: float) -> None:
        self.queue = queue
        self.records: list[Record] = []
        self.size_bytes = 0
        self.created = created
        self.deadline = deadline
        self.sequence: int | None = None
        self.attempts = 0
        self.maybe_stored = False
        self.done = trio.Event()
        self.error: TrioBrokerError | None = None
        self.base_offset = -1
        self.append_time_ms = NO_TIMESTAMP
        self.parts: tuple[ProducerBatch, ...] = ()
        self.is_reported = False

    def __repr__(self) -> str:
        return f"<ProducerBatch {self.queue} {len(self.records)} records sequence={self.sequence}>"

    def finish(self, error: TrioBrokerError | None) -> None:
        """Settle the outcome and wake who waits for it."""
        self.error = error
        self.done.set()

    def split(self) -> tuple[ProducerBatch, ...]:
        """Halve it, because the broker finds it too large; deliveries follow their records."""
        half = len(self.records) // 2
        parts = []
        for records in (self.records[:half], self.records[half:]):
            part = ProducerBatch(self.queue, self.created, self.deadline)
            part.records = records
            part.attempts = self.attempts + 1
            parts.append(part)
        parts[0].size_bytes = self.size_bytes // 2
        parts[1].size_bytes = self.size_bytes - parts[0].size_bytes
        self.parts = tuple(parts)
        self.done.set()
        return self.parts


class Delivery:
    """A record on its way."""

    __slots__ = ("_batch", "_index")

    def __init__(self, batch: ProducerBatch, index: int) -> None:
        self._batch = batch
        self._index = index

    def __repr__(self) -> str:
        state = "done" if self.is_done else "under way"
        return f"<Delivery to {self._batch.queue} {state}>"

    @property
    def is_done(self) -> bool:
        """Whether the outcome is known, so that `wait` returns or raises at once."""
        self._follow_parts()
        return self._batch.done.is_set()

    async def wait(self) -> RecordMetadata:
        """Wait for the outcome; may be called several times and by several tasks.

        Raises:
            RequestError: the broker has refused the record, with its code.
            DeliveryTimedOut: nobody has acknowledged it in time.
            ClientClosed: the producer was closed; the record may or may not be stored.

        Cancellation: the record stays on its way, and can be waited for again.
        """
        await trio.lowlevel.checkpoint()
        while not self.is_done:
            await self._batch.done.wait()
        return self.result_nowait()

    def result_nowait(self) -> RecordMetadata:
        """Return the outcome if it is known.

        Raises:
            trio.WouldBlock: it is not known yet.
            RequestError, DeliveryTimedOut, ClientClosed: see `wait`.
        """
        if not self.is_done:
            raise trio.WouldBlock
        batch = self._batch
        if batch.error is not None:
            batch.is_reported = True
            # Without what earlier raises have added to it.
            raise batch.error.with_traceback(None)
        offset = batch.base_offset
        timestamp_ms = batch.append_time_ms
        if timestamp_ms == NO_TIMESTAMP:
            timestamp_ms = batch.records[self._index].timestamp_ms
        return RecordMetadata(
            batch.queue.topic,
            batch.queue.partition,
            offset if offset < 0 else offset + self._index,
            timestamp_ms,
        )

    def _follow_parts(self) -> None:
        while self._batch.parts:
            first, second = self._batch.parts
            if self._index < len(first.records):
                self._batch = first
            else:
                self._index -= len(first.records)
                self._batch = second


class PartitionQueue:
    """One partition's batches.

    Attributes:
        topic: name of the topic.
        partition: its index.
        waiting: batches to be sent, the last one perhaps still taking records.
        in_flight: batches sent and not answered, oldest first.
        node_id: broker they were sent to.
        identity: in use; None: not idempotent, or none yet.
        refused_identity: given up, not to be taken again.
        resume_at: Trio time before which nothing is sent, after a failure.
        failures: attempts that failed since the last success.
        last_failure: why nothing gets through at the moment.
    """

    __slots__ = (
        "_failed",
        "_hole",
        "_is_burnt",
        "_is_proven",
        "_next_sequence",
        "failures",
        "identity",
        "in_flight",
        "last_failure",
        "node_id",
        "partition",
        "refused_identity",
        "resume_at",
        "topic",
        "waiting",
    )

    def __init__(self, topic: str, partition: int) -> None:
        self.topic = topic
        self.partition = partition
        self.waiting: deque[ProducerBatch] = deque()
        self.in_flight: deque[ProducerBatch] = deque()
        self.node_id = -1
        self.identity: Identity | None = None
        self.refused_identity: Identity | None = None
        self.resume_at = -float("inf")
        self.failures = 0
        self.last_failure: Exception | None = None
        self._next_sequence = 0
        self._is_proven = False
        # What has failed since everything was under way: to be sent again, in this order;
        self._failed: list[ProducerBatch] = []
        # the first sequence number that a batch refused for good has left unused;
        self._hole: int | None = None
        # whether the identity is to be given up.
        self._is_burnt = False

    def __repr__(self) -> str:
        return f"{self.topic}-{self.partition}"

    @property
    def has_work(self) -> bool:
        """Whether anything is to be sent."""
        return bool(self.waiting or self._failed)

    @property
    def _must_settle(self) -> bool:
        """Whether everything under way must be answered before anything else is sent."""
        return bool(self._failed) or self._hole is not None or self._is_burnt

    def open_batch(self, size_bytes: int, batch_bytes: int) -> ProducerBatch | None:
        """Return the batch that takes a record of this size, None if a new one is needed."""
        if not self.waiting:
            return None
        batch = self.waiting[-1]
        if batch.attempts or batch.sequence is not None:
            return None
        return batch if batch.size_bytes + size_bytes <= batch_bytes else None

    def head(self, node_id: int, now: float, depth: int) -> ProducerBatch | None:
        """Return the batch that may be sent next to a broker, None if none may be.

        Args:
            node_id: leader of the partition.
            now: Trio time.
            depth: most batches under way at a time.
        """
        if self._must_settle:
            if self.in_flight:
                return None
            self._settle()
        if not self.waiting or now < self.resume_at:
            return None
        if self.in_flight:
            if self.node_id != node_id or len(self.in_flight) >= depth or not self._is_proven:
                return None
        return self.waiting[0]

    def take(self, node_id: int) -> ProducerBatch:
        """Move the head to what is under way, with its sequence number."""
        batch = self.waiting.popleft()
        self.in_flight.append(batch)
        self.node_id = node_id
        if self.identity is not None and batch.sequence is None:
            batch.sequence = self._next_sequence
            self._next_sequence = (self._next_sequence + len(batch.records)) & SEQUENCE_MASK
        return batch

    def base_sequence(self, batch: ProducerBatch) -> int:
        """Return what is written into the batch."""
        return NO_SEQUENCE if batch.sequence is None else batch.sequence

    def adopt(self, identity: Identity) -> None:
        """Go on under a fresh identity, from sequence 0."""
        self.identity = identity
        self._next_sequence = 0
        self._is_proven = False

    @property
    def is_first_in_line(self) -> bool:
        """Whether the oldest batch under way is the next that the broker expects."""
        return not self._failed and self._hole is None

    # What became of the oldest batch under way.

    def succeeded(self, base_offset: int, append_time_ms: int) -> ProducerBatch:
        """It was stored."""
        batch = self.in_flight.popleft()
        if self._must_settle:
            # Stored although one before it was not: the broker has lost track of us meanwhile.
            self._is_burnt |= self.identity is not None
        else:
            self._is_proven = self.identity is not None
        self.failures = 0
        self.last_failure = None
        batch.base_offset = base_offset
        batch.append_time_ms = append_time_ms
        batch.finish(None)
        return batch

    def refused(self, error: TrioBrokerError) -> ProducerBatch:
        """It was refused for good: nothing of it is stored."""
        batch = self.in_flight.popleft()
        if batch.sequence is not None and self._hole is None:
            self._hole = batch.sequence
        batch.finish(error)
        return batch

    def too_large(self) -> ProducerBatch:
        """It was refused for its size: send its halves in its place."""
        batch = self.in_flight.popleft()
        if batch.sequence is not None and self._hole is None:
            self._hole = batch.sequence
        self._failed += batch.split()
        return batch

    def failed(
        self, failure: Exception, resume_at: float, *, maybe_stored: bool, give_up_identity: bool
    ) -> ProducerBatch:
        """It is to be sent again.

        Args:
            failure: why.
            resume_at: Trio time before which that is not done.
            maybe_stored: whether nobody knows if it is stored.
            give_up_identity: whether the broker does not know the sequence any more.
        """
        batch = self.in_flight.popleft()
        batch.attempts += 1
        batch.maybe_stored |= maybe_stored
        if self.is_first_in_line:
            self.postpone(failure, resume_at)  # those behind it were bound to fail
        if self._hole is not None:
            batch.sequence = None  # it cannot be stored, behind a hole
        self._failed.append(batch)
        self._is_burnt |= give_up_identity and self.identity is not None
        return batch

    def postpone(self, failure: Exception, resume_at: float) -> None:
        """Send nothing for a while, because of a failure."""
        self.failures += 1
        self.last_failure = failure
        self.resume_at = max(self.resume_at, resume_at)

    def _settle(self) -> None:
        """Nothing is under way: put what failed in front again, with the sequence numbers due."""
        assert not self.in_flight
        if self._is_burnt or self._hole is not None:
            for batch in self.waiting:
                batch.sequence = None
        if self._is_burnt:
            for batch in self._failed:
                batch.sequence = None
            self.refused_identity, self.identity = self.identity, None
        elif self._hole is not None:
            self._next_sequence = self._hole
        self.waiting.extendleft(reversed(self._failed))
        self._failed.clear()
        self._hole = None
        self._is_burnt = False
        self._is_proven = False

    def expire(self, now: float) -> list[ProducerBatch]:
        """Fail the batches that have waited for too long; return them."""
        expired: list[ProducerBatch] = []
        if self._must_settle and not self.in_flight:
            self._settle()
        while self.waiting and self.waiting[0].deadline <= now:
            batch = self.waiting.popleft()
            if batch.sequence is not None:
                self._is_burnt = self.identity is not None
            error = DeliveryTimedOut(
                f"not acknowledged in time, {len(batch.records)} in one batch for {self}"
                + (f": {self.last_failure}" if self.last_failure is not None else ""),
                maybe_stored=batch.maybe_stored,
            )
            error.__cause__ = self.last_failure
            batch.finish(error)
            expired.append(batch)
        return expired

    def abandon(self, error: TrioBrokerError) -> list[ProducerBatch]:
        """Fail everything; return it."""
        dropped = [*self.in_flight, *self._failed, *self.waiting]
        self.in_flight.clear()
        self._failed.clear()
        self.waiting.clear()
        for batch in dropped:
            batch.finish(error)
        return dropped
