"""Coalesces replies: all that one commit has completed leaves a connection in one send."""

from __future__ import annotations

from typing import Protocol


class ReadyConnection(Protocol):
    """What may have replies that are ready."""

    def send_ready(self) -> None:
        """Send them; must not block or raise."""


class ResponseFlusher:
    """Connections whose replies are ready, until the next `flush`.

    Whoever resolves slots calls `flush` once after the last of them: the shard's writer after a
    commit, a connection after what it has read, the reaper after its round.
    """

    __slots__ = ("_ready",)

    def __init__(self) -> None:
        self._ready: dict[ReadyConnection, None] = {}

    def add(self, connection: ReadyConnection) -> None:
        """Remember a connection for the next `flush`."""
        self._ready[connection] = None

    def flush(self) -> None:
        """Send what is ready on every remembered connection, in the order they became ready."""
        while self._ready:
            ready, self._ready = self._ready, {}
            for connection in ready:
                connection.send_ready()
