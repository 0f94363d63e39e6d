"""Request and response headers, and the size prefix of a frame.

A frame's size is taken off by `trio_broker.wire.frames`; what is decoded here begins with the
header. Versions (KIP-482): request header 1 for the older encoding and 2 for flexible versions;
response header 0 and 1, except that ApiVersions always answers with header 0, since the client
does not know yet what the broker speaks (KIP-511).
"""

from __future__ import annotations

import struct
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from trio_broker.errors import ProtocolError
from trio_broker.wire.api import APIS, ApiKey
from trio_broker.wire.primitives import encode_string, fail_length, read_unsigned_varint

if TYPE_CHECKING:
    from trio_broker.wire.buffers import Buffer

HEADER_BYTES_MAX = 4096
HEADER_TAGS_MAX = 32

_REQUEST_HEAD = Struct(">hhih")
_pack_request_head = Struct(">ihhi").pack
_pack_response_head = Struct(">ii").pack
_pack_flexible_response_head = Struct(">iiB").pack
_FIXED_REQUEST_HEADER_BYTES = _REQUEST_HEAD.size
_read_request_head = _REQUEST_HEAD.unpack_from
_read_int32 = Struct(">i").unpack_from
_UNKNOWN_APIS_FLEXIBLE_FROM = 0x7FFF
_flexible_from = {key: api.flexible_version for key, api in APIS.items()}


class RequestHeader(NamedTuple):
    """What precedes the body of a request.

    Attributes:
        api_key: not necessarily one that is known.
        api_version: not necessarily one that is supported.
        correlation_id: to be repeated in the response.
        client_id: name the client chose for itself, or None.
        body_start: offset of the body in the frame. For an API or version that is not declared
            this is a guess: the body cannot be decoded anyway.
    """

    api_key: int
    api_version: int
    correlation_id: int
    client_id: str | None
    body_start: int


def decode_request_header(frame: Buffer) -> RequestHeader:
    """Decode the header at the start of a request's frame (without the size).

    Raises:
        ProtocolError: the header is cut short, above 4 KiB, has more than 32 tagged fields, or a
            client id that is not UTF-8.
    """
    try:
        api_key, api_version, correlation_id, length = _read_request_head(frame)
        offset = _FIXED_REQUEST_HEADER_BYTES
        client_id = None
        if length >= 0:
            offset += length
            if offset > HEADER_BYTES_MAX or offset > len(frame):
                fail_length(length)
            client_id = str(frame[_FIXED_REQUEST_HEADER_BYTES:offset], "utf-8")
        elif length != -1:
            fail_length(length)
        if api_version >= _flexible_from.get(api_key, _UNKNOWN_APIS_FLEXIBLE_FROM):
            offset = offset + 1 if frame[offset] == 0 else skip_header_tags(frame, offset)
    except (struct.error, IndexError):
        raise ProtocolError("the frame ends inside the request header") from None
    except UnicodeDecodeError:
        raise ProtocolError("the client id is not UTF-8") from None
    return RequestHeader(api_key, api_version, correlation_id, client_id, offset)


def skip_header_tags(frame: Buffer, offset: int) -> int:
    """Pass over a header's tagged fields and return the offset of the body.

    Raises:
        ProtocolError: more than 32 fields, or the header exceeds 4 KiB or the frame.
        IndexError: the frame ends first.
    """
    count, offset = read_unsigned_varint(frame, offset)
    if count > HEADER_TAGS_MAX:
        raise ProtocolError(f"a header with {count} tagged fields, at most {HEADER_TAGS_MAX}")
    for _ in range(count):
        _, offset = read_unsigned_varint(frame, offset)
        size, offset = read_unsigned_varint(frame, offset)
        offset += size
        if offset > HEADER_BYTES_MAX or offset > len(frame):
            fail_length(size)
    return offset


def response_header_is_flexible(api_key: int, api_version: int) -> bool:
    """Say whether a response has tagged fields behind its correlation id."""
    return api_key != ApiKey.API_VERSIONS and api_version >= _flexible_from.get(
        api_key, _UNKNOWN_APIS_FLEXIBLE_FROM
    )


def response_head(api_key: int, api_version: int, correlation_id: int, body_bytes: int) -> bytes:
    """Encode what precedes the body of a response: size and header."""
    if response_header_is_flexible(api_key, api_version):
        return _pack_flexible_response_head(body_bytes + 5, correlation_id, 0)
    return _pack_response_head(body_bytes + 4, correlation_id)


def request_head(
    api_key: int, api_version: int, correlation_id: int, client_id: str | None, body_bytes: int
) -> bytes:
    """Encode what precedes the body of a request: size and header.

    Raises:
        ValueError: the client id is longer than 32767 bytes.
    """
    name = b"\xff\xff" if client_id is None else encode_string(client_id)
    if api_version >= _flexible_from.get(api_key, _UNKNOWN_APIS_FLEXIBLE_FROM):
        name += b"\x00"
    size = 8 + len(name) + body_bytes
    return _pack_request_head(size, api_key, api_version, correlation_id) + name


def decode_response_header(api_key: int, api_version: int, frame: Buffer) -> tuple[int, int]:
    """Return the correlation id of a response's frame (without the size), and where its body is.

    Raises:
        ProtocolError: the header is cut short or its tagged fields exceed their limits.
    """
    try:
        correlation_id = _read_int32(frame)[0]
        if not response_header_is_flexible(api_key, api_version):
            return correlation_id, 4
        return correlation_id, skip_header_tags(frame, 4)
    except (struct.error, IndexError):
        raise ProtocolError("the frame ends inside the response header") from None
