"""The few building blocks that every codec of this folder shares.

Varints, tagged-field sections, topic ids and the element budget. Each reader takes a buffer and an
offset and returns what it read with the offset behind it. Readers may run past the end of the
buffer with IndexError or struct.error, which their callers turn into ProtocolError.
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct
from typing import TYPE_CHECKING, NoReturn
from uuid import UUID

from trio_broker.errors import ProtocolError

if TYPE_CHECKING:
    from trio_broker.wire.buffers import Buffer

#: Array elements and tagged fields that any request may hold, however small it is.
ELEMENTS_BASE = 10_000
#: Bytes of a request that pay for one more element. Python objects take a multiple of their
#: encoded size, so that "the count fits the remaining bytes" alone bounds neither memory nor time
#: (compare CVE-2022-34917).
REQUEST_BYTES_PER_ELEMENT = 16
#: The same for responses, which come from a broker that the client chose to trust.
RESPONSE_BYTES_PER_ELEMENT = 4
#: Longest string: lengths are 16 bits wide in the older encoding (KIP-482 keeps the limit).
STRING_BYTES_MAX = 0x7FFF
#: Bytes of a frame that pay for elements: what a larger one holds is records, which need none.
BUDGETED_BYTES_MAX = 4 * 1024 * 1024
_UNSIGNED_VARINT_BYTES_MAX = 5
_UINT32_MAX = 0xFFFF_FFFF

read_int16 = Struct(">h").unpack_from
read_int32 = Struct(">i").unpack_from
read_id = Struct(">16s").unpack_from
pack_int16 = Struct(">h").pack
pack_int32 = Struct(">i").pack


def element_budget(frame_bytes: int, bytes_per_element: int = REQUEST_BYTES_PER_ELEMENT) -> int:
    """Return how many array elements and tagged fields a frame of this size may hold in all."""
    return ELEMENTS_BASE + min(frame_bytes, BUDGETED_BYTES_MAX) // bytes_per_element


def read_unsigned_varint(buffer: Buffer, offset: int) -> tuple[int, int]:
    """Read an unsigned varint of at most 32 bits (KIP-482); return it and the offset behind it.

    Raises:
        ProtocolError: it does not end within 5 bytes, or exceeds 32 bits.
        IndexError: the buffer ends first.
    """
    byte = buffer[offset]
    if byte < 0x80:
        return byte, offset + 1
    return read_long_varint(buffer, offset)


def read_long_varint(buffer: Buffer, offset: int) -> tuple[int, int]:
    """Do the work of `read_unsigned_varint` where the first byte says that more follow."""
    value = 0
    shift = 0
    for position in range(offset, offset + _UNSIGNED_VARINT_BYTES_MAX):
        byte = buffer[position]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value > _UINT32_MAX:
                break
            return value, position + 1
        shift += 7
    raise ProtocolError("a varint exceeds 32 bits")


def skip_tagged_fields(buffer: Buffer, offset: int, budget: int) -> tuple[int, int]:
    """Pass over a section of tagged fields without keeping any of them.

    Args:
        buffer: the frame.
        offset: where the section's count begins.
        budget: how many fields (and elements) the frame may still hold.

    Returns:
        The offset behind the section (perhaps behind the end of the buffer, which the caller's
        last check finds), and what is left of the budget.
    """
    count, offset = read_unsigned_varint(buffer, offset)
    if count > budget:
        fail_budget()
    for _ in range(count):
        if buffer[offset] < 0x80:
            offset += 1
        else:
            _, offset = read_long_varint(buffer, offset)
        size = buffer[offset]
        if size < 0x80:
            offset += 1 + size
        else:
            size, offset = read_long_varint(buffer, offset)
            offset += size
    return offset, budget - count


def fail_budget() -> NoReturn:
    """Refuse a count that is above the budget or cannot fit into what is left of the frame."""
    raise ProtocolError("an array or tag section claims more elements than its frame may hold")


def fail_length(length: int) -> NoReturn:
    """Refuse a length (or a null) that the field does not allow."""
    raise ProtocolError(f"the length {length} is not legal for its field")


def fail_end() -> NoReturn:
    """Refuse a message that goes on behind the end of its frame.

    Bytes behind a message are ignored, as Apache Kafka does: librdkafka sends some behind its
    Metadata requests of version 13.
    """
    raise ProtocolError("the frame ends inside a field")


def _encode_long_varint(value: int) -> bytes:
    if not 0 <= value <= _UINT32_MAX:
        raise ValueError(f"{value} does not fit an unsigned varint of 32 bits")
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


_SHORT_VARINTS = tuple(_encode_long_varint(value) for value in range(512))


def encode_unsigned_varint(value: int) -> bytes:
    """Encode a length, count or tag.

    Raises:
        ValueError: `value` is negative or exceeds 32 bits.
    """
    return _SHORT_VARINTS[value] if 0 <= value < 512 else _encode_long_varint(value)


def encode_compact_string(text: str) -> bytes:
    """Encode a string in the encoding of flexible versions.

    Raises:
        ValueError: it is longer than 32767 bytes.
    """
    encoded = text.encode()
    if len(encoded) > STRING_BYTES_MAX:
        raise ValueError(f"a string of {len(encoded)} bytes does not fit the protocol")
    return encode_unsigned_varint(len(encoded) + 1) + encoded


def encode_string(text: str) -> bytes:
    """Encode a string in the encoding of versions that are not flexible.

    Raises:
        ValueError: it is longer than 32767 bytes.
    """
    encoded = text.encode()
    if len(encoded) > STRING_BYTES_MAX:
        raise ValueError(f"a string of {len(encoded)} bytes does not fit the protocol")
    return pack_int16(len(encoded)) + encoded


@lru_cache(maxsize=4096)
def uuid_from_bytes(encoded: bytes) -> UUID:
    """Return the id; the same object for the same 16 bytes where possible.

    Building a UUID costs more than the rest of a small request, and a client repeats the ids of
    its topics in each one.
    """
    return UUID(bytes=encoded)
