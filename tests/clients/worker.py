"""A client in a process of its own: reads calls from stdin, one JSON object a line, and answers.

``python -m tests.clients.worker confluent 127.0.0.1:9092``; `Worker` is the other end of the pipe.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from tests.clients.drivers.admin_interface import AdminDriver
from tests.clients.drivers.interface import Driver
from tests.clients.workload import ReadRecord

ROOT = Path(__file__).resolve().parent.parent.parent
CLIENTS = ("confluent", "aiokafka", "kafka-python", "kcat")
ADMINS = ("confluent-admin", "aiokafka-admin", "kafka-python-admin")


class ClientFailed(AssertionError):
    """A call of a client raised; carries the traceback of its process."""


def load_driver(client: str, bootstrap: str) -> Driver | AdminDriver:
    """Import one driver; the others' libraries stay out of this process."""
    if client == "confluent":
        from tests.clients.drivers.confluent_driver import ConfluentDriver

        return ConfluentDriver(bootstrap)
    if client == "aiokafka":
        from tests.clients.drivers.aiokafka_driver import AiokafkaDriver

        return AiokafkaDriver(bootstrap)
    if client == "kafka-python":
        from tests.clients.drivers.kafka_python_driver import KafkaPythonDriver

        return KafkaPythonDriver(bootstrap)
    if client == "kcat":
        from tests.clients.drivers.kcat_driver import KcatDriver

        return KcatDriver(bootstrap)
    if client.endswith("-admin"):
        return load_admin(client, bootstrap)
    raise ValueError(f"unknown client {client!r}, there are {', '.join(CLIENTS)}")


def load_admin(client: str, bootstrap: str) -> AdminDriver:
    """Import the admin client of one library."""
    if client == "confluent-admin":
        from tests.clients.drivers.confluent_admin import ConfluentAdmin

        return ConfluentAdmin(bootstrap)
    if client == "aiokafka-admin":
        from tests.clients.drivers.aiokafka_admin import AiokafkaAdmin

        return AiokafkaAdmin(bootstrap)
    if client == "kafka-python-admin":
        from tests.clients.drivers.kafka_python_admin import KafkaPythonAdmin

        return KafkaPythonAdmin(bootstrap)
    raise ValueError(f"unknown client {client!r}, there are {', '.join(ADMINS)}")


def main() -> None:
    """Serve calls until stdin ends."""
    answers = sys.stdout
    sys.stdout = sys.stderr  # whatever a library prints must not mix with the answers
    driver = load_driver(sys.argv[1], sys.argv[2])
    for line in sys.stdin:
        call, arguments = json.loads(line)
        try:
            answer = {"result": getattr(driver, call)(*arguments)}
        except Exception:  # noqa: BLE001 - whatever a client raises belongs to the test that called
            answer = {"error": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    driver.close()


@attrs.define
class Worker:
    """A client in a child process, with the methods of `Driver` that give plain results."""

    client: str
    _process: subprocess.Popen[str]

    def call(self, name: str, *arguments: object) -> Any:
        """Call a method of the driver over there.

        Raises:
            ClientFailed: it raised, or the process died.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([name, arguments]) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise ClientFailed(f"{self.client} died with {self._process.wait()} in {name}")
        answer = json.loads(line)
        if "error" in answer:
            raise ClientFailed(f"{self.client}: {name}{arguments}\n{answer['error']}")
        return answer["result"]

    def create_topic(self, topic: str, partitions: int) -> None:
        self.call("create_topic", topic, partitions)

    def delete_topic(self, topic: str) -> None:
        self.call("delete_topic", topic)

    def produce(
        self,
        topic: str,
        label: str,
        count: int,
        first_timestamp_ms: int,
        codec: str = "none",
        *,
        first: int = 0,
    ) -> None:
        self.call("produce", topic, label, count, first_timestamp_ms, codec, first)

    def read(self, topic: str, partitions: int) -> Mapping[int, Sequence[ReadRecord]]:
        rows = self.call("read", topic, partitions)
        return {int(number): [ReadRecord(*row) for row in of] for number, of in rows.items()}

    def offsets_for_time(
        self, topic: str, partitions: int, timestamp_ms: int
    ) -> Mapping[int, int | None]:
        answers = self.call("offsets_for_time", topic, partitions, timestamp_ms)
        return {int(number): offset for number, offset in answers.items()}

    def commit(self, group: str, topic: str, partition: int, offset: int) -> None:
        self.call("commit", group, topic, partition, offset)

    def committed(self, group: str, topic: str, partition: int) -> int | None:
        offset = self.call("committed", group, topic, partition)
        return None if offset is None else int(offset)


@contextlib.contextmanager
def running_worker(client: str, bootstrap: str) -> Iterator[Worker]:
    """Start a client's process for the length of the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.clients.worker", client, bootstrap],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield Worker(client, process)
        process.stdin.close()
        process.wait(60)
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


if __name__ == "__main__":
    main()
