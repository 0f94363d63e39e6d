"""OffsetCommit (key 8), versions 2 to 10: remember how far a group has read.

Members of a group commit with its generation; clients that assign partitions themselves commit
with generation -1 and no member id. Answered when the offsets are durable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_broker.errors import ErrorCode
from trio_broker.group.commands import CommitOffsets
from trio_broker.group.offsets import OffsetToCommit
from trio_broker.names import TopicName
from trio_broker.wire.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestTopic,
    OffsetCommitResponse,
    OffsetCommitResponsePartition,
    OffsetCommitResponseTopic,
)

if TYPE_CHECKING:
    from trio_broker.broker.session import Session
    from trio_broker.broker.state import BrokerState
    from trio_broker.broker.topics import RoutedTopic

#: From this version on topics are named by id.
TOPIC_ID_VERSION = 10


async def handle(
    state: BrokerState, session: Session, version: int, request: OffsetCommitRequest
) -> OffsetCommitResponse:
    """Commit every partition that exists; answer a code for each."""
    del session
    codes: dict[tuple[int, int], ErrorCode] = {}
    places: list[tuple[int, int]] = []
    offsets: list[OffsetToCommit] = []
    for topic_index, topic in enumerate(request.topics):
        routed, unknown = _route(state, topic, by_id=version >= TOPIC_ID_VERSION)
        for partition_index, partition in enumerate(topic.partitions):
            place = (topic_index, partition_index)
            if routed is None or routed.replica(partition.partition_index) is None:
                codes[place] = unknown
                continue
            places.append(place)
            offsets.append(
                OffsetToCommit(
                    TopicName(routed.name),
                    partition.partition_index,
                    partition.committed_offset,
                    partition.committed_leader_epoch,
                    partition.committed_metadata,
                    routed.topic_id,
                )
            )
    if offsets:
        results = await state.coordinator.commit(
            CommitOffsets(
                group_id=request.group_id,
                generation=request.generation_id_or_member_epoch,
                member_id=request.member_id,
                group_instance_id=request.group_instance_id,
                offsets=tuple(offsets),
                retention_ms=request.retention_time_ms,
                api_version=version,
            )
        )
        codes.update(zip(places, results, strict=True))
    return OffsetCommitResponse(
        topics=[
            OffsetCommitResponseTopic(
                name=topic.name,
                topic_id=topic.topic_id,
                partitions=[
                    OffsetCommitResponsePartition(
                        partition_index=partition.partition_index,
                        error_code=codes[topic_index, partition_index],
                    )
                    for partition_index, partition in enumerate(topic.partitions)
                ],
            )
            for topic_index, topic in enumerate(request.topics)
        ]
    )


def _route(
    state: BrokerState, topic: OffsetCommitRequestTopic, *, by_id: bool
) -> tuple[RoutedTopic | None, ErrorCode]:
    if by_id:
        routed = state.router.by_id.get(topic.topic_id)
        return routed, (
            ErrorCode.UNKNOWN_TOPIC_ID if routed is None else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        )
    return state.router.by_name.get(topic.name), ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
