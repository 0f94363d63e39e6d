"""One HTTP connection: hypercorn's protocol on one of our streams, with bounds that hold.

Loaded only where HTTP is configured: hypercorn and starlette belong to the `server` extra.
Hypercorn parses, times out idle clients and runs the application; it sends under a shield and
without a deadline, though, and takes in as much of a body as a client likes to send. So the stream
that it is given ends both: a client that takes nothing of its answer, or sends too much, finds its
connection closed, and nothing of the broker waits for it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import trio
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from hypercorn.utils import wrap_app

from trio_broker.admin.http_app import build_app

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from trio_broker.admin.http_app import BrokerView
    from trio_broker.broker.supervise import Supervisor
    from trio_broker.config import HttpConfig
    from trio_broker.host.interface import Stream

logger = logging.getLogger("trio_broker.http")

#: Little, because headers may be this much longer than their limit.
_RECEIVE_BYTES = 4 * 1024
#: A client that was refused has so long, and may send so much more, before it is cut off.
_LINGER_SECONDS = 1.0
_LINGER_BYTES_MAX = 256 * 1024
#: A client that uses its connection well still has to open another one after this long.
CONNECTION_SECONDS_MAX = 600.0
#: More than the received bytes of one request can be cut into: then putting them never waits.
_EVENTS_MAX = 1_000_000


class _NoSocket:
    """Hypercorn asks a stream's socket for its addresses; this one is of no family it knows."""

    family = -1

    def getpeername(self) -> None:
        """Return nothing."""

    def getsockname(self) -> None:
        """Return nothing."""


class HttpStream:
    """What hypercorn needs of a `trio.abc.Stream`, on a stream of the host.

    Attributes:
        socket: looked at by hypercorn for addresses, which are not used here.
        scope: covers the whole connection. Hypercorn would keep an idle connection's tasks until
            its timeout, even when the client has left: a probe each second would use up all places.
    """

    socket = _NoSocket()

    def __init__(self, stream: Stream, config: HttpConfig) -> None:
        self.scope = trio.CancelScope(deadline=trio.current_time() + CONNECTION_SECONDS_MAX)
        self._stream = stream
        self._send_seconds_max = config.send_seconds_max
        self._request_bytes_max = config.header_bytes_max + config.body_bytes_max
        self._received_bytes = 0  # since the last answer began
        self._has_refused = False
        self._is_closed = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return what has come, b"" at the end, which also is where a request gets too large.

        Raises:
            trio.BrokenResourceError: the client is gone.
        """
        buffer = bytearray(min(max_bytes or _RECEIVE_BYTES, _RECEIVE_BYTES))
        count = 0
        try:
            count = await self._stream.receive_into(memoryview(buffer))
            self._received_bytes += count
            if self._received_bytes > self._request_bytes_max + _RECEIVE_BYTES:
                count = 0
        finally:
            if count == 0:
                self.scope.cancel()
        return bytes(buffer[:count])

    async def send_all(self, data: bytes) -> None:
        """Send everything, or close the connection of a client that does not take it in time.

        Raises:
            trio.BrokenResourceError: the client is gone or too slow.
        """
        self._received_bytes = 0
        if data.startswith(b"HTTP/1.1 "):
            self._has_refused = data[9:10] == b"4"
        with trio.move_on_after(self._send_seconds_max) as patience:
            await self._stream.send_vectored([data])
        if patience.cancelled_caught:
            self._stream.close()
            raise trio.BrokenResourceError("the client does not take its answer")

    async def send_eof(self) -> None:
        """Do nothing: `aclose` follows at once."""

    async def aclose(self) -> None:
        """Close the connection; one that was refused only when its client has had time to see why.

        Closing while there are unread bytes, of a body for example, would throw the answer away.
        """
        try:
            if self._has_refused and not self._is_closed:
                with trio.move_on_after(_LINGER_SECONDS):
                    await self._discard()
        finally:
            self._is_closed = True
            self._stream.close()
        await trio.lowlevel.checkpoint()

    async def _discard(self) -> None:
        buffer = memoryview(bytearray(_RECEIVE_BYTES))
        left = _LINGER_BYTES_MAX
        try:
            while left > 0 and (count := await self._stream.receive_into(buffer)):
                left -= count
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return


class HttpProtocol:
    """Serves connections with one application."""

    def __init__(
        self,
        view: BrokerView,
        config: HttpConfig,
        supervisor: Supervisor,
        *,
        host_names: list[str],
    ) -> None:
        self._config = config
        self._supervisor = supervisor
        self._app = build_app(
            view,
            token=config.token,
            host_names=[*config.host_names, *host_names],
            body_bytes_max=config.body_bytes_max,
        )
        run_app: Any = self._run_app  # hypercorn and starlette spell ASGI's types differently
        self._wrapped = wrap_app(run_app, config.body_bytes_max, "asgi")
        self._context = WorkerContext(None)
        self._hypercorn = _hypercorn_config(config)

    async def serve(self, stream: Stream) -> None:
        """Serve one client until it leaves, is idle for too long, or `finish` is called."""
        adapted = HttpStream(stream, self._config)
        server = TCPServer(
            self._wrapped,
            self._hypercorn,
            self._context,
            ConnectionState({}),
            adapted,  # type: ignore[arg-type]
        )
        with adapted.scope:
            await self._supervisor.absorb("http connection", server.run)

    async def finish(self) -> None:
        """Close idle connections, and the others after the answer that is under way."""
        await self._context.terminated.set()

    async def _run_app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; a bug in it is counted, and answered with 500 by hypercorn."""
        await self._supervisor.absorb("http request", self._app, scope, receive, send)


def _hypercorn_config(http: HttpConfig) -> Config:
    config: Any = Config()
    config.accesslog = None
    config.errorlog = logger
    config.include_server_header = False
    config.h11_max_incomplete_size = http.header_bytes_max
    config.h2_max_header_list_size = http.header_bytes_max
    config.h2_max_concurrent_streams = 8
    config.websocket_max_message_size = http.body_bytes_max
    config.keep_alive_timeout = http.request_seconds_max
    config.read_timeout = http.request_seconds_max
    config.max_app_queue_size = _EVENTS_MAX
    return config  # type: ignore[no-any-return]
