"""aiokafka: asyncio, in a process of its own."""

from __future__ import annotations

import asyncio  # noqa: TID251 - the client under test runs on it; this file runs in a child process
from collections.abc import Mapping, Sequence

import aiokafka
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from tests.clients.workload import ReadRecord, make_records

_SECONDS = 30.0


class AiokafkaDriver:
    """See `tests.clients.drivers.interface`."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._runner = asyncio.Runner()

    def version(self) -> str:
        return f"aiokafka {aiokafka.__version__}"

    def create_topic(self, topic: str, partitions: int) -> None:
        async def create() -> None:
            admin = AIOKafkaAdminClient(bootstrap_servers=self._bootstrap)
            await admin.start()
            try:
                response = await admin.create_topics([NewTopic(topic, partitions, 1)])
            finally:
                await admin.close()
            _check_codes(response.topic_errors)

        self._runner.run(create())

    def delete_topic(self, topic: str) -> None:
        async def delete() -> None:
            admin = AIOKafkaAdminClient(bootstrap_servers=self._bootstrap)
            await admin.start()
            try:
                response = await admin.delete_topics([topic])
            finally:
                await admin.close()
            _check_codes(response.topic_error_codes)

        self._runner.run(delete())

    def produce(
        self, topic: str, label: str, count: int, first_timestamp_ms: int, codec: str, first: int
    ) -> None:
        async def produce() -> None:
            producer = AIOKafkaProducer(
                bootstrap_servers=self._bootstrap,
                compression_type=None if codec == "none" else codec,
            )
            await producer.start()
            try:
                futures = [
                    await producer.send(
                        topic,
                        key=record.key.encode(),
                        value=record.value.encode(),
                        timestamp_ms=record.timestamp_ms,
                    )
                    for record in make_records(label, count, first_timestamp_ms, first=first)
                ]
                await asyncio.wait_for(asyncio.gather(*futures), _SECONDS)
            finally:
                await producer.stop()

        self._runner.run(produce())

    def read(self, topic: str, partitions: int) -> Mapping[int, Sequence[ReadRecord]]:
        async def read() -> Mapping[int, Sequence[ReadRecord]]:
            consumer = AIOKafkaConsumer(bootstrap_servers=self._bootstrap)
            await consumer.start()
            try:
                return await _read_all(consumer, topic, partitions)
            finally:
                await consumer.stop()

        return self._runner.run(asyncio.wait_for(read(), 2 * _SECONDS))

    def offsets_for_time(
        self, topic: str, partitions: int, timestamp_ms: int
    ) -> Mapping[int, int | None]:
        async def ask() -> Mapping[int, int | None]:
            consumer = AIOKafkaConsumer(bootstrap_servers=self._bootstrap)
            await consumer.start()
            try:
                answers = await consumer.offsets_for_times(
                    {TopicPartition(topic, number): timestamp_ms for number in range(partitions)}
                )
            finally:
                await consumer.stop()
            return {
                place.partition: None if answer is None else answer.offset
                for place, answer in answers.items()
            }

        return self._runner.run(ask())

    def commit(self, group: str, topic: str, partition: int, offset: int) -> None:
        async def commit() -> None:
            consumer = self._group_consumer(group)
            await consumer.start()
            try:
                place = TopicPartition(topic, partition)
                consumer.assign([place])
                await consumer.commit({place: offset})
            finally:
                await consumer.stop()

        self._runner.run(commit())

    def committed(self, group: str, topic: str, partition: int) -> int | None:
        async def committed() -> int | None:
            consumer = self._group_consumer(group)
            await consumer.start()
            try:
                place = TopicPartition(topic, partition)
                consumer.assign([place])
                return await consumer.committed(place)
            finally:
                await consumer.stop()

        return self._runner.run(committed())

    def close(self) -> None:
        self._runner.close()

    def _group_consumer(self, group: str) -> AIOKafkaConsumer:
        # Without this it would commit positions of its own when it stops.
        return AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap, group_id=group, enable_auto_commit=False
        )


async def _read_all(
    consumer: AIOKafkaConsumer, topic: str, partitions: int
) -> Mapping[int, Sequence[ReadRecord]]:
    places = [TopicPartition(topic, number) for number in range(partitions)]
    rows: dict[int, list[ReadRecord]] = {number: [] for number in range(partitions)}
    ends = await consumer.end_offsets(places)
    missing = {place for place in places if ends[place] > 0}
    consumer.assign(places)
    await consumer.seek_to_beginning(*places)
    while missing:
        batches = await consumer.getmany(timeout_ms=1000)
        for place, messages in batches.items():
            rows[place.partition] += [
                ReadRecord(m.offset, m.key.decode(), m.value.decode(), m.timestamp)
                for m in messages
            ]
            if messages[-1].offset + 1 >= ends[place]:
                missing.discard(place)
    return rows


def _check_codes(errors: Sequence[tuple[object, ...]]) -> None:
    for name, code, *rest in errors:
        if code != 0:
            raise RuntimeError(f"{name}: error {code} {rest}")
