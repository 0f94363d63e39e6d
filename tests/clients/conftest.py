"""One server and one process per client for all tests of this folder.

With ``TRIO_BROKER_TEST_ADDRESS=host:port`` the tests run against a broker that is already there
(Apache Kafka, say, to see whether a test asks for what Kafka does) and skip what needs its files.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from attrs import frozen

from tests.clients.worker import Worker, running_worker
from tests.support.requirements import missing_programs, skip_loudly
from tests.support.server import running_server

PARTITIONS = 6


@frozen
class Target:
    """The broker under test. `data_dir` is None if it is not ours."""

    bootstrap: str
    data_dir: Path | None


@pytest.fixture(scope="package")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A server with six partitions for topics that clients create by using them."""
    if address := os.environ.get("TRIO_BROKER_TEST_ADDRESS"):
        yield Target(address, None)
        return
    data_dir = tmp_path_factory.mktemp("clients") / "data"
    with running_server(data_dir, settings={"num_partitions": PARTITIONS}) as server:
        yield Target(server.bootstrap, data_dir)


@pytest.fixture(scope="package")
def workers(target: Target) -> Iterator[Callable[[str], Worker]]:
    """Each client's process, started when first asked for."""
    with contextlib.ExitStack() as stack:
        running: dict[str, Worker] = {}

        def worker(client: str) -> Worker:
            if client == "kcat" and (missing := missing_programs("kcat")):
                skip_loudly("kcat and an old librdkafka", missing)
            if client not in running:
                running[client] = stack.enter_context(running_worker(client, target.bootstrap))
            return running[client]

        yield worker
