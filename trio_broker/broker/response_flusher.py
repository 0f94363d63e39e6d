"""Coalesces replies: all that one commit has completed leaves a connection in one send."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from trio_broker.broker.supervise import Supervisor


class ReadyConnection(Protocol):
    """What may have replies that are ready."""

    def send_ready(self) -> None:
        """Send them; must not block."""

    def close(self, reason: str) -> None:
        """End the connection."""


class ResponseFlusher:
    """Connections whose replies are ready, until the next `flush`.

    Whoever resolves slots calls `flush` once after the last of them: the shard's writer after a
    commit, a connection after what it has read, the reaper after its round. None of them is to pay
    for a fault in another's connection.
    """

    __slots__ = ("_ready", "_supervisor")

    def __init__(self, supervisor: Supervisor) -> None:
        self._ready: dict[ReadyConnection, None] = {}
        self._supervisor = supervisor

    def add(self, connection: ReadyConnection) -> None:
        """Remember a connection for the next `flush`."""
        self._ready[connection] = None

    def flush(self) -> None:
        """Send what is ready on every remembered connection, in the order they became ready."""
        while self._ready:
            ready, self._ready = self._ready, {}
            for connection in ready:
                fault = self._supervisor.absorb_now("connection", connection.send_ready)
                if fault is not None:
                    connection.close("its replies could not be made")
