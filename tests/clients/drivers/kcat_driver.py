"""kcat as distributions package it: an old librdkafka, and its legacy consumer."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence

from tests.clients.workload import ReadRecord, make_records

_SECONDS = 60.0
_SEPARATOR = "|"


class KcatDriver:
    """See `tests.clients.drivers.interface`.

    kcat cannot create or delete topics: the server's auto-creation does the former when the first
    record is sent. It cannot set timestamps either.
    """

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap

    def version(self) -> str:
        return self._run("-V").splitlines()[3].strip()

    def create_topic(self, topic: str, partitions: int) -> None:
        raise NotImplementedError("kcat has no command for it")

    def delete_topic(self, topic: str) -> None:
        raise NotImplementedError("kcat has no command for it")

    def produce(
        self, topic: str, label: str, count: int, first_timestamp_ms: int, codec: str, first: int
    ) -> None:
        lines = "".join(
            f"{record.key}{_SEPARATOR}{record.value}\n"
            for record in make_records(label, count, first_timestamp_ms, first=first)
        )
        self._run("-P", "-t", topic, "-K", _SEPARATOR, "-z", codec, given=lines)

    def read(self, topic: str, partitions: int) -> Mapping[int, Sequence[ReadRecord]]:
        output = self._run(
            "-C", "-t", topic, "-o", "beginning", "-e", "-q", "-f", "%p|%o|%k|%T|%s\n"
        )
        rows: dict[int, list[ReadRecord]] = {number: [] for number in range(partitions)}
        for line in output.splitlines():
            partition, offset, key, timestamp, value = line.split(_SEPARATOR, 4)
            rows[int(partition)].append(ReadRecord(int(offset), key, value, int(timestamp)))
        return rows

    def offsets_for_time(
        self, topic: str, partitions: int, timestamp_ms: int
    ) -> Mapping[int, int | None]:
        asked: list[str] = []
        for number in range(partitions):
            asked += ["-t", f"{topic}:{number}:{timestamp_ms}"]
        answers: dict[int, int | None] = {}
        for line in self._run("-Q", *asked).splitlines():
            # "orders [0] offset 17"
            _, partition, _, offset = line.split()
            answers[int(partition.strip("[]"))] = int(offset) if int(offset) >= 0 else None
        return answers

    def commit(self, group: str, topic: str, partition: int, offset: int) -> None:
        """Commit as kcat does: by reading that many records from the start."""
        self._read_stored(group, topic, partition, "-c", str(offset))

    def committed(self, group: str, topic: str, partition: int) -> int | None:
        """Return where the group's next read begins, which is all that kcat can tell."""
        output = self._read_stored(
            group, topic, partition, "-c", "1", "-X", "topic.auto.commit.enable=false"
        )
        return int(output) if output.strip() else None

    def close(self) -> None:
        """Nothing stays open."""

    def _read_stored(self, group: str, topic: str, partition: int, *options: str) -> str:
        return self._run(
            *("-C", "-t", topic, "-p", str(partition), "-o", "stored", "-e", "-q", "-f", "%o\n"),
            *("-X", f"group.id={group}", "-X", "topic.auto.offset.reset=earliest"),
            *options,
        )

    def _run(self, *arguments: str, given: str = "") -> str:
        command = ["kcat", "-b", self._bootstrap, *arguments]
        result = subprocess.run(
            command, input=given.encode(), capture_output=True, timeout=_SECONDS, check=False
        )
        if result.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {result.stderr.decode(errors='replace')}")
        return result.stdout.decode()
