"""Codecs of the records inside a batch, each bounded by what the caller allows it to produce.

Only readers and builders of records come here (the client, exact timestamp lookups, tools): the
broker stores compressed batches as they are. Libraries are imported when a codec is first used:
gzip comes with Python, the others with the extra ``compression``.

A few kilobytes can claim gigabytes (zstd packs zeros 32,000 : 1), so no function here has an
unlimited form, and none trusts a size that the data states about itself. One batch holds one
frame (gzip: one member), as every producer writes it; bytes after it are refused.
"""

from __future__ import annotations

import sys
import zlib
from enum import IntEnum
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeAlias

from trio_broker.errors import CodecUnavailable, DecompressionFailed

if TYPE_CHECKING:
    from collections.abc import Callable

Data: TypeAlias = bytes | bytearray | memoryview

_GZIP_WINDOW_BITS = 16 + zlib.MAX_WBITS
_GZIP_LEVEL = 6
#: Output taken from a decoder at a time: a decoder allocates what it is allowed to return.
_STEP_BYTES = 1024 * 1024

#: Framing of the Java library (xerial): magic, version 1, oldest compatible version 1, blocks.
_XERIAL_MAGIC = b"\x82SNAPPY\x00"
_XERIAL_HEADER = _XERIAL_MAGIC + b"\x00\x00\x00\x01" * 2
_XERIAL_BLOCK_BYTES = 32 * 1024
#: Snappy's densest element makes 64 bytes of 3 (google/snappy, format_description.txt).
_SNAPPY_RATIO_MAX = 22


class Compression(IntEnum):
    """How the records of a batch are compressed; the values are those of its attributes."""

    NONE = 0
    GZIP = 1
    SNAPPY = 2
    LZ4 = 3
    ZSTD = 4


_ZSTD_MODULE = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
_LIBRARIES = {
    Compression.SNAPPY: ("cramjam", "cramjam"),
    Compression.LZ4: ("lz4.frame", "lz4"),
    Compression.ZSTD: (_ZSTD_MODULE, "backports.zstd"),
}


def available(codec: Compression) -> bool:
    """Return whether `compress` and `decompress` can be used with `codec` here."""
    library = _LIBRARIES.get(codec)
    if library is None:
        return True
    package = library[0].partition(".")[0]
    return find_spec(package) is not None and find_spec(library[0]) is not None


def compress(data: Data, codec: Compression) -> bytes:
    """Compress the records section of a batch as Kafka's Java client would.

    Raises:
        CodecUnavailable: the codec's library is not installed.
    """
    match codec:
        case Compression.NONE:
            return bytes(data)
        case Compression.GZIP:
            return zlib.compress(data, _GZIP_LEVEL, wbits=_GZIP_WINDOW_BITS)
        case Compression.SNAPPY:
            return _compress_snappy(data)
        case Compression.LZ4:
            # Kafka's Java reader knows no blocks that depend on the one before.
            lz4_frame: bytes = _library(codec).compress(data, block_linked=False)
            return lz4_frame
        case Compression.ZSTD:
            zstd_frame: bytes = _library(codec).compress(data)
            return zstd_frame


def decompress(data: Data, codec: Compression, *, bytes_max: int) -> bytes:
    """Decompress the records section of a batch.

    Args:
        data: the section as stored.
        codec: what the attributes of the batch say.
        bytes_max: most bytes that may come out; not much more memory than that is ever used.

    Raises:
        DecompressionFailed: the data is damaged, incomplete, followed by something else, or
            would become larger than `bytes_max`.
        CodecUnavailable: the codec's library is not installed.
    """
    match codec:
        case Compression.NONE:
            if len(data) > bytes_max:
                raise _too_large(codec, bytes_max)
            return bytes(data)
        case Compression.GZIP:
            return _decompress_gzip(data, bytes_max)
        case Compression.SNAPPY:
            return _decompress_snappy(data, bytes_max)
        case Compression.LZ4:
            decoder = _library(codec).LZ4FrameDecompressor()
            return _drain(decoder, data, codec, bytes_max, RuntimeError)
        case Compression.ZSTD:
            library = _library(codec)
            return _drain(library.ZstdDecompressor(), data, codec, bytes_max, library.ZstdError)


@cache
def _library(codec: Compression) -> Any:
    module, distribution = _LIBRARIES[codec]
    try:
        return import_module(module)
    except ImportError as error:
        raise CodecUnavailable(
            f"{codec.name.lower()} needs the package {distribution}: "
            "pip install 'trio-broker[compression]'"
        ) from error


def _too_large(codec: Compression, bytes_max: int) -> DecompressionFailed:
    return DecompressionFailed(
        f"{codec.name.lower()} data is larger than {bytes_max} bytes when decompressed"
    )


def _damaged(codec: Compression, reason: object) -> DecompressionFailed:
    return DecompressionFailed(f"{codec.name.lower()} data is damaged: {reason}")


def _decompress_gzip(data: Data, bytes_max: int) -> bytes:
    decoder = zlib.decompressobj(wbits=_GZIP_WINDOW_BITS)
    try:
        # One byte more than allowed tells "too large" from "just fits"; 0 would mean no limit.
        result = decoder.decompress(data, bytes_max + 1)
    except zlib.error as error:
        raise _damaged(Compression.GZIP, error) from error
    if len(result) > bytes_max:
        raise _too_large(Compression.GZIP, bytes_max)
    if not decoder.eof:
        raise _damaged(Compression.GZIP, "it ends early")
    if decoder.unused_data:
        raise _damaged(Compression.GZIP, f"{len(decoder.unused_data)} bytes follow it")
    return result


def _drain(
    decoder: Any,
    data: Data,
    codec: Compression,
    bytes_max: int,
    damage: type[Exception],
) -> bytes:
    """Take a frame from a decoder of the standard shape (eof, needs_input, unused_data)."""
    pieces: list[bytes] = []
    room_bytes = bytes_max
    chunk: Data = data
    while True:
        try:
            piece = decoder.decompress(chunk, max_length=min(_STEP_BYTES, room_bytes + 1))
        except damage as error:
            raise _damaged(codec, error) from error
        room_bytes -= len(piece)
        if room_bytes < 0:
            raise _too_large(codec, bytes_max)
        pieces.append(piece)
        if decoder.eof:
            break
        if decoder.needs_input:
            raise _damaged(codec, "it ends early")
        chunk = b""
    if decoder.unused_data:
        raise _damaged(codec, f"{len(decoder.unused_data)} bytes follow it")
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _compress_snappy(data: Data) -> bytes:
    compress_block: Callable[[Data], Any] = _library(Compression.SNAPPY).snappy.compress_raw
    view = memoryview(data)
    parts = [_XERIAL_HEADER]
    for start in range(0, len(view), _XERIAL_BLOCK_BYTES):
        block = bytes(compress_block(view[start : start + _XERIAL_BLOCK_BYTES]))
        parts.append(len(block).to_bytes(4, "big"))
        parts.append(block)
    return b"".join(parts)


def _decompress_snappy(data: Data, bytes_max: int) -> bytes:
    """Read either framing: Java writes xerial's, librdkafka one bare block."""
    view = memoryview(data)
    if view[: len(_XERIAL_MAGIC)] != _XERIAL_MAGIC:
        return bytes(_decompress_snappy_block(view, bytes_max, bytes_max))
    # The versions in the header are ignored: some producers write them little-endian.
    position = len(_XERIAL_HEADER)
    if len(view) < position:
        raise _damaged(Compression.SNAPPY, "it ends early")
    pieces: list[bytearray] = []
    room_bytes = bytes_max
    while position < len(view):
        start = position + 4
        end = start + int.from_bytes(view[position:start], "big")
        if end > len(view) or end <= start:
            raise _damaged(Compression.SNAPPY, "a block does not fit")
        piece = _decompress_snappy_block(view[start:end], room_bytes, bytes_max)
        room_bytes -= len(piece)
        pieces.append(piece)
        position = end
    return b"".join(pieces)


def _decompress_snappy_block(block: memoryview, room_bytes: int, bytes_max: int) -> bytearray:
    library = _library(Compression.SNAPPY)
    try:
        claimed_bytes: int = library.snappy.decompress_raw_len(block)
    except library.DecompressionError as error:
        raise _damaged(Compression.SNAPPY, error) from error
    if claimed_bytes > room_bytes:
        raise _too_large(Compression.SNAPPY, bytes_max)
    if claimed_bytes > _SNAPPY_RATIO_MAX * len(block):
        raise _damaged(Compression.SNAPPY, f"{len(block)} bytes cannot become {claimed_bytes}")
    result = bytearray(claimed_bytes)
    try:
        written_bytes = library.snappy.decompress_raw_into(block, result)
    except library.DecompressionError as error:
        raise _damaged(Compression.SNAPPY, error) from error
    if written_bytes != claimed_bytes:
        raise _damaged(Compression.SNAPPY, f"{written_bytes} bytes instead of {claimed_bytes}")
    return result
