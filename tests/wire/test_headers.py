"""Headers, and what strangers may put into them."""

from __future__ import annotations

import struct

import pytest

from trio_broker.errors import ProtocolError
from trio_broker.wire.api import APIS, NEVER_FLEXIBLE, ApiKey
from trio_broker.wire.headers import (
    RequestHeader,
    decode_request_header,
    decode_response_header,
    response_header_is_flexible,
)
from trio_broker.wire.message import decode_response, encode_request, encode_response
from trio_broker.wire.messages.api_versions import ApiVersionsRequest, ApiVersionsResponse
from trio_broker.wire.messages.heartbeat import HeartbeatRequest, HeartbeatResponse


def header(key: int, version: int, client_id: bytes = b"\x00\x01c", rest: bytes = b"") -> bytes:
    return struct.pack(">hhi", key, version, 77) + client_id + rest


@pytest.mark.parametrize("client_id", ["", "rdkafka", "grüße", None])
def test_older_and_flexible_request_headers(client_id: str | None) -> None:
    body = HeartbeatRequest(group_id="g", generation_id=1, member_id="m")
    for version in range(5):
        frame = encode_request(ApiKey.HEARTBEAT, version, 5, client_id, body)
        assert struct.unpack_from(">i", frame) == (len(frame) - 4,)
        decoded = decode_request_header(frame[4:])
        assert decoded[:4] == (ApiKey.HEARTBEAT, version, 5, client_id)
        assert HeartbeatRequest.decode(frame[4:], version, decoded.body_start) == body


def test_client_id_keeps_its_older_encoding_in_flexible_headers() -> None:
    frame = encode_request(18, 3, 9, "ab", ApiVersionsRequest())
    assert frame.hex(" ") == "00 00 00 10 00 12 00 03 00 00 00 09 00 02 61 62 00 01 01 00"


@pytest.mark.parametrize("key, version", [(999, 0), (-1, 0), (0, 99), (18, -1), (17, 32767)])
def test_unknown_apis_and_versions_are_for_the_caller_to_judge(key: int, version: int) -> None:
    decoded = decode_request_header(header(key, version, rest=b"\x00"))
    assert decoded[:4] == (key, version, 77, "c")


def test_api_versions_of_the_future() -> None:
    """A broker must be able to answer it (KIP-511)."""
    assert decode_request_header(header(18, 99, rest=b"\x00\x05hello")) == RequestHeader(
        18, 99, 77, "c", 12
    )


def test_header_tags_are_skipped() -> None:
    frame = header(3, 9, rest=b"\x02\x00\x03abc\x07\x00BODY")
    assert bytes(frame[decode_request_header(frame).body_start :]) == b"BODY"


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        header(3, 1)[:7],
        header(3, 1, b"\x00"),
        header(3, 1, b"\x00\x05abc"),  # client id behind the end
        header(3, 1, b"\xff\xfe"),  # length -2
        header(3, 1, b"\x00\x01\xff"),  # not UTF-8
        header(3, 1, b"\x10\x00" + b"x" * 4096),  # above 4 KiB
        header(3, 9),  # no tags
        header(3, 9, rest=b"\x01"),
        header(3, 9, rest=b"\x01\x00\x05ab"),
        header(3, 9, rest=b"\x21" + b"\x00\x00" * 33),  # too many tags
        header(3, 9, rest=b"\xff\xff\xff\xff\x0f" + b"\x00" * 50),
        header(3, 9, rest=b"\x01\x00\x80\x20" + bytes(4096)),  # above 4 KiB
        header(3, 9, rest=b"\x80\x80\x80\x80\x80\x80"),
    ],
)
def test_illegal_headers(frame: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_request_header(memoryview(frame))


def test_header_is_cut_anywhere() -> None:
    whole = header(3, 9, rest=b"\x02\x00\x03abc\x07\x00")
    for length in range(len(whole)):
        with pytest.raises(ProtocolError):
            decode_request_header(whole[:length])


def test_response_headers() -> None:
    body = HeartbeatResponse(error_code=27, throttle_time_ms=3)
    older = encode_response(ApiKey.HEARTBEAT, 3, 5, body)
    flexible = encode_response(ApiKey.HEARTBEAT, 4, 5, body)
    assert older.hex(" ") == "00 00 00 0a 00 00 00 05 00 00 00 03 00 1b"
    assert flexible.hex(" ") == "00 00 00 0c 00 00 00 05 00 00 00 00 03 00 1b 00"
    assert decode_response(HeartbeatResponse, 3, older[4:]) == (5, body)
    assert decode_response(HeartbeatResponse, 4, memoryview(flexible)[4:]) == (5, body)
    for length in range(len(flexible) - 4):
        with pytest.raises(ProtocolError):
            decode_response(HeartbeatResponse, 4, flexible[4 : 4 + length])
    with pytest.raises(ProtocolError):
        decode_response_header(ApiKey.HEARTBEAT, 4, b"\x00\x00\x00\x05\x40" + bytes(200))


def test_api_versions_is_answered_without_tags_in_the_header() -> None:
    body = ApiVersionsResponse(error_code=0, api_keys=())
    for version in range(5):
        frame = encode_response(18, version, 5, body)
        assert frame[8:] == body.encode(version)
        assert not response_header_is_flexible(18, version)
        assert decode_response(ApiVersionsResponse, version, frame[4:]) == (5, body)


def test_table_of_apis() -> None:
    assert set(APIS) == set(ApiKey)
    for key, api in APIS.items():
        assert api.key == key
        assert 0 <= api.advertised_min_version <= api.min_version <= api.max_version
        assert api.supports(api.max_version)
        assert not api.supports(api.max_version + 1)
        assert response_header_is_flexible(key, api.max_version) == (
            api.flexible_version <= api.max_version and key != ApiKey.API_VERSIONS
        )
    assert APIS[ApiKey.PRODUCE].advertised_min_version == 0
    assert APIS[ApiKey.SASL_HANDSHAKE].flexible_version == NEVER_FLEXIBLE
