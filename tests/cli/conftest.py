"""One broker for the tests of all client commands.

With ``KAFKA_BOOTSTRAP=host:port`` it is the Kafka at that address, to see that the commands work
there too; what only this broker does is left out then. Only topics and groups with names of the
tests' own are touched.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import count
from uuid import uuid4

import pytest

from tests.cli.commands import Commands
from tests.support.server import running_server

KAFKA_BOOTSTRAP = os.environ.get("KAFKA_BOOTSTRAP")


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """A server, as everybody starts it, and what talks to it."""
    if KAFKA_BOOTSTRAP:
        yield Commands(KAFKA_BOOTSTRAP)
        return
    settings = {"group.initial_rebalance_delay_ms": 0, "storage.durability": "os"}
    data_dir = tmp_path_factory.mktemp("cli") / "data"
    with running_server(data_dir, settings=settings) as server:
        yield Commands(server.bootstrap, server.data_dir)


@pytest.fixture(scope="session")
def new_name() -> Callable[[], str]:
    """Makes names that nobody else has."""
    prefix = f"cli-{uuid4().hex[:8]}"
    numbers = count(1)
    return lambda: f"{prefix}-{next(numbers)}"


@pytest.fixture
def new_topic(commands: Commands, new_name: Callable[[], str]) -> Iterator[Callable[..., str]]:
    """Makes topics, and deletes them if the broker will be there for longer than the tests."""
    made: list[str] = []

    def make(partitions: int = 1, *options: str) -> str:
        made.append(new_name())
        commands.call("topic", "create", made[-1], "-p", str(partitions), *options)
        return made[-1]

    yield make
    if made and not commands.is_ours:
        commands.call("topic", "delete", *made, "-y", "--if-exists")
