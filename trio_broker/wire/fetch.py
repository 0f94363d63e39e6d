"""Hot path of Fetch: requests are walked with struct offsets, responses leave records untouched.

The same bytes as the declared messages of `trio_broker.wire.messages.fetch` (a test compares
them). A response is a list of buffers for one vectored send: packed fields between the buffers of
records that storage read.
"""

from __future__ import annotations

import struct
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from trio_broker.errors import ProtocolError
from trio_broker.names import ZERO_TOPIC_ID
from trio_broker.wire.primitives import (
    STRING_BYTES_MAX,
    element_budget,
    encode_compact_string,
    encode_string,
    encode_unsigned_varint,
    fail_budget,
    fail_end,
    fail_length,
    read_id,
    read_int16,
    read_int32,
    read_long_varint,
    read_unsigned_varint,
    skip_tagged_fields,
    uuid_from_bytes,
)
from trio_broker.wire.produce import encode_node_endpoints_tag

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from trio_broker.wire.buffers import Buffer
    from trio_broker.wire.produce import LeaderIdAndEpoch, NodeEndpoint

#: First version with compact encodings and tagged fields.
FLEXIBLE_VERSION = 12
#: First version that names topics by id.
TOPIC_ID_VERSION = 13
#: First version whose replica id is a tagged field, with the replica's epoch (KIP-903).
_REPLICA_STATE_VERSION = 15
#: First version that tells where the current leader is (KIP-951).
_NODE_ENDPOINTS_VERSION = 16


class FetchPartition(NamedTuple):
    """What is wanted of one partition.

    Attributes:
        index: partition.
        current_leader_epoch: the client's belief, -1 to skip the check.
        fetch_offset: first offset wanted.
        last_fetched_epoch: leader epoch of the last record the client has, -1 if unknown.
        log_start_offset: of a follower, -1 from consumers.
        max_bytes: most bytes to return, except that a first batch always fits.
    """

    index: int  # type: ignore[assignment]  # Kafka's name; tuple.index is not needed
    current_leader_epoch: int
    fetch_offset: int
    last_fetched_epoch: int
    log_start_offset: int
    max_bytes: int


class FetchTopic(NamedTuple):
    """What is wanted of one topic: by name up to version 12, by id from 13 on."""

    name: str | None
    topic_id: UUID | None
    partitions: list[FetchPartition]


class ForgottenTopic(NamedTuple):
    """Partitions to take out of a fetch session."""

    name: str | None
    topic_id: UUID | None
    partitions: list[int]


class FetchRequest(NamedTuple):
    """A Fetch request.

    Attributes:
        replica_id: -1 for a consumer, else the follower's broker id.
        max_wait_ms: how long to wait for `min_bytes`.
        min_bytes: answer at once when this much is there.
        max_bytes: most bytes in all.
        isolation_level: 0 up to the high watermark, 1 up to the last stable offset.
        session_id: 0 for none.
        session_epoch: -1 for none, 0 to ask for a session.
        topics: partitions wanted.
        forgotten_topics: partitions to take out of the session.
        rack_id: where the consumer is, "" if unknown.
        replica_epoch: of the follower, -1 if unknown.
    """

    replica_id: int
    max_wait_ms: int
    min_bytes: int
    max_bytes: int
    isolation_level: int
    session_id: int
    session_epoch: int
    topics: list[FetchTopic]
    forgotten_topics: list[ForgottenTopic] = []  # noqa: RUF012 - never changed
    rack_id: str = ""
    replica_epoch: int = -1


class AbortedTransaction(NamedTuple):
    """A transaction whose records a reader of committed data must drop."""

    producer_id: int
    first_offset: int


class EpochEndOffset(NamedTuple):
    """Where the follower's log begins to differ (KIP-595)."""

    epoch: int
    end_offset: int


class PartitionFetchResult(NamedTuple):
    """What was read of one partition.

    Attributes:
        index: partition.
        error_code: 0, or why there are no records.
        high_watermark: -1 on error.
        last_stable_offset: -1 on error.
        log_start_offset: -1 on error.
        records: buffers that together are whole batches; empty for none.
        aborted_transactions: for readers of committed data, else None.
        preferred_read_replica: -1 for none.
        diverging_epoch: from version 12 on.
        current_leader: from version 12 on, with NOT_LEADER_OR_FOLLOWER or FENCED_LEADER_EPOCH.
    """

    index: int  # type: ignore[assignment]  # Kafka's name; tuple.index is not needed
    error_code: int
    high_watermark: int = -1
    last_stable_offset: int = -1
    log_start_offset: int = -1
    records: Sequence[Buffer] = ()
    aborted_transactions: Sequence[AbortedTransaction] | None = None
    preferred_read_replica: int = -1
    diverging_epoch: EpochEndOffset | None = None
    current_leader: LeaderIdAndEpoch | None = None


def parse_fetch(frame: memoryview, body_start: int, version: int) -> FetchRequest:
    """Decode a Fetch request of version 4 to 18.

    Args:
        frame: the request without its size.
        body_start: where its header ends.
        version: one that `APIS` declares.

    Raises:
        ProtocolError: the bytes are not a legal request of this version.
    """
    try:
        if version >= FLEXIBLE_VERSION:
            return _parse_flexible(frame, body_start, version)
        return _parse_older(frame, body_start, version)
    except (struct.error, IndexError):
        raise ProtocolError("the frame ends inside a Fetch request") from None
    except UnicodeDecodeError:
        raise ProtocolError("a string in a Fetch request is not UTF-8") from None


_read_limits = Struct(">iiibii").unpack_from  # wait, min, max, isolation, session id, epoch
_read_limits_v4 = Struct(">iiib").unpack_from
_read_partition_v4 = Struct(">iqi").unpack_from
_read_partition_v5 = Struct(">iqqi").unpack_from
_read_partition_v9 = Struct(">iiqqi").unpack_from
_read_partition_v12 = Struct(">iiqiqi").unpack_from
_PARTITION_BYTES_V12 = 32
_TOPIC_BYTES_MIN_FLEXIBLE = 3  # length of name or (more) id, count, tags
_TOPIC_BYTES_MIN = 6


def _parse_flexible(frame: memoryview, offset: int, version: int) -> FetchRequest:
    end = len(frame)
    budget = element_budget(end)
    replica_id = replica_epoch = -1
    if version < _REPLICA_STATE_VERSION:
        replica_id = read_int32(frame, offset)[0]
        offset += 4
    max_wait_ms, min_bytes, max_bytes, isolation, session_id, session_epoch = _read_limits(
        frame, offset
    )
    topic_count, offset = _compact_count(frame, offset + 21)
    budget -= topic_count
    if budget < 0 or topic_count * _TOPIC_BYTES_MIN_FLEXIBLE > end - offset:
        fail_budget()
    topics = []
    for _ in range(topic_count):
        name = topic_id = None
        if version >= TOPIC_ID_VERSION:
            topic_id = uuid_from_bytes(read_id(frame, offset)[0])
            offset += 16
        else:
            name, offset = _compact_string(frame, offset)
        partitions, offset, budget = _parse_partitions_flexible(frame, offset, budget)
        if frame[offset]:
            offset, budget = skip_tagged_fields(frame, offset, budget)
        else:
            offset += 1
        topics.append(FetchTopic(name, topic_id, partitions))
    forgotten: list[ForgottenTopic] = []
    if frame[offset] == 1:  # an empty array, as nearly always
        offset += 1
    else:
        offset, budget = _parse_forgotten_flexible(frame, offset, version, budget, forgotten)
    rack_id, offset = _compact_string(frame, offset)
    if frame[offset]:
        replica, offset = _parse_tags(frame, offset, version, budget)
        if replica is not None:
            replica_id, replica_epoch = replica
    else:
        offset += 1
    if offset > end:
        fail_end()
    return FetchRequest(
        replica_id,
        max_wait_ms,
        min_bytes,
        max_bytes,
        isolation,
        session_id,
        session_epoch,
        topics,
        forgotten,
        rack_id,
        replica_epoch,
    )


def _parse_partitions_flexible(
    frame: memoryview, offset: int, budget: int
) -> tuple[list[FetchPartition], int, int]:
    partition_count, offset = _compact_count(frame, offset)
    budget -= partition_count
    if budget < 0 or partition_count * (_PARTITION_BYTES_V12 + 1) > len(frame) - offset:
        fail_budget()
    partitions = []
    for _ in range(partition_count):
        index, leader_epoch, fetch_offset, last_epoch, log_start, size = _read_partition_v12(
            frame, offset
        )
        partitions.append(
            FetchPartition(index, leader_epoch, fetch_offset, last_epoch, log_start, size)
        )
        offset += _PARTITION_BYTES_V12
        if frame[offset]:
            offset, budget = skip_tagged_fields(frame, offset, budget)
        else:
            offset += 1
    return partitions, offset, budget


def _compact_count(frame: memoryview, offset: int) -> tuple[int, int]:
    """Read the length of an array that may not be null."""
    count, offset = read_unsigned_varint(frame, offset)
    if not count:
        fail_length(-1)
    return count - 1, offset


def _compact_string(frame: memoryview, offset: int) -> tuple[str, int]:
    """Read a string that may not be null."""
    size = frame[offset]
    offset += 1
    if size >= 0x80:
        size, offset = read_long_varint(frame, offset - 1)
    if not 0 < size <= STRING_BYTES_MAX + 1:
        fail_length(size - 1)
    end = offset + size - 1
    return str(frame[offset:end], "utf-8"), end


def _parse_forgotten_flexible(
    frame: memoryview, offset: int, version: int, budget: int, forgotten: list[ForgottenTopic]
) -> tuple[int, int]:
    end = len(frame)
    topic_count, offset = _compact_count(frame, offset)
    budget -= topic_count
    if budget < 0 or topic_count * _TOPIC_BYTES_MIN_FLEXIBLE > end - offset:
        fail_budget()
    for _ in range(topic_count):
        name = topic_id = None
        if version >= TOPIC_ID_VERSION:
            topic_id = uuid_from_bytes(read_id(frame, offset)[0])
            offset += 16
        else:
            name, offset = _compact_string(frame, offset)
        count, offset = _compact_count(frame, offset)
        budget -= count
        if budget < 0 or count * 4 > end - offset:
            fail_budget()
        partitions = list(struct.unpack_from(f">{count}i", frame, offset))
        offset, budget = skip_tagged_fields(frame, offset + 4 * count, budget)
        forgotten.append(ForgottenTopic(name, topic_id, partitions))
    return offset, budget


_CLUSTER_ID_TAG = 0
_REPLICA_STATE_TAG = 1
_read_replica_state = Struct(">iq").unpack_from
_REPLICA_STATE_BYTES = 12


def _parse_tags(
    frame: memoryview, offset: int, version: int, budget: int
) -> tuple[tuple[int, int] | None, int]:
    """Read the tagged fields of the request, of which only the replica state is kept."""
    count, offset = read_unsigned_varint(frame, offset)
    budget -= count
    if budget < 0:
        fail_budget()
    replica = None
    for _ in range(count):
        tag, offset = read_unsigned_varint(frame, offset)
        size, offset = read_unsigned_varint(frame, offset)
        end = offset + size
        if tag == _REPLICA_STATE_TAG and version >= _REPLICA_STATE_VERSION:
            replica = _read_replica_state(frame, offset)
            after, budget = skip_tagged_fields(frame, offset + _REPLICA_STATE_BYTES, budget)
            if after != end:
                fail_length(size)
        elif tag == _CLUSTER_ID_TAG:
            after = _compact_string(frame, offset)[1] if frame[offset] else offset + 1
            if after != end:
                fail_length(size)
        offset = end
    return replica, offset


def _parse_older(frame: memoryview, offset: int, version: int) -> FetchRequest:
    end = len(frame)
    budget = element_budget(end)
    replica_id = read_int32(frame, offset)[0]
    offset += 4
    session_id, session_epoch = 0, -1
    if version >= 7:
        max_wait_ms, min_bytes, max_bytes, isolation, session_id, session_epoch = _read_limits(
            frame, offset
        )
        offset += 21
    else:
        max_wait_ms, min_bytes, max_bytes, isolation = _read_limits_v4(frame, offset)
        offset += 13
    partition_bytes = 28 if version >= 9 else 24 if version >= 5 else 16
    topic_count = _count(frame, offset, budget, _TOPIC_BYTES_MIN)
    offset += 4
    budget -= topic_count
    topics = []
    for _ in range(topic_count):
        name, offset = _string(frame, offset)
        partition_count = _count(frame, offset, budget, partition_bytes)
        offset += 4
        budget -= partition_count
        partitions = []
        for _ in range(partition_count):
            leader_epoch = log_start = -1
            if version >= 9:
                index, leader_epoch, fetch_offset, log_start, size = _read_partition_v9(
                    frame, offset
                )
            elif version >= 5:
                index, fetch_offset, log_start, size = _read_partition_v5(frame, offset)
            else:
                index, fetch_offset, size = _read_partition_v4(frame, offset)
            partitions.append(
                FetchPartition(index, leader_epoch, fetch_offset, -1, log_start, size)
            )
            offset += partition_bytes
        topics.append(FetchTopic(name, None, partitions))
    forgotten: list[ForgottenTopic] = []
    if version >= 7:
        offset, budget = _parse_forgotten_older(frame, offset, budget, forgotten)
    rack_id = ""
    if version >= 11:
        rack_id, offset = _string(frame, offset)
    if offset > end:
        fail_end()
    return FetchRequest(
        replica_id,
        max_wait_ms,
        min_bytes,
        max_bytes,
        isolation,
        session_id,
        session_epoch,
        topics,
        forgotten,
        rack_id,
    )


def _count(frame: memoryview, offset: int, budget: int, element_bytes: int) -> int:
    """Read the length of an array that may not be null, and check that it can be true."""
    count: int = read_int32(frame, offset)[0]
    if count < 0:
        fail_length(count)
    if count > budget or count * element_bytes > len(frame) - offset - 4:
        fail_budget()
    return count


def _string(frame: memoryview, offset: int) -> tuple[str, int]:
    """Read a string that may not be null."""
    size = read_int16(frame, offset)[0]
    if size < 0:
        fail_length(size)
    end = offset + 2 + size
    return str(frame[offset + 2 : end], "utf-8"), end


def _parse_forgotten_older(
    frame: memoryview, offset: int, budget: int, forgotten: list[ForgottenTopic]
) -> tuple[int, int]:
    topic_count = _count(frame, offset, budget, _TOPIC_BYTES_MIN)
    offset += 4
    budget -= topic_count
    for _ in range(topic_count):
        name, offset = _string(frame, offset)
        count = _count(frame, offset, budget, 4)
        offset += 4
        budget -= count
        partitions = list(struct.unpack_from(f">{count}i", frame, offset))
        offset += 4 * count
        forgotten.append(ForgottenTopic(name, None, partitions))
    return offset, budget


_pack_int32 = Struct(">i").pack
_pack_head_v4 = Struct(">iiii").pack  # size, correlation, throttle, topics
_pack_head_v7 = Struct(">iiihii").pack  # size, correlation, throttle, error, session, topics
_pack_head_flexible = Struct(">iiBihi").pack  # size, correlation, tags, throttle, error, session
_pack_partition_v4 = Struct(">ihqq").pack  # index, error, high watermark, last stable offset
_pack_partition_v5 = Struct(">ihqqq").pack  # the same and log start offset
_pack_transaction = Struct(">qq").pack
_pack_transaction_flexible = Struct(">qqB").pack
_pack_epoch_end_tag = Struct(">BBiqB").pack
_pack_leader_tag = Struct(">BBiiB").pack


def encode_fetch_response(
    correlation_id: int,
    version: int,
    *,
    topics: Sequence[tuple[str | None, UUID | None, Sequence[PartitionFetchResult]]],
    throttle_time_ms: int = 0,
    error_code: int = 0,
    session_id: int = 0,
    node_endpoints: Sequence[NodeEndpoint] = (),
) -> list[Buffer]:
    """Return the frame of a response, with its size, as buffers for one vectored send.

    The buffers of records are passed on as they are. Records are never null, since some clients
    read null as a fault.

    Args:
        correlation_id: of the request.
        version: of the request.
        topics: name (before version 13), id (from 13 on), and results.
        throttle_time_ms: how long this client is throttled.
        error_code: a fault of the whole request (from version 7 on).
        session_id: 0 declines a session.
        node_endpoints: of the leaders named in `current_leader`, from version 16 on.

    Raises:
        ValueError: a string, or the whole response, does not fit the protocol.
    """
    encode_topic = _encode_topic_flexible if version >= FLEXIBLE_VERSION else _encode_topic_older
    buffers: list[Buffer] = []
    pending: list[bytes] = []  # packed fields since the last buffer of records
    for topic in topics:
        encode_topic(version, topic, buffers, pending)
    if version >= FLEXIBLE_VERSION:
        if node_endpoints and version >= _NODE_ENDPOINTS_VERSION:
            pending.append(encode_node_endpoints_tag(node_endpoints))
        else:
            pending.append(b"\x00")
    if pending:
        buffers.append(b"".join(pending))
    body_bytes = sum(map(len, buffers))
    if version >= FLEXIBLE_VERSION:
        count = encode_unsigned_varint(len(topics) + 1)
        size = body_bytes + 15 + len(count)
        head = _pack_head_flexible(
            size, correlation_id, 0, throttle_time_ms, error_code, session_id
        )
        head += count
    elif version >= 7:
        size = body_bytes + 18
        head = _pack_head_v7(
            size, correlation_id, throttle_time_ms, error_code, session_id, len(topics)
        )
    else:
        head = _pack_head_v4(body_bytes + 12, correlation_id, throttle_time_ms, len(topics))
    if buffers:  # the first holds packed fields, which the head may join without copying records
        buffers[0] = head + buffers[0]
        return buffers
    return [head]


def _encode_topic_flexible(
    version: int,
    topic: tuple[str | None, UUID | None, Sequence[PartitionFetchResult]],
    buffers: list[Buffer],
    pending: list[bytes],
) -> None:
    name, topic_id, partitions = topic
    if version >= TOPIC_ID_VERSION:
        pending.append((topic_id or ZERO_TOPIC_ID).bytes)
    else:
        assert name is not None
        pending.append(encode_compact_string(name))
    pending.append(encode_unsigned_varint(len(partitions) + 1))
    for result in partitions:
        pending.append(_pack_partition_v5(*result[:5]))
        aborted = result.aborted_transactions
        if aborted is None:
            pending.append(b"\x00")
        else:
            pending.append(encode_unsigned_varint(len(aborted) + 1))
            pending += [_pack_transaction_flexible(*entry, 0) for entry in aborted]
        pending.append(_pack_int32(result.preferred_read_replica))
        records = result.records
        if records:
            pending.append(encode_unsigned_varint(sum(map(len, records)) + 1))
            buffers.append(b"".join(pending))
            pending.clear()
            buffers += records
        else:
            pending.append(b"\x01")
        if result.diverging_epoch is None and result.current_leader is None:
            pending.append(b"\x00")
        else:
            pending.append(_partition_tags(result))
    pending.append(b"\x00")


def _partition_tags(result: PartitionFetchResult) -> bytes:
    """Encode diverging epoch and current leader, leaving out those that say nothing."""
    tags = []
    if result.diverging_epoch not in {None, (-1, -1)}:
        assert result.diverging_epoch is not None
        tags.append(_pack_epoch_end_tag(0, 13, *result.diverging_epoch, 0))
    if result.current_leader not in {None, (-1, -1)}:
        assert result.current_leader is not None
        tags.append(_pack_leader_tag(1, 9, *result.current_leader, 0))
    return b"%c%b" % (len(tags), b"".join(tags))


def _encode_topic_older(
    version: int,
    topic: tuple[str | None, UUID | None, Sequence[PartitionFetchResult]],
    buffers: list[Buffer],
    pending: list[bytes],
) -> None:
    name, _, partitions = topic
    assert name is not None
    pending.append(encode_string(name))
    pending.append(_pack_int32(len(partitions)))
    for result in partitions:
        if version >= 5:
            pending.append(_pack_partition_v5(*result[:5]))
        else:
            pending.append(_pack_partition_v4(*result[:4]))
        aborted = result.aborted_transactions
        if aborted is None:
            pending.append(b"\xff\xff\xff\xff")
        else:
            pending.append(_pack_int32(len(aborted)))
            pending += [_pack_transaction(*entry) for entry in aborted]
        if version >= 11:
            pending.append(_pack_int32(result.preferred_read_replica))
        records = result.records
        if records:
            pending.append(_pack_int32(sum(map(len, records))))
            buffers.append(b"".join(pending))
            pending.clear()
            buffers += records
        else:
            pending.append(b"\x00\x00\x00\x00")
