"""A small disk filled through clients, again and again: ``python -m tests.faults.disk_full``.

The case is iggy's, where a full disk panicked a thread and then killed the server. Here one process
and its clients go on through every round, and while not a byte is free everything that needs no
room of its own works: reads, commits of offsets, deletions, and all there is on another disk.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path

import attrs
from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests.faults.rounds import Site, kept_or_temporary
from tests.support import kafka_bytes
from tests.support.disks import tmpfs
from tests.support.http import metric
from tests.support.log_files import partition_directories
from tests.support.requirements import missing_for_tmpfs
from tests.support.server import Server
from tests.support.waiting import wait_until

DISK_BYTES = 64 << 20
VALUE_BYTES = 1000
PARTITIONS = 6
GROUPS = 8
SECONDS = 30.0
#: Set explicitly, so it is promised: a topic on the defaults would give way instead of refusing.
PROMISED = {"retention.ms": "604800000"}
KAFKA_STORAGE_ERROR = 56
#: The disk refused, or the client gave up trying again.
REFUSALS = {"KAFKA_STORAGE_ERROR", "_MSG_TIMED_OUT"}
#: The log may say the same thing again after this long.
LOG_INTERVAL_SECONDS = 10.0


class Clients:
    """A producer, a consumer and an admin client that live as long as the server.

    Attributes:
        acknowledged: records, by (topic, partition).
        refused: deliveries that failed, by the name of the error.
    """

    def __init__(self, bootstrap: str, seed: int) -> None:
        self.acknowledged: Counter[tuple[str, int]] = Counter()
        self.refused: Counter[str] = Counter()
        self.admin = AdminClient({"bootstrap.servers": bootstrap})
        self._random = random.Random(seed)
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "acks": "all",
                "linger.ms": 5,
                "message.timeout.ms": 3000,
                "retries": 2,
            }
        )
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": "reader",
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
            }
        )

    def close(self) -> None:
        self._consumer.close()

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            self.acknowledged[message.topic(), message.partition()] += 1
        else:
            self.refused[error.name()] += 1

    def write(self, topic: str, partition: int, count: int) -> None:
        """Send `count` records that do not compress and wait for what becomes of them."""
        for _ in range(count):
            while True:
                try:
                    self._producer.produce(
                        topic,
                        self._random.randbytes(VALUE_BYTES),
                        partition=partition,
                        on_delivery=self._delivered,
                    )
                    break
                except BufferError:
                    self._producer.poll(0.1)
            self._producer.poll(0)
        self._producer.flush(SECONDS)

    def fill(self, topic: str, partition: int) -> None:
        """Write until there is no room any more."""
        before = sum(self.refused.values())
        for _ in range(2 * DISK_BYTES // VALUE_BYTES // 1000):
            self.write(topic, partition, 1000)
            if sum(self.refused.values()) > before:
                return
        raise AssertionError("the disk was never full")

    def read(self, topic: str, partition: int) -> int:
        """Return how many records a partition gives who reads it from its beginning to its end."""
        place = TopicPartition(topic, partition, 0)
        _, end = self._consumer.get_watermark_offsets(place, timeout=SECONDS)
        self._consumer.assign([place])
        seen = 0
        while seen < end:
            batch = self._consumer.consume(min(5000, end - seen), SECONDS)
            assert batch, f"{topic}-{partition} ends at {end}, {seen} records came"
            for message in batch:
                assert message.error() is None, message.error()
            seen += len(batch)
        return seen


def commit(bootstrap: str, group: str, topic: str, partition: int, offset: int) -> None:
    """Commit one offset for a group."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group})
    try:
        place = TopicPartition(topic, partition, offset)
        [committed] = consumer.commit(offsets=[place], asynchronous=False)
        assert committed.error is None, committed.error
        [found] = consumer.committed([TopicPartition(topic, partition)], SECONDS)
        assert found.offset == offset
    finally:
        consumer.close()


def refusal(site: Site, topic: str, partition: int) -> tuple[int, str | None]:
    """Produce one batch; return the code and the message that it is refused with."""
    batch = kafka_bytes.Batch().encode()
    with kafka_bytes.RawConnection.open(("127.0.0.1", site.port)) as connection:
        return kafka_bytes.produce_v8(connection, topic, batch, partition=partition)


def free_bytes(path: Path) -> int:
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


@contextmanager
def taken_up(disk: Path) -> Iterator[None]:
    """Take exactly the room that is left, for the length of the block.

    What the broker keeps for itself, its ballast, it may give back to itself.
    """
    hog = disk / "hog"
    size_bytes = free_bytes(disk)
    with hog.open("wb") as file:
        for place_bytes in (0, 4096, 65536):  # some filesystems want a block for their own notes
            with contextlib.suppress(OSError):
                os.posix_fallocate(file.fileno(), 0, size_bytes - place_bytes)
                break
        else:
            raise AssertionError(f"{size_bytes} free bytes cannot be had")
    try:
        yield
    finally:
        hog.unlink()


@attrs.frozen
class Round:
    """What one round showed.

    Attributes:
        acknowledged: records on the disk that became full, all of which were read back.
        refused: deliveries refused, by error.
        message: what a refused producer was told.
    """

    acknowledged: int
    refused: Counter[str]
    message: str

    def __str__(self) -> str:
        refused = ", ".join(f"{count} {name}" for name, count in self.refused.items())
        return (
            f"{self.acknowledged} records acknowledged and read back, {refused} refused,"
            f" {GROUPS} groups committed; told: {self.message}"
        )


def fill_once(
    site: Site, server: Server, clients: Clients, small: Path, large: Path, number: int
) -> Round:
    """Fill the small disk, use everything that must work then, and empty it again.

    In every second round another program takes all the room that is left, so that not a byte is
    free when the broker's own writes meet the end of the disk.
    """
    topic = f"round-{number}"
    clients.admin.create_topics([NewTopic(topic, PARTITIONS, config=PROMISED)])[topic].result(60)
    filled = next(iter(partition_directories(small, topic)))
    beside = next(iter(partition_directories(large, topic)))
    clients.refused.clear()
    with ExitStack() as stack:
        if number % 2 == 0:
            clients.write(topic, filled, DISK_BYTES // 2 // VALUE_BYTES)
            stack.enter_context(taken_up(small))
        clients.fill(topic, filled)
        assert set(clients.refused) <= REFUSALS, clients.refused
        refused = Counter(clients.refused)
        server.check_alive()
        wait_until(
            lambda: metric(site.http, "trio_broker_disk_alert", log_dir=str(small / "logs")) == 2,
            seconds=SECONDS,
            what="the full disk in the metrics",
        )
        before = clients.acknowledged[topic, beside]
        clients.write(topic, beside, 1000)
        assert clients.acknowledged[topic, beside] == before + 1000, "the other disk goes on"
        code, message = refusal(site, topic, filled)
        assert code == KAFKA_STORAGE_ERROR
        assert message is not None
        told = re.search(r"; (\d+) bytes are free, (\d+) are needed$", message)
        assert told is not None, message
        assert int(told[1]) < int(told[2]), message
        assert clients.read(topic, filled) == clients.acknowledged[topic, filled]
        for group in range(GROUPS):  # their offsets are in all partitions of the offsets topic
            commit(site.bootstrap, f"group-{group}", topic, filled, number + group)
        clients.admin.delete_topics([topic])[topic].result(60)
        wait_until(
            lambda: free_bytes(small) > DISK_BYTES // 4,
            seconds=SECONDS,
            what="the room of the deleted topic",
        )
    server.check_alive()
    return Round(clients.acknowledged[topic, filled], refused, message)


def takes_again(site: Site, clients: Clients, small: Path, topic: str) -> None:
    """See that the same clients write to the same disk again, without a restart of anything."""
    wait_until(
        lambda: metric(site.http, "trio_broker_disk_alert", log_dir=str(small / "logs")) < 2,
        seconds=SECONDS,
        what="the disk to be taken for good again",
    )
    clients.admin.create_topics([NewTopic(topic, PARTITIONS)])[topic].result(60)
    place = next(iter(partition_directories(small, topic)))

    def takes() -> bool:
        clients.write(topic, place, 10)
        return clients.acknowledged[topic, place] >= 10

    wait_until(takes, seconds=60, what="produce to work again")
    assert clients.read(topic, place) == clients.acknowledged[topic, place]
    clients.admin.delete_topics([topic])[topic].result(60)


def log_storms(stderr: str) -> dict[str, float]:
    """Return what the log said twice about the same cause within too short a time."""
    last: dict[str, float] = {}
    storms: dict[str, float] = defaultdict(lambda: LOG_INTERVAL_SECONDS)
    for line in stderr.splitlines():
        entry = json.loads(line)
        if entry["level"] == "info" and " deleted that " not in entry["msg"]:
            continue  # starts, stops, topics that come and go; not what retention says
        cause = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}|\d+", "#", entry["msg"])
        at = datetime.fromisoformat(entry["ts"]).timestamp()
        if cause in last and at - last[cause] < LOG_INTERVAL_SECONDS - 0.5:
            storms[cause] = min(storms[cause], at - last[cause])
        last[cause] = at
    return dict(storms)


def run_filling(
    directory: Path, disk: Path, *, rounds: int, seed: int, say: Callable[[str], None] = print
) -> list[Round]:
    """Fill a disk `rounds` times through one server and one set of clients.

    Args:
        directory: scratch space with room.
        disk: where the small disk is mounted.
        rounds: how many times.
        seed: of what is written.
        say: is told of each round.
    """
    small, large = disk / "logs", directory / "logs"
    settings = {
        "log_dirs": f"{small},{large}",
        # So that it is the disk that refuses, and not the budget that keeps a fifth of it free.
        "storage.bytes_max": 1 << 40,
        "shutdown.ready_grace_seconds": 0,
    }
    # Metadata is on the small disk too, as it is by default.
    site = Site(disk / "data", directory / "server.log", settings, with_http=True)
    server = site.start()
    try:
        clients = Clients(site.bootstrap, seed)
        done = []
        for number in range(rounds):
            done.append(fill_once(site, server, clients, disk, large, number))
            say(f"round {number}: {done[-1]}")
            takes_again(site, clients, disk, f"after-{number}")
        clients.close()
        assert server.stop() == 0
    finally:
        server.kill()
    storms = log_storms(server.stderr())
    assert not storms, storms
    return done


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.disk_full", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    options = parser.parse_args()
    if missing := missing_for_tmpfs():
        sys.exit(f"NOT TESTED: A FULL DISK. MISSING: {', '.join(missing)}")
    print(f"seed {options.seed}")
    with (
        kept_or_temporary(None) as directory,
        tmpfs(directory, name="small", size_bytes=DISK_BYTES) as disk,
    ):
        run_filling(directory, disk, rounds=options.rounds, seed=options.seed)


if __name__ == "__main__":
    main()
