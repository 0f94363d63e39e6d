"""The producer without its tasks: records in, requests out, answers in, outcomes out.

Owns the queues of all partitions, the memory of the records, and the producer's identity.
`producer.Producer` fills it, `producer_sender.NodeSender` empties it.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import trio

from trio_broker.client.errors import ClientClosed, request_error
from trio_broker.client.metadata import NOBODY
from trio_broker.client.options import ACKS_NONE
from trio_broker.client.producer_batch import Delivery, Identity, PartitionQueue, ProducerBatch
from trio_broker.client.remedies import CONNECTION_FAILURES, Remedy, remedy_for
from trio_broker.errors import ErrorCode, ProtocolError, TrioBrokerError
from trio_broker.records.build import Record, build_batch
from trio_broker.wire.messages.init_producer_id import (
    InitProducerIdRequest,
    InitProducerIdResponse,
)
from trio_broker.wire.messages.produce import (
    PartitionProduceData,
    PartitionProduceResponse,
    ProduceRequest,
    ProduceResponse,
    TopicProduceData,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trio_broker.client.cluster import Cluster
    from trio_broker.client.options import ProducerOptions
    from trio_broker.names import TopicId

logger = logging.getLogger("trio_broker.client")

#: What a record takes beside its key, value and headers, at most: lengths, deltas, attributes.
RECORD_OVERHEAD_BYTES = 24
#: The same for a header.
HEADER_OVERHEAD_BYTES = 8
#: Failed batches kept until `flush` tells of them.
_UNREPORTED_MAX = 100
_NO_TRANSACTION_TIMEOUT_MS = 2**31 - 1

#: The broker does not know the sequence of this producer, or not any more.
_LOST_TRACK = frozenset(
    {
        ErrorCode.UNKNOWN_PRODUCER_ID,
        ErrorCode.INVALID_PRODUCER_EPOCH,
        ErrorCode.INVALID_PRODUCER_ID_MAPPING,
    }
)
#: Refusals that do not tell whether the batch is stored.
_MAYBE_STORED = frozenset({ErrorCode.REQUEST_TIMED_OUT, ErrorCode.NOT_ENOUGH_REPLICAS_AFTER_APPEND})
_TOO_LARGE = frozenset({ErrorCode.MESSAGE_TOO_LARGE, ErrorCode.RECORD_LIST_TOO_LARGE})


class Shipment(NamedTuple):
    """A request on its way.

    Attributes:
        request: as sent.
        batches: in it, by topic and partition.
        names: of its topics, by id, as they were when it was sent.
        sent_at: Trio time.
    """

    request: ProduceRequest
    batches: dict[tuple[str, int], ProducerBatch]
    names: dict[TopicId, str]
    sent_at: float


class Collected(NamedTuple):
    """What can be sent to a broker now.

    Attributes:
        shipment: None if there is nothing.
        wake_at: Trio time at which there may be something.
        wants_identity: something waits for a fresh identity.
    """

    shipment: Shipment | None
    wake_at: float
    wants_identity: bool


class ProducerCore:
    """See the module's text.

    Attributes:
        cluster: where to.
        options: of the producer.
        pending: queues with something to send, those that were served longest ago first.
        wake: called when somebody should look at `pending` again; set by the owner.
        is_closed: nothing is taken any more.
    """

    def __init__(self, cluster: Cluster, options: ProducerOptions, purpose: str) -> None:
        self.cluster = cluster
        self._purpose = purpose  # of connections that are its own
        self.options = options
        self.pending: dict[PartitionQueue, None] = {}
        self.wake: Callable[[int], None] = lambda _node_id: None
        self.is_closed = False
        self._queues: dict[tuple[str, int], PartitionQueue] = {}
        self._incomplete: dict[ProducerBatch, None] = {}
        self._unreported: deque[ProducerBatch] = deque(maxlen=_UNREPORTED_MAX)
        self._buffered_bytes = 0
        self._room = trio.lowlevel.ParkingLot()
        self._urgent = 0
        self._identity: Identity | None = None
        self._identity_lock = trio.Lock()

    # ---------------------------------------------------------------------------------- records in

    @property
    def buffered_bytes(self) -> int:
        """Memory of records without an outcome."""
        return self._buffered_bytes

    def has_room(self, size_bytes: int) -> bool:
        """Return whether a record may be added now; one is always taken when there is none."""
        within = self._buffered_bytes + size_bytes <= self.options.buffer_bytes
        return within or not self._buffered_bytes

    async def wait_for_room(self, size_bytes: int) -> None:
        """Wait until a record may be added.

        Raises:
            ClientClosed: the producer was closed.
        """
        self._urgent += 1  # a batch that waits for more records would wait for ever
        try:
            while not self.has_room(size_bytes) and not self.is_closed:
                self.wake(NOBODY)
                await self._room.park()
        finally:
            self._urgent -= 1
        self.check_open()

    def check_open(self) -> None:
        """Raise ClientClosed if the producer is closed."""
        if self.is_closed:
            raise ClientClosed("the producer is closed")

    def add(self, topic: str, partition: int, record: Record, size_bytes: int) -> Delivery:
        """Take a record; there is room for it."""
        queue = self._queues.get((topic, partition))
        if queue is None:
            queue = self._queues[topic, partition] = PartitionQueue(topic, partition)
        batch = queue.open_batch(size_bytes, self.options.batch_bytes)
        if batch is None:
            now = trio.current_time()
            batch = ProducerBatch(queue, now, now + self.options.delivery_timeout_seconds)
            queue.waiting.append(batch)
            self._incomplete[batch] = None
            self.pending[queue] = None
            self.cluster.use_topic(topic)
            # For the linger of this batch, and because the one before it is full.
            self.wake(self.cluster.view.leader(topic, partition))
        batch.records.append(record)
        batch.size_bytes += size_bytes
        self._buffered_bytes += size_bytes
        return Delivery(batch, len(batch.records) - 1)

    async def flush(self) -> None:
        """Send everything at once, and wait until every outcome is known.

        Raises:
            TrioBrokerError: the first failure since the last flush that no delivery has told of.
        """
        self._urgent += 1
        self.wake(NOBODY)
        try:
            batches = list(self._incomplete)
            while batches:
                batch = batches.pop(0)
                await batch.done.wait()
                batches[:0] = batch.parts
        finally:
            self._urgent -= 1
        unreported = [batch for batch in self._unreported if not batch.is_reported]
        self._unreported.clear()
        for batch in unreported:
            assert batch.error is not None
            raise batch.error.with_traceback(None)

    # -------------------------------------------------------------------------------- requests out

    def collect(self, node_id: int, now: float) -> Collected:
        """Take what can be sent to a broker now, one batch of each partition at most."""
        taken: dict[tuple[str, int], ProducerBatch] = {}
        size_bytes = 0
        wake_at = float("inf")
        wants_identity = False
        for queue in list(self.pending):
            ready_at = self._ready_at(queue, node_id, now)
            if ready_at > now:
                wake_at = min(wake_at, ready_at)
                continue
            if self.options.is_idempotent and queue.identity is None:
                if self._identity is None or self._identity == queue.refused_identity:
                    wants_identity = True
                    continue
                queue.adopt(self._identity)
            size_bytes += queue.waiting[0].size_bytes
            if taken and size_bytes > self.options.request_bytes_max:
                break
            taken[queue.topic, queue.partition] = queue.take(node_id)
            # To the end of the line, so that no partition is passed over when there is much.
            del self.pending[queue]
            if queue.has_work:
                self.pending[queue] = None
        if not taken:
            return Collected(None, wake_at, wants_identity)
        request = self._request(taken)
        names = {topic.topic_id: topic.name for topic in request.topic_data}
        return Collected(Shipment(request, taken, names, now), now, wants_identity)

    def ready_at(self, node_id: int, now: float) -> float:
        """Return when something can be sent to a broker (Trio time); infinity: nothing for now."""
        return min(
            (self._ready_at(queue, node_id, now) for queue in self.pending), default=float("inf")
        )

    def _ready_at(self, queue: PartitionQueue, node_id: int, now: float) -> float:
        options = self.options
        if self.cluster.view.leader(queue.topic, queue.partition) != node_id:
            return float("inf")
        batch = queue.head(node_id, now, options.in_flight_max)
        if batch is None:
            return queue.resume_at if queue.resume_at > now else float("inf")
        is_full = len(queue.waiting) > 1 or batch.size_bytes >= options.batch_bytes
        if is_full or batch.attempts or self._urgent:
            return now
        return max(now, batch.created + options.linger_seconds)

    def _request(self, batches: dict[tuple[str, int], ProducerBatch]) -> ProduceRequest:
        by_topic: dict[str, list[PartitionProduceData]] = {}
        for (topic, partition), batch in batches.items():
            identity = batch.queue.identity or Identity(-1, -1)
            data = build_batch(
                batch.records,
                producer_id=identity.producer_id,
                producer_epoch=identity.producer_epoch,
                base_sequence=batch.queue.base_sequence(batch),
                compression=self.options.compression,
            )
            by_topic.setdefault(topic, []).append(
                PartitionProduceData(index=partition, records=data)
            )
        view = self.cluster.view
        return ProduceRequest(
            acks=self.options.acks,
            timeout_ms=int(self.options.request_timeout_seconds * 1000),
            topic_data=[
                TopicProduceData(name=topic, topic_id=view.topic_id(topic), partition_data=data)
                for topic, data in by_topic.items()
            ],
        )

    async def obtain_identity(self) -> None:
        """Get a fresh identity from any broker (KIP-98, InitProducerId).

        Fails everything that waits for one if there is none to be had.
        """
        seen = self._identity
        async with self._identity_lock:
            if self._identity != seen:
                return
            request = InitProducerIdRequest(
                transactional_id=None, transaction_timeout_ms=_NO_TRANSACTION_TIMEOUT_MS
            )
            retries = self.cluster.retries(float("inf"))
            while True:
                failure: Exception
                try:
                    answer = await self.cluster.call_any(
                        self._purpose, request, InitProducerIdResponse
                    )
                except CONNECTION_FAILURES as error:
                    failure = error
                except TrioBrokerError as error:
                    self.fail_pending(error)
                    return
                else:
                    if not answer.error_code:
                        self._identity = Identity(answer.producer_id, answer.producer_epoch)
                        return
                    refusal = request_error(answer.error_code, "InitProducerId")
                    if Remedy.RETRY not in remedy_for(refusal.code):
                        self.fail_pending(refusal)
                        return
                    failure = refusal
                for queue in self.pending:
                    queue.last_failure = failure
                await retries.sleep()

    # ---------------------------------------------------------------------------------- answers in

    def answered(self, shipment: Shipment, answer: ProduceResponse, node_id: int) -> None:
        """Settle what a broker has answered."""
        left = dict(shipment.batches)
        for topic in answer.responses:
            name = topic.name or shipment.names.get(topic.topic_id)
            for partition in topic.partition_responses:
                batch = None if name is None else left.pop((name, partition.index), None)
                if batch is not None:
                    self._settle(batch, partition)
        if left:
            failure = ProtocolError(f"the answer of broker {node_id} leaves out a partition")
            for batch in left.values():
                self._try_again(batch, failure, maybe_stored=True)
        self.wake(node_id)

    def unanswered(self, shipment: Shipment) -> None:
        """Settle what was sent with acks=0: nobody will say anything."""
        assert self.options.acks == ACKS_NONE
        for batch in shipment.batches.values():
            self._finished(batch.queue.succeeded(-1, -1))

    def lost(self, shipment: Shipment, failure: Exception, node_id: int) -> None:
        """The connection broke, or nobody answered: the outcome is unknown."""
        for batch in shipment.batches.values():
            self._try_again(batch, failure, maybe_stored=True)
        self.cluster.request_refresh()
        self.wake(node_id)

    def unreachable(self, node_id: int, failure: Exception, resume_at: float) -> None:
        """A broker cannot be reached: its partitions wait, perhaps for another leader."""
        for queue in self.pending:
            if self.cluster.view.leader(queue.topic, queue.partition) == node_id:
                queue.postpone(failure, resume_at)
        self.cluster.request_refresh()

    def _settle(self, batch: ProducerBatch, answer: PartitionProduceResponse) -> None:
        queue = batch.queue
        assert queue.in_flight[0] is batch, "answers come in the order of requests"
        code = answer.error_code
        if code in (ErrorCode.NONE, ErrorCode.DUPLICATE_SEQUENCE_NUMBER):
            offset = answer.base_offset if not code else -1
            self._finished(queue.succeeded(offset, answer.log_append_time_ms))
            return
        error = request_error(code, answer.error_message or f"{queue}")
        if code == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER and self.options.is_idempotent:
            # Expected behind a batch that has failed; else the broker has lost something.
            self._try_again(
                batch, error, maybe_stored=False, give_up_identity=queue.is_first_in_line
            )
        elif code in _LOST_TRACK and self.options.is_idempotent:
            self._try_again(batch, error, maybe_stored=False, give_up_identity=True)
        elif code in _TOO_LARGE and len(batch.records) > 1:
            queue.too_large()
            del self._incomplete[batch]
            self._incomplete.update(dict.fromkeys(batch.parts))
            self._wait_again(queue)
        elif Remedy.RETRY in remedy_for(code):
            if Remedy.REFRESH in remedy_for(code):
                self.cluster.request_refresh()
            self._try_again(batch, error, maybe_stored=error.code in _MAYBE_STORED)
        else:
            self._finished(queue.refused(error))

    def _try_again(
        self,
        batch: ProducerBatch,
        failure: Exception,
        *,
        maybe_stored: bool,
        give_up_identity: bool = False,
    ) -> None:
        queue = batch.queue
        assert queue.in_flight[0] is batch, "answers come in the order of requests"
        if give_up_identity:
            logger.warning("%s goes on under a fresh producer id: %s", queue, failure)
        pause = self.cluster.pause_seconds(queue.failures)
        queue.failed(
            failure,
            trio.current_time() + pause,
            maybe_stored=maybe_stored,
            give_up_identity=give_up_identity,
        )
        self._wait_again(queue)

    def _wait_again(self, queue: PartitionQueue) -> None:
        """Let a queue be sent again; its deadlines did not count while its batches were away."""
        self.pending[queue] = None
        self.wake(NOBODY)

    def _finished(self, batch: ProducerBatch) -> None:
        """Give a batch's memory back; its outcome is known."""
        del self._incomplete[batch]
        self._buffered_bytes -= batch.size_bytes
        if batch.error is not None:
            self._unreported.append(batch)
        if self._room:
            self._room.unpark_all()

    # ----------------------------------------------------------------------------------------- ends

    def expire(self, now: float) -> float:
        """Fail what was not acknowledged in time; return when to look again (Trio time)."""
        next_deadline = float("inf")
        for queue in list(self.pending):
            for batch in queue.expire(now):
                self._finished(batch)
            if queue.waiting:
                next_deadline = min(next_deadline, queue.waiting[0].deadline)
            elif not queue.has_work:
                del self.pending[queue]
        return next_deadline

    def fail_pending(self, error: TrioBrokerError) -> None:
        """Fail everything that waits for an identity."""
        for queue in list(self.pending):
            if queue.identity is None and not queue.in_flight:
                for batch in queue.abandon(error):
                    self._finished(batch)
                del self.pending[queue]

    def close(self, error: TrioBrokerError) -> None:
        """Take nothing more, and fail what has no outcome yet."""
        self.is_closed = True
        for queue in self._queues.values():
            for batch in queue.abandon(error):
                self._finished(batch)
        self.pending.clear()
        self._room.unpark_all()


def record_size(
    key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes | None]]
) -> int:
    """Return the size of a record before compression, from above."""
    size = RECORD_OVERHEAD_BYTES + len(key or b"") + len(value or b"")
    for name, content in headers:
        size += HEADER_OVERHEAD_BYTES + len(name.encode()) + len(content or b"")
    return size
