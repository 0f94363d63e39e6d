"""What the tests ask of each client, so that one test text serves them all.

Drivers run in a process of their own (`tests.clients.worker`): a client library that crashes,
warns, leaves threads behind or needs another event loop then cannot touch the tests. Settings are
the library's defaults except where a method says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from tests.clients.workload import ReadRecord


class Driver(Protocol):
    """One client library, connected to one server."""

    def __init__(self, bootstrap: str) -> None: ...

    def version(self) -> str:
        """Say which versions of the library and what it is made of are running."""

    def create_topic(self, topic: str, partitions: int) -> None:
        """Create a topic and return when the server says that it exists."""

    def delete_topic(self, topic: str) -> None:
        """Delete a topic and return when the server says that it is gone."""

    def produce(
        self, topic: str, label: str, count: int, first_timestamp_ms: int, codec: str, first: int
    ) -> None:
        """Send `make_records(label, count, ...)` and return when all are acknowledged."""

    def read(self, topic: str, partitions: int) -> Mapping[int, Sequence[ReadRecord]]:
        """Read all partitions from the start to the end they have now, by assignment."""

    def offsets_for_time(
        self, topic: str, partitions: int, timestamp_ms: int
    ) -> Mapping[int, int | None]:
        """Ask for each partition's first offset at or after a time; None if there is none."""

    def commit(self, group: str, topic: str, partition: int, offset: int) -> None:
        """Commit one offset for a group without members."""

    def committed(self, group: str, topic: str, partition: int) -> int | None:
        """Return the group's committed offset, None if there is none."""

    def close(self) -> None:
        """Close what the driver holds open."""
