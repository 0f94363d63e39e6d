"""Every codec both ways with other implementations, and no bomb gets through."""

from __future__ import annotations

import sys
import tracemalloc
from typing import TYPE_CHECKING, Any

import aiokafka.codec
import kafka.codec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_broker.errors import CodecUnavailable, DecompressionFailed
from trio_broker.records import compression
from trio_broker.records.compression import Compression, available, compress, decompress

if TYPE_CHECKING:
    from collections.abc import Callable

PACKED = [codec for codec in Compression if codec is not Compression.NONE]
MIB = 1024 * 1024

payloads = st.one_of(
    st.binary(max_size=300),
    st.builds(
        lambda data, times: data * times, st.binary(min_size=1, max_size=20), st.integers(0, 9000)
    ),
)


@given(payload=payloads, codec=st.sampled_from(Compression))
def test_round_trip(payload: bytes, codec: Compression) -> None:
    packed = compress(memoryview(payload), codec)
    assert decompress(packed, codec, bytes_max=len(payload)) == payload
    assert decompress(memoryview(packed), codec, bytes_max=len(payload) + 1) == payload


OTHERS: list[tuple[Compression, Callable[[bytes], Any], Callable[[bytes], Any]]] = [
    (Compression.GZIP, kafka.codec.gzip_encode, kafka.codec.gzip_decode),
    (Compression.LZ4, kafka.codec.lz4_encode, kafka.codec.lz4_decode),
    (Compression.GZIP, aiokafka.codec.gzip_encode, aiokafka.codec.gzip_decode),
    (Compression.SNAPPY, aiokafka.codec.snappy_encode, aiokafka.codec.snappy_decode),
    (
        Compression.SNAPPY,
        lambda data: aiokafka.codec.snappy_encode(data, xerial_compatible=False),
        aiokafka.codec.snappy_decode,
    ),
    (Compression.LZ4, aiokafka.codec.lz4_encode, aiokafka.codec.lz4_decode),
    (Compression.ZSTD, aiokafka.codec.zstd_encode, aiokafka.codec.zstd_decode),
]


@pytest.mark.parametrize("size_bytes", [1, 100, 32 * 1024, 32 * 1024 + 1, 300_000, 3 * MIB])
@pytest.mark.parametrize("codec, encode, decode", OTHERS)
def test_other_implementations_read_and_are_read(
    codec: Compression,
    encode: Callable[[bytes], Any],
    decode: Callable[[bytes], Any],
    size_bytes: int,
) -> None:
    payload = (b"%d," * 10 % tuple(range(10)) * (size_bytes // 20 + 1))[:size_bytes]
    assert decompress(bytes(encode(payload)), codec, bytes_max=size_bytes) == payload
    assert bytes(decode(compress(payload, codec))) == payload


def test_lz4_blocks_stand_alone_because_kafkas_java_reader_needs_that() -> None:
    flags = compress(b"some payload " * 20, Compression.LZ4)[4]
    assert flags & 0b0010_0000  # "block independence", LZ4 frame format 1.6.1


@pytest.mark.parametrize("codec", Compression)
def test_one_byte_above_the_limit_is_refused(codec: Compression) -> None:
    for size_bytes in (1, 70_000, MIB, MIB + 1, 2 * MIB):
        packed = compress(b"x" * size_bytes, codec)
        assert len(decompress(packed, codec, bytes_max=size_bytes)) == size_bytes
        with pytest.raises(DecompressionFailed, match="larger than"):
            decompress(packed, codec, bytes_max=size_bytes - 1)


@pytest.mark.parametrize("codec", PACKED)
def test_a_bomb_costs_no_more_memory_than_its_limit(codec: Compression) -> None:
    bomb = compress(bytes(64 * MIB), codec)
    tracemalloc.start()
    try:
        with pytest.raises(DecompressionFailed, match="larger than"):
            decompress(bomb, codec, bytes_max=MIB)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 4 * MIB + len(bomb)


def test_snappy_that_claims_more_than_it_can_hold_is_not_believed() -> None:
    claim = b"\xff\xff\xff\x0f" + b"\x00x"  # "32 MiB follow", then one literal byte
    xerial = b"\x82SNAPPY\x00\x00\x00\x00\x01\x00\x00\x00\x01"
    for data in (claim, xerial + len(claim).to_bytes(4, "big") + claim):
        with pytest.raises(DecompressionFailed, match="cannot become"):
            decompress(data, Compression.SNAPPY, bytes_max=1 << 30)


@pytest.mark.parametrize("codec", PACKED)
def test_what_is_cut_off_or_followed_by_something_is_refused(codec: Compression) -> None:
    packed = compress(b"some payload " * 20, codec)
    for end in range(len(packed)):
        if codec is Compression.SNAPPY and end == 16:
            continue  # the frame's header alone is a whole frame without blocks
        with pytest.raises(DecompressionFailed):
            decompress(packed[:end], codec, bytes_max=MIB)
    for tail in (b"\x00", packed):
        with pytest.raises(DecompressionFailed):
            decompress(packed + tail, codec, bytes_max=MIB)


@given(data=st.binary(max_size=200), codec=st.sampled_from(PACKED), keep=st.integers(0, 60))
def test_damage_raises_one_kind_of_error(data: bytes, codec: Compression, keep: int) -> None:
    for junk in (data, compress(b"some payload " * 20, codec)[:keep] + data):
        try:
            result = decompress(junk, codec, bytes_max=500)
        except DecompressionFailed:
            continue
        assert len(result) <= 500


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(available(codec) for codec in Compression)
    compression._library.cache_clear()
    monkeypatch.setitem(sys.modules, "lz4", None)
    monkeypatch.setitem(sys.modules, "lz4.frame", None)
    with pytest.raises(CodecUnavailable, match=r"lz4 needs the package lz4.*\[compression\]"):
        decompress(b"", Compression.LZ4, bytes_max=1)
    with pytest.raises(CodecUnavailable):
        compress(b"", Compression.LZ4)
    assert not available(Compression.LZ4)
    assert available(Compression.GZIP)
