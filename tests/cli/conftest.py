"""One server for the tests of all client commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count

import pytest

from tests.cli.commands import Commands
from tests.support.server import running_server

_numbers = count(1)


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """A server, as everybody starts it, and what talks to it."""
    settings = {"group.initial_rebalance_delay_ms": 0, "storage.durability": "os"}
    data_dir = tmp_path_factory.mktemp("cli") / "data"
    with running_server(data_dir, settings=settings) as server:
        yield Commands(server.bootstrap, server.data_dir)


@pytest.fixture
def new_topic(commands: Commands) -> Callable[..., str]:
    """Makes topics with names of their own."""

    def make(partitions: int = 1, *options: str) -> str:
        name = f"topic-{next(_numbers)}"
        commands.call("topic", "create", name, "-p", str(partitions), *options)
        return name

    return make
