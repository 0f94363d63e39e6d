"""confluent-kafka: a current librdkafka."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import confluent_kafka
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests.clients.workload import ReadRecord, make_records

_SECONDS = 30.0
_TIMESTAMP_END = -1


class ConfluentDriver:
    """See `tests.clients.drivers.interface`."""

    def __init__(self, bootstrap: str) -> None:
        self._settings: dict[str, object] = {"bootstrap.servers": bootstrap}
        self._admin = AdminClient(dict(self._settings))
        # Kept for the whole run, as services do: it has to notice topics that come back.
        self._producers: dict[str, Producer] = {}

    def version(self) -> str:
        return (
            f"confluent-kafka {confluent_kafka.__version__},"
            f" librdkafka {confluent_kafka.libversion()[0]}"
        )

    def create_topic(self, topic: str, partitions: int) -> None:
        for future in self._admin.create_topics([NewTopic(topic, partitions, 1)]).values():
            future.result(_SECONDS)

    def delete_topic(self, topic: str) -> None:
        for future in self._admin.delete_topics([topic]).values():
            future.result(_SECONDS)

    def produce(
        self, topic: str, label: str, count: int, first_timestamp_ms: int, codec: str, first: int
    ) -> None:
        producer = self._producers.get(codec)
        if producer is None:
            producer = Producer({**self._settings, "compression.type": codec})
            self._producers[codec] = producer
        errors = []

        def delivered(error: object, message: object) -> None:
            if error is not None:
                errors.append(error)

        for record in make_records(label, count, first_timestamp_ms, first=first):
            while True:
                try:
                    producer.produce(
                        topic,
                        key=record.key,
                        value=record.value,
                        timestamp=record.timestamp_ms,
                        on_delivery=delivered,
                    )
                except BufferError:
                    producer.poll(1)
                else:
                    break
            producer.poll(0)
        unsent = producer.flush(_SECONDS)
        if unsent or errors:
            raise RuntimeError(f"{unsent} records not sent, errors: {errors[:3]}")

    def read(self, topic: str, partitions: int) -> Mapping[int, Sequence[ReadRecord]]:
        consumer = self._consumer("reader-of-" + topic)
        rows: dict[int, list[ReadRecord]] = {number: [] for number in range(partitions)}
        ends: dict[int, int] = {}
        assignment = []
        missing = 0
        for number in range(partitions):
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, number), _SECONDS)
            if high > low:
                ends[number] = high
                missing += high - low
                assignment.append(TopicPartition(topic, number, low))
        consumer.assign(assignment)
        while ends:
            # It waits for that many or the whole time, so it must not be asked for too many.
            messages = consumer.consume(min(10_000, missing), _SECONDS)
            missing -= len(messages)
            if not messages:
                raise RuntimeError(f"nothing more came, still missing {ends}")
            for message in messages:
                if message.error() is not None:
                    raise RuntimeError(str(message.error()))
                row = ReadRecord(
                    message.offset(),
                    message.key().decode(),
                    message.value().decode(),
                    message.timestamp()[1],
                )
                rows[message.partition()].append(row)
                if ends.get(message.partition(), 0) <= row.offset + 1:
                    ends.pop(message.partition(), None)
        consumer.close()
        return rows

    def offsets_for_time(
        self, topic: str, partitions: int, timestamp_ms: int
    ) -> Mapping[int, int | None]:
        consumer = self._consumer("times-of-" + topic)
        asked = [TopicPartition(topic, number, timestamp_ms) for number in range(partitions)]
        answers = consumer.offsets_for_times(asked, _SECONDS)
        consumer.close()
        for answer in answers:
            if answer.error is not None:
                raise RuntimeError(str(answer.error))
        return {
            answer.partition: None if answer.offset == _TIMESTAMP_END else answer.offset
            for answer in answers
        }

    def commit(self, group: str, topic: str, partition: int, offset: int) -> None:
        consumer = self._consumer(group)
        (answer,) = consumer.commit(
            offsets=[TopicPartition(topic, partition, offset)], asynchronous=False
        )
        consumer.close()
        if answer.error is not None:
            raise RuntimeError(str(answer.error))

    def committed(self, group: str, topic: str, partition: int) -> int | None:
        consumer = self._consumer(group)
        (answer,) = consumer.committed([TopicPartition(topic, partition)], _SECONDS)
        consumer.close()
        return answer.offset if answer.offset >= 0 else None

    def close(self) -> None:
        for producer in self._producers.values():
            producer.flush(_SECONDS)

    def _consumer(self, group: str) -> Consumer:
        return Consumer({**self._settings, "group.id": group})
