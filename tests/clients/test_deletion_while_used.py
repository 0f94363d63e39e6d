"""A topic that is deleted while clients go on using it: what the operations guide says of that."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests.support.log_files import partition_directories
from tests.support.server import Server, running_server
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.foreign_descriptors]

SECONDS = 60.0
TOPIC = "orders"
#: What librdkafka makes of UNKNOWN_TOPIC_OR_PARTITION, depending on what it was doing.
GONE = {
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
}


class Writer:
    """A producer that goes on, and what became of its records."""

    def __init__(self, server: Server) -> None:
        self.delivered = 0
        self.errors: list[KafkaError] = []
        self._producer = Producer(
            {
                "bootstrap.servers": server.bootstrap,
                "linger.ms": 0,
                "message.timeout.ms": 5000,
                "topic.metadata.refresh.fast.interval.ms": 50,
                "topic.metadata.propagation.max.ms": 0,
                "log_level": 2,
            }
        )

    def write(self) -> None:
        """Send one record, and take in answers."""

        def answered(error: KafkaError | None, _message: object) -> None:
            if error is None:
                self.delivered += 1
            else:
                self.errors.append(error)

        try:
            self._producer.produce(TOPIC, b"x", on_delivery=answered)
        except Exception as error:  # noqa: BLE001 - once the client knows that there is none
            self.errors.append(error.args[0])
        self._producer.poll(0.02)

    def write_until(self, condition: Callable[[], bool], what: str) -> None:
        def attempt() -> bool:
            self.write()
            return condition()

        wait_until(attempt, seconds=SECONDS, what=what)

    def close(self) -> None:
        self._producer.flush(SECONDS)


def start(server: Server) -> tuple[AdminClient, Writer, Path]:
    """Make a topic with three partitions and write to it."""
    admin = AdminClient({"bootstrap.servers": server.bootstrap, "log_level": 2})
    admin.create_topics([NewTopic(TOPIC, 3)])[TOPIC].result(SECONDS)
    writer = Writer(server)
    writer.write_until(lambda: writer.delivered > 20, "the first deliveries")
    [old] = {
        path.name.rpartition("-")[0]
        for path in partition_directories(server.data_dir, TOPIC).values()
    }
    return admin, writer, Path(old)


def test_with_auto_creation_a_producer_brings_its_topic_back_empty(tmp_path: Path) -> None:
    with running_server(tmp_path / "data") as server:
        admin, writer, old = start(server)
        admin.delete_topics([TOPIC])[TOPIC].result(SECONDS)
        before = writer.delivered
        writer.write_until(lambda: writer.delivered > before + 20, "the topic to come back")
        writer.close()
        directories = partition_directories(server.data_dir, TOPIC)
        assert list(directories) == [0], "made with the default number of partitions"
        assert not directories[0].name.startswith(old.name)
        consumer = Consumer({"bootstrap.servers": server.bootstrap, "group.id": "late"})
        low, high = consumer.get_watermark_offsets(TopicPartition(TOPIC, 0), SECONDS)
        consumer.close()
        assert low == 0
        assert 0 < high <= writer.delivered, "nothing of the old topic is there"


def test_without_it_the_producer_is_told_and_the_topic_stays_away(tmp_path: Path) -> None:
    settings = {"auto_create_topics": "false"}
    with running_server(tmp_path / "data", settings=settings) as server:
        admin, writer, _ = start(server)
        admin.delete_topics([TOPIC])[TOPIC].result(SECONDS)
        writer.write_until(lambda: bool(writer.errors), "the producer to learn of it")
        writer.close()
        assert {error.code() for error in writer.errors} <= GONE | {KafkaError._MSG_TIMED_OUT}
        assert TOPIC not in admin.list_topics(timeout=SECONDS).topics
        assert not partition_directories(server.data_dir, TOPIC)
