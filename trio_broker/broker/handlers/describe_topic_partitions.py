"""DescribeTopicPartitions (key 75), version 0: partitions of topics, page by page (KIP-966).

Topics come sorted by name, also where they are asked for by name. Replicas that could be elected
without being in sync do not exist here: their lists are empty and not null, on which Java's Admin
client fails. What was said of large answers for Metadata holds here too.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import trio

from trio_broker.broker.handlers.topology import NO_OPERATIONS, TOPIC_OPERATIONS, is_online
from trio_broker.broker.large_answers import Described
from trio_broker.errors import ErrorCode
from trio_broker.metadata.image import PartitionState, TopicState
from trio_broker.names import ZERO_TOPIC_ID, TopicName, topic_name_fault
from trio_broker.wire.messages.describe_topic_partitions import (
    Cursor,
    DescribeTopicPartitionsRequest,
    DescribeTopicPartitionsResponse,
    DescribeTopicPartitionsResponsePartition,
    DescribeTopicPartitionsResponseTopic,
    NextCursor,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from trio_broker.broker.session import Session
    from trio_broker.broker.state import BrokerState
    from trio_broker.broker.topics import RoutedTopic

#: Most partitions in one answer (Kafka: max.request.partition.size.limit).
PARTITIONS_MAX = 2000


async def handle(
    state: BrokerState, session: Session, version: int, request: DescribeTopicPartitionsRequest
) -> DescribeTopicPartitionsResponse:
    """Describe topics from the cursor on, until the limit of partitions is reached."""
    del session, version
    await trio.lowlevel.checkpoint()
    asked = {topic.name for topic in request.topics}
    cursor = request.cursor
    if cursor is not None and (
        cursor.partition_index < 0 or (asked and cursor.topic_name not in asked)
    ):
        return DescribeTopicPartitionsResponse(
            topics=[_failed(name, ErrorCode.INVALID_REQUEST) for name in sorted(asked)]
        )
    names = asked or state.controller.image.topics_by_name.keys()
    limit = max(1, min(PARTITIONS_MAX, request.response_partition_limit))
    return _page(state, names, cursor, limit, are_asked=bool(asked))


def _page(
    state: BrokerState,
    names: Collection[str],
    cursor: Cursor | None,
    limit: int,
    *,
    are_asked: bool,
) -> DescribeTopicPartitionsResponse:
    topics: list[DescribeTopicPartitionsResponseTopic] = []
    from_name = "" if cursor is None else cursor.topic_name
    for name in sorted(name for name in names if name >= from_name):
        if limit == 0:
            next_cursor = NextCursor(topic_name=name, partition_index=0)
            return DescribeTopicPartitionsResponse(topics=topics, next_cursor=next_cursor)
        topic = state.controller.image.topics_by_name.get(TopicName(name))
        if topic is None:
            if are_asked:
                code = (
                    ErrorCode.INVALID_TOPIC_EXCEPTION
                    if topic_name_fault(name)
                    else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
                )
                topics.append(_failed(name, code))
            continue
        first = cursor.partition_index if cursor is not None and name == from_name else 0
        partitions = topic.partitions[first : first + limit]
        topics.append(_describe(state, topic, partitions))
        if first + len(partitions) < len(topic.partitions):
            next_cursor = NextCursor(topic_name=name, partition_index=first + len(partitions))
            return DescribeTopicPartitionsResponse(topics=topics, next_cursor=next_cursor)
        limit -= len(partitions)
    return DescribeTopicPartitionsResponse(topics=topics)


def _failed(name: str, code: ErrorCode) -> DescribeTopicPartitionsResponseTopic:
    return DescribeTopicPartitionsResponseTopic(
        error_code=code,
        name=name,
        topic_id=ZERO_TOPIC_ID,
        partitions=(),
        topic_authorized_operations=NO_OPERATIONS,
    )


def _describe(
    state: BrokerState, topic: TopicState, partitions: Sequence[PartitionState]
) -> DescribeTopicPartitionsResponseTopic:
    describe = partial(_describe_partition, state.router.by_id.get(topic.topic_id))
    return DescribeTopicPartitionsResponseTopic(
        error_code=ErrorCode.NONE,
        name=topic.name,
        topic_id=topic.topic_id,
        is_internal=topic.is_internal,
        partitions=Described(partitions, describe),
        topic_authorized_operations=TOPIC_OPERATIONS,
    )


def _describe_partition(
    routed: RoutedTopic | None, partition: PartitionState
) -> DescribeTopicPartitionsResponsePartition:
    replica_ids = partition.replica_ids
    online = is_online(routed, partition.partition)
    return DescribeTopicPartitionsResponsePartition(
        error_code=ErrorCode.NONE if online else ErrorCode.LEADER_NOT_AVAILABLE,
        partition_index=partition.partition,
        leader_id=partition.leader,
        leader_epoch=partition.leader_epoch,
        replica_nodes=replica_ids,
        isr_nodes=partition.isr_ids,
        eligible_leader_replicas=(),
        last_known_elr=(),
        offline_replicas=() if online else replica_ids,
    )
