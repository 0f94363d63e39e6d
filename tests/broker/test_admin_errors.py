"""The table of admin APIs and what can be wrong with their requests: Kafka's code for each.

Unsupported versions and bytes that are no request are the same for every API that is served, see
`tests.broker.test_apis`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from tests.broker.admin_calls import (
    APPEND,
    SET,
    TOPIC,
    delete_records_request,
    describe_request,
    epoch_request,
    incremental_request,
    log_dirs_request,
    pages_request,
    partitions_request,
    producers_request,
    replace_request,
)
from tests.broker.harness import make_batch, running
from trio_broker import BrokerConfig
from trio_broker.broker.handlers.table import SERVED
from trio_broker.config import LimitsConfig
from trio_broker.group.commands import CommitOffsets
from trio_broker.names import OFFSETS_TOPIC_NAME
from trio_broker.wire.api import ApiKey
from trio_broker.wire.messages.alter_configs import AlterConfigsRequest
from trio_broker.wire.messages.create_partitions import CreatePartitionsRequest
from trio_broker.wire.messages.incremental_alter_configs import IncrementalAlterConfigsRequest
from trio_broker.wire.messages.list_config_resources import ListConfigResourcesRequest


class Case(NamedTuple):
    """A request about the topic "orders", which has one partition with two records in epoch 0."""

    what: str
    request: Any
    code: int
    since: int = 0


def twice(request: Any, field: str) -> Any:
    """Name the same thing twice."""
    return type(request)(
        **{
            name: getattr(request, name) if name != field else [*getattr(request, name)] * 2
            for name in request.__kafka_fields__
        }
    )


LONG = "x" * 250
CASES = {
    ApiKey.CREATE_PARTITIONS: [
        Case("unknown topic", partitions_request("nope", 2), 3),
        Case("a name that is too long", partitions_request(LONG, 2), 3),
        Case("as many as there are", partitions_request("orders", 1), 37),
        Case("fewer than there are", partitions_request("orders", 0), 37),
        Case("a negative number", partitions_request("orders", -7), 37),
        Case("more than a topic may have", partitions_request("orders", 2**31 - 1), 37),
        Case("more than the broker may have", partitions_request("orders", 9), 44),
        Case("too few assignments", partitions_request("orders", 3, assignments=[[0]]), 39),
        Case("an unknown broker", partitions_request("orders", 2, assignments=[[5]]), 39),
        Case("no broker", partitions_request("orders", 2, assignments=[[]]), 39),
        Case("a topic twice", twice(partitions_request("orders", 2), "topics"), 42),
        Case("the broker's own topic", partitions_request(OFFSETS_TOPIC_NAME, 99), 17),
    ],
    ApiKey.ALTER_CONFIGS: [
        Case("unknown topic", replace_request("nope", {}), 3),
        Case("an illegal name", replace_request("a/b", {}), 17),
        Case("no name", replace_request("", {}), 42),
        Case("an unknown config", replace_request("orders", {"nope": "1"}), 40),
        Case("a value of another type", replace_request("orders", {"segment.ms": "x"}), 40),
        Case("a value out of bounds", replace_request("orders", {"segment.ms": "0"}), 40),
        Case("what is not honoured", replace_request("orders", {"preallocate": "true"}), 40),
        Case("compaction", replace_request("orders", {"cleanup.policy": "compact"}), 40),
        Case("null", replace_request("orders", {"segment.ms": None}), 42),
        Case("an unknown type", replace_request("orders", {}, kind=3), 42),
        Case("loggers", replace_request("0", {}, kind=8), 42),
        Case("another broker", replace_request("5", {}, kind=4), 42),
        Case("a resource twice", twice(replace_request("orders", {}), "resources"), 42),
        Case("the broker's own topic", replace_request(OFFSETS_TOPIC_NAME, {}), 40),
    ],
    ApiKey.INCREMENTAL_ALTER_CONFIGS: [
        Case("unknown topic", incremental_request("nope"), 3),
        Case("an illegal name", incremental_request("a/b"), 17),
        Case("no name", incremental_request(""), 42),
        Case("an unknown config", incremental_request("orders", ("nope", SET, "1")), 40),
        Case("another type", incremental_request("orders", ("segment.ms", SET, "x")), 40),
        Case("no list", incremental_request("orders", ("segment.ms", APPEND, "1")), 40),
        Case("an unknown operation", incremental_request("orders", ("segment.ms", 9, "1")), 42),
        Case("null", incremental_request("orders", ("segment.ms", SET, None)), 42),
        Case(
            "a config twice",
            incremental_request("orders", ("segment.ms", SET, "1"), ("segment.ms", SET, "2")),
            42,
        ),
        Case("an unknown type", incremental_request("orders", kind=3), 42),
        Case("another broker", incremental_request("5", kind=4), 42),
        Case("a resource twice", twice(incremental_request("orders"), "resources"), 42),
    ],
    ApiKey.DESCRIBE_CONFIGS: [
        Case("unknown topic", describe_request(TOPIC, "nope"), 3),
        Case("an illegal name", describe_request(TOPIC, "a/b"), 17),
        Case("another broker", describe_request(4, "5"), 42),
        Case("no number", describe_request(4, "x"), 42),
        Case("an unknown type", describe_request(3, "x"), 42),
    ],
    ApiKey.DELETE_RECORDS: [
        Case("unknown topic", delete_records_request("nope", {0: 0}), 3),
        Case("unknown partition", delete_records_request("orders", {1: 0}), 3),
        Case("a negative partition", delete_records_request("orders", {-1: 0}), 3),
        Case("above the end", delete_records_request("orders", {0: 3}), 1),
        Case("a negative offset", delete_records_request("orders", {0: -2}), 1),
        Case("the broker's own topic", delete_records_request(OFFSETS_TOPIC_NAME, {0: 0}), 17),
    ],
    ApiKey.OFFSET_FOR_LEADER_EPOCH: [
        Case("unknown topic", epoch_request("nope", 0), 3),
        Case("unknown partition", epoch_request("orders", 0, partition=1), 3),
        Case("a newer epoch than ours", epoch_request("orders", 0, current=1), 75),
    ],
    ApiKey.DESCRIBE_LOG_DIRS: [
        Case("unknown topic", log_dirs_request({"nope": [0]}), 0),  # left out of the answer
    ],
    ApiKey.DESCRIBE_PRODUCERS: [
        Case("unknown topic", producers_request("nope", 0), 3),
        Case("unknown partition", producers_request("orders", 1), 3),
        Case("an illegal name", producers_request("a/b", 0), 17),
    ],
    ApiKey.DESCRIBE_TOPIC_PARTITIONS: [
        Case("unknown topic", pages_request("nope"), 3),
        Case("an illegal name", pages_request("a/b"), 17),
        Case("a cursor elsewhere", pages_request("orders", cursor=("nope", 0)), 42),
        Case("a negative cursor", pages_request("orders", cursor=("orders", -1)), 42),
    ],
    ApiKey.LIST_CONFIG_RESOURCES: [
        Case("an unknown type", ListConfigResourcesRequest(resource_types=[99]), 35, since=1),
    ],
}


def answered_codes(response: Any) -> set[int]:
    """Return every code that is anywhere in a response, but that of success."""
    found: set[int] = set()

    def look(value: Any) -> None:
        if isinstance(value, list | tuple):
            for one in value:
                look(one)
        elif hasattr(value, "__kafka_fields__"):
            for name in value.__kafka_fields__:
                if name == "error_code":
                    found.add(int(value.error_code))
                else:
                    look(getattr(value, name))

    look(response)
    return found


@pytest.mark.parametrize("key", CASES, ids=lambda key: key.name)
async def test_what_is_wrong_has_kafkas_code(wire_config: BrokerConfig, key: ApiKey) -> None:
    limits = LimitsConfig(partitions_max=8, partitions_per_topic_max=100)
    async with running(wire_config.with_values(limits=limits)) as run, run.connect() as client:
        await run.broker.create_topic("orders")
        await client.produce(make_batch(b"1", b"2"))
        await run.state.coordinator.commit(CommitOffsets(group_id="g", offsets=()))
        image = run.state.controller.image
        for case in CASES[key]:
            for version in (max(SERVED[key].min_version, case.since), SERVED[key].max_version):
                codes = answered_codes(await client.call(case.request, version))
                assert codes - {0} == {case.code} - {0}, (case.what, version)
        assert run.state.controller.image is image  # a refusal changes nothing
        assert (await client.produce(make_batch())).error_code == 0


async def test_an_old_epoch_is_fenced(wire_config: BrokerConfig) -> None:
    async with running(wire_config) as run, run.connect() as client:
        await run.broker.create_topic("orders")
        run.replica("orders").leader_epoch = 3
        for version in (2, 3, 4):
            answer = await client.call(epoch_request("orders", 0, current=2), version)
            assert answered_codes(answer) == {74}


@pytest.mark.parametrize(
    "request_",
    [
        CreatePartitionsRequest(
            topics=[topic for _ in range(20_000) for topic in partitions_request("", 1).topics],
            timeout_ms=1,
            validate_only=False,
        ),
        AlterConfigsRequest(
            resources=[one for _ in range(20_000) for one in replace_request("", {}).resources],
            validate_only=False,
        ),
        IncrementalAlterConfigsRequest(
            resources=[one for _ in range(20_000) for one in incremental_request("").resources],
            validate_only=False,
        ),
        delete_records_request("orders", dict.fromkeys(range(20_000), 0)),
        producers_request("orders", *range(100_000)),
    ],
    ids=lambda request: type(request).__name__,
)
async def test_requests_with_very_many_elements_cost_their_connection_only(
    wire_config: BrokerConfig, request_: Any
) -> None:
    """They are answered, or refused for having more elements than their size allows."""
    async with running(wire_config) as run, run.connect() as witness:
        await run.broker.create_topic("orders")
        async with run.connect() as client:
            answer = await client.call(request_)
            assert answer is None or answered_codes(answer) - {0} <= {3, 7, 42}
        assert (await witness.produce(make_batch())).error_code == 0
