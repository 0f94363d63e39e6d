"""DescribeProducers (key 61), version 0: which idempotent producers a partition remembers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trio_broker.broker.large_answers import Described
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
    from collections.abc import Generator

    from trio_broker.broker.session import Session
    from trio_broker.broker.state import BrokerState
    from trio_broker.replication.producer_state import ProducerEntry

#: There are no transactions, and so no coordinator that had an epoch, and none is open.
_NO_COORDINATOR_EPOCH = -1
_NO_TRANSACTION = -1
#: Each may remember thousands of producers.
_PARTITIONS_PER_PIECE = 10


async def handle(
    state: BrokerState, session: Session, version: int, request: DescribeProducersRequest
) -> DescribeProducersResponse:
    """List the producers of each partition, once however often it is named."""
    del session, version
    await trio.lowlevel.checkpoint()
    answering = _answer_all(state, request)
    topics = await state.large_answers.make(answering, yields_per_piece=_PARTITIONS_PER_PIECE)
    return DescribeProducersResponse(topics=topics)


def _answer_all(
    state: BrokerState, request: DescribeProducersRequest
) -> Generator[None, None, list[TopicResponse]]:
    described: set[tuple[str, int]] = set()
    topics = []
    for topic in request.topics:
        partitions = []
        for index in topic.partition_indexes:
            if (topic.name, index) not in described:
                described.add((topic.name, index))
                partitions.append(_describe(state, topic.name, index))
            yield
        topics.append(TopicResponse(name=topic.name, partitions=partitions))
        yield
    return topics


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
        active_producers=Described(list(replica.log.producers.items()), _describe_producer),
    )


def _describe_producer(producer: tuple[int, ProducerEntry]) -> ProducerState:
    producer_id, entry = producer
    return ProducerState(
        producer_id=producer_id,
        producer_epoch=entry.epoch,
        last_sequence=entry.last_sequence,
        last_timestamp=entry.last_update_ms,
        coordinator_epoch=_NO_COORDINATOR_EPOCH,
        current_txn_start_offset=_NO_TRANSACTION,
    )
