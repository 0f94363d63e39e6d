"""DescribeProducers (key 61), version 0: which idempotent producers a partition remembers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trio_broker.errors import ErrorCode
from trio_broker.names import topic_name_fault
from trio_broker.wire.messages.describe_producers import (
    DescribeProducersRequest,
    DescribeProducersResponse,
    PartitionResponse,
    ProducerState,
    TopicResponse,
)

if TYPE_CHECKING:
    from trio_broker.broker.session import Session
    from trio_broker.broker.state import BrokerState

#: There are no transactions, and so no coordinator that had an epoch, and none is open.
_NO_COORDINATOR_EPOCH = -1
_NO_TRANSACTION = -1


async def handle(
    state: BrokerState, session: Session, version: int, request: DescribeProducersRequest
) -> DescribeProducersResponse:
    """List the producers of each partition, once however often it is named."""
    del session, version
    await trio.lowlevel.checkpoint()
    described: set[tuple[str, int]] = set()
    topics = []
    for topic in request.topics:
        partitions = []
        for index in topic.partition_indexes:
            if (topic.name, index) not in described:
                described.add((topic.name, index))
                partitions.append(_describe(state, topic.name, index))
        topics.append(TopicResponse(name=topic.name, partitions=partitions))
        await trio.lowlevel.checkpoint()
    return DescribeProducersResponse(topics=topics)


def _describe(state: BrokerState, topic: str, partition: int) -> PartitionResponse:
    routed = state.router.by_name.get(topic)
    replica = routed.replica(partition) if routed is not None else None
    if replica is None:
        fault = topic_name_fault(topic)
        return PartitionResponse(
            partition_index=partition,
            error_code=ErrorCode.INVALID_TOPIC_EXCEPTION
            if fault
            else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
            error_message=fault,
            active_producers=(),
        )
    if replica.refusal:
        return PartitionResponse(
            partition_index=partition,
            error_code=replica.refusal,
            error_message=replica.cause or None,
            active_producers=(),
        )
    return PartitionResponse(
        partition_index=partition,
        error_code=ErrorCode.NONE,
        active_producers=[
            ProducerState(
                producer_id=producer_id,
                producer_epoch=entry.epoch,
                last_sequence=entry.last_sequence,
                last_timestamp=entry.last_update_ms,
                coordinator_epoch=_NO_COORDINATOR_EPOCH,
                current_txn_start_offset=_NO_TRANSACTION,
            )
            for producer_id, entry in replica.log.producers.items()
        ],
    )
