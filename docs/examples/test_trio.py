"""Tests of a Trio program that uses Kafka: each with a broker of its own, in memory.

Run it with ``pytest test_trio.py``. With the fixture ``autojump_clock`` of pytest-trio time is
virtual: hours of retries and retention pass in milliseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from trio_broker.client import Client, ConsumerOptions, open_client
from trio_broker.testing import (
    DelayFault,
    RequestFaults,
    memory_broker,
    records,
    wait_for_lag,
    wait_for_records,
)
from trio_broker.wire.api import ApiKey

if TYPE_CHECKING:
    from trio.testing import MockClock


# ------------------------------------------------------------------------------ code under test
async def relay(client: Client, source: str, target: str) -> None:
    """Copy what comes in, with its key, until cancelled."""
    async with client.open_producer() as producer:
        options = ConsumerOptions(auto_offset_reset="earliest")
        async with client.open_group_consumer("relay", [source], options) as consumer:
            async for batch in consumer:
                for record in batch:
                    await producer.send(target, record.value, key=record.key)
                await consumer.commit()


# --------------------------------------------------------------------------------------- tests
@pytest.mark.trio
async def test_everything_is_relayed() -> None:
    """One broker, one client, no socket, no thread, no file."""
    async with memory_broker() as broker, open_client(broker=broker) as client:
        for topic in ("in", "out"):
            await broker.create_topic(topic)
        await broker.produce("in", b"1", key=b"a")
        await broker.produce("in", b"2", key=b"a")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(relay, client, "in", "out")
            await wait_for_records(broker, "out", 2)
            nursery.cancel_scope.cancel()
        assert [record.value for record in await records(broker, "out")] == [b"1", b"2"]


@pytest.mark.trio
async def test_a_broker_that_does_not_answer_for_an_hour(autojump_clock: MockClock) -> None:
    """The relay waits it out; on the virtual clock that takes a moment."""
    assert autojump_clock.autojump_threshold == 0
    faults = RequestFaults()
    faults.add(DelayFault(api=ApiKey.PRODUCE, seconds=3600))
    async with (
        memory_broker(interceptor=faults) as broker,
        open_client(broker=broker) as client,
        trio.open_nursery() as nursery,
    ):
        for topic in ("in", "out"):
            await broker.create_topic(topic)
        await broker.produce("in", b"1", key=b"a")
        began = trio.current_time()
        nursery.start_soon(relay, client, "in", "out")
        await wait_for_records(broker, "out", 1, timeout_seconds=2 * 3600)
        await wait_for_lag(broker, "relay", 0)
        assert trio.current_time() - began < 2 * 3600
        nursery.cancel_scope.cancel()
