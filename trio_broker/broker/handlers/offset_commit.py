"""OffsetCommit (key 8), versions 2 to 10: remember how far a group has read.

Members of a group commit with its generation; clients that assign partitions themselves commit
with generation -1 and no member id. Answered when the offsets are durable. However many there are,
they are decided about at one moment, and are there together or not at all.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from trio_broker.broker.large_answers import Described
from trio_broker.errors import ErrorCode
from trio_broker.group.commands import TOPIC_ID_VERSION, CommitOffsets
from trio_broker.group.offsets import OffsetToCommit
from trio_broker.wire.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitResponse,
    OffsetCommitResponsePartition,
    OffsetCommitResponseTopic,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from trio_broker.broker.session import Session
    from trio_broker.broker.state import BrokerState

#: Codes of the partitions of a topic, and which of them.
_Place: TypeAlias = "tuple[list[ErrorCode], int]"


async def handle(
    state: BrokerState, session: Session, version: int, request: OffsetCommitRequest
) -> OffsetCommitResponse:
    """Commit every partition that exists; answer a code for each."""
    del session
    codes, places, offsets = await state.large_answers.collect(_collect(state, version, request))
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
        for (topic_codes, index), code in zip(places, results, strict=True):
            topic_codes[index] = code
    return OffsetCommitResponse(
        topics=[
            OffsetCommitResponseTopic(
                name=topic.name,
                topic_id=topic.topic_id,
                partitions=Described(
                    range(len(topic.partitions)), partial(_describe, topic.partitions, topic_codes)
                ),
            )
            for topic, topic_codes in zip(request.topics, codes, strict=True)
        ]
    )


def _collect(
    state: BrokerState, version: int, request: OffsetCommitRequest
) -> Generator[None, None, tuple[list[list[ErrorCode]], list[_Place], list[OffsetToCommit]]]:
    """Look for each partition; return codes by topic, and what is to be committed where.

    The codes are those of partitions that do not exist; all others get theirs later.
    """
    codes: list[list[ErrorCode]] = []
    places: list[_Place] = []
    offsets: list[OffsetToCommit] = []
    by_id = version >= TOPIC_ID_VERSION
    for topic in request.topics:
        router = state.router
        routed = router.by_id.get(topic.topic_id) if by_id else router.by_name.get(topic.name)
        topic_codes: list[ErrorCode] = []
        codes.append(topic_codes)
        for index, partition in enumerate(topic.partitions):
            # A topic may be deleted between two partitions.
            is_known = routed is not None and routed.routable
            topic_codes.append(
                ErrorCode.UNKNOWN_TOPIC_ID
                if by_id and not is_known
                else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
            )
            if routed is not None and routed.replica(partition.partition_index) is not None:
                places.append((topic_codes, index))
                offsets.append(
                    OffsetToCommit(
                        routed.name,
                        partition.partition_index,
                        partition.committed_offset,
                        partition.committed_leader_epoch,
                        partition.committed_metadata,
                        routed.topic_id,
                    )
                )
            yield
    return codes, places, offsets


def _describe(
    partitions: Sequence[OffsetCommitRequestPartition], codes: Sequence[ErrorCode], index: int
) -> OffsetCommitResponsePartition:
    return OffsetCommitResponsePartition(
        partition_index=partitions[index].partition_index, error_code=codes[index]
    )
