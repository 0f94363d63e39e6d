"""Requests that only a broken or hostile client sends: old epochs, and very many elements.

What can be wrong with the requests of each API is in `error_table`.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.broker.admin_calls import (
    delete_records_request,
    epoch_request,
    incremental_request,
    partitions_request,
    producers_request,
    replace_request,
)
from tests.broker.error_table import CLOSES, list_offsets
from tests.broker.harness import fetch_request, make_batch, running
from tests.broker.test_error_table import answered_codes
from trio_broker import BrokerConfig
from trio_broker.wire.messages.alter_configs import AlterConfigsRequest
from trio_broker.wire.messages.create_partitions import CreatePartitionsRequest
from trio_broker.wire.messages.incremental_alter_configs import IncrementalAlterConfigsRequest


async def test_an_old_epoch_is_fenced(wire_config: BrokerConfig) -> None:
    """By every API that carries the epoch of the leader."""
    async with running(wire_config) as run, run.connect() as client:
        await run.broker.create_topic("orders")
        run.replica("orders").leader_epoch = 3
        old = {"current_leader_epoch": 2}
        for request, versions in (
            (epoch_request("orders", 0, current=2), (2, 3, 4)),
            (list_offsets("orders", epoch=2), (4, 6, 11)),
            (fetch_request(partition_arguments=old), (9, 11, 12)),
            (fetch_request(topic=run.topic_id("orders"), partition_arguments=old), (13, 18)),
        ):
            for version in versions:
                answer = await client.call(request, version)
                assert answered_codes(answer) - {0} == {74}, (request, version)


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
            assert answered_codes(answer) - {0} <= {CLOSES, 3, 7, 42}
        assert (await witness.produce(make_batch())).error_code == 0
