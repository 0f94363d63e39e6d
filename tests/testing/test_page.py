"""The page for test authors knows every fixture, every fault, and every public name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from trio_broker import testing
from trio_broker.testing import BrokerThread, KafkaFaults, fixtures

if TYPE_CHECKING:
    import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "test-your-code.md").read_text("utf-8")
CODE = " ".join(re.findall(r"```.*?```|`[^`]+`", PAGE, re.DOTALL))
#: For the broker's own parts, not for tests.
INNER = {"begin", "end", "start_in_thread", "stop_in_thread", "broker", "running_broker"}


#: What the page leaves to its reader.
PREAMBLE = """
import asyncio

import pytest
from aiokafka import AIOKafkaConsumer
from confluent_kafka import Producer


def run_my_code(bootstrap, topic):
    producer = Producer({"bootstrap.servers": bootstrap})
    producer.produce(topic, b"1 pizza")
    producer.flush()


async def read(bootstrap, topic, group):
    async with AIOKafkaConsumer(
        topic, bootstrap_servers=bootstrap, group_id=group, auto_offset_reset="earliest",
        auto_commit_interval_ms=100,
    ) as consumer:
        async for _ in consumer:
            pass


async def my_program(client):
    async with client.open_producer() as producer:
        await producer.send("orders", b"1 pizza")
"""


def test_what_it_shows_works(pytester: pytest.Pytester) -> None:
    shown = re.findall(r"```py\n(.*?)```", PAGE, re.DOTALL)
    pytester.makepyfile("\n".join([PREAMBLE, *shown]))
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=sum(block.count("def test_") for block in shown))


def is_named(name: str) -> bool:
    return re.search(rf"\b{name}\b", CODE) is not None


def test_every_public_name_is_explained_or_returned() -> None:
    returned = {"MetFault"}  # a Fault, which the page explains
    assert {name for name in testing.__all__ if not is_named(name)} <= returned


def test_every_fixture_is_listed() -> None:
    names = [name for name in vars(fixtures) if name.startswith("kafka_")]
    assert sorted(names) == ["kafka_broker", "kafka_broker_config", "kafka_faults", "kafka_topic"]
    assert all(f"| `{name}` |" in PAGE for name in names)


def test_every_fault_is_listed() -> None:
    faults = {name for name in vars(KafkaFaults) if not name.startswith("_")}
    assert {name for name in faults - {"undo"} if not is_named(name)} == set()


def test_everything_that_a_broker_thread_offers_is_listed() -> None:
    offered = {name for name in vars(BrokerThread) if not name.startswith("_")} - INNER
    assert {name for name in offered if not is_named(name)} <= {"is_running"}
