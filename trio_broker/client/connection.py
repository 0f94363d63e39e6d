"""One connection to a Kafka broker: requests out, responses back in the same order.

Owns a stream and the list of responses still to come. No task reads in the background: `send` puts
a request on its way and `receive` waits for the oldest answer, so that one task can keep several
requests in flight. One task may send while another receives; no two may do the same.

Kafka answers the requests of a connection in order (its protocol guide, "Network"), therefore a
response belongs to the oldest request without one.
"""

from __future__ import annotations

import math
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

import trio

from trio_broker import __version__
from trio_broker.errors import ErrorCode, ProtocolError, TrioBrokerError
from trio_broker.wire.api import APIS, ApiKey
from trio_broker.wire.frames import FrameSplitter
from trio_broker.wire.message import Request, Response, decode_response, encode_request
from trio_broker.wire.messages.api_versions import ApiVersionsRequest, ApiVersionsResponse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio_broker.host.interface import Network, Stream

R = TypeVar("R", bound=Response)

CLIENT_ID = "trio-broker"
#: Largest response accepted; a broker's fetch responses stay far below (fetch.max.bytes).
RESPONSE_BYTES_MAX = 128 * 1024 * 1024
_INT32_RANGE = 2**31


class Connector(Protocol):
    """What connections are made with: the network, or a broker in the same process."""

    async def connect(self, host: str, port: int) -> Stream:
        """Connect to an address. Raises OSError."""


class ConnectionLost(TrioBrokerError):
    """The broker closed the connection, or the network did, with answers still to come."""


class VersionMismatch(TrioBrokerError):
    """The broker does not serve an API in any version that this client knows."""


class _Expected(NamedTuple):
    """A response still to come."""

    api_key: int
    version: int
    correlation_id: int


class Connection:
    """An open connection; make one with `open_connection`.

    Attributes:
        peer: address of the broker, for messages.
        versions: first and last version of each API that the broker serves, by API key.
        last_used: Trio time of the last request or response.
        throttled_until: Trio time before which the broker wants no request (KIP-219).
    """

    def __init__(self, stream: Stream, client_id: str) -> None:
        self.peer = stream.peer
        self.versions: dict[int, tuple[int, int]] = {}
        self.last_used = trio.current_time()
        self.throttled_until = -math.inf
        self._is_closed = False
        self._stream = stream
        self._client_id = client_id
        self._splitter = FrameSplitter(RESPONSE_BYTES_MAX, RESPONSE_BYTES_MAX)
        self._expected: deque[_Expected] = deque()
        self._next_correlation_id = 0

    def __repr__(self) -> str:
        return f"<Connection to {self.peer}, {len(self._expected)} in flight>"

    @property
    def in_flight(self) -> int:
        """Requests sent whose responses have not been received."""
        return len(self._expected)

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._is_closed

    def close(self) -> None:
        """Close at once, in both directions. Idempotent; who waits here gets ConnectionLost."""
        self._is_closed = True
        self._stream.close()

    def version_of(self, api_key: int, *, version_max: int | None = None) -> int:
        """Return the newest version of an API that both sides know.

        Args:
            api_key: of the API.
            version_max: newest version wanted; None: any.

        Raises:
            VersionMismatch: there is none.
        """
        known = APIS[api_key]
        least, most = self.versions.get(api_key, (0, -1))
        version = min(most, known.max_version)
        if version_max is not None:
            version = min(version, version_max)
        if version < max(least, known.min_version):
            raise VersionMismatch(f"{self.peer} serves no version of {known.name} known here")
        return version

    async def negotiate(self) -> None:
        """Ask which versions the broker serves (KIP-35); called once by `open_connection`.

        Raises:
            ConnectionLost, ProtocolError, VersionMismatch: it is no broker we can talk to.
        """
        request = ApiVersionsRequest(
            client_software_name="trio-broker", client_software_version=__version__
        )
        newest = APIS[ApiKey.API_VERSIONS].max_version
        self.versions = {ApiKey.API_VERSIONS: (0, newest)}
        await self._send(request, newest)
        # A broker that does not know this version answers in version 0 (KIP-511).
        frame = await self._next_frame()
        expected = self._expected.popleft()
        answer = _decode_versions(frame, expected)
        if answer.error_code == ErrorCode.UNSUPPORTED_VERSION:
            self.versions = {ApiKey.API_VERSIONS: (0, 0)}
            answer = await self.request(request, ApiVersionsResponse)
        if answer.error_code:
            raise VersionMismatch(f"{self.peer} answers ApiVersions with {answer.error_code}")
        self.versions = {
            item.api_key: (item.min_version, item.max_version) for item in answer.api_keys
        }

    async def request(
        self, body: Request, response_type: type[R], *, version_max: int | None = None
    ) -> R:
        """Send a request and wait for its response. Nothing else may be in flight.

        Args:
            body: what to send.
            response_type: the class of the response.
            version_max: newest version wanted; None: any.

        Raises:
            ConnectionLost, ProtocolError, VersionMismatch: see `send` and `receive`.

        Cancellation: unknown whether the broker acted; close the connection.
        """
        assert not self._expected, "receive what is in flight first"
        await self.send(body, version_max=version_max)
        return await self.receive(response_type)

    async def send(
        self, body: Request, *, answered: bool = True, version_max: int | None = None
    ) -> None:
        """Send a request in the newest version that both sides know.

        Waits first if the broker has asked for a pause.

        Args:
            body: what to send.
            answered: False for a Produce request with acks=0, which gets no response.
            version_max: newest version wanted; None: any.

        Raises:
            VersionMismatch: the broker does not serve this API.
            ConnectionLost: the connection has ended.
            ValueError: the version cannot carry the body.

        Cancellation: a part may have been sent; close the connection.
        """
        version = self.version_of(body.api_key, version_max=version_max)
        if self.throttled_until > trio.current_time():
            await trio.sleep_until(self.throttled_until)
        await self._send(body, version, answered=answered)

    async def _send(self, body: Request, version: int, *, answered: bool = True) -> None:
        correlation_id = self._next_correlation_id
        self._next_correlation_id = (correlation_id + 1) % _INT32_RANGE
        frame = encode_request(body.api_key, version, correlation_id, self._client_id, body)
        if answered:
            self._expected.append(_Expected(body.api_key, version, correlation_id))
        self.last_used = trio.current_time()
        try:
            await self._stream.send_vectored([frame])
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionLost(f"sending to {self.peer}: {error}") from error

    async def receive(self, response_type: type[R]) -> R:
        """Wait for the response to the oldest request without one.

        Args:
            response_type: the class of that request's response.

        Raises:
            ConnectionLost: the connection ended first.
            ProtocolError: what came is no such response.

        Cancellation: nothing was received; the response can still be waited for.
        """
        assert self._expected, "nothing is in flight"
        frame = await self._next_frame()
        expected = self._expected.popleft()
        assert expected.api_key == response_type.api_key, "responses come in the order of requests"
        correlation_id, body = decode_response(response_type, expected.version, frame)
        if correlation_id != expected.correlation_id:
            raise ProtocolError(
                f"{self.peer} answers request {correlation_id} before {expected.correlation_id}"
            )
        self.last_used = trio.current_time()
        throttle_ms = getattr(body, "throttle_time_ms", 0)
        if throttle_ms > 0:
            self.throttled_until = self.last_used + throttle_ms / 1000
        return body

    async def _next_frame(self) -> memoryview:
        splitter = self._splitter
        while (frame := splitter.next_frame()) is None:
            try:
                received = await self._stream.receive_into(
                    splitter.writable(), splitter.expected_bytes
                )
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise ConnectionLost(f"receiving from {self.peer}: {error}") from error
            if not received:
                raise ConnectionLost(f"{self.peer} closed the connection")
            splitter.received(received)
        return frame


def _decode_versions(frame: memoryview, expected: _Expected) -> ApiVersionsResponse:
    try:
        return decode_response(ApiVersionsResponse, expected.version, frame)[1]
    except ProtocolError:
        return decode_response(ApiVersionsResponse, 0, frame)[1]


async def connect(
    connector: Connector, host: str, port: int, *, client_id: str = CLIENT_ID
) -> Connection:
    """Connect to a broker and learn what it serves; the caller closes the connection.

    Raises:
        OSError: no connection.
        ConnectionLost, ProtocolError, VersionMismatch: what answers is no broker we can talk to.

    Cancellation: nothing stays open.
    """
    stream = await connector.connect(host, port)
    connection = Connection(stream, client_id)
    try:
        await connection.negotiate()
    except BaseException:
        connection.close()
        raise
    return connection


@asynccontextmanager
async def open_connection(
    host: str, port: int, *, network: Network | None = None, client_id: str = CLIENT_ID
) -> AsyncIterator[Connection]:
    """Connect to a broker for the length of a block and learn what it serves::

        async with open_connection("localhost", 9092) as connection:
            metadata = await connection.request(MetadataRequest(topics=None), MetadataResponse)

    Args:
        host: name or address.
        port: its port.
        network: None: the real one.
        client_id: name shown in the broker's logs.

    Raises:
        OSError: no connection.
        ConnectionLost, ProtocolError, VersionMismatch: what answers is no broker we can talk to.
    """
    if network is None:
        from trio_broker.host.real import real_host

        network = real_host().network
    connection = await connect(network, host, port, client_id=client_id)
    try:
        yield connection
    finally:
        connection.close()
