"""A disk that is really full: refusals with a reason, nothing lost, and no restart to recover.

The case is iggy's, where a full disk panicked a thread and then killed the server. Here a small
filesystem is filled through a real client, again and again, while the same process goes on.
"""

from __future__ import annotations

import random
import shutil
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests.faults.rounds import Site
from tests.support.disks import loop_disk
from tests.support.log_files import partition_directories
from tests.support.requirements import require_loop_disks
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

DISK_BYTES = 64 << 20
VALUE_BYTES = 1000
ROUNDS = 3
PARTITIONS = 6
#: The disk is full, its byte budget is used up, or the client gave up trying again.
REFUSALS = {"KAFKA_STORAGE_ERROR", "POLICY_VIOLATION", "_MSG_TIMED_OUT"}
#: Set explicitly, so it is promised: a topic on the defaults would give way instead of refusing.
PROMISED = {"retention.ms": "604800000"}


class Filler:
    """Writes until the disk refuses, and counts what was acknowledged and what was not."""

    def __init__(self, bootstrap: str) -> None:
        self.acknowledged: Counter[int] = Counter()
        self.refused: Counter[str] = Counter()
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "acks": "all",
                "linger.ms": 5,
                "message.timeout.ms": 3000,
                "enable.idempotence": False,
                "retries": 2,
            }
        )

    def _delivered(self, error: object, message: object) -> None:
        if error is None:
            self.acknowledged[message.partition()] += 1  # type: ignore[attr-defined]
        else:
            self.refused[error.name()] += 1  # type: ignore[attr-defined]

    def write(self, topic: str, partition: int, count: int, rng: random.Random) -> None:
        """Send `count` records that do not compress and wait for what becomes of them."""
        for _ in range(count):
            while True:
                try:
                    self._producer.produce(
                        topic,
                        rng.randbytes(VALUE_BYTES),
                        partition=partition,
                        on_delivery=self._delivered,
                    )
                    break
                except BufferError:
                    self._producer.poll(0.1)
            self._producer.poll(0)
        self._producer.flush(20)


def read_count(bootstrap: str, topic: str, partition: int) -> int:
    """Return how many records a partition gives a reader that starts at its beginning."""
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "reader", "enable.auto.commit": False}
    )
    with closing(consumer):
        place = TopicPartition(topic, partition)
        _, end = consumer.get_watermark_offsets(place, timeout=10)
        consumer.assign([TopicPartition(topic, partition, 0)])
        seen = 0
        while seen < end:
            batch = consumer.consume(5000, 5.0)
            assert batch, f"{topic}-{partition} ends at {end}, {seen} records came"
            assert all(message.error() is None for message in batch)
            seen += len(batch)
        committed = consumer.commit(
            offsets=[TopicPartition(topic, partition, 1)], asynchronous=False
        )
        assert committed[0].error is None, "offset commits must work on a full disk"
        return seen


def test_a_full_disk_refuses_and_recovers_round_after_round(tmp_path: Path, seed: int) -> None:
    require_loop_disks("a disk that is really full")
    rng = random.Random(seed)
    with loop_disk(tmp_path, size_bytes=DISK_BYTES) as disk:
        small, large = disk.mount_point / "logs", tmp_path / "logs"
        settings = {"log_dirs": f"{small},{large}"}
        site = Site(tmp_path / "data", tmp_path / "server.log", settings)
        server = site.start()
        try:
            admin = AdminClient({"bootstrap.servers": site.bootstrap})
            for number in range(ROUNDS):
                topic = f"round-{number}"
                admin.create_topics([NewTopic(topic, PARTITIONS, config=PROMISED)])[topic].result(
                    20
                )
                filled = next(iter(partition_directories(small, topic)))
                beside = next(iter(partition_directories(large, topic)))
                filler = Filler(site.bootstrap)
                filler.write(topic, filled, 2 * DISK_BYTES // VALUE_BYTES // 2, rng)
                assert filler.refused, "the disk was never full"
                assert set(filler.refused) <= REFUSALS
                server.check_alive()
                assert read_count(site.bootstrap, topic, filled) == filler.acknowledged[filled]
                filler.write(topic, beside, 1000, rng)
                assert filler.acknowledged[beside] == 1000, "the other disk goes on"
                admin.delete_topics([topic])[topic].result(20)
                wait_until(
                    lambda: shutil.disk_usage(small).free > DISK_BYTES // 2,
                    seconds=20,
                    what="the space of the deleted topic",
                )
                print(f"round {number}: {filler.acknowledged[filled]} acknowledged and read back")
            admin.create_topics([NewTopic("after", PARTITIONS)])["after"].result(20)
            place = next(iter(partition_directories(small, "after")))
            after = Filler(site.bootstrap)
            wait_until(lambda: _takes(after, place, rng), seconds=20, what="produce to work again")
            assert server.stop() == 0
        finally:
            server.kill()
        refusals = [line for line in server.stderr().splitlines() if "write refused" in line]
        assert len(refusals) <= 2 * ROUNDS, "one line in ten seconds, however many refusals"


def _takes(filler: Filler, partition: int, rng: random.Random) -> bool:
    filler.write("after", partition, 10, rng)
    return filler.acknowledged[partition] >= 10
