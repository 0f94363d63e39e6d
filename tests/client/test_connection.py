"""The client's connection against a scripted broker on a real socket."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from trio_broker.client.connection import ConnectionLost, VersionMismatch, open_connection
from trio_broker.errors import ErrorCode, ProtocolError
from trio_broker.host.real import real_host
from trio_broker.wire.api import APIS, ApiKey
from trio_broker.wire.frames import FrameSplitter
from trio_broker.wire.headers import RequestHeader, decode_request_header
from trio_broker.wire.message import Request, Response, encode_response
from trio_broker.wire.messages.api_versions import ApiVersion, ApiVersionsResponse
from trio_broker.wire.messages.metadata import (
    MetadataRequest,
    MetadataResponse,
    MetadataResponseBroker,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from trio_broker.host.interface import Stream

    Answer = Callable[[RequestHeader, Request], bytes | None]

SERVED = [
    ApiVersion(api_key=key, min_version=0, max_version=api.max_version) for key, api in APIS.items()
]


def respond(header: RequestHeader, body: Response) -> bytes:
    return encode_response(header.api_key, header.api_version, header.correlation_id, body)


def polite(header: RequestHeader, _request: Request) -> bytes | None:
    """Answer what a broker would; a node id equal to the correlation id tells answers apart."""
    if header.api_key == ApiKey.API_VERSIONS:
        return respond(header, ApiVersionsResponse(error_code=0, api_keys=SERVED))
    broker = MetadataResponseBroker(node_id=header.correlation_id, host="h", port=1)
    return respond(header, MetadataResponse(brokers=[broker], topics=[]))


async def serve_one(stream: Stream, answer: Answer) -> None:
    splitter = FrameSplitter(1 << 20, 1 << 20)
    while True:
        while (frame := splitter.next_frame()) is not None:
            header = decode_request_header(frame)
            body = APIS[header.api_key].request_type.decode(
                frame, header.api_version, header.body_start
            )
            data = answer(header, body)
            if data is None:
                return
            await stream.send_vectored([data])
        received = await stream.receive_into(splitter.writable())
        if not received:
            return
        splitter.received(received)


@asynccontextmanager
async def scripted_broker(answer: Answer) -> AsyncIterator[int]:
    [listener] = await real_host().network.listen("127.0.0.1", 0)

    async def accept() -> None:
        stream = await listener.accept()
        try:
            await serve_one(stream, answer)
        finally:
            stream.close()

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept)
            yield listener.port
            nursery.cancel_scope.cancel()
    finally:
        listener.close()


METADATA = MetadataRequest(topics=None)


async def test_a_request_gets_its_response() -> None:
    async with scripted_broker(polite) as port, open_connection("127.0.0.1", port) as connection:
        answer = await connection.request(METADATA, MetadataResponse)
        assert answer.brokers[0].node_id == 1
        assert connection.in_flight == 0
        assert connection.version_of(ApiKey.METADATA) == APIS[ApiKey.METADATA].max_version


async def test_several_requests_in_flight_are_answered_in_order() -> None:
    async with scripted_broker(polite) as port, open_connection("127.0.0.1", port) as connection:
        for _ in range(5):
            await connection.send(METADATA)
        assert "5 in flight" in repr(connection)
        answers = [await connection.receive(MetadataResponse) for _ in range(5)]
        assert [answer.brokers[0].node_id for answer in answers] == [1, 2, 3, 4, 5]


async def test_an_old_broker_is_asked_again_in_version_0() -> None:
    """KIP-511: a broker that does not know the version says so in version 0."""

    def old(header: RequestHeader, request: Request) -> bytes | None:
        code = ErrorCode.NONE if header.api_version == 0 else ErrorCode.UNSUPPORTED_VERSION
        answer = ApiVersionsResponse(error_code=code, api_keys=SERVED)
        return encode_response(header.api_key, 0, header.correlation_id, answer)

    async with scripted_broker(old) as port, open_connection("127.0.0.1", port) as connection:
        assert connection.versions[ApiKey.METADATA] == (0, 13)


async def test_an_api_that_is_not_served_is_refused_before_sending() -> None:
    def nothing(header: RequestHeader, request: Request) -> bytes | None:
        return respond(header, ApiVersionsResponse(error_code=0, api_keys=[]))

    async with scripted_broker(nothing) as port, open_connection("127.0.0.1", port) as connection:
        with pytest.raises(VersionMismatch, match="Metadata"):
            await connection.request(METADATA, MetadataResponse)
        assert connection.in_flight == 0


async def test_a_broker_that_hangs_up_is_told() -> None:
    def hang_up(header: RequestHeader, request: Request) -> bytes | None:
        return polite(header, request) if header.api_key == ApiKey.API_VERSIONS else None

    async with scripted_broker(hang_up) as port, open_connection("127.0.0.1", port) as connection:
        with pytest.raises(ConnectionLost):
            await connection.request(METADATA, MetadataResponse)


async def test_a_response_to_another_request_is_a_protocol_error() -> None:
    def confused(header: RequestHeader, request: Request) -> bytes | None:
        if header.api_key == ApiKey.METADATA:
            header = header._replace(correlation_id=77)
        return polite(header, request)

    async with scripted_broker(confused) as port, open_connection("127.0.0.1", port) as connection:
        with pytest.raises(ProtocolError, match="77"):
            await connection.request(METADATA, MetadataResponse)


async def test_waiting_can_be_cancelled_and_resumed() -> None:
    """Cancelling `receive` loses nothing: the response can still be waited for."""
    async with scripted_broker(polite) as port, open_connection("127.0.0.1", port) as connection:
        await connection.send(METADATA)
        with trio.CancelScope() as scope:
            scope.cancel()
            await connection.receive(MetadataResponse)
        assert scope.cancelled_caught
        answer = await connection.receive(MetadataResponse)
        assert answer.brokers[0].node_id == 1


async def test_nobody_listening_is_an_oserror() -> None:
    [listener] = await real_host().network.listen("127.0.0.1", 0)
    listener.close()
    with pytest.raises(OSError, match=r"127\.0\.0\.1"):
        async with open_connection("127.0.0.1", listener.port):
            raise AssertionError("connected to nobody")
