"""Reads batches out of a run of bytes, and records out of a batch.

For the client, timestamp lookup, the broker's own topics and tools. Everything here distrusts the
bytes: lengths, counts and varints are bounded by what is there, decompression by the caller.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from trio_broker.config import INT64_MAX
from trio_broker.errors import CorruptRecords
from trio_broker.records.batch import (
    ATTRIBUTE_CODEC_MASK,
    ATTRIBUTE_LOG_APPEND_TIME,
    HEADER_BYTES,
    LENGTH_MIN,
    LOG_OVERHEAD_BYTES,
    MAGIC,
    BatchHeader,
    Buffer,
    read_header,
)
from trio_broker.records.build import Record
from trio_broker.records.compression import Compression, decompress
from trio_broker.records.varint import read_varint

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Length, attributes, two deltas, two lengths and the number of headers take a byte each.
_RECORD_BYTES_MIN = 7
#: An empty name and an empty value.
_HEADER_BYTES_MIN = 2
_NEW_TUPLE = tuple.__new__


class RecordPosition(NamedTuple):
    """Where a timestamp was found."""

    timestamp_ms: int
    offset: int


def iterate_batches(buffer: Buffer) -> Iterator[tuple[BatchHeader, memoryview]]:
    """Yield each whole batch of a fetch response or a piece of a log, without copying.

    A batch that is cut off at the end is left out: brokers may cut the last one. CRCs are not
    checked (`validation.check_stored` does).

    Raises:
        CorruptRecords: at a place where a batch should begin there is none of magic 2.
    """
    view = memoryview(buffer)
    end = len(view)
    position = 0
    while end - position >= HEADER_BYTES:
        header = read_header(view, position)
        if header.magic != MAGIC or header.length < LENGTH_MIN:
            raise CorruptRecords(
                f"no batch at byte {position}: magic {header.magic}, length {header.length}"
            )
        next_position = position + LOG_OVERHEAD_BYTES + header.length
        if next_position > end:
            return
        yield header, view[position:next_position]
        position = next_position


def iterate_records(batch: Buffer, *, bytes_max: int) -> Iterator[Record]:
    """Read the records of one whole batch, as far as the caller goes.

    Args:
        batch: the bytes of the batch; trailing bytes are ignored.
        bytes_max: most bytes its records may have when decompressed.

    Raises:
        CorruptRecords: the header is damaged or does not match the records. Damage in a record
            is found when that record is reached.
        DecompressionFailed: see `compression.decompress`.
        CodecUnavailable: the codec's library is not installed.
    """
    header, data = _records_section(batch, bytes_max)
    return _iterate(header, data)


def first_record_at(batch: Buffer, timestamp_ms: int, *, bytes_max: int) -> RecordPosition | None:
    """Find the first record of a batch whose timestamp is at least `timestamp_ms`.

    This is what ListOffsets answers once the batch is found. Keys and values are skipped.

    Raises:
        CorruptRecords: as `iterate_records`, with the same subclasses.
    """
    header = _checked_header(batch)
    if header.attributes & ATTRIBUTE_LOG_APPEND_TIME:
        # One timestamp for all, so there is nothing to look for inside.
        if header.max_timestamp >= timestamp_ms:
            return RecordPosition(header.max_timestamp, header.base_offset)
        return None
    header, data = _records_section(batch, bytes_max)
    delta_wanted = timestamp_ms - header.base_timestamp
    position = 0
    for index in range(header.record_count):
        try:
            length, position = read_varint(data, position)
            timestamp_delta, after = read_varint(data, position + 1)
            offset_delta, _ = read_varint(data, after)
        except IndexError as error:
            raise _damaged(header, index) from error
        if timestamp_delta >= delta_wanted:
            found_ms = header.base_timestamp + timestamp_delta
            if found_ms > INT64_MAX or not 0 <= offset_delta <= header.last_offset_delta:
                raise _damaged(header, index)
            return RecordPosition(found_ms, header.base_offset + offset_delta)
        if length < _RECORD_BYTES_MIN - 1:
            raise _damaged(header, index)
        position += length
    return None


def _checked_header(batch: Buffer) -> BatchHeader:
    if len(batch) < HEADER_BYTES:
        raise CorruptRecords(f"{len(batch)} bytes are shorter than a batch header")
    header = read_header(batch)
    if header.magic != MAGIC or not LENGTH_MIN <= header.length <= len(batch) - LOG_OVERHEAD_BYTES:
        raise CorruptRecords(
            f"{len(batch)} bytes are not a batch: magic {header.magic}, length {header.length}"
        )
    return header


def _records_section(batch: Buffer, bytes_max: int) -> tuple[BatchHeader, bytes]:
    """Return the header and the decompressed records; one copy, so that slices are bytes."""
    header = _checked_header(batch)
    codec = header.attributes & ATTRIBUTE_CODEC_MASK
    if codec > Compression.ZSTD:
        raise CorruptRecords(f"unknown codec {codec}")
    section = memoryview(batch)[HEADER_BYTES : header.size_bytes]
    data = decompress(section, Compression(codec), bytes_max=bytes_max)
    if header.record_count < 0 or header.record_count * _RECORD_BYTES_MIN > len(data):
        raise CorruptRecords(f"{header.record_count} records in {len(data)} bytes")
    return header, data


def _damaged(header: BatchHeader, index: int) -> CorruptRecords:
    return CorruptRecords(
        f"record {index} of {header.record_count} in the batch at offset {header.base_offset} "
        "is damaged"
    )


def _iterate(header: BatchHeader, data: bytes) -> Iterator[Record]:
    """Parse record after record; one-byte varints, nearly all of them, are read in place.

    A slice beyond the end is short and does not raise, but then the position is beyond the
    record's end, which is compared once, after all its fields.
    """
    base_offset = header.base_offset
    base_timestamp = header.base_timestamp
    last_offset_delta = header.last_offset_delta
    append_time_ms = header.max_timestamp if header.attributes & ATTRIBUTE_LOG_APPEND_TIME else None
    size = len(data)
    position = 0
    for index in range(header.record_count):
        try:
            length, position = read_varint(data, position)
            end = position + length
            position += 1  # attributes: no bit has a meaning
            byte = data[position]
            if byte < 0x80:
                timestamp_delta = (byte >> 1) ^ -(byte & 1)
                position += 1
            else:
                timestamp_delta, position = read_varint(data, position)
            byte = data[position]
            if byte < 0x80:
                offset_delta = (byte >> 1) ^ -(byte & 1)
                position += 1
            else:
                offset_delta, position = read_varint(data, position)
            key, position = _read_bytes(data, position)
            value, position = _read_bytes(data, position)
            headers: tuple[tuple[str, bytes | None], ...] = ()
            if data[position]:
                headers, position = _read_headers(data, position, end)
            else:
                position += 1
        except IndexError as error:
            raise _damaged(header, index) from error
        if position != end or end > size or not 0 <= offset_delta <= last_offset_delta:
            raise _damaged(header, index)
        yield _NEW_TUPLE(
            Record,
            (
                key,
                value,
                headers,
                base_timestamp + timestamp_delta if append_time_ms is None else append_time_ms,
                base_offset + offset_delta,
            ),
        )
    if position != size:
        raise CorruptRecords(
            f"{size - position} bytes follow the records of the batch at offset {base_offset}"
        )


def _read_bytes(data: bytes, position: int) -> tuple[bytes | None, int]:
    """Read a length and that many bytes (fewer at the end of `data`: the caller compares)."""
    byte = data[position]
    if byte < 0x80:
        length = (byte >> 1) ^ -(byte & 1)
        position += 1
    else:
        length, position = read_varint(data, position)
    if length < 0:
        if length != -1:
            raise CorruptRecords(f"length {length} at byte {position} of the records")
        return None, position
    end = position + length
    return data[position:end], end


def _read_headers(
    data: bytes, position: int, end: int
) -> tuple[tuple[tuple[str, bytes | None], ...], int]:
    count, position = read_varint(data, position)
    if not 0 <= count * _HEADER_BYTES_MIN <= end - position:
        raise CorruptRecords(f"{count} headers in {end - position} bytes")
    headers = []
    for _ in range(count):
        name, position = _read_bytes(data, position)
        if name is None:
            raise CorruptRecords("a header without a name")
        value, position = _read_bytes(data, position)
        # Java clients replace what is not UTF-8, too; refusing would stop a reader for good.
        headers.append((name.decode(errors="replace"), value))
    return tuple(headers), position
