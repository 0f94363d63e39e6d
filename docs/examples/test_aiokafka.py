"""Tests of code that uses aiokafka, against a real broker, and against one with faults.

Run it with ``pytest test_aiokafka.py``; nothing needs to be set up. The fixtures are synchronous,
so these tests start asyncio themselves; with pytest-asyncio or anyio they could be coroutines.
"""

from __future__ import annotations

import asyncio  # noqa: TID251 - what the code under test is written for
from typing import TYPE_CHECKING

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaError

if TYPE_CHECKING:
    from trio_broker.testing import BrokerThread, KafkaFaults


# ------------------------------------------------------------------------------ code under test
async def publish(bootstrap: str, topic: str, readings: list[int]) -> None:
    """Publish readings of a sensor, in order."""
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, enable_idempotence=True, request_timeout_ms=5000
    )
    await producer.start()
    try:
        for reading in readings:
            await producer.send_and_wait(topic, b"%d" % reading, key=b"sensor 1")
    finally:
        await producer.stop()


async def average(bootstrap: str, topic: str, group: str, count: int) -> float:
    """Return the average of the next readings, and remember that they were read."""
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        group_id=group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    await consumer.start()
    try:
        total = 0
        for _ in range(count):
            total += int((await consumer.getone()).value)
        while True:
            try:
                await consumer.commit()
            except KafkaError as error:
                if not error.retriable:
                    raise
            else:
                return total / count
    finally:
        await consumer.stop()


# --------------------------------------------------------------------------------------- tests
def test_readings_are_averaged(kafka_broker: BrokerThread, kafka_topic: str) -> None:
    """Nothing goes wrong."""
    asyncio.run(publish(kafka_broker.bootstrap, kafka_topic, [1, 2, 6]))
    group = f"{kafka_topic}-readers"
    assert asyncio.run(average(kafka_broker.bootstrap, kafka_topic, group, 3)) == 3
    kafka_broker.wait_for_lag(group, 0)


@pytest.mark.parametrize(
    "api,code",
    [
        ("FindCoordinator", "COORDINATOR_NOT_AVAILABLE"),
        ("JoinGroup", "COORDINATOR_LOAD_IN_PROGRESS"),
        ("Fetch", "NOT_LEADER_OR_FOLLOWER"),
        ("OffsetCommit", "COORDINATOR_LOAD_IN_PROGRESS"),
    ],
)
def test_errors_that_pass(
    kafka_broker: BrokerThread, kafka_faults: KafkaFaults, kafka_topic: str, api: str, code: str
) -> None:
    """Each of them is an ordinary event in the life of a cluster."""
    fault = kafka_faults.error(api, code)
    asyncio.run(publish(kafka_broker.bootstrap, kafka_topic, [1, 2, 6]))
    group = f"{kafka_topic}-readers"
    assert asyncio.run(average(kafka_broker.bootstrap, kafka_topic, group, 3)) == 3
    assert fault.met == 1
    assert kafka_broker.committed(group) == {(kafka_topic, 0): 3}


def test_a_broken_connection_keeps_the_order(
    kafka_broker: BrokerThread, kafka_faults: KafkaFaults, kafka_topic: str
) -> None:
    """The second reading is stored, but its answer is lost; it must neither double nor overtake."""

    async def broken_in_the_middle() -> None:
        await publish(kafka_broker.bootstrap, kafka_topic, [1])
        kafka_faults.lose_reply("Produce", topic=kafka_topic)
        await publish(kafka_broker.bootstrap, kafka_topic, [2, 3, 4])

    asyncio.run(broken_in_the_middle())
    values = [record.value for record in kafka_broker.records(kafka_topic)]
    assert values == [b"1", b"2", b"3", b"4"]


def test_the_broker_restarts_under_a_reader(kafka_broker: BrokerThread, kafka_topic: str) -> None:
    """A reader waits for readings while the broker goes away and comes back."""

    async def read_across_a_restart() -> float:
        group = f"{kafka_topic}-readers"
        reading = asyncio.create_task(average(kafka_broker.bootstrap, kafka_topic, group, 2))
        await publish(kafka_broker.bootstrap, kafka_topic, [10])
        # Whatever waits goes into a thread, or the reader could not go on.
        await asyncio.to_thread(kafka_broker.restart)
        await publish(kafka_broker.bootstrap, kafka_topic, [20])
        return await asyncio.wait_for(reading, 60)

    assert asyncio.run(read_across_a_restart()) == 15
