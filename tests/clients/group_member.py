"""One member of a consumer group in a process of its own: prints what it owns and what it reads.

``python -m tests.clients.group_member confluent 127.0.0.1:9092 group topic instance pace`` prints
``A 0 1 2`` whenever what it owns changes, and ``M <partition> <offset> <value>`` for each record.
SIGTERM makes it leave. An empty instance makes a dynamic member. The pace is "default", with the
client's own timeouts, or "quick". kcat is run instead of this module; `GroupMember`, the other end,
understands both.
"""

from __future__ import annotations

import asyncio  # noqa: TID251 - a client under test runs on it; this file runs in a child process
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs

ROOT = Path(__file__).resolve().parent.parent.parent
#: Every client there is, and confluent-kafka with the other way of rebalancing.
MEMBERS = ("confluent", "confluent-cooperative", "aiokafka", "kafka-python", "kcat")

#: Whether members have their client's own timeouts, or such that nobody waits for long.
DEFAULT_PACE, QUICK_PACE = "default", "quick"
#: Short, for those whose death is to be noticed; long, for those that come back under their name
#: and must do so in time even where starting a process takes seconds.
SESSION_MS = 3_000
STATIC_SESSION_MS = 30_000
HEARTBEAT_MS = 500
COMMIT_MS = 300

_stopping = False


def _stop(*_: object) -> None:
    global _stopping
    _stopping = True


def _say(text: str) -> None:
    os.write(1, text.encode() + b"\n")  # at once: the next moment may bring SIGKILL


def _own(partitions: Iterable[int]) -> None:
    _say("A " + " ".join(map(str, sorted(partitions))))


def timeouts_ms(instance: str, pace: str) -> dict[str, int]:
    """Return the timeouts in which a member differs from the defaults, by Java's names."""
    if pace == DEFAULT_PACE:
        return {}
    return {
        "session.timeout.ms": STATIC_SESSION_MS if instance else SESSION_MS,
        "heartbeat.interval.ms": HEARTBEAT_MS,
        "auto.commit.interval.ms": COMMIT_MS,
    }


def keywords(instance: str, pace: str) -> dict[str, int]:
    """Return the same as Python clients want them."""
    return {key.replace(".", "_"): value for key, value in timeouts_ms(instance, pace).items()}


def librdkafka_options(instance: str, pace: str, *, cooperative: bool = False) -> dict[str, Any]:
    """Return the properties in which a member differs from the defaults."""
    options: dict[str, Any] = {"auto.offset.reset": "earliest", **timeouts_ms(instance, pace)}
    if cooperative:
        options["partition.assignment.strategy"] = "cooperative-sticky"
    if instance:
        options["group.instance.id"] = instance
    return options


def run_confluent(
    bootstrap: str, group: str, topic: str, instance: str, pace: str, *, cooperative: bool
) -> None:
    """Be a confluent-kafka consumer until told to stop."""
    from confluent_kafka import Consumer

    owned: set[int] = set()

    def assigned(consumer: Any, partitions: Any) -> None:
        del consumer
        owned.update(place.partition for place in partitions)
        _own(owned)

    def revoked(consumer: Any, partitions: Any) -> None:
        del consumer
        owned.difference_update(place.partition for place in partitions)
        _own(owned)

    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": group}
        | librdkafka_options(instance, pace, cooperative=cooperative)
    )
    consumer.subscribe([topic], on_assign=assigned, on_revoke=revoked, on_lost=revoked)
    while not _stopping:
        message = consumer.poll(0.1)
        if message is not None and message.error() is None:
            _say(f"M {message.partition()} {message.offset()} {message.value().decode()}")
    consumer.close()


async def run_aiokafka(bootstrap: str, group: str, topic: str, instance: str, pace: str) -> None:
    """Be an aiokafka consumer until told to stop."""
    from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener

    class Listener(ConsumerRebalanceListener):  # type: ignore[misc]
        def on_partitions_revoked(self, revoked: Any) -> None:
            _own(())

        def on_partitions_assigned(self, assigned: Any) -> None:
            _own(place.partition for place in assigned)

    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        group_id=group,
        group_instance_id=instance or None,
        auto_offset_reset="earliest",
        **keywords(instance, pace),
    )
    consumer.subscribe([topic], listener=Listener())
    await consumer.start()
    while not _stopping:
        for place, messages in (await consumer.getmany(timeout_ms=100)).items():
            for message in messages:
                _say(f"M {place.partition} {message.offset} {message.value.decode()}")
    await consumer.stop()


def run_kafka_python(bootstrap: str, group: str, topic: str, instance: str, pace: str) -> None:
    """Be a kafka-python consumer until told to stop."""
    from kafka import ConsumerRebalanceListener, KafkaConsumer
    from kafka.errors import KafkaConnectionError

    class Listener(ConsumerRebalanceListener):  # type: ignore[misc]
        def on_partitions_revoked(self, revoked: Any) -> None:
            _own(())

        def on_partitions_assigned(self, assigned: Any) -> None:
            _own(place.partition for place in consumer.assignment())

    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap,
        group_id=group,
        group_instance_id=instance or None,
        auto_offset_reset="earliest",
        **keywords(instance, pace),
    )
    consumer.subscribe([topic], listener=Listener())
    while not _stopping:
        try:
            batches = consumer.poll(timeout_ms=100)
        except KafkaConnectionError:  # it leaves trying again to its application
            time.sleep(0.1)  # noqa: TID251 - of a child process, in which nothing else goes on
            continue
        for place, messages in batches.items():
            for message in messages:
                _say(f"M {place.partition} {message.offset} {message.value.decode()}")
    consumer.close()


def main() -> None:
    """Run one member."""
    client, *arguments = sys.argv[1:]
    signal.signal(signal.SIGTERM, _stop)
    if client.startswith("confluent"):
        run_confluent(*arguments, cooperative=client.endswith("cooperative"))
    elif client == "aiokafka":
        asyncio.run(run_aiokafka(*arguments))
    elif client == "kafka-python":
        run_kafka_python(*arguments)
    else:
        raise ValueError(f"unknown client {client!r}")


def _command(
    client: str, bootstrap: str, group: str, topic: str, instance: str, pace: str
) -> list[str]:
    if client != "kcat":
        module = "tests.clients.group_member"
        return [sys.executable, "-m", module, client, bootstrap, group, topic, instance, pace]
    options = [f"{key}={value}" for key, value in librdkafka_options(instance, pace).items()]
    flags = [flag for option in options for flag in ("-X", option)]
    return ["kcat", "-b", bootstrap, "-E", "-u", *flags, "-f", "M %p %o %s\\n", "-G", group, topic]


@attrs.define(eq=False)
class GroupMember:
    """A member in a child process, and what it has said so far.

    Attributes:
        owned: partitions it owns; empty once its process has ended.
        spans: offsets read of each partition, a new list for each time it was assigned.
        values: what it read, by partition and offset.
    """

    client: str
    process: subprocess.Popen[bytes]
    path: Path
    owned: set[int] = attrs.field(factory=set)
    spans: list[tuple[int, list[int]]] = attrs.field(factory=list)
    values: dict[tuple[int, int], str] = attrs.field(factory=dict)
    _current: dict[int, list[int]] = attrs.field(factory=dict)
    _position: int = 0

    def look(self) -> None:
        """Take in what it has said since the last time."""
        with self.path.open("rb") as said:
            said.seek(self._position)
            data = said.read()
        complete, newline, _ = data.rpartition(b"\n")
        self._position += len(complete) + len(newline)
        for line in complete.decode(errors="replace").splitlines():
            self._take(line)
        if self.process.poll() is not None:
            self.owned = set()

    def _take(self, line: str) -> None:
        if line.startswith("M "):
            _, partition, offset, value = line.split(" ", 3)
            place = int(partition)
            if place not in self._current:
                self._current[place] = []
                self.spans.append((place, self._current[place]))
            self._current[place].append(int(offset))
            self.values[place, int(offset)] = value
        elif line.startswith("A"):
            self._own({int(word) for word in line.split()[1:]})
        elif line.startswith("% Group"):  # kcat's own words
            partitions = {int(word) for word in re.findall(r"\[(\d+)\]", line)}
            lost = "revoked" in line
            self._own(self.owned - partitions if lost else self.owned | partitions)

    def _own(self, owned: set[int]) -> None:
        for partition in owned ^ self.owned:
            self._current.pop(partition, None)
        self.owned = owned

    def check_alive(self) -> None:
        """Raise AssertionError if it has ended by itself."""
        code = self.process.poll()
        assert code is None, f"{self.client} ended with {code}, see {self.path}"

    def terminate(self) -> None:
        """Ask it to leave."""
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it without a word."""
        self.process.kill()

    def wait(self, *, seconds: float = 20.0) -> None:
        """Wait for its end."""
        self.process.wait(seconds)
        self.look()


def start_member(
    client: str,
    bootstrap: str,
    group: str,
    topic: str,
    directory: Path,
    *,
    instance: str = "",
    pace: str = QUICK_PACE,
) -> GroupMember:
    """Start a member; what it says goes to a file in `directory`."""
    path = directory / f"{group}-{time.monotonic_ns()}"
    with path.open("wb") as output, path.with_name(path.name + ".stderr").open("wb") as complaints:
        process = subprocess.Popen(
            _command(client, bootstrap, group, topic, instance, pace),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output if client == "kcat" else complaints,
        )
    return GroupMember(client, process, path)


if __name__ == "__main__":
    main()
