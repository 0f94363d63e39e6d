from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.record.util import decode_varint
from kafka.record.util import encode_varint as kafka_encode_varint

from trio_broker.errors import CorruptRecords
from trio_broker.records.varint import encode_varint, read_varint

INT64 = st.integers(-(2**63), 2**63 - 1)


@given(value=st.one_of(st.integers(-20_000, 20_000), INT64), before=st.binary(max_size=3))
def test_round_trip_and_agreement_with_kafka_python(value: int, before: bytes) -> None:
    encoded = encode_varint(value)
    other = bytearray()
    kafka_encode_varint(value, other.append)
    assert encoded == other
    end = len(before) + len(encoded)
    assert read_varint(before + encoded + b"\xff", len(before)) == (value, end)
    assert decode_varint(bytearray(encoded)) == (value, len(encoded))


@given(value=INT64)
def test_an_integer_cut_off_is_not_read(value: int) -> None:
    with pytest.raises(IndexError):
        read_varint(encode_varint(value)[:-1], 0)


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1])
def test_more_than_64_bits_are_not_encoded(value: int) -> None:
    with pytest.raises(ValueError, match="64 bits"):
        encode_varint(value)


@pytest.mark.parametrize("data", [b"\xff" * 100_000, b"\xff" * 9 + b"\x02", b"\x80" * 10 + b"\x00"])
def test_an_integer_without_end_or_with_too_many_bits_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptRecords, match="64 bits"):
        read_varint(data, 0)
