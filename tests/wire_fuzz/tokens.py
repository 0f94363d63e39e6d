"""A second encoder of requests, which says what every byte of one is.

Mutations need to know where counts, lengths and tags are, which the broker's own encoder does not
tell. Written from Kafka's protocol guide; a test compares the bytes with those of the broker's.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import attrs

from trio_broker.wire.fields import Field, Kind
from trio_broker.wire.message import Struct

if TYPE_CHECKING:
    from trio_broker.wire.message import Message


@attrs.define
class Token:
    """Some bytes that mean one thing.

    Attributes:
        kind: count, size, text, blob, int, tag_count, tag, tag_size or marker (of a structure that
            may be null).
        data: the bytes.
        is_compact: a count or size is a varint of one more.
    """

    kind: str
    data: bytes
    is_compact: bool = False


@attrs.define
class Element:
    """An element of an array: its tokens, and the one that counts it."""

    count: int
    first: int
    end: int


@attrs.define
class Tokens:
    """The body of a request in tokens.

    Attributes:
        tokens: in order.
        elements: of arrays; the numbers are places in `tokens`.
        is_flexible: whether there are tags.
    """

    tokens: list[Token] = attrs.field(factory=list)
    elements: list[Element] = attrs.field(factory=list)
    is_flexible: bool = False

    def encode(self) -> bytes:
        return b"".join(token.data for token in self.tokens)


def uvarint(value: int, *, least_bytes: int = 1) -> bytes:
    """Encode an unsigned varint, on request longer than it need be."""
    encoded = bytearray()
    while value >= 0x80 or len(encoded) + 1 < least_bytes:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def count_bytes(count: int, *, is_compact: bool, width: str = ">i") -> bytes:
    """Encode a count or a length; -1 is null."""
    return uvarint(count + 1) if is_compact else struct.pack(width, count)


def tokens_of(message: Message, version: int) -> Tokens:
    """Encode the body of a request in one version."""
    writer = _Writer(version, version >= type(message).flexible_version)
    writer.struct(message)
    return writer.made


class _Writer:
    def __init__(self, version: int, is_flexible: bool) -> None:
        self.version = version
        self.flexible = is_flexible
        self.made = Tokens(is_flexible=is_flexible)

    def put(self, kind: str, data: bytes, *, is_compact: bool = False) -> None:
        self.made.tokens.append(Token(kind, data, is_compact))

    def struct(self, value: Struct) -> None:
        tagged = []
        for name, field in type(value).__kafka_fields__.items():
            if not field.is_in(self.version):
                continue
            if self.flexible and field.tag is not None:
                if _says_more_than_its_absence(field, getattr(value, name)):
                    tagged.append((field.tag, field, getattr(value, name)))
                continue
            self.field(field, getattr(value, name))
        if self.flexible:
            self.put("tag_count", uvarint(len(tagged)))
            for tag, field, inner in sorted(tagged, key=lambda entry: entry[0]):
                self.put("tag", uvarint(tag))
                place = len(self.made.tokens)
                self.put("tag_size", b"")
                self.field(field, inner)
                size = sum(len(token.data) for token in self.made.tokens[place:])
                self.made.tokens[place].data = uvarint(size)

    def field(self, field: Field, value: Any) -> None:
        if field.is_array:
            self.array(field, value)
        elif isinstance(field.element, Kind):
            self.value(field.element, value)
        elif field.is_nullable_in(self.version):
            self.put("marker", b"\xff" if value is None else b"\x01")
            if value is not None:
                self.struct(value)
        else:
            self.struct(value)

    def array(self, field: Field, values: Any) -> None:
        place = len(self.made.tokens)
        count = -1 if values is None else len(values)
        self.put("count", count_bytes(count, is_compact=self.flexible), is_compact=self.flexible)
        for value in values or ():
            first = len(self.made.tokens)
            if isinstance(field.element, Kind):
                self.value(field.element, value)
            else:
                self.struct(value)
            self.made.elements.append(Element(place, first, len(self.made.tokens)))

    def value(self, kind: Kind, value: Any) -> None:
        if kind is Kind.UUID:
            self.put("int", value.bytes)
        elif kind.is_fixed_size:
            self.put("int", struct.pack(f">{kind.value}", value))
        else:
            data = value.encode() if isinstance(value, str) else value
            width = ">h" if kind is Kind.STRING else ">i"
            count = -1 if data is None else len(data)
            size = count_bytes(count, is_compact=self.flexible, width=width)
            self.put("size", size, is_compact=self.flexible)
            if data is not None:
                self.put("text" if kind is Kind.STRING else "blob", bytes(data))


def _says_more_than_its_absence(field: Field, value: Any) -> bool:
    """Whether a tagged field has to be sent. A structure of defaults is as good as none."""
    if value == field.missing_value:
        return False
    if not isinstance(value, Struct):
        return True
    return any(
        getattr(value, name) != inner.default
        for name, inner in type(value).__kafka_fields__.items()
    )
