"""Coalesces what a step brings about: one send for all its replies, one commit for all its batches.

All that a commit has completed leaves a connection in one send, and all batches that a connection
has read are committed together where the disk has nothing to do.
"""

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


class WaitingShard(Protocol):
    """What may have batches to commit."""

    def begin_commit(self) -> None:
        """Begin, if it is not committing; must not block, and raises nothing."""


class ResponseFlusher:
    """Connections whose replies are ready, and shards that have something to do, until `flush`.

    Whoever resolves or queues slots calls `flush` once after the last of them: a shard after a
    commit, a connection after what it has read, the reaper after its round. None of them is to pay
    for a fault in another's connection.
    """

    __slots__ = ("_ready", "_shards", "_supervisor")

    def __init__(self, supervisor: Supervisor) -> None:
        self._ready: dict[ReadyConnection, None] = {}
        self._shards: dict[WaitingShard, None] = {}
        self._supervisor = supervisor

    def add(self, connection: ReadyConnection) -> None:
        """Remember a connection for the next `flush`."""
        self._ready[connection] = None

    def add_shard(self, shard: WaitingShard) -> None:
        """Remember a shard for the next `flush`."""
        self._shards[shard] = None

    def flush(self) -> None:
        """Begin what is to be committed, and send what is ready, in the order it became ready."""
        while self._shards or self._ready:
            shards, self._shards = self._shards, {}
            for shard in shards:
                shard.begin_commit()
            ready, self._ready = self._ready, {}
            for connection in ready:
                fault = self._supervisor.absorb_now("connection", connection.send_ready)
                if fault is not None:
                    connection.close("its replies could not be made")
