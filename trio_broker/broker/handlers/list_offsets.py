"""ListOffsets (key 2), versions 1 to 11: offsets by timestamp, and the ends of the log.

By timestamp the exact record is answered where its batch is not compressed or the codec's library
is installed; otherwise the batch's first offset, so that nothing at or after that time is missed.
Compressed batches are unfolded off the event loop and up to a bound, of bytes and of records.
"""

from __future__ import annotations

import logging
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import trio

from trio_broker.broker.large_answers import ITEMS_PER_PIECE
from trio_broker.errors import CodecUnavailable, CorruptRecords, ErrorCode, StorageError
from trio_broker.records.iterate import first_record_at
from trio_broker.wire.messages.list_offsets import (
    ListOffsetsPartition,
    ListOffsetsPartitionResponse,
    ListOffsetsRequest,
    ListOffsetsResponse,
    ListOffsetsTopic,
    ListOffsetsTopicResponse,
)

if TYPE_CHECKING:
    from trio_broker.broker.replica import Replica
    from trio_broker.broker.session import Session
    from trio_broker.broker.state import BrokerState
    from trio_broker.host.interface import Job
    from trio_broker.storage.log import TimestampedOffset

logger = logging.getLogger("trio_broker.list_offsets")

# Timestamps with a meaning of their own (org.apache.kafka.common.requests.ListOffsetsRequest).
LATEST = -1
EARLIEST = -2
MAX_TIMESTAMP = -3
EARLIEST_LOCAL = -4
LATEST_TIERED = -5
EARLIEST_PENDING_UPLOAD = -6
#: First version in which each of them is known.
_SINCE = {
    LATEST: 1,
    EARLIEST: 1,
    MAX_TIMESTAMP: 7,
    EARLIEST_LOCAL: 8,
    LATEST_TIERED: 9,
    EARLIEST_PENDING_UPLOAD: 11,
}
READ_COMMITTED = 1
#: Most bytes that a batch may unfold to while its records are looked through.
BATCH_BYTES_MAX = 64 * 1024 * 1024
#: Most records that a batch may have for them to be looked through, which takes a tenth of a second
#: of the thread that also writes. A batch of 6 KB can hold ten million.
BATCH_RECORDS_MAX = 200_000


class Position(NamedTuple):
    """An answer; offset -1 if there is none."""

    timestamp_ms: int = -1
    offset: int = -1
    leader_epoch: int = -1


async def handle(
    state: BrokerState, session: Session, version: int, request: ListOffsetsRequest
) -> ListOffsetsResponse:
    """Answer one offset per partition."""
    del session
    await trio.lowlevel.checkpoint()
    appearances = Counter(
        (topic.name, partition.partition_index)
        for topic in request.topics
        for partition in topic.partitions
    )
    topics = []
    for topic in request.topics:
        answers: list[ListOffsetsPartitionResponse] = []
        for wanted in topic.partitions:
            if len(answers) % ITEMS_PER_PIECE == ITEMS_PER_PIECE - 1:
                await state.large_answers.pause()
            if appearances[topic.name, wanted.partition_index] > 1:
                answers.append(_failed(wanted, ErrorCode.INVALID_REQUEST))
            else:
                answers.append(await _answer(state, version, request, topic, wanted))
        topics.append(ListOffsetsTopicResponse(name=topic.name, partitions=answers))
    return ListOffsetsResponse(topics=topics)


def _failed(wanted: ListOffsetsPartition, code: ErrorCode) -> ListOffsetsPartitionResponse:
    return ListOffsetsPartitionResponse(partition_index=wanted.partition_index, error_code=code)


async def _answer(
    state: BrokerState,
    version: int,
    request: ListOffsetsRequest,
    topic: ListOffsetsTopic,
    wanted: ListOffsetsPartition,
) -> ListOffsetsPartitionResponse:
    routed = state.router.by_name.get(topic.name)
    replica = routed.replica(wanted.partition_index) if routed is not None else None
    if replica is None:
        return _failed(wanted, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
    fault = replica.refusal or replica.epoch_fault(wanted.current_leader_epoch)
    if fault:
        return _failed(wanted, fault)
    if wanted.timestamp < 0 and version < _SINCE.get(wanted.timestamp, version + 1):
        return _failed(wanted, ErrorCode.UNSUPPORTED_VERSION)
    committed = request.isolation_level == READ_COMMITTED
    upper_offset = replica.last_stable_offset if committed else replica.high_watermark
    try:
        position = await _find(state, replica, wanted.timestamp, upper_offset)
    except (StorageError, OSError) as error:
        what = f"{replica!r}: looking for timestamp {wanted.timestamp}: {error}"
        state.paced(logger).log(logging.ERROR, "read", what)
        return _failed(wanted, replica.refusal or ErrorCode.KAFKA_STORAGE_ERROR)
    return ListOffsetsPartitionResponse(
        partition_index=wanted.partition_index,
        error_code=ErrorCode.NONE,
        timestamp=position.timestamp_ms,
        offset=position.offset,
        leader_epoch=position.leader_epoch,
    )


async def _find(
    state: BrokerState, replica: Replica, timestamp_ms: int, upper_offset: int
) -> Position:
    log = replica.log
    if timestamp_ms == LATEST:
        return Position(offset=upper_offset, leader_epoch=replica.leader_epoch)
    if timestamp_ms in {EARLIEST, EARLIEST_LOCAL}:
        start = log.log_start_offset
        return Position(offset=start, leader_epoch=log.epochs.epoch_at(start))
    if timestamp_ms in {LATEST_TIERED, EARLIEST_PENDING_UPLOAD}:
        return Position()  # nothing is ever tiered
    if timestamp_ms == MAX_TIMESTAMP:
        timestamp_ms = log.max_timestamp
        if timestamp_ms < 0:
            return Position()
    from_offset = log.log_start_offset
    search = log.offset_by_timestamp_job(
        timestamp_ms, from_offset=from_offset, upper_offset=upper_offset
    )
    state.large_answers.done()
    return await replica.shard.read(_search_job(search, timestamp_ms, from_offset))


def _search_job(
    search: Job[TimestampedOffset | None], timestamp_ms: int, from_offset: int
) -> Job[Position]:
    """Find the first batch that reaches `timestamp_ms`, and in it the first record that does.

    Args:
        search: finds the batch; made on the event loop, which the log belongs to.
        timestamp_ms: what to look for.
        from_offset: no answer may lie below it.
    """
    found = yield from search
    if found is None:
        return Position()
    epoch = found.header.leader_epoch
    if found.header.record_count > BATCH_RECORDS_MAX:
        return Position(found.timestamp_ms, max(found.offset, from_offset), epoch)
    unfold = partial(first_record_at, found.batch, timestamp_ms, bytes_max=BATCH_BYTES_MAX)
    try:
        record = yield unfold, ()
    except (CorruptRecords, CodecUnavailable) as error:
        logger.debug("answering with the batch at offset %d: %s", found.offset, error)
        record = None
    if record is None:
        return Position(found.timestamp_ms, max(found.offset, from_offset), epoch)
    return Position(record.timestamp_ms, max(record.offset, from_offset), epoch)
