"""kafka-python: blocking, pure Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import kafka
from kafka import KafkaConsumer, KafkaProducer, OffsetAndMetadata, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic

from tests.clients.workload import ReadRecord, make_records

_SECONDS = 30.0


class KafkaPythonDriver:
    """See `tests.clients.drivers.interface`."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._admin = KafkaAdminClient(bootstrap_servers=bootstrap)

    def version(self) -> str:
        return f"kafka-python {kafka.__version__}"

    def create_topic(self, topic: str, partitions: int) -> None:
        self._admin.create_topics([NewTopic(topic, partitions, 1)])

    def delete_topic(self, topic: str) -> None:
        self._admin.delete_topics([topic])

    def produce(
        self, topic: str, label: str, count: int, first_timestamp_ms: int, codec: str, first: int
    ) -> None:
        producer = KafkaProducer(
            bootstrap_servers=self._bootstrap,
            compression_type=None if codec == "none" else codec,
        )
        futures = [
            producer.send(
                topic,
                key=record.key.encode(),
                value=record.value.encode(),
                timestamp_ms=record.timestamp_ms,
            )
            for record in make_records(label, count, first_timestamp_ms, first=first)
        ]
        producer.flush(_SECONDS)
        for future in futures:
            future.get(_SECONDS)
        producer.close(_SECONDS)

    def read(self, topic: str, partitions: int) -> Mapping[int, Sequence[ReadRecord]]:
        consumer = KafkaConsumer(bootstrap_servers=self._bootstrap)
        places = [TopicPartition(topic, number) for number in range(partitions)]
        rows: dict[int, list[ReadRecord]] = {number: [] for number in range(partitions)}
        ends = consumer.end_offsets(places)
        missing = {place for place in places if ends[place] > 0}
        consumer.assign(places)
        consumer.seek_to_beginning(*places)
        while missing:
            batches = consumer.poll(timeout_ms=int(_SECONDS * 1000), max_records=10_000)
            if not batches:
                raise RuntimeError(f"nothing more came, still missing {missing}")
            for place, messages in batches.items():
                rows[place.partition] += [
                    ReadRecord(m.offset, m.key.decode(), m.value.decode(), m.timestamp)
                    for m in messages
                ]
                if messages[-1].offset + 1 >= ends[place]:
                    missing.discard(place)
        consumer.close()
        return rows

    def offsets_for_time(
        self, topic: str, partitions: int, timestamp_ms: int
    ) -> Mapping[int, int | None]:
        consumer = KafkaConsumer(bootstrap_servers=self._bootstrap)
        answers = consumer.offsets_for_times(
            {TopicPartition(topic, number): timestamp_ms for number in range(partitions)}
        )
        consumer.close()
        return {
            place.partition: None if answer is None else answer.offset
            for place, answer in answers.items()
        }

    def commit(self, group: str, topic: str, partition: int, offset: int) -> None:
        consumer = self._group_consumer(group)
        place = TopicPartition(topic, partition)
        consumer.assign([place])
        consumer.commit({place: OffsetAndMetadata(offset, "", -1)})
        consumer.close()

    def committed(self, group: str, topic: str, partition: int) -> int | None:
        consumer = self._group_consumer(group)
        place = TopicPartition(topic, partition)
        consumer.assign([place])
        offset = consumer.committed(place)
        consumer.close()
        return None if offset is None else int(offset)

    def close(self) -> None:
        self._admin.close()

    def _group_consumer(self, group: str) -> KafkaConsumer:
        # Without this it would commit positions of its own when it closes.
        return KafkaConsumer(
            bootstrap_servers=self._bootstrap, group_id=group, enable_auto_commit=False
        )
