"""Tests of code that uses confluent-kafka, against a real broker, and against one with faults.

Run it with ``pytest test_confluent_kafka.py``; nothing needs to be set up. The code under test
writes a bill for each order. Whatever happens, no order may be lost, and none billed twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_broker.testing import BrokerThread, KafkaFaults


# ------------------------------------------------------------------------------ code under test
def bill_orders(bootstrap: str, orders: str, bills: str, *, patience_seconds: float = 30) -> int:
    """Bill every order that is not billed yet; return how many that were.

    Raises:
        KafkaException: the bills could not be stored; no order counts as billed.
    """
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "enable.idempotence": True,
            "delivery.timeout.ms": int(patience_seconds * 1000),
            "linger.ms": 0,
        }
    )
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "billing",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
        }
    )
    failures: list[KafkaError] = []

    def delivered(error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            failures.append(error)

    consumer.subscribe([orders])
    try:
        billed = 0
        for order in until_the_end(consumer):
            producer.produce(bills, b"bill for " + (order.value() or b""), on_delivery=delivered)
            billed += 1
        producer.flush()
        if failures:
            raise KafkaException(failures[0])
        if billed:
            consumer.commit(asynchronous=False)
        return billed
    finally:
        consumer.close()


def until_the_end(consumer: Consumer) -> Iterator[Message]:
    """Yield messages until there are no more."""
    while True:
        message = consumer.poll(30)
        if message is None:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))  # noqa: SLF001 - its public name
        error = message.error()
        if error is None:
            yield message
        elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - its public name
            return
        elif not error.retriable():
            raise KafkaException(error)


# --------------------------------------------------------------------------------------- tests
@pytest.fixture
def orders(kafka_broker: BrokerThread) -> Iterator[str]:
    """A topic with three orders."""
    with kafka_broker.topic("orders") as topic:
        for dish in (b"pizza", b"pasta", b"salad"):
            kafka_broker.produce(topic, dish)
        yield topic


ALL_BILLS = [b"bill for pizza", b"bill for pasta", b"bill for salad"]


def bills_in(kafka_broker: BrokerThread, topic: str) -> list[bytes | None]:
    """Return what was written, as the broker has it."""
    return [record.value for record in kafka_broker.records(topic)]


def test_each_order_is_billed_once(
    kafka_broker: BrokerThread, kafka_topic: str, orders: str
) -> None:
    """Nothing goes wrong; a second run finds nothing left to do."""
    assert bill_orders(kafka_broker.bootstrap, orders, kafka_topic) == 3
    assert bill_orders(kafka_broker.bootstrap, orders, kafka_topic) == 0
    assert bills_in(kafka_broker, kafka_topic) == ALL_BILLS
    kafka_broker.wait_for_lag("billing", 0, topics=[orders])


def test_a_new_leader_and_a_new_coordinator(
    kafka_broker: BrokerThread, kafka_faults: KafkaFaults, kafka_topic: str, orders: str
) -> None:
    """What a rolling restart of a cluster looks like to a client."""
    moved = kafka_faults.error("Produce", "NOT_LEADER_OR_FOLLOWER", topic=kafka_topic)
    coordinator = kafka_faults.error("FindCoordinator", "COORDINATOR_NOT_AVAILABLE")
    assert bill_orders(kafka_broker.bootstrap, orders, kafka_topic) == 3
    assert bills_in(kafka_broker, kafka_topic) == ALL_BILLS
    assert (moved.met, coordinator.met) == (1, 1)


def test_an_answer_that_never_arrives(
    kafka_broker: BrokerThread, kafka_faults: KafkaFaults, kafka_topic: str, orders: str
) -> None:
    """The bills are stored, the connection breaks, and the producer sends them again.

    Without ``enable.idempotence`` this test finds every bill twice.
    """
    lost = kafka_faults.lose_reply("Produce", topic=kafka_topic)
    assert bill_orders(kafka_broker.bootstrap, orders, kafka_topic) == 3
    assert lost.met == 1
    assert bills_in(kafka_broker, kafka_topic) == ALL_BILLS


def test_a_full_disk(
    kafka_broker: BrokerThread, kafka_faults: KafkaFaults, kafka_topic: str, orders: str
) -> None:
    """No bill can be stored, so no order may count as billed; the next run makes up for it."""
    with kafka_faults.disk_full():
        with pytest.raises(KafkaException):
            bill_orders(kafka_broker.bootstrap, orders, kafka_topic, patience_seconds=1)
        assert kafka_broker.lag("billing", topics=[orders]) == 3
    assert bill_orders(kafka_broker.bootstrap, orders, kafka_topic) == 3
    assert bills_in(kafka_broker, kafka_topic) == ALL_BILLS
