"""What the tests of the admin APIs ask of each client that has an admin client.

As `interface.Driver`: in a process of its own, with the library's defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeAlias

#: Value, whether nobody set it, whether it cannot be set; None where the library does not tell.
Config: TypeAlias = tuple[str | None, bool | None, bool | None]


class AdminDriver(Protocol):
    """One admin client, connected to one server."""

    def __init__(self, bootstrap: str) -> None: ...

    def create_topic(self, topic: str, partitions: int, configs: Mapping[str, str]) -> None:
        """Create a topic with configs."""

    def add_partitions(self, topic: str, count: int) -> None:
        """Give a topic `count` partitions in all."""

    def partitions(self, topic: str) -> int:
        """Say how many partitions a topic has."""

    def set_config(self, topic: str, name: str, value: str) -> None:
        """Set one config and leave the others as they are, if the library can."""

    def replace_configs(self, topic: str, configs: Mapping[str, str]) -> None:
        """Set these configs and return the others to their defaults."""

    def configs(self, topic: str) -> Mapping[str, Config]:
        """Return every config of a topic."""

    def broker_configs(self) -> Mapping[str, Config]:
        """Return every config of broker 0."""

    def delete_records(self, topic: str, partition: int, before: int) -> int:
        """Delete what lies below an offset (-1: everything); return the low watermark."""

    def code(self, call: str, *arguments: object) -> int:
        """Make a call that must fail, and return Kafka's code."""

    def close(self) -> None:
        """Close what the driver holds open."""
