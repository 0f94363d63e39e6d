"""Reading and writing the small schemas that groups are made of, all in Kafka's plain encoding.

Used for the keys and values of ``__consumer_offsets`` and for what consumers tell each other
through the group (`consumer_protocol`). None of it is on the wire: those messages are in `wire/`.
"""

from __future__ import annotations

import struct
from uuid import UUID

from trio_broker.errors import CorruptRecords, ProtocolError
from trio_broker.names import ZERO_TOPIC_ID
from trio_broker.wire.primitives import encode_string, read_unsigned_varint

INT16 = struct.Struct(">h")
INT32 = struct.Struct(">i")
INT64 = struct.Struct(">q")

_TAG_TOPIC_ID = 0


class SchemaReader:
    """A position in a key or value; every short read is the same error, `CorruptRecords`."""

    __slots__ = ("_data", "_position")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def take(self, layout: struct.Struct) -> int:
        """Read one number."""
        try:
            (value,) = layout.unpack_from(self._data, self._position)
        except struct.error as error:
            raise self.damaged() from error
        self._position += layout.size
        number: int = value
        return number

    def take_bytes(self, size: int) -> bytes:
        """Read that many bytes."""
        end = self._position + size
        if size < 0 or end > len(self._data):
            raise self.damaged()
        result = self._data[self._position : end]
        self._position = end
        return result

    def take_varint(self) -> int:
        """Read an unsigned varint."""
        try:
            value, self._position = read_unsigned_varint(self._data, self._position)
        except (IndexError, ProtocolError) as error:
            raise self.damaged() from error
        return value

    def take_string(self) -> str:
        """Read a string that must not be null."""
        return self._text(self.take_bytes(self.take(INT16)))

    def take_nullable_string(self) -> str | None:
        """Read a string or null."""
        size = self.take(INT16)
        return None if size == -1 else self._text(self.take_bytes(size))

    def take_compact_string(self) -> str:
        """Read a string of a flexible version that must not be null."""
        return self._text(self.take_bytes(self.take_varint() - 1))

    def take_nullable_compact_string(self) -> str | None:
        """Read a string of a flexible version, or null."""
        size = self.take_varint()
        return None if size == 0 else self._text(self.take_bytes(size - 1))

    def take_sized_bytes(self) -> bytes:
        """Read bytes that must not be null."""
        return self.take_bytes(self.take(INT32))

    def take_nullable_bytes(self) -> bytes | None:
        """Read bytes or null."""
        size = self.take(INT32)
        return None if size == -1 else self.take_bytes(size)

    def take_compact_bytes(self) -> bytes:
        """Read bytes of a flexible version that must not be null."""
        return self.take_bytes(self.take_varint() - 1)

    def take_count(self, element_bytes_min: int) -> int:
        """Read the length of an array, whose elements take at least that many bytes each."""
        return self._count(self.take(INT32), element_bytes_min)

    def take_compact_count(self, element_bytes_min: int) -> int:
        """Read the length of an array of a flexible version."""
        return self._count(self.take_varint() - 1, element_bytes_min)

    def take_topic_id_tag(self) -> UUID:
        """Read the tagged fields, of which only the topic id has a meaning here."""
        topic_id = ZERO_TOPIC_ID
        for _ in range(self.take_varint()):
            tag = self.take_varint()
            content = self.take_bytes(self.take_varint())
            if tag == _TAG_TOPIC_ID:
                if len(content) != len(ZERO_TOPIC_ID.bytes):
                    raise self.damaged()
                topic_id = UUID(bytes=content)
        return topic_id

    def skip_tagged_fields(self) -> None:
        """Pass over the tagged fields at the end of a structure of a flexible version."""
        for _ in range(self.take_varint()):
            self.take_varint()
            self.take_bytes(self.take_varint())

    def taken(self) -> bytes:
        """Return all that has been read so far."""
        return self._data[: self._position]

    def end(self) -> None:
        """Refuse bytes behind the last field."""
        if self._position != len(self._data):
            raise self.damaged()

    def damaged(self) -> CorruptRecords:
        """Return the error to raise: these bytes are not what they should be."""
        return CorruptRecords(
            f"{len(self._data)} bytes of a group's record are damaged at byte {self._position}"
        )

    def _count(self, count: int, element_bytes_min: int) -> int:
        if not 0 <= count * element_bytes_min <= len(self._data) - self._position:
            raise self.damaged()
        return count

    def _text(self, encoded: bytes) -> str:
        try:
            return encoded.decode()
        except UnicodeDecodeError as error:
            raise self.damaged() from error


def encode_nullable_string(text: str | None) -> bytes:
    """Encode a string or null.

    Raises:
        ValueError: it is longer than 32767 bytes.
    """
    return b"\xff\xff" if text is None else encode_string(text)


def encode_bytes(data: bytes) -> bytes:
    """Encode bytes behind their length."""
    return INT32.pack(len(data)) + data


def encode_nullable_bytes(data: bytes | None) -> bytes:
    """Encode bytes or null."""
    return b"\xff\xff\xff\xff" if data is None else encode_bytes(data)
