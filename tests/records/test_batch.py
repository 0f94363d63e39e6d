from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_broker.config import TimestampType
from trio_broker.records.batch import HEADER_BYTES, HEADER_STRUCT, BatchHeader, read_header
from trio_broker.records.compression import Compression

_WIDTHS = (64, 32, 32, 8, None, 16, 32, 64, 64, 64, 16, 32, 32)


def _field(bits: int | None) -> st.SearchStrategy[int]:
    if bits is None:
        return st.integers(0, 2**32 - 1)
    return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


headers = st.tuples(*map(_field, _WIDTHS)).map(BatchHeader._make)


def header(**changes: int) -> BatchHeader:
    return BatchHeader(0, 49, -1, 2, 0, 0, 0, 0, 0, -1, -1, -1, 1)._replace(**changes)


@given(header=headers, before=st.binary(max_size=5))
def test_every_field_is_read_where_kafka_puts_it(header: BatchHeader, before: bytes) -> None:
    packed = HEADER_STRUCT.pack(*header)
    assert len(packed) == HEADER_BYTES
    for kind in (bytes, bytearray, memoryview):
        assert read_header(kind(before + packed), len(before)) == header


def test_a_header_is_never_read_from_too_few_bytes() -> None:
    with pytest.raises(struct.error):
        read_header(bytes(60))


def test_attributes_are_told_apart() -> None:
    plain = header(attributes=3)
    assert plain.compression is Compression.LZ4
    assert plain.timestamp_type is TimestampType.CREATE_TIME
    assert not plain.is_transactional
    assert not plain.is_control
    marker = header(attributes=0x38)
    assert marker.compression is Compression.NONE
    assert marker.timestamp_type is TimestampType.LOG_APPEND_TIME
    assert marker.is_transactional
    assert marker.is_control
    with pytest.raises(ValueError, match="5"):
        _ = header(attributes=5).compression


def test_size_counts_the_prefix_and_the_last_offset_counts_gaps() -> None:
    batch = header(base_offset=100, length=49, last_offset_delta=9, record_count=2)
    assert batch.size_bytes == 61
    assert batch.last_offset == 109


@pytest.mark.parametrize(
    "base, delta, last",
    [
        (0, 0, 0),
        (5, 4, 9),
        (2**31 - 1, 0, 2**31 - 1),
        (2**31 - 1, 1, 0),
        (2**31 - 3, 9, 6),
        (-1, 4, -1),
    ],
)
def test_sequences_wrap_to_zero_after_the_largest(base: int, delta: int, last: int) -> None:
    assert header(base_sequence=base, last_offset_delta=delta).last_sequence == last
