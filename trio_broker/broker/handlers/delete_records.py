"""DeleteRecords (key 21), versions 0 to 2: drop what lies below an offset (KIP-107).

Answered when a restart would not bring the records back. Whole segments below the offset are given
back at once, the rest of a segment when all of it may go. Partitions that are not done within the
timeout are answered with REQUEST_TIMED_OUT; disk work that has begun is finished first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trio_broker.broker.large_answers import ITEMS_PER_PIECE
from trio_broker.errors import ErrorCode
from trio_broker.wire.messages.delete_records import (
    DeleteRecordsPartition,
    DeleteRecordsPartitionResult,
    DeleteRecordsRequest,
    DeleteRecordsResponse,
    DeleteRecordsTopicResult,
)

if TYPE_CHECKING:
    from trio_broker.broker.session import Session
    from trio_broker.broker.state import BrokerState
    from trio_broker.broker.topics import RoutedTopic

#: Instead of an offset: everything that can be read now.
HIGH_WATERMARK = -1
_NO_OFFSET = -1


async def handle(
    state: BrokerState, session: Session, version: int, request: DeleteRecordsRequest
) -> DeleteRecordsResponse:
    """Move the log start offsets up, one partition after the other.

    Cancellation: each partition is as before, or its records are gone.
    """
    del session, version
    await trio.lowlevel.checkpoint()
    deadline = trio.current_time() + request.timeout_ms / 1000
    topics = []
    asked = 0
    for topic in request.topics:
        routed = state.router.by_name.get(topic.name)
        results = []
        for wanted in topic.partitions:
            result = _failed(wanted, ErrorCode.REQUEST_TIMED_OUT)
            with trio.move_on_at(deadline):
                result = await _delete(routed, wanted)
            results.append(result)
            asked += 1
            if asked % ITEMS_PER_PIECE == 0:  # where nothing is to be deleted, nobody waits
                await trio.lowlevel.checkpoint()
        topics.append(DeleteRecordsTopicResult(name=topic.name, partitions=results))
    return DeleteRecordsResponse(topics=topics)


def _failed(wanted: DeleteRecordsPartition, code: ErrorCode) -> DeleteRecordsPartitionResult:
    return DeleteRecordsPartitionResult(
        partition_index=wanted.partition_index, low_watermark=_NO_OFFSET, error_code=code
    )


async def _delete(
    routed: RoutedTopic | None, wanted: DeleteRecordsPartition
) -> DeleteRecordsPartitionResult:
    replica = routed.replica(wanted.partition_index) if routed is not None else None
    if routed is not None and routed.is_internal:
        return _failed(wanted, ErrorCode.INVALID_TOPIC_EXCEPTION)
    if replica is None:
        return _failed(wanted, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
    if replica.refusal:
        return _failed(wanted, replica.refusal)
    offset = replica.high_watermark if wanted.offset == HIGH_WATERMARK else wanted.offset
    if not 0 <= offset <= replica.high_watermark:
        return _failed(wanted, ErrorCode.OFFSET_OUT_OF_RANGE)
    start = replica.log.log_start_offset
    if offset > start or replica.log.checkpoint_due:
        # Also if an earlier request has moved it, and the disk would not take that.
        if not await replica.shard.advance_start_offset(replica, offset):
            return _failed(wanted, replica.refusal or ErrorCode.KAFKA_STORAGE_ERROR)
        start = max(start, offset)
    return DeleteRecordsPartitionResult(
        partition_index=wanted.partition_index, low_watermark=start, error_code=ErrorCode.NONE
    )
