"""Kafka's bytes, written by hand: what tests send when a client library would refuse to.

Independent of `trio_broker.wire` and `trio_broker.records`, so that a mistake made there is not
made here again. Only what the tests need: enough requests to produce, fetch and administer, in
one classic (and sometimes one flexible) version, with nothing checked on the way out.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from typing import Self

import attrs
import crc32c

PRODUCE, FETCH, LIST_OFFSETS, METADATA = 0, 1, 2, 3
OFFSET_COMMIT, OFFSET_FETCH, FIND_COORDINATOR = 8, 9, 10
API_VERSIONS, CREATE_TOPICS, DELETE_TOPICS, INIT_PRODUCER_ID = 18, 19, 20, 22

_SECONDS = 20.0


# ------------------------------------------------------------------------------------- primitives
def int8(value: int) -> bytes:
    return struct.pack(">b", value)


def int16(value: int) -> bytes:
    return struct.pack(">h", value)


def int32(value: int) -> bytes:
    return struct.pack(">i", value)


def int64(value: int) -> bytes:
    return struct.pack(">q", value)


def uvarint(value: int) -> bytes:
    """Encode an unsigned varint."""
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def varint(value: int) -> bytes:
    """Encode a zigzag varint, as records use."""
    return uvarint(value << 1 if value >= 0 else (-value << 1) - 1)


def string(value: str | bytes | None) -> bytes:
    """Encode a classic string with an int16 length; None is null."""
    if value is None:
        return int16(-1)
    data = value.encode() if isinstance(value, str) else value
    return int16(len(data)) + data


def compact_string(value: str | bytes | None) -> bytes:
    """Encode a compact string; None is null."""
    if value is None:
        return uvarint(0)
    data = value.encode() if isinstance(value, str) else value
    return uvarint(len(data) + 1) + data


def array(items: Sequence[bytes]) -> bytes:
    """Encode a classic array of encoded items."""
    return int32(len(items)) + b"".join(items)


def compact_array(items: Sequence[bytes]) -> bytes:
    """Encode a compact array of encoded items."""
    return uvarint(len(items) + 1) + b"".join(items)


def tags(*fields: tuple[int, bytes]) -> bytes:
    """Encode a section of tagged fields."""
    encoded = [uvarint(tag) + uvarint(len(data)) + data for tag, data in fields]
    return uvarint(len(fields)) + b"".join(encoded)


# ----------------------------------------------------------------------------------------- frames
def header(
    api_key: int,
    version: int,
    *,
    correlation_id: int = 7,
    client_id: str | bytes | None = "hostile",
    header_tags: bytes | None = None,
) -> bytes:
    """Encode a request header; with `header_tags` it is the flexible one."""
    head = struct.pack(">hhi", api_key, version, correlation_id) + string(client_id)
    return head if header_tags is None else head + header_tags


def frame(content: bytes) -> bytes:
    """Put the length before a request."""
    return int32(len(content)) + content


# ---------------------------------------------------------------------------------------- records
def record(value: bytes, *, offset_delta: int = 0, timestamp_delta: int = 0) -> bytes:
    """Encode one record of format 2 without key and headers."""
    body = (
        int8(0)
        + varint(timestamp_delta)
        + varint(offset_delta)
        + varint(-1)
        + varint(len(value))
        + value
        + varint(0)
    )
    return varint(len(body)) + body


@attrs.frozen(kw_only=True)
class Batch:
    """A record batch of which every field can be a lie; None means the truth."""

    values: Sequence[bytes] = (b"value",)
    base_offset: int = 0
    length: int | None = None
    leader_epoch: int = -1
    magic: int = 2
    crc: int | None = None
    attributes: int = 0
    last_offset_delta: int | None = None
    base_timestamp: int = 1_000
    max_timestamp: int = 1_000
    producer_id: int = -1
    producer_epoch: int = -1
    base_sequence: int = -1
    count: int | None = None
    payload: bytes | None = None

    def encode(self) -> bytes:
        """Return the batch's bytes; the checksum fits unless `crc` says otherwise."""
        payload = self.payload
        if payload is None:
            payload = b"".join(record(v, offset_delta=i) for i, v in enumerate(self.values))
        count = len(self.values)
        checked = (
            struct.pack(
                ">hiqqqhii",
                self.attributes,
                count - 1 if self.last_offset_delta is None else self.last_offset_delta,
                self.base_timestamp,
                self.max_timestamp,
                self.producer_id,
                self.producer_epoch,
                self.base_sequence,
                count if self.count is None else self.count,
            )
            + payload
        )
        crc = crc32c.crc32c(checked) if self.crc is None else self.crc
        length = len(checked) + 9 if self.length is None else self.length
        return struct.pack(
            ">qiibI", self.base_offset, length, self.leader_epoch, self.magic, crc
        ) + (checked)


def message_set(value: bytes, *, magic: int) -> bytes:
    """Encode one message of the formats 0 and 1, which brokers no longer take."""
    import zlib

    timestamp = int64(1_000) if magic == 1 else b""
    body = int8(magic) + int8(0) + timestamp + int32(-1) + int32(len(value)) + value
    message = struct.pack(">I", zlib.crc32(body)) + body
    return int64(0) + int32(len(message)) + message


# --------------------------------------------------------------------------------------- requests
def produce_v7(
    topic: str | bytes,
    records: bytes | None,
    *,
    partition: int = 0,
    acks: int = -1,
    transactional_id: str | None = None,
) -> bytes:
    """Return a Produce v7 frame with one partition."""
    data = int32(-1) if records is None else int32(len(records)) + records
    return frame(
        header(PRODUCE, 7)
        + string(transactional_id)
        + int16(acks)
        + int32(10_000)
        + array([string(topic) + array([int32(partition) + data])])
    )


def fetch_v4(topic: str | bytes, offset: int, *, partition: int = 0, max_wait_ms: int = 0) -> bytes:
    """Return a Fetch v4 frame with one partition."""
    limits = struct.pack(">iiiib", -1, max_wait_ms, 1, 1 << 20, 0)
    asked = int32(partition) + int64(offset) + int32(1 << 20)
    return frame(header(FETCH, 4) + limits + array([string(topic) + array([asked])]))


def list_offsets_v1(topic: str | bytes, timestamp_ms: int, *, partition: int = 0) -> bytes:
    """Return a ListOffsets v1 frame with one partition."""
    asked = array([string(topic) + array([int32(partition) + int64(timestamp_ms)])])
    return frame(header(LIST_OFFSETS, 1) + int32(-1) + asked)


def create_topics_v2(
    *topics: str | bytes, partitions: int = 1, validate_only: bool = False
) -> bytes:
    """Return a CreateTopics v2 frame."""
    new = [string(t) + int32(partitions) + int16(1) + int32(0) + int32(0) for t in topics]
    return frame(header(CREATE_TOPICS, 2) + array(new) + int32(10_000) + int8(validate_only))


def delete_topics_v1(*topics: str | bytes) -> bytes:
    """Return a DeleteTopics v1 frame."""
    return frame(header(DELETE_TOPICS, 1) + array([string(t) for t in topics]) + int32(10_000))


def metadata_v4(*topics: str | bytes, auto_create: bool = False) -> bytes:
    """Return a Metadata v4 frame."""
    return frame(header(METADATA, 4) + array([string(t) for t in topics]) + int8(auto_create))


def api_versions_v0(correlation_id: int = 7) -> bytes:
    """Return an ApiVersions v0 frame."""
    return frame(header(API_VERSIONS, 0, correlation_id=correlation_id))


# ------------------------------------------------------------------------------------ connections
@attrs.define
class Reader:
    """Reads a response from front to back."""

    data: bytes
    position: int = 0

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes; there must be that many."""
        taken = self.data[self.position : self.position + count]
        assert len(taken) == count, "response too short"
        self.position += count
        return taken

    def int8(self) -> int:
        return int(struct.unpack(">b", self.take(1))[0])

    def int16(self) -> int:
        return int(struct.unpack(">h", self.take(2))[0])

    def int32(self) -> int:
        return int(struct.unpack(">i", self.take(4))[0])

    def int64(self) -> int:
        return int(struct.unpack(">q", self.take(8))[0])

    def string(self) -> str | None:
        length = self.int16()
        return None if length < 0 else self.take(length).decode()

    def uvarint(self) -> int:
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    def at_end(self) -> bool:
        return self.position == len(self.data)


@attrs.define
class RawConnection:
    """A TCP connection on which anything may be sent. Use as a context manager."""

    _sock: socket.socket

    @classmethod
    def open(cls, address: tuple[str, int], *, seconds: float = _SECONDS) -> Self:
        """Connect; every later operation may take `seconds`."""
        sock = socket.create_connection(address, timeout=seconds)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return cls(sock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._sock.close()

    def set_timeout(self, seconds: float) -> None:
        """Change how long every later operation may take."""
        self._sock.settimeout(seconds)

    def send(self, data: bytes) -> None:
        """Send bytes as they are; a server that has closed already is no error here."""
        try:
            self._sock.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def end(self) -> None:
        """Say that nothing more will be sent, while still reading."""
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def receive(self) -> Reader | None:
        """Return the next response without its length, or None if the server has closed.

        Raises:
            TimeoutError: neither happened in time.
        """
        size = self._receive_exactly(4)
        if size is None:
            return None
        content = self._receive_exactly(int(struct.unpack(">i", size)[0]))
        return None if content is None else Reader(content)

    def ask(self, request: bytes) -> Reader | None:
        """Send a request and return its response, or None if the server closed instead."""
        self.send(request)
        return self.receive()

    def require(self, request: bytes, *, correlation_id: int = 7) -> Reader:
        """Send a request that must be answered; return the response after its correlation id."""
        response = self.ask(request)
        assert response is not None, "the server closed the connection"
        assert response.int32() == correlation_id
        return response

    def _receive_exactly(self, count: int) -> bytes | None:
        data = bytearray()
        while len(data) < count:
            try:
                chunk = self._sock.recv(count - len(data))
            except ConnectionResetError:
                return None
            if not chunk:
                return None
            data += chunk
        return bytes(data)


# -------------------------------------------------------------------------------- whole exchanges
@attrs.frozen
class Produced:
    """The answer for one partition."""

    error_code: int
    base_offset: int


def produce(connection: RawConnection, request: bytes) -> Produced:
    """Send a Produce v7 frame of one partition and return its answer."""
    response = connection.require(request)
    assert response.int32() == 1
    response.string()
    assert response.int32() == 1
    response.int32()
    produced = Produced(response.int16(), response.int64())
    response.take(8 + 8 + 4)
    assert response.at_end()
    return produced


def produce_v8(
    connection: RawConnection, topic: str, batch: bytes, *, partition: int = 0
) -> tuple[int, str | None]:
    """Produce one batch in version 8; return the code and the message of its answer."""
    # The same request as in version 7, whose number stands in bytes 6 and 7 of the frame.
    request = bytearray(produce_v7(topic, batch, partition=partition))
    request[6:8] = int16(8)
    response = connection.require(bytes(request))
    assert response.int32() == 1
    response.string()
    assert response.int32() == 1
    response.int32()
    code = response.int16()
    response.take(8 + 8 + 8)
    assert response.int32() == 0, "errors of single records"
    message = response.string()
    response.int32()
    assert response.at_end()
    return code, message


@attrs.frozen
class Fetched:
    """The answer for one partition."""

    error_code: int
    high_watermark: int
    records: bytes


def fetch(connection: RawConnection, request: bytes) -> Fetched:
    """Send a Fetch v4 frame of one partition and return its answer."""
    response = connection.require(request)
    response.int32()
    assert response.int32() == 1
    response.string()
    assert response.int32() == 1
    response.int32()
    error_code, high_watermark = response.int16(), response.int64()
    response.int64()
    response.take(max(0, response.int32()) * 16)
    records = response.take(max(0, response.int32()))
    assert response.at_end()
    return Fetched(error_code, high_watermark, records)


def topic_errors(
    response: Reader, *, throttle: bool = True, messages: bool
) -> dict[str | None, int]:
    """Read the error codes of a CreateTopics v2 (with messages) or DeleteTopics v1 response."""
    if throttle:
        response.int32()
    codes = {}
    for _ in range(response.int32()):
        name = response.string()
        codes[name] = response.int16()
        if messages:
            response.string()
    assert response.at_end()
    return codes


def metadata_errors(response: Reader) -> dict[str | None, int]:
    """Read the topics' error codes of a Metadata v4 response."""
    response.int32()
    for _ in range(response.int32()):
        response.int32()
        response.string()
        response.int32()
        response.string()
    response.string()
    response.int32()
    codes = {}
    for _ in range(response.int32()):
        code = response.int16()
        codes[response.string()] = code
        response.int8()
        for _ in range(response.int32()):
            response.take(2 + 4 + 4)
            response.take(4 * response.int32())
            response.take(4 * response.int32())
    assert response.at_end()
    return codes
