"""What is done to requests before they are sent: changes that keep them legal, and others."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import attrs

from tests.wire_fuzz.tokens import Token, count_bytes, uvarint

if TYPE_CHECKING:
    import random

    from tests.wire_fuzz.tokens import Tokens

_HUGE = (127, 128, 255, 32_767, 65_536, 10_000, 10_001, 2**31 - 2, 2**31 - 1)
_BAD_TEXTS = (b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\0", b"a\x80")


@attrs.define
class Frame:
    """What is sent for one request.

    Attributes:
        content: the request without its size.
        size: what is said to be its size.
        is_legal: the broker has no reason not to answer it.
        done: what was done to it, for the report.
    """

    content: bytes
    size: int
    is_legal: bool = True
    done: list[str] = attrs.field(factory=list)

    @property
    def data(self) -> bytes:
        return struct.pack(">i", self.size) + self.content

    @property
    def is_whole(self) -> bool:
        """Whether the next frame begins where it should."""
        return self.size == len(self.content)


def header(
    api_key: int,
    version: int,
    correlation_id: int,
    *,
    is_flexible: bool,
    client_id: bytes | None = b"fuzz",
    tags: bytes = b"\0",
) -> bytes:
    """Encode a request's header."""
    size = -1 if client_id is None else len(client_id)
    head = struct.pack(">hhih", api_key, version, correlation_id, size) + (client_id or b"")
    return head + tags if is_flexible else head


class Mutator:
    """Changes requests, each time in another way."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance

    def frame(self, api_key: int, version: int, correlation_id: int, body: Tokens) -> Frame:
        """Return a request to send, with or without changes."""
        chance = self.chance
        roll = chance.random()
        done: list[str] = []
        is_legal = True
        if roll > 0.4:
            if chance.random() < 0.5:
                self._legally(body, done)
            if roll > 0.6:
                for _ in range(chance.choice((1, 1, 1, 2, 4))):
                    self._illegally(body, done)
                is_legal = False
        head, fits = self._header(api_key, version, correlation_id, body.is_flexible, done)
        content = head + body.encode()
        if roll > 0.85:
            content = self._bytes(content, len(head), done)
        size = len(content)
        if roll > 0.97:
            size = chance.choice((0, 3, 4, -1, size - 1, size + 1, 2**31 - 1, -(2**31), size * 2))
            done.append(f"size {size}")
        is_legal = is_legal and fits and roll <= 0.85
        return Frame(content, size, is_legal and size == len(content), done)

    def _header(
        self, api_key: int, version: int, correlation_id: int, is_flexible: bool, done: list[str]
    ) -> tuple[bytes, bool]:
        chance = self.chance
        client_id: bytes | None = b"fuzz"
        tags = b"\0"
        fits = True
        roll = chance.random()
        if roll < 0.02:
            client_id = chance.choice((None, b"", b"c" * 300, b"c" * 4000, "ü".encode() * 100))
        elif roll < 0.03:
            client_id = chance.choice((b"\xff", b"c" * 5000, b"\0"))
            fits = False
            done.append("client id")
        elif roll < 0.05:
            tags = b"\1\x63\2hi"
        elif roll < 0.06:
            tags = chance.choice((b"\x21" + b"\1\0" * 33, b"\x80\x80\x80\x80\x10", b"\1\1\xff\x7f"))
            fits = not is_flexible
            done.append("header tags")
        elif roll < 0.07:
            is_flexible, fits = not is_flexible, False
            done.append("the other header")
        elif roll < 0.08:
            version += chance.choice((-1, 1, 2, 100, -(version + 1)))
            fits = False
            done.append(f"version {version}")
        elif roll < 0.085:
            api_key = chance.choice((-1, 4, 5, 6, 7, 17, 24, 25, 26, 27, 28, 36, 68, 1000, 32767))
            fits = False
            done.append(f"api {api_key}")
        head = header(
            api_key,
            version,
            correlation_id,
            is_flexible=is_flexible,
            client_id=client_id,
            tags=tags,
        )
        return head, fits

    # --- changes that a request survives ---------------------------------------------------------
    def _legally(self, body: Tokens, done: list[str]) -> None:
        if any(token.kind == "tag_size" for token in body.tokens):
            return  # which would have to be changed, too
        kinds = [self._unknown_tag, self._repeat, self._long_varint]
        self.chance.choice(kinds)(body, done)

    def _unknown_tag(self, body: Tokens, done: list[str]) -> None:
        """Put tags that nobody knows at the end of some sections."""
        for place, token in reversed(list(enumerate(body.tokens))):
            if token.kind == "tag_count" and token.data == b"\0" and self.chance.random() < 0.3:
                value = self.chance.randbytes(self.chance.choice((0, 1, 3, 200)))
                tag = self.chance.choice((40, 127, 128, 100_000, 2**32 - 1))
                body.tokens[place].data = b"\1" + uvarint(tag) + uvarint(len(value)) + value
        done.append("unknown tags")

    def _repeat(self, body: Tokens, done: list[str]) -> None:
        """Say some element of an array more than once."""
        if not body.elements:
            return
        element = self.chance.choice(body.elements)
        times = self.chance.choice((1, 1, 2, 5, 40))
        copies = [
            attrs.evolve(token)
            for _ in range(times)
            for token in body.tokens[element.first : element.end]
        ]
        counter = body.tokens[element.count]
        counter.data = self._counted(counter, self._value(counter) + times)
        body.tokens[element.end : element.end] = copies
        body.elements.clear()  # their places are no more what they were
        done.append(f"repeated {times} times")

    def _long_varint(self, body: Tokens, done: list[str]) -> None:
        """Encode a count or length in more bytes than it needs."""
        for token in body.tokens:
            if token.is_compact and self.chance.random() < 0.3:
                token.data = uvarint(self._value(token) + 1, least_bytes=self.chance.randint(1, 5))
        done.append("long varints")

    def _value(self, token: Token) -> int:
        if not token.is_compact:
            return int.from_bytes(token.data, "big", signed=True)
        value = sum((byte & 0x7F) << (7 * place) for place, byte in enumerate(token.data))
        return value - 1

    def _counted(self, token: Token, count: int) -> bytes:
        if token.is_compact:
            return count_bytes(min(max(count, -1), 2**32 - 2), is_compact=True)
        bits = 8 * len(token.data)
        return min(max(count, -(2 ** (bits - 1))), 2 ** (bits - 1) - 1).to_bytes(
            len(token.data), "big", signed=True
        )

    # --- changes that it may not survive ---------------------------------------------------------
    def _illegally(self, body: Tokens, done: list[str]) -> None:
        if not body.tokens:
            return
        token = self.chance.choice(body.tokens)
        getattr(self, f"_bend_{token.kind}")(token)
        done.append(f"bent {token.kind}")

    def _bend_count(self, token: Token) -> None:
        chance = self.chance
        if token.is_compact and chance.random() < 0.25:
            token.data = chance.choice(
                (b"\xff" * 5, b"\x80" * 5, b"\x80" * 10, b"\xff\xff\xff\xff\x0f", b"\x80\0", b"\0")
            )
            return
        value = self._value(token)
        wanted = chance.choice((-1, -2, 0, value + 1, value - 1, value * 2, *_HUGE))
        token.data = self._counted(token, wanted)

    _bend_size = _bend_count

    def _bend_tag_count(self, token: Token) -> None:
        junk = self.chance.randbytes(self.chance.choice((0, 2, 8)))
        token.data = self.chance.choice(
            (b"\1", b"\2\0\0\0\0", b"\1\0\0", b"\1\1\0", b"\1\0\4" + junk, b"\xff\x7f", b"\x80\0",
             b"\2\1\1\0\0\1\0", b"\1\0\xff\xff\xff\xff\x0f", uvarint(300) + b"\x09\0" * 300)
        )  # fmt: skip

    def _bend_tag(self, token: Token) -> None:
        token.data = self.chance.choice((b"\0", b"\1", b"\2", b"\x7f", b"\xff\xff\xff\xff\x0f"))

    def _bend_tag_size(self, token: Token) -> None:
        token.data = self.chance.choice(
            (b"\0", b"\1", b"\xff\x7f", b"\xff" * 5, token.data + b"\0")
        )

    def _bend_marker(self, token: Token) -> None:
        token.data = self.chance.choice((b"\0", b"\1", b"\xff", b"\x80", b"\2", b""))

    def _bend_int(self, token: Token) -> None:
        size = len(token.data)
        if not size:
            return
        top = b"\x7f" + b"\xff" * (size - 1)
        low = b"\x80" + bytes(size - 1)
        token.data = self.chance.choice((bytes(size), b"\xff" * size, top, low, token.data[1:]))

    def _bend_text(self, token: Token) -> None:
        bad = self.chance.choice(_BAD_TEXTS)
        token.data = (bad + token.data)[: len(token.data)] or bad

    def _bend_blob(self, token: Token) -> None:
        token.data = self.chance.choice((b"", token.data[:-1], token.data * 2, bytes(100)))

    def _bytes(self, content: bytes, head_bytes: int, done: list[str]) -> bytes:
        """Change bytes without knowing what they mean."""
        chance = self.chance
        made = bytearray(content)
        for _ in range(chance.choice((1, 1, 2, 4))):
            first = 0 if chance.random() < 0.1 else head_bytes
            position = chance.randrange(min(first, len(made)), len(made) + 1)
            kind = chance.randrange(6)
            if kind == 0 and position < len(made):
                made[position] ^= 1 << chance.randrange(8)
            elif kind == 1:
                number = chance.choice(
                    (b"\xff" * 4, b"\x7f\xff\xff\xff", bytes(4), b"\x80", b"\xff")
                )
                made[position : position + len(number)] = number
            elif kind == 2:
                made[position:position] = chance.randbytes(chance.choice((1, 2, 4, 16)))
            elif kind == 3:
                del made[position : position + chance.choice((1, 2, 4, 16))]
            elif kind == 4:
                made[position:position] = made[position : position + chance.randrange(64)]
            else:
                del made[position:]
        done.append("bytes")
        return bytes(made)
