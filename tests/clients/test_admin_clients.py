"""The admin APIs with each library that has an admin client, at its default settings."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import pytest

from tests.clients.conftest import Target
from tests.clients.worker import ADMINS, Worker
from tests.support.waiting import pause
from trio_broker.config_catalog import TOPIC_CONFIGS, Treatment
from trio_broker.errors import ErrorCode

pytestmark = pytest.mark.slow

Workers = Callable[[str], Worker]
_numbers = itertools.count()
SECONDS = 20


@pytest.fixture(params=ADMINS)
def admin(request: pytest.FixtureRequest, workers: Workers) -> Worker:
    return workers(request.param)


@pytest.fixture
def topic(admin: Worker, target: Target) -> str:
    """A topic with two partitions that this library has created with configs."""
    name = f"{admin.client}.{next(_numbers)}.{time.time_ns()}"
    configs = {"retention.ms": "3600000", "segment.bytes": "2097152"}
    admin.call("create_topic", name, 2, configs)
    settle(target)
    return name


def settle(target: Target) -> None:
    """Apache Kafka answers before its brokers know of a change."""
    if target.data_dir is None:
        pause(0.5)


def values(admin: Worker, topic: str) -> dict[str, str]:
    """Return the configs of a topic that are not defaults."""
    return {
        name: value
        for name, (value, is_default, _) in admin.call("configs", topic).items()
        if not is_default and name != "min.insync.replicas"  # Apache Kafka sets it itself
    }


def produce(workers: Workers, topic: str, count: int = 100) -> None:
    workers("confluent").produce(topic, "r", count, time.time_ns() // 1_000_000)


def test_configs_are_described_in_full(admin: Worker, topic: str, target: Target) -> None:
    found = admin.call("configs", topic)
    assert values(admin, topic) == {"retention.ms": "3600000", "segment.bytes": "2097152"}
    assert found["compression.type"] == ["producer", True, False]
    if target.data_dir is not None:
        assert found.keys() == TOPIC_CONFIGS.keys()
        for name, (_, _, read_only) in found.items():
            assert read_only == (TOPIC_CONFIGS[name].treatment is Treatment.FIXED)
    broker = admin.call("broker_configs")
    assert broker["node.id"][0] == "0"
    assert broker["log.retention.ms"][0] in {"604800000", None}


def test_configs_are_altered_and_replaced(admin: Worker, topic: str, target: Target) -> None:
    admin.call("replace_configs", topic, {"retention.ms": "5000", "segment.bytes": "1048576"})
    settle(target)
    assert values(admin, topic) == {"retention.ms": "5000", "segment.bytes": "1048576"}
    admin.call("set_config", topic, "retention.ms", "6000")
    settle(target)
    kept = {} if admin.client == "aiokafka-admin" else {"segment.bytes": "1048576"}
    assert values(admin, topic) == {"retention.ms": "6000"} | kept
    admin.call("replace_configs", topic, {"max.message.bytes": "9000"})
    settle(target)
    assert values(admin, topic) == {"max.message.bytes": "9000"}
    for name, value, code in (
        ("no.such.config", "1", ErrorCode.INVALID_CONFIG),
        ("retention.ms", "soon", ErrorCode.INVALID_CONFIG),
        ("retention.ms", "-5", ErrorCode.INVALID_CONFIG),
    ):
        assert admin.call("code", "set_config", topic, name, value) == code
    missing = f"{topic}.missing"
    assert (
        admin.call("code", "set_config", missing, "retention.ms", "1")
        == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    )
    assert values(admin, topic) == {"max.message.bytes": "9000"}


def test_an_altered_limit_holds_for_the_next_batch(
    admin: Worker, topic: str, workers: Workers, target: Target
) -> None:
    produce(workers, topic)
    admin.call("set_config", topic, "max.message.bytes", "100")
    assert admin.call("configs", topic)["max.message.bytes"][0] == "100"
    settle(target)
    with pytest.raises(AssertionError, match="MSG_SIZE_TOO_LARGE"):
        produce(workers, topic)
    admin.call("set_config", topic, "max.message.bytes", "1048588")
    settle(target)
    produce(workers, topic)


def test_partitions_are_added(admin: Worker, topic: str, workers: Workers) -> None:
    assert admin.call("partitions", topic) == 2
    admin.call("add_partitions", topic, 5)
    assert admin.call("partitions", topic) == 5
    produce(workers, topic, 2000)
    rows = workers("confluent").read(topic, 5)
    assert sum(len(of) for of in rows.values()) == 2000
    assert all(rows[number] for number in range(5))
    for count, code in ((5, ErrorCode.INVALID_PARTITIONS), (3, ErrorCode.INVALID_PARTITIONS)):
        assert admin.call("code", "add_partitions", topic, count) == code
    missing = f"{topic}.missing"
    assert admin.call("code", "add_partitions", missing, 9) == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


def test_records_are_deleted(admin: Worker, topic: str, workers: Workers) -> None:
    produce(workers, topic, 1000)
    before = {number: len(of) for number, of in workers("confluent").read(topic, 2).items()}
    assert admin.call("delete_records", topic, 0, 10) == 10
    assert admin.call("delete_records", topic, 0, 5) == 10
    assert admin.call("delete_records", topic, 1, -1) == before[1]
    rows = workers("confluent").read(topic, 2)
    assert [row.offset for row in rows[0]] == list(range(10, before[0]))
    assert not rows[1]
    code = admin.call("code", "delete_records", topic, 0, before[0] + 1)
    assert code == ErrorCode.OFFSET_OUT_OF_RANGE


def test_lists_are_appended_to(workers: Workers, target: Target) -> None:
    admin = workers("confluent-admin")
    name = f"lists.{time.time_ns()}"
    admin.call("create_topic", name, 1, {})
    key = "leader.replication.throttled.replicas"
    for value, operation, expected in (
        ("0:0", "APPEND", "0:0"),
        ("1:0", "APPEND", "0:0,1:0"),
        ("0:0", "SUBTRACT", "1:0"),
    ):
        admin.call("change_config", name, key, value, operation)
        assert admin.call("configs", name)[key][0] == expected
    admin.call("change_config", name, key, None, "DELETE")
    assert admin.call("configs", name)[key][0] == ""
    if target.data_dir is not None:
        code = admin.call("code", "set_broker_config", "log.retention.ms", "1")
        assert code == ErrorCode.INVALID_CONFIG


def test_what_only_kafka_python_asks(workers: Workers, target: Target) -> None:
    admin = workers("kafka-python-admin")
    name = f"details.{time.time_ns()}"
    admin.call("create_topic", name, 5, {})
    produce(workers, name, 1000)
    rows = admin.call("log_dir_sizes", name)
    assert sorted(row[0] for row in rows) == list(range(5))
    assert sum(row[1] for row in rows) > 1000
    assert all(row[2] >= row[3] > 0 for row in rows)
    assert admin.call("topic_pages", name, 2) == [[0, 1], [2, 3], [4]]
    assert admin.call("topic_pages", name, 5) == [[0, 1, 2, 3, 4]]
    resources = admin.call("resources")
    assert name in resources["topic"]
    assert resources["broker"] == ["0"]
    # confluent-kafka is not idempotent by default, kafka-python is.
    workers("kafka-python").produce(name, "i", 50, time.time_ns() // 1_000_000)
    found = [state for number in range(5) for state in admin.call("producers", name, number)]
    assert found
    assert {epoch for _, epoch, _ in found} == {0}
    assert sum(last + 1 for _, _, last in found) == 50
