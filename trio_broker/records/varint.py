"""Zigzag varints, the integers inside records (Protocol Buffers encoding, "signed integers").

Called by the builder and the reader of records. Kafka's bounds hold: a value has at most 64 bits
and so at most 10 bytes (org.apache.kafka.common.utils.ByteUtils), whatever follows.
"""

from __future__ import annotations

from functools import lru_cache

from trio_broker.errors import CorruptRecords

VARINT_BYTES_MAX = 10
_INT64_LIMIT = 1 << 63


@lru_cache(maxsize=4096)
def encode_varint(value: int) -> bytes:
    """Return the encoding of a signed 64-bit integer.

    Results are kept, because the deltas and lengths of records repeat.

    Raises:
        ValueError: `value` has more than 64 bits.
    """
    if not -_INT64_LIMIT <= value < _INT64_LIMIT:
        raise ValueError(f"{value} does not fit 64 bits")
    rest = (value << 1) ^ (value >> 63)
    result = bytearray()
    while rest > 0x7F:
        result.append(rest & 0x7F | 0x80)
        rest >>= 7
    result.append(rest)
    return bytes(result)


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """Return the signed integer at `position`, and the position after it.

    Raises:
        IndexError: `data` ends inside the integer.
        CorruptRecords: the integer has no end within 10 bytes, or more than 64 bits.
    """
    byte = data[position]
    if byte < 0x80:
        return (byte >> 1) ^ -(byte & 1), position + 1
    second = data[position + 1]
    if second < 0x80:
        return ((byte & 0x7F) >> 1 | second << 6) ^ -(byte & 1), position + 2
    raw = (byte & 0x7F) | (second & 0x7F) << 7
    shift = 14
    for index in range(position + 2, position + VARINT_BYTES_MAX):
        byte = data[index]
        raw |= (byte & 0x7F) << shift
        if byte < 0x80:
            if raw >> 64:
                break
            return (raw >> 1) ^ -(raw & 1), index + 1
        shift += 7
    raise CorruptRecords(f"no varint of at most 64 bits at byte {position} of the records")
