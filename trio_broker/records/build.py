"""Builds a RecordBatch from records: for the client, the broker's own topics, and tests.

The broker's request path never comes here: batches are stored as their producers built them.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple, TypedDict, Unpack

from crc32c import crc32c

from trio_broker.config import INT32_MAX, TimestampType
from trio_broker.records.batch import (
    ATTRIBUTE_CONTROL,
    ATTRIBUTE_LOG_APPEND_TIME,
    ATTRIBUTE_TRANSACTIONAL,
    LENGTH_MIN,
    MAGIC,
    NO_PRODUCER_EPOCH,
    NO_PRODUCER_ID,
    NO_SEQUENCE,
    NO_TIMESTAMP,
)
from trio_broker.records.compression import Compression, compress
from trio_broker.records.varint import encode_varint

if TYPE_CHECKING:
    from collections.abc import Sequence

_HEAD_STRUCT = struct.Struct(">qiibI")
_CHECKED_STRUCT = struct.Struct(">hiqqqhii")
_NULL_LENGTH = encode_varint(-1)
_NO_HEADERS = encode_varint(0)
_RECORD_ATTRIBUTES = b"\x00"


class Record(NamedTuple):
    """One record.

    Attributes:
        key: None if there is none.
        value: None is a tombstone in a compacted topic.
        headers: names, which may repeat, with their values.
        timestamp_ms: milliseconds since 1970; -1 for none.
        offset: place in the partition; filled in by reading, ignored by `build_batch`.
    """

    key: bytes | None = None
    value: bytes | None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    timestamp_ms: int = NO_TIMESTAMP
    offset: int = -1


class BatchFields(TypedDict, total=False):
    """What a batch says of itself, for `build_batch`; all of it has defaults (`wrap_records`).

    Attributes:
        base_offset: 0 in what a producer sends.
        leader_epoch: -1 in what a producer sends.
        producer_id: of an idempotent producer, with its epoch and the first record's sequence.
        producer_epoch: see `producer_id`.
        base_sequence: see `producer_id`.
        compression: codec of the records section.
        transactional: whether the records belong to the producer's transaction.
        control: whether this is a coordinator's marker.
        timestamp_type: with LogAppendTime, readers take the largest timestamp for all records.
    """

    base_offset: int
    leader_epoch: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    compression: Compression
    transactional: bool
    control: bool
    timestamp_type: TimestampType


def check_content(
    key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes | None]]
) -> tuple[tuple[str, bytes | None], ...]:
    """Check what a caller wants to have in a record; return its headers.

    Raises:
        TypeError: something is of a type that no record has; the message says what belongs there.
    """
    for given in (key, value):
        if given is not None and type(given) is not bytes:
            raise TypeError(f"keys and values are bytes, not {type(given).__name__}")
    if not headers:
        return ()
    try:
        pairs = tuple((name, content) for name, content in headers)
    except ValueError:  # a mapping, for example
        raise TypeError("headers are pairs of a str and bytes") from None
    for name, content in pairs:
        if type(name) is not str or not (content is None or type(content) is bytes):
            raise TypeError("headers are pairs of a str and bytes")
    return pairs


def build_batch(records: Sequence[Record], **fields: Unpack[BatchFields]) -> bytes:
    """Build one batch; its records get consecutive offsets from `base_offset` on.

    Args:
        records: at least one.
        fields: see `BatchFields`.

    Raises:
        ValueError: there are no records, or a field does not fit the format.
        CodecUnavailable: the codec's library is not installed.
    """
    if not records:
        raise ValueError("a batch needs at least one record")
    base_timestamp = records[0].timestamp_ms
    return wrap_records(
        encode_records(records, base_timestamp),
        len(records),
        base_timestamp_ms=base_timestamp,
        max_timestamp_ms=max([record.timestamp_ms for record in records]),
        **fields,
    )


def wrap_records(
    section: bytes,
    count: int,
    *,
    base_timestamp_ms: int,
    max_timestamp_ms: int,
    base_offset: int = 0,
    leader_epoch: int = -1,
    producer_id: int = NO_PRODUCER_ID,
    producer_epoch: int = NO_PRODUCER_EPOCH,
    base_sequence: int = NO_SEQUENCE,
    compression: Compression = Compression.NONE,
    transactional: bool = False,
    control: bool = False,
    timestamp_type: TimestampType = TimestampType.CREATE_TIME,
) -> bytes:
    """Make a batch of records that are encoded already, but not compressed.

    Args:
        section: what `encode_records` has made, the parts behind one another.
        count: how many records these are, at least one.
        base_timestamp_ms: that they were encoded with.
        max_timestamp_ms: the largest of them.
        base_offset: see `BatchFields` for this and all others.
        leader_epoch: see there.
        producer_id: see there.
        producer_epoch: see there.
        base_sequence: see there.
        compression: see there.
        transactional: see there.
        control: see there.
        timestamp_type: see there.

    Raises:
        ValueError: a field does not fit the format.
        CodecUnavailable: the codec's library is not installed.
    """
    if compression is not Compression.NONE:
        section = compress(section, compression)
    attributes = int(compression)
    if timestamp_type is TimestampType.LOG_APPEND_TIME:
        attributes |= ATTRIBUTE_LOG_APPEND_TIME
    if transactional:
        attributes |= ATTRIBUTE_TRANSACTIONAL
    if control:
        attributes |= ATTRIBUTE_CONTROL
    length = LENGTH_MIN + len(section)
    if length > INT32_MAX:
        raise ValueError(f"a batch of {length} bytes does not fit 31 bits")
    try:
        checked = _CHECKED_STRUCT.pack(
            attributes,
            count - 1,
            base_timestamp_ms,
            max_timestamp_ms,
            producer_id,
            producer_epoch,
            base_sequence,
            count,
        )
        crc = crc32c(section, crc32c(checked))
        head = _HEAD_STRUCT.pack(base_offset, length, leader_epoch, MAGIC, crc)
    except struct.error as error:
        raise ValueError(f"a field of the batch does not fit: {error}") from error
    return b"".join((head, checked, section))


def encode_records(
    records: Sequence[Record], base_timestamp: int, *, first_offset_delta: int = 0
) -> bytes:
    """Return the records section of a batch, or a part of it, not compressed.

    Args:
        records: in order.
        base_timestamp: of the batch, milliseconds since 1970.
        first_offset_delta: how many records of the batch come before these.
    """
    parts: list[bytes] = []
    append = parts.append
    join = b"".join
    varint = encode_varint
    numbered = enumerate(records, first_offset_delta)
    for offset_delta, (key, value, headers, timestamp_ms, _) in numbered:
        body = join(
            (
                _RECORD_ATTRIBUTES,
                varint(timestamp_ms - base_timestamp),
                varint(offset_delta),
                _NULL_LENGTH if key is None else varint(len(key)),
                key or b"",
                _NULL_LENGTH if value is None else varint(len(value)),
                value or b"",
                _encode_headers(headers) if headers else _NO_HEADERS,
            )
        )
        append(varint(len(body)))
        append(body)
    return join(parts)


def _encode_headers(headers: Sequence[tuple[str, bytes | None]]) -> bytes:
    parts = [encode_varint(len(headers))]
    for name, value in headers:
        encoded_name = name.encode()
        parts.append(encode_varint(len(encoded_name)))
        parts.append(encoded_name)
        if value is None:
            parts.append(_NULL_LENGTH)
        else:
            parts.append(encode_varint(len(value)))
            parts.append(value)
    return b"".join(parts)
