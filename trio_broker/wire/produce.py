"""Hot path of Produce: requests become spans into the frame, responses are packed by hand.

The same bytes as the declared messages of `trio_broker.wire.messages.produce` (a test compares
them), without building an object per field and without copying records.
"""

from __future__ import annotations

import struct
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from trio_broker.errors import ProtocolError
from trio_broker.wire.primitives import (
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
    skip_tagged_fields,
    uuid_from_bytes,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

#: First version with compact encodings and tagged fields.
FLEXIBLE_VERSION = 9
#: First version that names topics by id.
TOPIC_ID_VERSION = 13
#: First version that tells the current leader with an error (KIP-951).
_CURRENT_LEADER_VERSION = 10

_PARTITION_BYTES_MIN_FLEXIBLE = 6  # index, length of records, tags
_PARTITION_BYTES_MIN = 8
_TOPIC_BYTES_MIN_FLEXIBLE = 3  # length of name, count, tags
_TOPIC_BYTES_MIN = 6


class ProduceTopic(NamedTuple):
    """One topic of a Produce request.

    Attributes:
        name: None from version 13 on.
        topic_id: None before version 13.
        partitions: index, start and end of the records in the frame; -1, -1 for null.
    """

    name: str | None
    topic_id: UUID | None
    partitions: list[tuple[int, int, int]]


class ProduceRequest(NamedTuple):
    """A Produce request whose records are still where they arrived."""

    transactional_id: str | None
    acks: int
    timeout_ms: int
    topics: list[ProduceTopic]


class LeaderIdAndEpoch(NamedTuple):
    """Who leads a partition, told to a client that asked the wrong broker (KIP-951)."""

    leader_id: int
    leader_epoch: int


class NodeEndpoint(NamedTuple):
    """Where a leader named in the same response can be reached (KIP-951)."""

    node_id: int
    host: str
    port: int
    rack: str | None = None


class PartitionProduceResult(NamedTuple):
    """What became of one partition's records.

    Attributes:
        index: partition.
        error_code: 0, or why nothing was appended.
        base_offset: offset of the first record, -1 on error.
        log_append_time_ms: the broker's timestamp, -1 unless the topic uses LogAppendTime.
        log_start_offset: -1 on error.
        error_message: from version 8 on.
        current_leader: from version 10 on, with NOT_LEADER_OR_FOLLOWER.
    """

    index: int  # type: ignore[assignment]  # Kafka's name; tuple.index is not needed
    error_code: int
    base_offset: int = -1
    log_append_time_ms: int = -1
    log_start_offset: int = -1
    error_message: str | None = None
    current_leader: LeaderIdAndEpoch | None = None


def parse_produce(frame: memoryview, body_start: int, version: int) -> ProduceRequest:
    """Find the fields and record spans of a Produce request of version 3 to 13.

    Args:
        frame: the request without its size.
        body_start: where its header ends.
        version: one that `APIS` declares.

    Raises:
        ProtocolError: the bytes are not a legal request of this version.
    """
    try:
        if version >= FLEXIBLE_VERSION:
            return _parse_flexible(frame, body_start, with_topic_ids=version >= TOPIC_ID_VERSION)
        return _parse_older(frame, body_start)
    except (struct.error, IndexError):
        raise ProtocolError("the frame ends inside a Produce request") from None
    except UnicodeDecodeError:
        raise ProtocolError("a string in a Produce request is not UTF-8") from None


_read_acks_timeout = Struct(">hi").unpack_from
_read_acks_timeout_count = Struct(">hiB").unpack_from
_read_index_length = Struct(">iB").unpack_from


def _parse_flexible(frame: memoryview, offset: int, *, with_topic_ids: bool) -> ProduceRequest:
    end = len(frame)
    budget = element_budget(end)
    transactional_id = None
    size = frame[offset]
    offset += 1
    if size >= 0x80:
        size, offset = _long_string_size(frame, offset - 1)
    if size:
        transactional_id = str(frame[offset : offset + size - 1], "utf-8")
        offset += size - 1
    acks, timeout_ms, topic_count = _read_acks_timeout_count(frame, offset)
    offset += 7
    if topic_count >= 0x80:
        topic_count, offset = read_long_varint(frame, offset - 1)
    topic_count -= 1
    if topic_count < 0:
        fail_length(topic_count)
    budget -= topic_count
    if budget < 0 or topic_count * _TOPIC_BYTES_MIN_FLEXIBLE > end - offset:
        fail_budget()
    topics = []
    for _ in range(topic_count):
        name = topic_id = None
        if with_topic_ids:
            topic_id = uuid_from_bytes(read_id(frame, offset)[0])
            offset += 16
        else:
            size = frame[offset]
            offset += 1
            if size >= 0x80:
                size, offset = _long_string_size(frame, offset - 1)
            if not size:
                fail_length(-1)
            name = str(frame[offset : offset + size - 1], "utf-8")
            offset += size - 1
        partitions, offset, budget = _parse_partitions_flexible(frame, offset, budget)
        if frame[offset]:
            offset, budget = skip_tagged_fields(frame, offset, budget)
        else:
            offset += 1
        topics.append(ProduceTopic(name, topic_id, partitions))
    if frame[offset]:
        offset, _ = skip_tagged_fields(frame, offset, budget)
    else:
        offset += 1
    if offset > end:
        fail_end()
    return ProduceRequest(transactional_id, acks, timeout_ms, topics)


def _parse_partitions_flexible(
    frame: memoryview, offset: int, budget: int
) -> tuple[list[tuple[int, int, int]], int, int]:
    partition_count = frame[offset] - 1
    offset += 1
    if partition_count >= 0x7F:
        partition_count, offset = read_long_varint(frame, offset - 1)
        partition_count -= 1
    if partition_count < 0:
        fail_length(partition_count)
    budget -= partition_count
    if budget < 0 or partition_count * _PARTITION_BYTES_MIN_FLEXIBLE > len(frame) - offset:
        fail_budget()
    partitions = []
    for _ in range(partition_count):
        index, size = _read_index_length(frame, offset)
        offset += 5
        if size >= 0x80:
            size, offset = read_long_varint(frame, offset - 1)
        if size:
            start = offset
            offset += size - 1
            partitions.append((index, start, offset))
        else:
            partitions.append((index, -1, -1))
        if frame[offset]:
            offset, budget = skip_tagged_fields(frame, offset, budget)
        else:
            offset += 1
    return partitions, offset, budget


def _long_string_size(frame: memoryview, offset: int) -> tuple[int, int]:
    """Read the length plus one of a compact string that needs more than one byte for it."""
    size, offset = read_long_varint(frame, offset)
    if size > 0x8000:
        fail_length(size - 1)
    return size, offset


def _parse_older(frame: memoryview, offset: int) -> ProduceRequest:
    end = len(frame)
    budget = element_budget(end)
    transactional_id = None
    size = read_int16(frame, offset)[0]
    offset += 2
    if size >= 0:
        transactional_id = str(frame[offset : offset + size], "utf-8")
        offset += size
    elif size != -1:
        fail_length(size)
    acks, timeout_ms = _read_acks_timeout(frame, offset)
    topic_count = read_int32(frame, offset + 6)[0]
    offset += 10
    if topic_count < 0:
        fail_length(topic_count)
    budget -= topic_count
    if budget < 0 or topic_count * _TOPIC_BYTES_MIN > end - offset:
        fail_budget()
    topics = []
    for _ in range(topic_count):
        size = read_int16(frame, offset)[0]
        offset += 2
        if size < 0:
            fail_length(size)
        name = str(frame[offset : offset + size], "utf-8")
        offset += size
        partition_count = read_int32(frame, offset)[0]
        offset += 4
        if partition_count < 0:
            fail_length(partition_count)
        budget -= partition_count
        if budget < 0 or partition_count * _PARTITION_BYTES_MIN > end - offset:
            fail_budget()
        partitions = []
        for _ in range(partition_count):
            index, size = _read_index_size(frame, offset)
            offset += 8
            if size >= 0:
                partitions.append((index, offset, offset + size))
                offset += size
            elif size == -1:
                partitions.append((index, -1, -1))
            else:
                fail_length(size)
        topics.append(ProduceTopic(name, None, partitions))
    if offset > end:
        fail_end()
    return ProduceRequest(transactional_id, acks, timeout_ms, topics)


_read_index_size = Struct(">ii").unpack_from

_pack_head = Struct(">ii").pack
_pack_flexible_head = Struct(">iiB").pack
_pack_int32 = Struct(">i").pack
# index, error, base offset, append time [, start offset [, no record errors, no message [, tags]]]
_pack_partition_v2 = Struct(">ihqq").pack
_pack_partition_v5 = Struct(">ihqqq").pack
_pack_partition_v8 = Struct(">ihqqqih").pack
_pack_partition_flexible = Struct(">ihqqqBBB").pack
_pack_leader_tag = Struct(">BBBiiB").pack


def encode_produce_response(
    correlation_id: int,
    version: int,
    topics: Sequence[tuple[str | None, UUID | None, Sequence[PartitionProduceResult]]],
    throttle_time_ms: int = 0,
    node_endpoints: Sequence[NodeEndpoint] = (),
) -> bytes:
    """Return the whole frame of a response, with its size.

    Args:
        correlation_id: of the request.
        version: of the request.
        topics: name (before version 13), id (from 13 on), and results.
        throttle_time_ms: how long this client is throttled.
        node_endpoints: of the leaders named in `current_leader`, from version 10 on.

    Raises:
        ValueError: a string does not fit the protocol.
    """
    if version < FLEXIBLE_VERSION:
        return _encode_older(correlation_id, version, topics, throttle_time_ms)
    parts = [b"", encode_unsigned_varint(len(topics) + 1)]
    for name, topic_id, partitions in topics:
        if version >= TOPIC_ID_VERSION:
            assert topic_id is not None
            parts.append(topic_id.bytes)
        else:
            assert name is not None
            parts.append(encode_compact_string(name))
        parts.append(encode_unsigned_varint(len(partitions) + 1))
        for index, code, base, append_time, start, message, leader in partitions:
            if message is None and leader is None:
                parts.append(
                    _pack_partition_flexible(index, code, base, append_time, start, 1, 0, 0)
                )
            else:
                parts.append(_pack_partition_v5(index, code, base, append_time, start))
                parts.append(b"\x01")
                parts.append(b"\x00" if message is None else encode_compact_string(message))
                parts.append(_leader_tag(leader, version))
        parts.append(b"\x00")
    parts.append(_pack_int32(throttle_time_ms))
    if node_endpoints and version >= _CURRENT_LEADER_VERSION:
        parts.append(encode_node_endpoints_tag(node_endpoints))
    else:
        parts.append(b"\x00")
    parts[0] = _pack_flexible_head(5 + sum(map(len, parts)), correlation_id, 0)
    return b"".join(parts)


def _leader_tag(leader: LeaderIdAndEpoch | None, version: int) -> bytes:
    if leader is None or version < _CURRENT_LEADER_VERSION or leader == (-1, -1):
        return b"\x00"
    return _pack_leader_tag(1, 0, 9, leader.leader_id, leader.leader_epoch, 0)


def encode_node_endpoints_tag(endpoints: Sequence[NodeEndpoint]) -> bytes:
    """Encode a section of tagged fields that holds only tag 0, NodeEndpoints (KIP-951)."""
    parts = [encode_unsigned_varint(len(endpoints) + 1)]
    for node_id, host, port, rack in endpoints:
        parts.append(_pack_int32(node_id))
        parts.append(encode_compact_string(host))
        parts.append(_pack_int32(port))
        parts.append(b"\x00" if rack is None else encode_compact_string(rack))
        parts.append(b"\x00")
    value = b"".join(parts)
    return b"\x01\x00%b%b" % (encode_unsigned_varint(len(value)), value)


def _encode_older(
    correlation_id: int,
    version: int,
    topics: Sequence[tuple[str | None, UUID | None, Sequence[PartitionProduceResult]]],
    throttle_time_ms: int,
) -> bytes:
    parts = [b"", _pack_int32(len(topics))]
    for name, _, partitions in topics:
        assert name is not None
        parts.append(encode_string(name))
        parts.append(_pack_int32(len(partitions)))
        for index, code, base, append_time, start, message, _ in partitions:
            if version < 5:
                parts.append(_pack_partition_v2(index, code, base, append_time))
            elif version < 8:
                parts.append(_pack_partition_v5(index, code, base, append_time, start))
            elif message is None:
                parts.append(_pack_partition_v8(index, code, base, append_time, start, 0, -1))
            else:
                parts.append(_pack_partition_v5(index, code, base, append_time, start))
                parts.append(_pack_int32(0))
                parts.append(encode_string(message))
    parts.append(_pack_int32(throttle_time_ms))
    parts[0] = _pack_head(4 + sum(map(len, parts)), correlation_id)
    return b"".join(parts)
