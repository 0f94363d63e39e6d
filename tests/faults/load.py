"""Producers and a reader that go on through a server's deaths, and write down what they saw."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import attrs
from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests.support.checker import History, Partition, RecordId, Row, decode_value, encode_value
from tests.support.waiting import wait_until

SECONDS = 60.0
# Few records often, rather than many: what matters is how many commits a fault can hit, and a run
# of a hundred rounds has to stay small enough to be judged in memory.
_BURST = 3
_TICK_SECONDS = 0.01
_IN_FLIGHT_MAX = 1000

#: Everything librdkafka needs to come back quickly after a server has died.
RECONNECT = {
    "reconnect.backoff.ms": 20,
    "reconnect.backoff.max.ms": 100,
    "retry.backoff.ms": 20,
    "retry.backoff.max.ms": 100,
    "topic.metadata.refresh.fast.interval.ms": 50,
    # Else a client whose only broker is away starts over from its bootstrap list, which takes it
    # longer than some servers live here.
    "metadata.recovery.strategy": "none",
    "log.connection.close": False,
    "log_level": 2,  # dying servers are the point; only what is critical is worth a line
}


def create_topics(
    bootstrap: str, topics: Sequence[str], partitions: int, config: Mapping[str, str] | None = None
) -> list[Partition]:
    """Create topics and return their partitions."""
    admin = AdminClient({"bootstrap.servers": bootstrap, **RECONNECT})
    new = [NewTopic(topic, partitions, 1, config=dict(config or {})) for topic in topics]
    for future in admin.create_topics(new).values():
        future.result(SECONDS)
    return [(topic, number) for topic in topics for number in range(partitions)]


@attrs.define
class Load:
    """Idempotent producers with ``acks=all``, each in a thread, and one reader.

    Attributes:
        bootstrap: the server, which must come back at the same address.
        partitions: where the records go, in turn.
        retries: without them every request that fails is an error, however it would have ended.
        burst: records sent to one partition at a time, at most one batch.
        history: what happened.
        errors: deliveries that failed and fatal errors of clients: there should be none as long
            as the server keeps its promises.
    """

    bootstrap: str
    partitions: Sequence[Partition]
    producers: int = 4
    record_bytes: int = 200
    burst: int = _BURST
    name: str = "p"
    watched: bool = True
    retries: bool = True
    history: History = attrs.field(factory=History)
    errors: list[str] = attrs.field(factory=list)
    _acknowledged_at: dict[tuple[Partition, RecordId], float] = attrs.field(factory=dict)
    _acknowledged_by: dict[str, int] = attrs.field(factory=dict)
    _lock: threading.Lock = attrs.field(factory=threading.Lock)
    _stopping: threading.Event = attrs.field(factory=threading.Event)
    _giving_up: threading.Event = attrs.field(factory=threading.Event)
    _threads: list[threading.Thread] = attrs.field(factory=list)

    @property
    def acknowledged(self) -> int:
        """Records acknowledged so far."""
        return len(self._acknowledged_at)

    def acknowledged_at(self, partition: Partition, record: RecordId) -> float:
        """Return when (`time.perf_counter`) this client learned of an acknowledgement."""
        return self._acknowledged_at[partition, record]

    def wait_for_acknowledged(self, more: int) -> None:
        """Wait until `more` records have been acknowledged from now on, some of each producer.

        Without the latter a client that is slow to come back could miss every round of a run, and
        the records that it had in flight when the first server died would never be tried again.
        """
        goals = {name: count + more // 10 for name, count in self._acknowledged_by.items()}
        goal = self.acknowledged + more
        wait_until(
            lambda: (
                self.errors
                or (
                    self.acknowledged >= goal
                    and all(self._acknowledged_by[name] >= least for name, least in goals.items())
                )
            ),
            seconds=SECONDS,
            what=f"{more} acknowledgements",
        )
        self.check_errors()

    def check_errors(self) -> None:
        """Raise AssertionError if a client had an error that a correct server never causes."""
        if self.errors:
            raise AssertionError(f"{len(self.errors)} client errors: {self.errors[:5]}")

    def start(self) -> None:
        """Start all threads."""
        for number in range(self.producers):
            name = f"{self.name}{number}"
            self._acknowledged_by[name] = 0
            self._start_thread(self._produce, name)
        if self.watched:
            self._start_thread(self._watch, "watcher")

    def stop(self) -> None:
        """Send no more; wait until everything sent is acknowledged."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def give_up(self) -> None:
        """Send no more and wait for nothing: the fate of what is in flight stays unknown."""
        self._giving_up.set()
        self.stop()

    def _start_thread(self, target: object, name: str) -> None:
        thread = threading.Thread(target=target, args=(name,), daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _produce(self, name: str) -> None:
        producer = Producer(
            {
                "bootstrap.servers": self.bootstrap,
                "acks": "all",
                **({"enable.idempotence": True} if self.retries else {"retries": 0}),
                "linger.ms": 1,
                "batch.num.messages": self.burst,
                "delivery.timeout.ms": int(SECONDS * 1000),
                "error_cb": self._client_error,
                **RECONNECT,
            }
        )
        sequences = dict.fromkeys(self.partitions, 0)
        while not self._stopping.is_set():
            for partition in self.partitions:
                for _ in range(self.burst):
                    record = RecordId(name, sequences[partition])
                    sequences[partition] += 1
                    with self._lock:
                        self.history.sent(partition, record)
                    producer.produce(
                        partition[0],
                        partition=partition[1],
                        value=encode_value(record, self.record_bytes),
                        on_delivery=functools.partial(self._delivered, partition, record),
                    )
            producer.poll(_TICK_SECONDS)
            while len(producer) > _IN_FLIGHT_MAX and not self._giving_up.is_set():
                producer.poll(0.05)
        deadline = time.perf_counter() + SECONDS
        while len(producer) and not self._giving_up.is_set() and time.perf_counter() < deadline:
            producer.poll(0.05)
        if self._giving_up.is_set():
            producer.purge()
        elif len(producer):
            self.errors.append(f"{name}: {len(producer)} records never got an answer")
        producer.flush(1)

    def _delivered(
        self, partition: Partition, record: RecordId, error: KafkaError | None, message: Message
    ) -> None:
        if error is None:
            now = time.perf_counter()
            with self._lock:
                self.history.acknowledged(partition, record, message.offset())
                self._acknowledged_at[partition, record] = now
                self._acknowledged_by[record.producer] += 1
        elif not self._giving_up.is_set():
            self.errors.append(f"{record} to {partition}: {error}")

    def _client_error(self, error: KafkaError) -> None:
        if error.fatal() and not self._giving_up.is_set():
            self.errors.append(str(error))

    def _watch(self, name: str) -> None:
        """Read along, from a fixed assignment, and write down every record in its order."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": name,
                "enable.auto.commit": False,
                "auto.offset.reset": "error",  # an offset that was read and is gone must not pass
                "error_cb": self._client_error,
                **RECONNECT,
            }
        )
        consumer.assign([TopicPartition(topic, number, 0) for topic, number in self.partitions])
        while not self._stopping.is_set():
            for message in consumer.consume(1000, 0.05):
                if (error := message.error()) is None:
                    place = (message.topic(), message.partition())
                    row = Row(message.offset(), decode_value(message.value()))
                    with self._lock:
                        self.history.polled(name, place, row)
                elif error.code() == KafkaError._AUTO_OFFSET_RESET:
                    self.errors.append(f"{name}: {error}")
        consumer.close()


def read_everything(bootstrap: str, partitions: Sequence[Partition]) -> dict[Partition, list[Row]]:
    """Read partitions from their start to their end; a topic that is gone reads as empty."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "last-reader",
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "allow.auto.create.topics": False,
            **RECONNECT,
        }
    )
    rows: dict[Partition, list[Row]] = {partition: [] for partition in partitions}
    try:
        existing = consumer.list_topics(timeout=SECONDS).topics
        assignment, ends = [], {}
        for topic, number in partitions:
            if topic not in existing or number not in existing[topic].partitions:
                continue
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, number), SECONDS)
            if high > low:
                assignment.append(TopicPartition(topic, number, low))
                ends[topic, number] = high
        consumer.assign(assignment)
        while ends:
            messages = consumer.consume(1000, 0.5)
            for message in messages:
                if message.error() is not None:
                    raise AssertionError(f"final read: {message.error()}")
                place = (message.topic(), message.partition())
                rows[place].append(Row(message.offset(), decode_value(message.value())))
                if message.offset() + 1 >= ends.get(place, 0):
                    ends.pop(place, None)
    finally:
        consumer.close()
    return rows


@contextmanager
def running_load(load: Load) -> Iterator[Load]:
    """Run a load for the length of the block; it is stopped in order, or dropped on an error."""
    load.start()
    try:
        yield load
    except BaseException:
        load.give_up()
        raise
    load.stop()
