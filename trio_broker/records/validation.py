"""Decides whether a batch may be appended (from a client) or believed (from a disk).

Works on the header and the CRC only, so its cost does not grow with the number of records and a
compressed batch is never decompressed: record counts and offsets are taken as the header states
them, and a header that lies breaks its readers, not the broker. Called by the Produce handler and
by recovery. Answers are values; nothing here raises for bad input.
"""

from __future__ import annotations

from typing import NamedTuple

from crc32c import crc32c

from trio_broker.errors import ErrorCode
from trio_broker.records.batch import (
    ATTRIBUTE_CODEC_MASK,
    ATTRIBUTE_CONTROL,
    ATTRIBUTE_LOG_APPEND_TIME,
    CRC_START,
    HEADER_BYTES,
    LENGTH_MIN,
    LOG_OVERHEAD_BYTES,
    MAGIC,
    BatchHeader,
    Buffer,
    read_header,
)
from trio_broker.records.compression import Compression

#: First version of Produce whose clients may send zstd (KIP-110).
PRODUCE_VERSION_ZSTD_MIN = 7
_MAGIC_POSITION = 16
#: Length, attributes, two deltas, key length, value length and header count, a byte each.
_RECORD_BYTES_MIN = 7
_UNFOLDING_MAX = 1 << 15
_LENGTH_MAX = (1 << 31) - 1 - LOG_OVERHEAD_BYTES
_CODEC_MAX = int(max(Compression))
_CODEC_ZSTD = int(Compression.ZSTD)  # a plain int compares faster than a member
_BIT_FIELDS_TO_CHECK = ATTRIBUTE_CONTROL | ATTRIBUTE_LOG_APPEND_TIME


class BatchFault(NamedTuple):
    """Why a batch was refused.

    Attributes:
        code: what the client is answered.
        message: a sentence for its `error_message`.
    """

    code: ErrorCode
    message: str


def validate_produced(
    buffer: memoryview,
    *,
    max_message_bytes: int,
    segment_bytes: int,
    now_ms: int,
    before_max_ms: int,
    after_max_ms: int,
    api_version: int,
) -> BatchHeader | BatchFault:
    """Check the records that a Produce request carries for one partition.

    The order of the checks, and so which fault is reported first, is Apache Kafka's
    (ProduceRequest.validateRecords, UnifiedLog.analyzeAndValidateRecords, LogValidator).
    Transactional batches pass: refusing them is up to the caller.

    Args:
        buffer: all bytes sent for the partition (format "B").
        max_message_bytes: the topic's limit for a whole batch.
        segment_bytes: the topic's segment size, which a batch must fit into.
        now_ms: wall clock, milliseconds since 1970.
        before_max_ms: how much older than `now_ms` a timestamp may be. A topic with
            LogAppendTime, where clients' timestamps do not matter, passes 2^63 - 1.
        after_max_ms: how much newer, likewise.
        api_version: version of the Produce request.

    Returns:
        The header of the one batch, or the first fault found.
    """
    size_bytes = len(buffer)
    if size_bytes < HEADER_BYTES or buffer[_MAGIC_POSITION] != MAGIC:
        return _format_fault(buffer)
    header = read_header(buffer)
    codec = header.attributes & ATTRIBUTE_CODEC_MASK
    if codec >= _CODEC_ZSTD and (fault := _codec_fault(codec, api_version)) is not None:
        return fault
    if LOG_OVERHEAD_BYTES + header.length != size_bytes:
        return _length_fault(header, size_bytes)
    if header.base_offset != 0:
        return _invalid(f"base offset of a produced batch must be 0, not {header.base_offset}")
    if size_bytes > max_message_bytes:
        return BatchFault(
            ErrorCode.MESSAGE_TOO_LARGE,
            f"batch of {size_bytes} bytes is larger than max.message.bytes {max_message_bytes}",
        )
    if size_bytes > segment_bytes:
        return BatchFault(
            ErrorCode.RECORD_LIST_TOO_LARGE,
            f"batch of {size_bytes} bytes is larger than segment.bytes {segment_bytes}",
        )
    if crc32c(buffer[CRC_START:]) != header.crc:
        return BatchFault(ErrorCode.CORRUPT_MESSAGE, "CRC-32C of the batch does not match")
    return _header_fault(header, now_ms - before_max_ms, now_ms + after_max_ms) or header


def check_stored(buffer: Buffer, position: int) -> BatchHeader | str:
    """Check a batch read back from a log, where compaction may have removed records.

    Args:
        buffer: bytes of the log (format "B").
        position: where in `buffer` the batch begins.

    Returns:
        The header if the whole batch is there and sound, else a phrase that says what is wrong.
        A batch that ends beyond the buffer counts as damage: a caller that reads piecemeal looks
        at the length first.
    """
    available_bytes = len(buffer) - position
    if available_bytes < HEADER_BYTES:
        return f"{available_bytes} bytes left, fewer than a batch header"
    header = read_header(buffer, position)
    if header.magic != MAGIC:
        return f"magic {header.magic} instead of {MAGIC}"
    if header.length < LENGTH_MIN:
        return f"batch length {header.length} is shorter than a batch header"
    if LOG_OVERHEAD_BYTES + header.length > available_bytes:
        return f"batch of {header.size_bytes} bytes with only {available_bytes} bytes left"
    end = position + LOG_OVERHEAD_BYTES + header.length
    crc = crc32c(memoryview(buffer)[position + CRC_START : end])
    if crc != header.crc:
        return f"CRC-32C is {crc:#010x}, the header says {header.crc:#010x}"
    if header.base_offset < 0 or header.last_offset_delta < 0:
        return f"base offset {header.base_offset}, last offset delta {header.last_offset_delta}"
    if not 0 <= header.record_count <= header.last_offset_delta + 1:
        return f"{header.record_count} records in {header.last_offset_delta + 1} offsets"
    return header


def _header_fault(header: BatchHeader, earliest_ms: int, latest_ms: int) -> BatchFault | None:
    """Check what is inside the CRC, so that a fault is the client's and not the network's."""
    count = header.record_count
    if count <= 0 or header.last_offset_delta + 1 != count:
        return _invalid(f"{count} records in {header.last_offset_delta + 1} offsets")
    if count > _records_max(header):
        return _invalid(f"{count} records do not fit into {header.size_bytes} bytes")
    attributes = header.attributes
    if attributes & _BIT_FIELDS_TO_CHECK:
        if attributes & ATTRIBUTE_CONTROL:
            return _invalid("clients may not write control batches")
        return BatchFault(
            ErrorCode.INVALID_TIMESTAMP, "clients may not set the timestamp type LogAppendTime"
        )
    if header.producer_id >= 0 and (header.base_sequence < 0 or header.producer_epoch < 0):
        return _invalid(
            f"producer id {header.producer_id} with epoch {header.producer_epoch} "
            f"and base sequence {header.base_sequence}"
        )
    for timestamp_ms in (header.base_timestamp, header.max_timestamp):
        # -1 is "no timestamp", which a topic with CreateTime accepts.
        if not earliest_ms <= timestamp_ms <= latest_ms and timestamp_ms != -1:
            return BatchFault(
                ErrorCode.INVALID_TIMESTAMP,
                f"timestamp {timestamp_ms} is not between {earliest_ms} and {latest_ms}",
            )
    return None


def _records_max(header: BatchHeader) -> int:
    """Return how many records the bytes of a batch can hold; more would use up offsets for none.

    What a compressed batch holds is not known without unfolding it; no codec unfolds zeros to
    more than `_UNFOLDING_MAX` times their size (zstd: 32,692 measured).
    """
    records_bytes = header.size_bytes - HEADER_BYTES
    if header.attributes & ATTRIBUTE_CODEC_MASK:
        records_bytes *= _UNFOLDING_MAX
    return records_bytes // _RECORD_BYTES_MIN


def _invalid(message: str) -> BatchFault:
    return BatchFault(ErrorCode.INVALID_RECORD, message)


def _format_fault(buffer: memoryview) -> BatchFault:
    """Say what is wrong with bytes that cannot be a batch of magic 2.

    Kafka finds no complete batch in too few bytes, and counts none as it counts two: invalid.
    """
    size_bytes = len(buffer)
    if size_bytes == 0:
        return _invalid("a partition must carry exactly one record batch, this one has none")
    if size_bytes > _MAGIC_POSITION and buffer[_MAGIC_POSITION] != MAGIC:
        magic = buffer[_MAGIC_POSITION]
        if magic < MAGIC:
            return _invalid(f"records must have magic {MAGIC}, not {magic}")
        return BatchFault(ErrorCode.CORRUPT_MESSAGE, f"there is no magic {magic}")
    return _invalid(f"{size_bytes} bytes are not a complete record batch")


def _codec_fault(codec: int, api_version: int) -> BatchFault | None:
    if codec > _CODEC_MAX:
        return BatchFault(ErrorCode.UNSUPPORTED_COMPRESSION_TYPE, f"unknown codec {codec}")
    if api_version < PRODUCE_VERSION_ZSTD_MIN:
        return BatchFault(
            ErrorCode.UNSUPPORTED_COMPRESSION_TYPE,
            f"zstd needs Produce version {PRODUCE_VERSION_ZSTD_MIN}, this is {api_version}",
        )
    return None


def _length_fault(header: BatchHeader, size_bytes: int) -> BatchFault:
    if not LENGTH_MIN <= header.length <= _LENGTH_MAX:
        return BatchFault(
            ErrorCode.CORRUPT_MESSAGE, f"batch length {header.length} is that of no batch"
        )
    if header.length < size_bytes - LOG_OVERHEAD_BYTES:
        return _invalid("a partition must carry exactly one record batch, this one has more bytes")
    return _invalid(f"batch of {header.size_bytes} bytes with only {size_bytes} bytes sent")
