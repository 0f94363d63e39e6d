"""Producers: an idempotent one that resends in order, and careless ones that do not.

The idempotent one does what Kafka's own clients do. Up to five requests are on their way; when one
is refused for a reason that passes, nothing more is sent until all of them are answered, and then
what is not acknowledged is sent again, in the order of its sequences. So the broker has to store
each record once, in order, whatever happens in between (I3), and a sequence that it will not accept
ever again is a broken promise, except where records were lost that it was allowed to lose.

In one thing it is more careful than Kafka's clients. A broker recognises the last five batches of a
producer in a partition (KIP-98). A batch that times out, is stored all the same, and is sent again
while its partition is offline for a moment can be older than those five when it is sent for the
third time, if later ones were acknowledged in between and new ones sent with it. Then no broker can
tell it from one that never came, and has to refuse it. A bound on the requests on their way does
not prevent that, so nothing new is sent to a partition that would push what is not acknowledged out
of the five.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import trio
from attrs import define

from trio_broker.client.connection import ConnectionLost
from trio_broker.errors import BrokerClosed, ErrorCode, RequestError
from trio_broker.records.build import Record, build_batch
from trio_broker.records.compression import Compression
from trio_broker.testing.model import Violation
from trio_broker.testing.workload.caller import Caller
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
    from random import Random

    from trio_broker.testing.brokers import Life
    from trio_broker.testing.model import PartitionModel, TopicModel
    from trio_broker.testing.workload.world import World

#: Newest version that names topics.
BY_NAME_VERSION = 12
_BATCH_OVERHEAD_BYTES = 120
_RECORD_OVERHEAD_BYTES = 24
_RETRY_SECONDS = 0.1
#: How many of the batches heed the greatest size that a topic allows, where it is a small one.
_HEEDFUL = 0.7
#: Batches of a producer and partition that a broker can still recognise. Not taken from the broker,
#: which is what is tested here.
_RECOGNISED_BATCHES = 5

#: Refusals that pass: the batch may or may not be stored.
PASSING = frozenset(
    {
        ErrorCode.REQUEST_TIMED_OUT,
        ErrorCode.KAFKA_STORAGE_ERROR,
        ErrorCode.NOT_LEADER_OR_FOLLOWER,
        ErrorCode.LEADER_NOT_AVAILABLE,
        ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER,
    }
)
#: Refusals that say that this attempt has stored nothing.
NOTHING_STORED = frozenset({ErrorCode.NOT_LEADER_OR_FOLLOWER, ErrorCode.LEADER_NOT_AVAILABLE})
#: Refusals by the configuration of a topic: nothing is stored, and the same batch may pass later.
TOO_LARGE = frozenset({ErrorCode.MESSAGE_TOO_LARGE, ErrorCode.RECORD_LIST_TOO_LARGE})
UNKNOWN_TOPIC = frozenset({ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, ErrorCode.UNKNOWN_TOPIC_ID})


@define(eq=False)
class Batch:
    """Records for one partition, and what is known of their fate.

    Attributes:
        number: of all batches of this producer.
    """

    number: int
    partition: PartitionModel
    values: tuple[bytes, ...]
    sequence: int
    data: bytes
    refusals: Refusals | None = None


class Refusals:
    """Tells whether a refusal, or a success, can follow from the configuration of a topic.

    Made when a batch is sent, and asked when it is answered: what counts is what may have been in
    effect in between.
    """

    def __init__(self, topic: TopicModel, size_bytes: int, *, acks: int) -> None:
        self._settings = topic.settings
        self._size_bytes = size_bytes
        self._acks = acks
        self._marks = {
            name: topic.settings.mark(name)
            for name in ("max_message_bytes", "segment_bytes", "min_insync_replicas")
        }

    def may_be(self, code: ErrorCode) -> bool:
        """Whether the configuration explains the code."""
        if code in TOO_LARGE:
            return self._size_bytes > min(
                *self._since("max_message_bytes"), *self._since("segment_bytes")
            )
        if code is ErrorCode.NOT_ENOUGH_REPLICAS:
            return self._acks == -1 and max(self._since("min_insync_replicas")) > 1
        return False

    def must_be(self) -> str:
        """Say why the batch cannot have been stored, if it was sent once; empty if it can."""
        if self._size_bytes > max(self._since("max_message_bytes")):
            return f"a batch of {self._size_bytes} bytes is larger than max.message.bytes"
        if self._acks == -1 and min(self._since("min_insync_replicas")) > 1:
            return "min.insync.replicas is 2"
        return ""

    def _since(self, name: str) -> list[int]:
        return self._settings.since(name, self._marks[name])


class ValueMaker:
    """Makes values that are found nowhere else."""

    def __init__(self, world: World, name: str, draws: Random) -> None:
        self._world = world
        self._name = name.encode()
        self._draws = draws
        self._count = 0

    def values(self, partition: PartitionModel) -> tuple[bytes, ...]:
        """Return the values of a batch that fits into a segment, and mostly is not too large."""
        settings = partition.topic.settings
        room = min(settings.now("segment_bytes")) - _BATCH_OVERHEAD_BYTES
        allowed = min(settings.now("max_message_bytes")) - _BATCH_OVERHEAD_BYTES
        if allowed < room and self._draws.random() < _HEEDFUL:
            room = allowed
        made: list[bytes] = []
        for _ in range(self._draws.choice((1, 1, 2, 4))):
            self._count += 1
            head = b"%s/%d." % (self._name, self._count)
            size = self._draws.randint(len(head), self._world.swarm.values_bytes_max)
            if not made:
                size = max(min(size, room - _RECORD_OVERHEAD_BYTES), len(head))
            room -= size + _RECORD_OVERHEAD_BYTES
            if made and room < 0:
                break
            made.append(head.ljust(size, b"."))
        return tuple(made)


def batch_of(values: Sequence[bytes], timestamp_ms: int, **fields: int) -> bytes:
    """Build a batch; every seventh is compressed."""
    records = [Record(None, value, (), timestamp_ms) for value in values]
    codec = Compression.GZIP if len(values[0]) % 7 == 0 else Compression.NONE
    return build_batch(records, compression=codec, **fields)  # type: ignore[arg-type]


def produce_request(
    batches: Iterable[tuple[PartitionModel, bytes]], *, acks: int, timeout_ms: int
) -> ProduceRequest:
    """Return a request that names its topics both ways; the version decides which one counts."""
    topics: dict[object, TopicProduceData] = {}
    for partition, data in batches:
        topic = topics.setdefault(
            partition.topic,
            TopicProduceData(
                name=partition.topic.name, topic_id=partition.topic.topic_id, partition_data=[]
            ),
        )
        assert isinstance(topic.partition_data, list)
        topic.partition_data.append(PartitionProduceData(index=partition.index, records=data))
    return ProduceRequest(acks=acks, timeout_ms=timeout_ms, topic_data=list(topics.values()))


def by_topic(partitions: Sequence[PartitionModel]) -> list[PartitionModel]:
    """Return partitions in an order in which those of a topic stand together."""
    topics = list(dict.fromkeys(partition.topic for partition in partitions))
    return sorted(partitions, key=lambda partition: topics.index(partition.topic))


def outcomes(response: ProduceResponse) -> list[PartitionProduceResponse]:
    """Return the answer for each partition, in the order of the request."""
    return [partition for topic in response.responses for partition in topic.partition_responses]


class IdempotentProducer:
    """See the module's text.

    Attributes:
        name: of the client.
        unanswered: batches that are not acknowledged, oldest first.
    """

    def __init__(self, world: World, name: str, *, operations: int) -> None:
        self.name = name
        self.unanswered: deque[Batch] = deque()
        self._world = world
        self._caller = Caller(world, name)
        self._draws = world.sim.random(name)
        self._values = ValueMaker(world, name, self._draws)
        self._window = self._draws.choice((1, 2, 5, 5))
        self._operations = operations
        self._producer_id = -1
        self._epoch = -1
        self._made = 0
        self._sequences: dict[PartitionModel, int] = {}
        self._recognised: dict[PartitionModel, deque[Batch]] = {}
        self._in_flight: deque[list[Batch]] = deque()
        self._to_send: deque[Batch] = deque()
        self._must_drain = False

    async def run(self) -> None:
        """Send what there is to send, and end when all of it is acknowledged."""
        while self._operations > 0 or self.unanswered:
            if self._world.is_over:
                self._operations = 0
            if self._producer_id < 0 and not await self._begin_session():
                continue
            if not self._caller.is_connected:
                self._requeue()
            await self._caller.connection()
            may_send = not self._must_drain and len(self._in_flight) < self._window
            if may_send and (self._to_send or self._operations > 0):
                await self._send()
            elif self._in_flight:
                await self._receive()
            elif self._must_drain:
                self._must_drain = False
                await trio.sleep(_RETRY_SECONDS)
                self._requeue()
        self._caller.close()

    async def _begin_session(self) -> bool:
        """Get a producer id; batches that were not acknowledged are given up."""
        self.unanswered.clear()
        self._in_flight.clear()
        self._requeue()
        self._sequences.clear()
        self._recognised.clear()
        response = await self._caller.call(
            InitProducerIdRequest(transactional_id=None, transaction_timeout_ms=60_000),
            InitProducerIdResponse,
        )
        if response is None or response.error_code:
            await trio.sleep(_RETRY_SECONDS)
            return False
        self._producer_id, self._epoch = response.producer_id, response.producer_epoch
        return True

    def _requeue(self) -> None:
        """Send everything again that is not acknowledged."""
        self._in_flight.clear()
        self._must_drain = False
        self._to_send = deque(self.unanswered)

    async def _send(self) -> None:
        batches: list[Batch] = []
        if self._to_send:
            first = self._to_send[0].partition.topic
            seen: set[PartitionModel] = set()
            while (
                self._to_send
                and self._to_send[0].partition.topic is first
                and self._to_send[0].partition not in seen
            ):
                batches.append(self._to_send.popleft())
                seen.add(batches[-1].partition)
        else:
            self._operations -= 1
            await self._world.pause(self._draws)
            batches = self._new_batches()
            if not batches:
                return
        for batch in batches:
            batch.partition.send(batch.values, self._caller.wall_ms)
            batch.refusals = Refusals(batch.partition.topic, len(batch.data), acks=-1)
        request = produce_request(
            [(batch.partition, batch.data) for batch in batches],
            acks=-1,
            timeout_ms=self._draws.choice((200, 5_000, 30_000)),
        )
        if await self._send_while_receiving(request):
            self._in_flight.append(batches)

    async def _send_while_receiving(self, request: ProduceRequest) -> bool:
        """Send a request, and take answers as they come meanwhile, as Kafka's clients do.

        Who only sends while a window full of answers waits keeps the broker from reading, and
        itself from sending, until the broker has had enough of it.

        Returns:
            Whether it was sent; if not, the connection is closed.
        """
        connection = await self._caller.connection()
        is_sent = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._receive_all)
            try:
                await connection.send(request)
                is_sent = True
            except ConnectionLost:
                self._caller.close()
            nursery.cancel_scope.cancel()
        return is_sent

    async def _receive_all(self) -> None:
        while self._in_flight and self._caller.is_connected:
            await self._receive()

    def _new_batches(self) -> list[Batch]:
        partitions = self._world.some_partitions(self._draws)
        batches = []
        for partition in by_topic([p for p in partitions if self._may_go_on(p)]):
            values = self._values.values(partition)
            sequence = self._sequences.get(partition, 0)
            self._sequences[partition] = sequence + len(values)
            data = batch_of(
                values,
                self._caller.wall_ms,
                producer_id=self._producer_id,
                producer_epoch=self._epoch,
                base_sequence=sequence,
            )
            self._made += 1
            batches.append(Batch(self._made, partition, values, sequence, data))
            recognised = self._recognised.setdefault(partition, deque(maxlen=_RECOGNISED_BATCHES))
            recognised.append(batches[-1])
        self.unanswered.extend(batches)
        return batches

    def _may_go_on(self, partition: PartitionModel) -> bool:
        """Whether all that is not acknowledged stays recognisable with one more batch."""
        recognised = self._recognised.get(partition)
        if recognised is None or len(recognised) < _RECOGNISED_BATCHES:
            return True
        return recognised[0] not in self.unanswered

    async def _receive(self) -> None:
        response = await self._caller.receive(ProduceResponse)
        if response is None:
            return
        batches = self._in_flight.popleft()
        for batch, outcome in zip(batches, outcomes(response), strict=True):
            if outcome.index != batch.partition.index:
                raise Violation(f"I6 {self.name} gets an answer for another partition")
            self._take(batch, outcome)

    def _take(self, batch: Batch, outcome: PartitionProduceResponse) -> None:
        code = ErrorCode(outcome.error_code)
        self._world.saw_refusal(code)
        if batch not in self.unanswered:
            return  # of a topic that is gone, or a session
        if code is ErrorCode.NONE:
            self.unanswered.remove(batch)
            if batch.partition.known.get(outcome.base_offset) == batch.values[0]:
                self._world.saw("repeated")
            self._world.acknowledged(
                batch.partition, outcome.base_offset, batch.values, self._caller.losses
            )
        elif code in UNKNOWN_TOPIC:
            topic = batch.partition.topic
            if not topic.deletion_begun:
                raise Violation(f"I10 {self.name}: {topic} is said to be unknown")
            self.unanswered = deque(b for b in self.unanswered if b.partition.topic is not topic)
            self._to_send = deque(b for b in self._to_send if b.partition.topic is not topic)
        elif batch.refusals is not None and batch.refusals.may_be(code):
            self._refused(code)
        elif code not in PASSING:
            raise Violation(f"I6 {self.name} gets {code.name}: {outcome.error_message}")
        elif code is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER and self._is_oldest(batch):
            if batch.partition.topic.was_always_durable or not self._world.had_losses:
                raise Violation(
                    f"I3 {self.name} gets {outcome.error_message} for the oldest batch of"
                    f" {batch.partition} that is not acknowledged, sequence {batch.sequence}"
                )
            self._producer_id = -1
            self._caller.close()  # and with it what is still in flight
        else:
            self._must_drain = True

    def _refused(self, code: ErrorCode) -> None:
        """Go on after a refusal by the topic's configuration."""
        if code in TOO_LARGE:
            # It will not fit next time either, and what is behind it cannot go on without it.
            self._world.saw("too large")
            self._producer_id = -1
            self._caller.close()
        else:
            self._must_drain = True

    def _is_oldest(self, batch: Batch) -> bool:
        older = (b for b in self.unanswered if b.partition is batch.partition)
        return next(older) is batch


class PlainProducer:
    """A producer without an id: it never sends anything twice, and does not always wait."""

    def __init__(self, world: World, name: str, *, operations: int) -> None:
        self.name = name
        self._world = world
        self._caller = Caller(world, name)
        self._draws = world.sim.random(name)
        self._values = ValueMaker(world, name, self._draws)
        self._operations = operations

    async def run(self) -> None:
        """Send so many requests."""
        while self._operations > 0 and not self._world.is_over:
            self._operations -= 1
            await self._world.pause(self._draws)
            await self._produce()
        self._caller.close()

    async def _produce(self) -> None:
        draws = self._draws
        await self._caller.connection()
        partitions = by_topic(self._world.some_partitions(draws))
        if not partitions:
            return
        by_name = draws.random() < 0.5
        acks = draws.choice((-1, 1, 1, 0))
        batches = [(partition, self._values.values(partition)) for partition in partitions]
        for partition, values in batches:
            if by_name:
                name = partition.topic.name
                self._world.model.send_by_name(name, partition.index, values)
            else:
                partition.send(values, self._caller.wall_ms)
        made = [(p, batch_of(values, self._caller.wall_ms)) for p, values in batches]
        refusals = [Refusals(p.topic, len(data), acks=acks) for p, data in made]
        request = produce_request(made, acks=acks, timeout_ms=draws.choice((1, 5_000)))
        sent_at = trio.current_time()
        version_max = BY_NAME_VERSION if by_name else None
        if acks == 0:
            await self._send_unanswered(request, version_max)
            return
        if draws.random() < 0.1:
            await self._send_unanswered(request, version_max)
            self._caller.give_up()
            return
        response = await self._caller.call(request, ProduceResponse, version_max=version_max)
        if response is None:
            return
        for (partition, values), refusal, outcome in zip(
            batches, refusals, outcomes(response), strict=True
        ):
            code = ErrorCode(outcome.error_code)
            self._world.saw_refusal(code)
            if by_name:
                self._take_by_name(partition, values, outcome, sent_at)
            elif code is ErrorCode.NONE:
                if reason := refusal.must_be():
                    raise Violation(f"I6 {partition} has taken what it should not: {reason}")
                self._world.acknowledged(
                    partition, outcome.base_offset, values, self._caller.losses
                )
            elif code in NOTHING_STORED or refusal.may_be(code):
                if code in TOO_LARGE:
                    self._world.saw("too large")
                partition.refuse(values, code.name)
            elif code in UNKNOWN_TOPIC:
                if not partition.topic.deletion_begun:
                    raise Violation(f"I10 {partition.topic} is said to be unknown")
            elif code not in PASSING:
                raise Violation(f"I6 {partition} answers {code.name}: {outcome.error_message}")

    async def _send_unanswered(self, request: ProduceRequest, version_max: int | None) -> None:
        connection = await self._caller.connection()
        try:
            await connection.send(request, answered=request.acks != 0, version_max=version_max)
        except ConnectionLost:
            self._caller.close()

    def _take_by_name(
        self,
        partition: PartitionModel,
        values: tuple[bytes, ...],
        outcome: PartitionProduceResponse,
        sent_at: float,
    ) -> None:
        topic = self._world.model.incarnation(partition.topic.name, sent_at)
        if outcome.error_code or topic is None or len(topic.partitions) <= partition.index:
            return
        self._world.acknowledged(
            topic.partitions[partition.index], outcome.base_offset, values, self._caller.losses
        )


class Prober:
    """Once all trouble is over, gets one record into every partition there is."""

    def __init__(self, world: World, name: str) -> None:
        self.name = name
        self._world = world
        self._caller = Caller(world, name)
        self._values = ValueMaker(world, name, world.sim.random(name))

    async def run(self) -> None:
        """Wait for calm; then end when every partition has taken its record."""
        await self._world.over.wait()
        for topic in self._world.model.topics:
            for partition in topic.partitions:
                while not await self._probe(partition):  # noqa: ASYNC110 - it asks
                    await trio.sleep(_RETRY_SECONDS)
        self._caller.close()

    async def _probe(self, partition: PartitionModel) -> bool:
        await self._caller.connection()
        values = self._values.values(partition)
        partition.send(values, self._caller.wall_ms)
        request = produce_request(
            [(partition, batch_of(values, self._caller.wall_ms))], acks=-1, timeout_ms=5_000
        )
        response = await self._caller.call(request, ProduceResponse)
        if response is None:
            return False
        [outcome] = outcomes(response)
        if outcome.error_code == ErrorCode.NONE:
            self._world.acknowledged(partition, outcome.base_offset, values, self._caller.losses)
        return outcome.error_code == ErrorCode.NONE


class EmbeddedProducer:
    """Produces through the embedded API, in the broker's own process."""

    def __init__(self, world: World, name: str, *, operations: int) -> None:
        self._world = world
        self._draws = world.sim.random(name)
        self._values = ValueMaker(world, name, self._draws)
        self._operations = operations

    async def run(self, life: Life) -> None:
        """Produce as long as the broker's block lasts."""
        broker = life.broker
        assert broker is not None
        while self._operations > 0 and not self._world.is_over:
            self._operations -= 1
            await self._world.pause(self._draws)
            partitions = self._world.some_partitions(self._draws)
            if not partitions:
                continue
            partition, now_ms = partitions[0], life.machine.wall.now_ms()
            name, index = partition.topic.name, partition.index
            values = self._values.values(partition)
            self._world.model.send_by_name(name, index, values)
            sent_at, losses = trio.current_time(), self._world.losses
            offset = -1
            with trio.move_on_after(self._draws.choice((0.003, 60.0))):
                try:
                    _, offset = await broker.produce_batch(
                        name, [Record(None, value, (), now_ms) for value in values], partition=index
                    )
                except RequestError as error:
                    by_config = TOO_LARGE | {ErrorCode.NOT_ENOUGH_REPLICAS}
                    if error.code not in PASSING | UNKNOWN_TOPIC | by_config:
                        raise Violation(f"I6 {partition} answers {error}") from error
                except BrokerClosed:
                    return
            topic = self._world.model.incarnation(name, sent_at)
            if offset >= 0 and topic is not None and index < len(topic.partitions):
                self._world.acknowledged(topic.partitions[index], offset, values, losses)
