"""Client commands while something is wrong with the broker: they show it, and do not hang."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.cli.commands import Commands, check_shape
from tests.support.waiting import wait_until
from trio_broker.testing import BrokerThread, broker_thread

PATIENCE_SECONDS = 30


@pytest.fixture
def broker() -> Iterator[BrokerThread]:
    with broker_thread() as broker:
        broker.create_topic("orders", partitions=3)
        for number in range(5):
            broker.produce("orders", b"%d" % number, key=b"k", partition=0)
        yield broker


@pytest.fixture
def commands(broker: BrokerThread) -> Commands:
    return Commands(broker.bootstrap)


def wait_for(condition: Callable[[], object], what: str) -> None:
    wait_until(condition, seconds=PATIENCE_SECONDS, what=what)


def test_what_is_offline_is_shown_by_every_command(
    broker: BrokerThread, commands: Commands
) -> None:
    commands.call("consume", "orders", "-G", "readers", "-p", "0", "-n", "2", code=2)
    commands.call("consume", "orders", "-G", "readers", "-n", "2")

    def while_offline(*arguments: str, code: int, shows: Callable[[Any], bool]) -> Any:
        """Run a command just after a write has failed: the partition soon tries again."""
        found: list[Any] = []

        def look() -> bool:
            broker_refuses(commands)
            outcome = commands.call(*arguments, "-O", "json", code=None)
            found[:] = [outcome.json]
            return outcome.code == code and shows(outcome.json)

        wait_for(look, f"{arguments} to show it")
        return found[0]

    with broker.faults.disk_broken():
        value = while_offline(
            "cluster", "health", code=4, shows=lambda value: value["offline_partitions"]
        )
        check_shape("cluster health", value)
        assert "orders-0 is offline" in value["reasons"]
        value = while_offline(
            "topic", "describe", "orders", code=0, shows=lambda v: v["partitions"][0]["error"]
        )
        check_shape("topic describe", value)
        broken = value["partitions"][0]
        assert (broken["error"], broken["end_offset"]) == ("LEADER_NOT_AVAILABLE", None)
        value = while_offline(
            "group", "describe", "readers", code=0, shows=lambda v: v["offsets"][0]["lag"] is None
        )
        check_shape("group describe", value)
    commands.call("cluster", "health", "--wait", "--timeout", "30")
    records = commands.call("consume", "orders", "-e", "-p", "0").stdout.split()
    assert records[:5] == ["0", "1", "2", "3", "4"]


def broker_refuses(commands: Commands) -> None:
    refused = commands.call(
        *("produce", "orders", "-p", "0", "--acks", "1", "--timeout", "0.3"), given=b"5\n", code=1
    )
    # What it answered, or that it leads nothing any more.
    assert re.search("KAFKA_STORAGE_ERROR|LEADER_NOT_AVAILABLE", refused.stderr)


def test_a_full_disk_is_told_by_the_line_that_met_it(
    broker: BrokerThread, commands: Commands
) -> None:
    with broker.faults.disk_full():
        refused = commands.call("produce", "orders", "--timeout", "1", given=b"5\n", code=1)
        assert "stdin, record 1: " in refused.stderr
        assert "KAFKA_STORAGE_ERROR" in refused.stderr
        outcome = commands.call("cluster", "health", code=4)
        assert "takes no records" in outcome.stdout
        assert "delete records or topics, shorten their retention" in outcome.stdout
        assert commands.call("consume", "orders", "-e").stdout == "0\n1\n2\n3\n4\n"
    commands.call("cluster", "health", "--wait", "--timeout", "30")
    commands.call("produce", "orders", given=b"5\n")


def test_what_retention_took_is_told_with_its_reason(
    broker: BrokerThread, commands: Commands
) -> None:
    commands.call("topic", "alter", "orders", "-s", "retention.ms=7d")
    broker.faults.travel(days=8)

    def sentences() -> str:
        return " ".join(commands.json("topic", "describe", "orders")["retention"])

    wait_for(lambda: "by age" in sentences(), "retention to be told")
    assert "Segments deleted since the broker started: 1 (" in sentences()
    [row, *_] = commands.json("topic", "describe", "orders")["partitions"]
    assert (row["start_offset"], row["end_offset"], row["records"]) == (5, 5, 0)


def test_what_is_worth_a_retry_is_retried(broker: BrokerThread, commands: Commands) -> None:
    faults = (
        broker.faults.error("CreateTopics", "NOT_CONTROLLER"),
        broker.faults.error("ListOffsets", "NOT_LEADER_OR_FOLLOWER"),
        broker.faults.error("Produce", "NOT_LEADER_OR_FOLLOWER"),
        broker.faults.lose_request("Fetch"),
        broker.faults.error("OffsetFetch", "NOT_COORDINATOR"),
    )
    commands.call("topic", "create", "others")
    commands.call("produce", "others", given=b"1\n2\n")
    assert commands.call("consume", "others", "-e").stdout == "1\n2\n"
    commands.call("consume", "others", "-G", "readers", "-n", "2")
    assert commands.json("group", "describe", "readers")["lag"] == 0
    assert [fault.met for fault in faults] == [1] * len(faults)


def test_a_change_whose_answer_was_lost_is_told_as_it_is(
    broker: BrokerThread, commands: Commands
) -> None:
    """The second attempt finds what the first one did."""
    broker.faults.lose_reply("DeleteTopics")
    outcome = commands.call("topic", "delete", "orders", "-y", code=1)
    assert "UNKNOWN_TOPIC_OR_PARTITION" in outcome.stderr
    assert "orders" not in commands.call("topic", "list").stdout


def test_a_broker_that_does_not_answer_ends_it_with_4(
    broker: BrokerThread, commands: Commands
) -> None:
    with broker.faults.delay("CreateTopics"):
        outcome = commands.call("topic", "create", "late", "--timeout", "1", code=4)
    assert "has not answered" in outcome.stderr
