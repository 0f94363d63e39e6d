"""A server under attack, an honest client beside the attackers, and what must hold after each test.

With ``TRIO_BROKER_TEST_ADDRESS=host:port`` the tests run against a broker that is already there, to
see whether what they ask for is what Apache Kafka does; memory and files are not looked at then.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest
from attrs import frozen

from tests.hostile.bystander import Bystander
from tests.hostile.frames import offered_versions
from tests.support import processes
from tests.support.kafka_bytes import (
    RawConnection,
    create_topics_v2,
    fetch,
    fetch_v4,
    metadata_errors,
    metadata_v4,
    topic_errors,
)
from tests.support.log_files import partition_directories
from tests.support.server import Server, running_server
from tests.support.waiting import wait_until

RSS_GROWTH_MAX_BYTES = 64 * processes.MIB


@frozen
class Target:
    """The broker under attack. `server` is None if it is not ours, and then it is Apache Kafka."""

    address: tuple[str, int]
    server: Server | None

    def connect(self, *, seconds: float = 20.0) -> RawConnection:
        return RawConnection.open(self.address, seconds=seconds)

    def create_topic(self, topic: str) -> None:
        """Create a topic with one partition and wait until it can be written to."""
        with self.connect() as connection:
            codes = topic_errors(connection.require(create_topics_v2(topic)), messages=True)
            assert codes == {topic: 0}
            if self.server is None:
                wait_until(
                    lambda: fetch(connection, fetch_v4(topic, 0)).error_code == 0,
                    seconds=20,
                    what=f"a leader of {topic}",
                )

    def end_offset(self, topic: str) -> int:
        """Return the end of a topic's only partition."""
        with self.connect() as connection:
            return fetch(connection, fetch_v4(topic, 0)).high_watermark

    def topic_error(self, topic: str) -> int:
        """Return what Metadata says of a topic, without creating it."""
        with self.connect() as connection:
            return metadata_errors(connection.require(metadata_v4(topic)))[topic]

    def log_bytes(self, topic: str) -> int:
        """Return the size of the log of a topic's only partition; 0 where we cannot look."""
        if self.server is None:
            return 0
        (directory,) = partition_directories(self.server.data_dir, topic).values()
        return sum(path.stat().st_size for path in directory.glob("*.log"))

    def directories(self) -> set[str]:
        """Return every directory around and below the data directory, where we can look."""
        if self.server is None:
            return set()
        around = self.server.data_dir.parent
        found = {name for name, _, _ in os.walk(around)}
        return found | {str(path) for path in around.iterdir()}


@pytest.fixture(scope="package")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    if address := os.environ.get("TRIO_BROKER_TEST_ADDRESS"):
        host, _, port = address.rpartition(":")
        yield Target((host, int(port)), None)
        return
    data_dir = tmp_path_factory.mktemp("hostile") / "data"
    with running_server(data_dir) as server:
        yield Target((server.host, server.port), server)


@pytest.fixture(scope="package")
def bystander(target: Target) -> Iterator[Bystander]:
    topic = f"bystander.{time.time_ns()}"
    target.create_topic(topic)
    bystander = Bystander(target.address, topic)
    bystander.start()
    yield bystander
    bystander.stop()


@pytest.fixture(scope="package")
def offered(target: Target) -> dict[int, tuple[int, int]]:
    """The versions that we declare; of Apache Kafka's, only those of the same APIs."""
    offered = offered_versions(target.address)
    if target.server is None:
        ours = (0, 1, 2, 3, 8, 9, 10, 18, 19, 20, 22, 32, 60)
        return {key: offered[key] for key in ours}
    return offered


@pytest.fixture(autouse=True)
def _nobody_else_notices(target: Target, bystander: Bystander) -> Iterator[None]:
    """After every test: the server lives, is no fatter, and the honest client saw nothing."""
    bystander.wait_for_rounds(1)
    if target.server is not None:
        processes.reset_peak_rss(target.server.pid)
        before = target.server.usage().rss_bytes
    yield
    bystander.wait_for_rounds(3)
    if target.server is not None:
        target.server.check_alive()
        grown = processes.peak_rss_bytes(target.server.pid) - before
        assert grown <= RSS_GROWTH_MAX_BYTES, f"the server grew by {grown / processes.MIB:.0f} MiB"


@pytest.fixture
def victim(target: Target, request: pytest.FixtureRequest) -> str:
    """A topic of the test's own with one empty partition."""
    topic = f"victim.{time.time_ns()}"
    target.create_topic(topic)
    return topic
