"""The page for test authors knows every fixture, every fault, and every public name."""

from __future__ import annotations

import re
from pathlib import Path

from trio_broker import testing
from trio_broker.testing import BrokerThread, KafkaFaults, fixtures

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "test-your-code.md").read_text("utf-8")
CODE = " ".join(re.findall(r"```.*?```|`[^`]+`", PAGE, re.DOTALL))
#: For the broker's own parts, not for tests.
INNER = {"begin", "end", "start_in_thread", "stop_in_thread", "broker", "running_broker"}


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
