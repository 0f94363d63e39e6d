"""Clusters for the client: the broker in memory and over TCP, and Apache Kafka where there is one.

Every test that takes `client` runs against each of them. With `KAFKA_BOOTSTRAP` set it also runs
against the Kafka at that address; only topics and groups with names of the test's own are touched.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from trio_broker import BrokerConfig, GroupConfig, open_broker
from trio_broker.client import Client, VersionMismatch, open_client
from trio_broker.wire.api import ApiKey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

KAFKA_BOOTSTRAP = os.environ.get("KAFKA_BOOTSTRAP")
CLUSTERS = ["memory", "tcp", *(["kafka"] if KAFKA_BOOTSTRAP else [])]


@pytest.fixture(params=CLUSTERS)
async def opens_client(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[Callable[..., AbstractAsyncContextManager[Client]]]:
    """Opens clients of one cluster, of each kind in turn; takes the options of `open_client`."""
    if request.param == "kafka":
        yield partial(open_client, KAFKA_BOOTSTRAP)
        return
    config = BrokerConfig(
        data_dir=str(tmp_path / "data"),
        listeners=("127.0.0.1:0",) if request.param == "tcp" else (),
        group=GroupConfig(initial_rebalance_delay_ms=0),
    )
    async with open_broker(config) as broker:
        if request.param == "tcp":
            yield partial(open_client, broker.bootstrap)
        else:
            yield partial(open_client, broker=broker)


@pytest.fixture
async def client(
    opens_client: Callable[..., AbstractAsyncContextManager[Client]],
) -> AsyncIterator[Client]:
    """A client of each kind of cluster."""
    async with opens_client() as client:
        yield client


@pytest.fixture
def new_name() -> Callable[[], str]:
    """Makes names that nobody else has, also on a cluster that is used by others."""
    return lambda: f"trio-broker-test.{uuid4().hex[:12]}"


@pytest.fixture
async def topic(client: Client, new_name: Callable[[], str]) -> AsyncIterator[str]:
    """A topic with three partitions, deleted afterwards."""
    name = new_name()
    far_ahead_ms = {"message.timestamp.after.max.ms": "3600000"}  # Kafka's default since 4.0
    await client.admin.create_topic(name, partitions=3, configs=far_ahead_ms)
    yield name
    await client.admin.delete_topic(name)


@pytest.fixture
async def served(client: Client) -> Callable[[ApiKey], None]:
    """Skips a test of something that the broker at hand does not serve."""
    [node_id, *_] = client.metadata.nodes
    connection = await client._cluster.connect(node_id)
    connection.close()

    def check(key: ApiKey) -> None:
        try:
            connection.version_of(key)
        except VersionMismatch:
            pytest.skip(f"{key.name} is not served here")

    return check
