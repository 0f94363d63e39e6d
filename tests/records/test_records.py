"""Building and reading records, with kafka-python and aiokafka as independent judges."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from aiokafka.record.default_records import DefaultRecordBatch as AioBatch
from aiokafka.record.default_records import DefaultRecordBatchBuilder as AioBuilder
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st
from kafka.record.default_records import DefaultRecordBatch as KafkaBatch
from kafka.record.default_records import DefaultRecordBatchBuilder as KafkaBuilder

from trio_broker.config import TimestampType
from trio_broker.errors import CorruptRecords, DecompressionFailed
from trio_broker.records.batch import BatchHeader, read_header
from trio_broker.records.build import Record, build_batch
from trio_broker.records.compression import Compression, compress
from trio_broker.records.iterate import (
    RecordPosition,
    first_record_at,
    iterate_batches,
    iterate_records,
)
from trio_broker.records.validation import check_stored
from trio_broker.records.varint import encode_varint

ROOM = 1 << 20

maybe_bytes = st.none() | st.binary(max_size=100)
record_headers = st.lists(st.tuples(st.text(max_size=8), maybe_bytes), max_size=3).map(tuple)
records_strategy = st.lists(
    st.builds(
        Record,
        key=maybe_bytes,
        value=maybe_bytes | st.integers(8150, 8250).map(bytes),  # lengths around 3-byte varints
        headers=record_headers,
        timestamp_ms=st.integers(0, 2**42),
        offset=st.just(-1),
    ),
    min_size=1,
    max_size=12,
)


def plain(records: Any) -> list[Record]:
    return [record._replace(offset=-1) for record in records]


@given(
    records=records_strategy,
    base_offset=st.integers(0, 2**60),
    codec=st.sampled_from(Compression),
)
def test_round_trip(records: list[Record], base_offset: int, codec: Compression) -> None:
    batch = build_batch(records, base_offset=base_offset, leader_epoch=4, compression=codec)
    header = check_stored(batch, 0)
    assert isinstance(header, BatchHeader)
    assert header.compression is codec
    assert header.record_count == len(records)
    assert header.max_timestamp == max(record.timestamp_ms for record in records)
    for kind in (bytes, bytearray, memoryview):
        result = list(iterate_records(kind(batch), bytes_max=ROOM))
        assert plain(result) == records
        assert [record.offset - base_offset for record in result] == list(range(len(records)))


def built_by(builder: Any, records: list[Record]) -> bytes:
    for index, record in enumerate(records):
        builder.append(index, record.timestamp_ms, record.key, record.value, list(record.headers))
    return bytes(builder.build())


def read_by(batch: Any) -> list[Record]:
    return [
        Record(record.key, record.value, tuple(record.headers), record.timestamp)
        for record in batch
    ]


@given(records=records_strategy)
def test_bytes_are_those_of_kafka_python_and_aiokafka(records: list[Record]) -> None:
    batch = build_batch(records, producer_id=77, producer_epoch=3, base_sequence=5)
    for builder in (KafkaBuilder, AioBuilder):
        other = built_by(builder(2, 0, 0, 77, 3, 5, ROOM * 10), records)
        # They write leader epoch 0 where Java writes -1: brokers overwrite it.
        assert batch[:12] + batch[16:] == other[:12] + other[16:]


@pytest.mark.parametrize("codec", Compression)
def test_batches_are_exchanged_with_aiokafka(codec: Compression) -> None:
    records = [
        Record(b"%d" % i, b"value" * 20, (("name", b"x"), ("none", None)), 1000 + i)
        for i in range(100)
    ]
    ours = build_batch(records, compression=codec)
    batch = AioBatch(bytearray(ours))
    assert batch.validate_crc()
    assert read_by(batch) == records
    theirs = built_by(AioBuilder(2, codec, 0, -1, -1, -1, ROOM), records)
    assert isinstance(check_stored(theirs, 0), BatchHeader)
    assert plain(iterate_records(theirs, bytes_max=ROOM)) == records


@pytest.mark.parametrize("codec", [Compression.NONE, Compression.GZIP, Compression.LZ4])
def test_batches_are_exchanged_with_kafka_python(codec: Compression) -> None:
    records = [Record(None, b"value" * 20, (), 1000 + i) for i in range(100)]
    batch = KafkaBatch(build_batch(records, compression=codec))
    assert batch.validate_crc()
    assert read_by(batch) == records
    theirs = built_by(KafkaBuilder(2, codec, 0, -1, -1, -1, ROOM), records)
    assert plain(iterate_records(theirs, bytes_max=ROOM)) == records


def test_every_header_field_is_written() -> None:
    batch = build_batch(
        [Record(b"k", b"v", timestamp_ms=10), Record(timestamp_ms=7)],
        base_offset=5,
        leader_epoch=2,
        producer_id=9,
        producer_epoch=1,
        base_sequence=8,
        transactional=True,
        control=True,
        timestamp_type=TimestampType.LOG_APPEND_TIME,
    )
    header = read_header(batch)
    assert header._replace(crc=0, length=0) == BatchHeader(
        5, 0, 2, 2, 0, 0x38, 1, 10, 10, 9, 1, 8, 2
    )
    assert [record.timestamp_ms for record in iterate_records(batch, bytes_max=99)] == [10, 10]


def test_what_does_not_fit_the_format_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        build_batch([])
    with pytest.raises(ValueError, match="does not fit"):
        build_batch([Record()], base_sequence=2**31)
    with pytest.raises(ValueError, match="does not fit"):
        build_batch([Record()], base_offset=2**63)


# Reading many batches ---------------------------------------------------------------------------


@given(
    counts=st.lists(st.integers(1, 5), max_size=5),
    cut=st.integers(0, 400),
)
def test_whole_batches_are_found_and_a_cut_one_is_left_out(counts: list[int], cut: int) -> None:
    offsets = list(itertools.accumulate(counts, initial=0))
    batches = [
        build_batch([Record(value=b"v")] * count, base_offset=offset)
        for count, offset in zip(counts, offsets, strict=False)
    ]
    run = b"".join(batches)[: max(0, sum(map(len, batches)) - cut)]
    found = list(iterate_batches(bytearray(run)))
    ends = itertools.accumulate(map(len, batches))
    assert [bytes(batch) for _, batch in found] == [
        batch for batch, end in zip(batches, ends, strict=True) if end <= len(run)
    ]
    assert [header.base_offset for header, _ in found] == offsets[: len(found)]


def test_a_place_without_a_batch_is_an_error() -> None:
    batch = build_batch([Record(value=b"v" * 50)])
    for damaged in (
        batch + bytes(100),
        batch + batch[:16] + b"\x01" + batch[17:],
        batch + batch[:8] + (3).to_bytes(4, "big") + batch[12:],
    ):
        batches = iterate_batches(damaged)
        next(batches)
        with pytest.raises(CorruptRecords, match=f"byte {len(batch)}"):
            next(batches)


def test_a_batch_that_compaction_emptied_is_a_batch() -> None:
    emptied = bytearray(build_batch([Record()])[:61])
    emptied[8:12] = (49).to_bytes(4, "big")
    emptied[57:61] = bytes(4)
    assert [bytes(batch) for _, batch in iterate_batches(emptied)] == [emptied]
    assert list(iterate_records(emptied, bytes_max=ROOM)) == []
    assert first_record_at(emptied, -1, bytes_max=ROOM) is None


# Timestamps -------------------------------------------------------------------------------------


@given(
    timestamps=st.lists(st.integers(0, 50), min_size=1, max_size=20),
    wanted=st.integers(-1, 51),
    codec=st.sampled_from(Compression),
)
def test_the_first_record_not_older_than_a_time_is_found(
    timestamps: list[int], wanted: int, codec: Compression
) -> None:
    batch = build_batch(
        [Record(b"k", b"v" * 70, timestamp_ms=timestamp) for timestamp in timestamps],
        base_offset=100,
        compression=codec,
    )
    expected = next(
        (RecordPosition(t, 100 + i) for i, t in enumerate(timestamps) if t >= wanted), None
    )
    assert first_record_at(batch, wanted, bytes_max=ROOM) == expected


def test_a_batch_with_append_time_is_found_by_that() -> None:
    batch = build_batch(
        [Record(timestamp_ms=5), Record(timestamp_ms=9)],
        base_offset=3,
        timestamp_type=TimestampType.LOG_APPEND_TIME,
    )
    assert first_record_at(batch, 9, bytes_max=ROOM) == RecordPosition(9, 3)
    assert first_record_at(batch, 10, bytes_max=ROOM) is None


# Hostile bytes ----------------------------------------------------------------------------------


def batch_of(section: bytes, count: int = 1, codec: int = 0) -> bytes:
    """Wrap a hand-made records section in a header whose CRC is right."""
    template = build_batch([Record(timestamp_ms=0)] * count)
    head = bytearray(template[:61])
    head[8:12] = (49 + len(section)).to_bytes(4, "big")
    head[22] = codec
    head[17:21] = crc32c(section, crc32c(bytes(head[21:]))).to_bytes(4, "big")
    return bytes(head) + section


def one_record(*parts: bytes) -> bytes:
    body = b"\x00" + b"".join(parts)
    return encode_varint(len(body)) + body


ZERO, NULL, ONE = encode_varint(0), encode_varint(-1), encode_varint(1)
ENDLESS = b"\xff" * 11

HOSTILE = {
    "endless length": ENDLESS,
    "length beyond the end": encode_varint(2**31 - 1) + bytes(10),
    "negative length": encode_varint(-5) + bytes(10),
    "length too short": encode_varint(5) + bytes(7),
    "length too long": encode_varint(7) + bytes(7),
    "length that ends before the fields": encode_varint(5) + bytes(6),
    "endless timestamp": one_record(ENDLESS, ZERO, NULL, NULL, ZERO),
    "endless offset": one_record(ZERO, ENDLESS, NULL, NULL, ZERO),
    "offset below the batch": one_record(ZERO, NULL, NULL, NULL, ZERO),
    "offset beyond the batch": one_record(ZERO, ONE, NULL, NULL, ZERO),
    "key length -2": one_record(ZERO, ZERO, encode_varint(-2), NULL, ZERO),
    "value length -2": one_record(ZERO, ZERO, NULL, encode_varint(-2), ZERO),
    "key beyond the record": one_record(ZERO, ZERO, encode_varint(2**40), NULL, ZERO),
    "value beyond the record": one_record(ZERO, ZERO, NULL, encode_varint(9), b"12345"),
    "-1 headers": one_record(ZERO, ZERO, NULL, NULL, NULL),
    "a billion headers": one_record(ZERO, ZERO, NULL, NULL, encode_varint(10**9)),
    "header without a name": one_record(ZERO, ZERO, NULL, NULL, ONE, NULL, NULL),
    "header name beyond the record": one_record(
        ZERO, ZERO, NULL, NULL, ONE, encode_varint(99), ZERO
    ),
    "value beyond the batch": encode_varint(9) + bytes(4) + encode_varint(4) + b"cut",
    "header value beyond the batch": (
        encode_varint(17) + bytes(3) + NULL + NULL + ONE + ZERO + encode_varint(9) + b"cut"
    ),
    "nothing": b"",
}


@pytest.mark.parametrize("section", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_records_are_refused(section: bytes) -> None:
    with pytest.raises(CorruptRecords):
        next(iterate_records(batch_of(section), bytes_max=ROOM))


def test_bytes_after_the_records_are_refused() -> None:
    records = iterate_records(
        batch_of(one_record(ZERO, ZERO, NULL, NULL, ZERO) + b"x"), bytes_max=ROOM
    )
    assert next(records) == Record(timestamp_ms=0, offset=0)
    with pytest.raises(CorruptRecords, match="1 bytes follow"):
        next(records)


@pytest.mark.parametrize(
    "section",
    [
        one_record(ZERO, ONE, NULL, NULL, ZERO),
        one_record(ZERO, NULL, NULL, NULL, ZERO),
        encode_varint(5) + encode_varint(-9) * 20,
        ENDLESS,
    ],
)
def test_hostile_records_answer_no_timestamp(section: bytes) -> None:
    with pytest.raises(CorruptRecords):
        first_record_at(batch_of(section), 0, bytes_max=ROOM)


def test_a_timestamp_that_no_answer_has_room_for_is_no_answer() -> None:
    """A delta may have 64 bits, and the broker does not look at it when the batch is produced."""
    section = one_record(encode_varint(2**63 - 1), ZERO, NULL, NULL, ZERO)
    assert first_record_at(batch_of(section), 5, bytes_max=ROOM) == RecordPosition(2**63 - 1, 0)
    batch = bytearray(batch_of(section))
    batch[27:35] = (1).to_bytes(8, "big")
    with pytest.raises(CorruptRecords):
        first_record_at(bytes(batch), 5, bytes_max=ROOM)


def test_a_count_that_cannot_be_is_refused_before_reading() -> None:
    batch = bytearray(build_batch([Record()]))
    for count in (2**31 - 1, -1):
        batch[57:61] = count.to_bytes(4, "big", signed=True)
        with pytest.raises(CorruptRecords, match=f"{count} records"):
            iterate_records(batch, bytes_max=ROOM)
        with pytest.raises(CorruptRecords, match=f"{count} records"):
            first_record_at(batch, 5, bytes_max=ROOM)


@pytest.mark.parametrize("codec", [codec for codec in Compression if codec])
def test_a_decompression_bomb_stops_at_the_limit(codec: Compression) -> None:
    batch = batch_of(compress(bytes(8 * ROOM), codec), codec=codec)
    with pytest.raises(DecompressionFailed, match="larger than"):
        iterate_records(batch, bytes_max=ROOM)
    with pytest.raises(DecompressionFailed, match="larger than"):
        first_record_at(batch, 0, bytes_max=ROOM)


def test_bytes_that_are_no_batch_are_refused() -> None:
    batch = build_batch([Record(value=b"v")])
    unknown_codec = bytearray(batch)
    unknown_codec[22] = 6
    for junk in (batch[:60], batch[:-1], batch[:16] + b"\x01" + batch[17:], unknown_codec):
        with pytest.raises(CorruptRecords):
            iterate_records(junk, bytes_max=ROOM)


def test_a_header_name_that_is_not_text_can_be_read() -> None:
    section = one_record(ZERO, ZERO, NULL, NULL, ONE, ONE, b"\xff", NULL)
    (record,) = iterate_records(batch_of(section), bytes_max=ROOM)
    assert record.headers == (("\ufffd", None),)


@given(
    section=st.binary(max_size=120),
    keep=st.integers(0, 60),
    count=st.integers(1, 10),
    timestamp=st.integers(-10, 10),
)
def test_junk_raises_one_kind_of_error(
    section: bytes, keep: int, count: int, timestamp: int
) -> None:
    good = build_batch([Record(b"key", b"value", (("name", b"x"),), i) for i in range(count)])
    batch = batch_of(good[61 : 61 + keep] + section, count)
    for read in (
        lambda: list(iterate_records(batch, bytes_max=ROOM)),
        lambda: first_record_at(batch, timestamp, bytes_max=ROOM),
    ):
        try:
            read()
        except CorruptRecords:
            pass
