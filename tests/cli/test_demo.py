"""`trio-broker demo`, and the comparison that makes its numbers worth something."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from trio_broker.broker.embed import open_broker
from trio_broker.cli import demo_client
from trio_broker.client.connection import open_connection
from trio_broker.config import BrokerConfig

if TYPE_CHECKING:
    from pathlib import Path


def test_it_sends_reads_back_and_cleans_up(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "trio_broker", "demo", "--records", "5000"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    heads = [line.split()[0] for line in result.stdout.splitlines()]
    assert heads == ["broker", "produced", "consumed", "latency", "broker"]
    assert "5,000 records" in result.stdout
    assert "stopped cleanly" in result.stdout
    assert "consuming" in result.stderr
    assert list(tmp_path.iterdir()) == []


async def test_a_wrong_record_is_noticed(tmp_path: Path) -> None:
    config = BrokerConfig(data_dir=str(tmp_path), listeners=("127.0.0.1:0",))

    def ignore(_count: int) -> None: ...

    async with open_broker(config) as broker:
        host, port = broker.listeners[0]
        async with open_connection(host, port) as connection:
            topic = await demo_client.create_topic(connection, "demo", 2)
            batches = demo_client.build_batches(1_000, 200, 2, ignore)
            assert {batch.partition for batch in batches} == {0, 1}
            swapped = [batches[2], batches[1], batches[0], *batches[3:]]
            await demo_client.produce(connection, topic, swapped, ignore)
            with pytest.raises(demo_client.DemoFailed, match="partition 0 offset 0"):
                await demo_client.consume(connection, topic, 1_000, 200, ignore)


async def test_a_refused_topic_is_told(tmp_path: Path) -> None:
    config = BrokerConfig(data_dir=str(tmp_path), listeners=("127.0.0.1:0",))
    async with open_broker(config) as broker:
        host, port = broker.listeners[0]
        async with open_connection(host, port) as connection:
            with pytest.raises(demo_client.DemoFailed, match="INVALID_TOPIC_EXCEPTION"):
                await demo_client.create_topic(connection, "no/slash", 2)
