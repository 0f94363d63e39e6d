"""A connection that is there when it is needed: opened on first use, replaced when it broke."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import trio

from trio_broker.client.connection import Connection, VersionMismatch
from trio_broker.client.errors import RequestTimedOut
from trio_broker.wire.message import Request, Response

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

R = TypeVar("R", bound=Response)


class Link:
    """The way to one broker for one purpose: one request at a time, in the order of the calls."""

    def __init__(self, connect: Callable[[tuple[str, int]], Awaitable[Connection]]) -> None:
        self._connect = connect
        self._lock = trio.Lock()
        self._connection: Connection | None = None
        self._address = ("", 0)

    async def request(
        self,
        address: tuple[str, int],
        body: Request,
        response_type: type[R],
        *,
        timeout_seconds: float,
        idle_seconds: float,
        version_max: int | None = None,
    ) -> R:
        """Send a request and wait for the answer.

        Args:
            address: where the broker is now; if that has changed, the connection is replaced.
            body: the request.
            response_type: class of the answer.
            timeout_seconds: for everything, waiting for other requests included.
            idle_seconds: a connection not used for so long is replaced first.
            version_max: newest version wanted; None: any.

        Raises:
            RequestTimedOut: the time is up.
            ConnectionLost, OSError: the connection could not be made, or broke.
            ProtocolError, VersionMismatch: it is no broker we can talk to.

        Cancellation: unknown whether the broker acted; the connection is replaced.
        """
        scope = trio.CancelScope(deadline=trio.current_time() + timeout_seconds)
        with scope:
            async with self._lock:
                try:
                    connection = await self._usable(address, idle_seconds)
                    return await connection.request(body, response_type, version_max=version_max)
                except (VersionMismatch, ValueError):
                    raise  # nothing was sent
                except BaseException:
                    self.close()
                    raise
        name = type(body).__name__
        raise RequestTimedOut(f"{address[0]}:{address[1]} has not answered {name} in time")

    async def _usable(self, address: tuple[str, int], idle_seconds: float) -> Connection:
        connection = self._connection
        if connection is not None:
            idle = trio.current_time() - connection.last_used
            if not connection.is_closed and address == self._address and idle < idle_seconds:
                return connection
            self.close()
        self._connection = await self._connect(address)
        self._address = address
        return self._connection

    def close(self) -> None:
        """Close the connection, if there is one; the next request opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
