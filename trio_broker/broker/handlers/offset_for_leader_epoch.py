"""OffsetForLeaderEpoch (key 23), versions 2 to 4: where a leader epoch ended (KIP-101, KIP-320).

Clients that have read up to an offset in some epoch find out whether what they have read is still
there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trio_broker.errors import ErrorCode
from trio_broker.wire.messages.offset_for_leader_epoch import (
    EpochEndOffset,
    OffsetForLeaderEpochRequest,
    OffsetForLeaderEpochResponse,
    OffsetForLeaderPartition,
    OffsetForLeaderTopicResult,
)

if TYPE_CHECKING:
    from collections.abc import Generator

    from trio_broker.broker.session import Session
    from trio_broker.broker.state import BrokerState


async def handle(
    state: BrokerState, session: Session, version: int, request: OffsetForLeaderEpochRequest
) -> OffsetForLeaderEpochResponse:
    """Answer the end of the largest epoch that is not above the one asked for."""
    del session, version
    await trio.lowlevel.checkpoint()
    topics = await state.large_answers.collect(_answer_all(state, request))
    return OffsetForLeaderEpochResponse(topics=topics)


def _answer_all(
    state: BrokerState, request: OffsetForLeaderEpochRequest
) -> Generator[None, None, list[OffsetForLeaderTopicResult]]:
    topics = []
    for topic in request.topics:
        partitions = []
        for wanted in topic.partitions:
            partitions.append(_answer(state, topic.topic, wanted))
            yield
        topics.append(OffsetForLeaderTopicResult(topic=topic.topic, partitions=partitions))
    return topics


def _answer(state: BrokerState, topic: str, wanted: OffsetForLeaderPartition) -> EpochEndOffset:
    routed = state.router.by_name.get(topic)
    replica = routed.replica(wanted.partition) if routed is not None else None
    if replica is None:
        code = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        return EpochEndOffset(error_code=code, partition=wanted.partition)
    fault = replica.refusal or replica.epoch_fault(wanted.current_leader_epoch)
    if fault:
        return EpochEndOffset(error_code=fault, partition=wanted.partition)
    end = replica.epoch_end(wanted.leader_epoch)
    return EpochEndOffset(
        error_code=ErrorCode.NONE,
        partition=wanted.partition,
        leader_epoch=end.epoch,
        end_offset=end.end_offset,
    )
