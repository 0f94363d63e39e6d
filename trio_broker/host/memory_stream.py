"""A byte stream between two tasks of one program: the two ends of a connection without a socket.

What `broker.embed` hands to a client in the same program. The terms are those of
`interface.Stream`, so that neither side can tell the difference.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_broker.host.interface import Buffer

#: Bytes that one direction holds before its sender has to wait.
WINDOW_BYTES = 256 * 1024


class _Pipe:
    """One direction of a connection."""

    __slots__ = ("changed", "has_reader", "has_writer", "pieces", "size_bytes")

    def __init__(self) -> None:
        self.pieces: deque[memoryview] = deque()
        self.size_bytes = 0
        self.has_reader = True
        self.has_writer = True
        self.changed = trio.lowlevel.ParkingLot()

    def put(self, data: memoryview) -> int:
        """Take what there is room for; return how much that was."""
        accepted = min(len(data), WINDOW_BYTES - self.size_bytes)
        if accepted:
            # A copy, since the sender may use its buffer again.
            self.pieces.append(memoryview(bytes(data[:accepted])))
            self.size_bytes += accepted
            self.changed.unpark_all()
        return accepted

    def take(self, buffer: memoryview) -> int:
        """Fill a buffer as far as possible; return how far."""
        taken = 0
        while self.pieces and taken < len(buffer):
            piece = self.pieces[0]
            length = min(len(piece), len(buffer) - taken)
            buffer[taken : taken + length] = piece[:length]
            taken += length
            if length == len(piece):
                self.pieces.popleft()
            else:
                self.pieces[0] = piece[length:]
        self.size_bytes -= taken
        self.changed.unpark_all()
        return taken


class MemoryStream:
    """One end; make both with `memory_stream_pair`.

    Attributes:
        peer: what the other end is called.
    """

    __slots__ = ("peer", "_incoming", "_is_closed", "_outgoing")

    def __init__(self, peer: str, incoming: _Pipe, outgoing: _Pipe) -> None:
        self.peer = peer
        self._incoming = incoming
        self._outgoing = outgoing
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<MemoryStream to {self.peer} {'closed' if self._is_closed else 'open'}>"

    async def receive_into(self, buffer: memoryview, expected_bytes: int = 1) -> int:  # noqa: ARG002
        """Wait for bytes and put them into `buffer`; return how many, 0 at the end."""
        assert len(buffer) > 0, "an empty buffer cannot be told from the end of the stream"
        await trio.lowlevel.checkpoint()
        while True:
            self._check()
            if self._incoming.pieces:
                return self._incoming.take(buffer)
            if not self._incoming.has_writer:
                return 0
            await self._incoming.changed.park()

    def send_nowait(self, buffer: Buffer) -> int:
        """Hand over what fits without waiting; return the number of bytes (possibly 0)."""
        self._check()
        if not self._outgoing.has_reader:
            raise trio.BrokenResourceError(f"{self.peer} has closed the connection")
        return self._outgoing.put(memoryview(buffer).cast("B"))

    async def send_vectored(self, buffers: Sequence[Buffer]) -> None:
        """Send all buffers in order. Yields to other tasks only when the peer is slow."""
        await trio.lowlevel.checkpoint_if_cancelled()
        for buffer in buffers:
            rest = memoryview(buffer).cast("B")
            while (sent := self.send_nowait(rest)) < len(rest):
                rest = rest[sent:]
                await self._outgoing.changed.park()

    def is_abandoned(self) -> bool:
        """Whether the peer has closed the connection and left nothing to read."""
        incoming = self._incoming
        return self._is_closed or not (incoming.pieces or incoming.has_writer)

    def has_peer_left(self) -> bool:
        """Whether the peer has closed the connection, whatever is left to read."""
        return self._is_closed or not self._incoming.has_writer

    def close(self) -> None:
        """Close both directions. Idempotent; the other end may still read what it was sent."""
        if self._is_closed:
            return
        self._is_closed = True
        self._incoming.has_reader = False
        self._incoming.pieces.clear()
        self._incoming.changed.unpark_all()
        self._outgoing.has_writer = False
        self._outgoing.changed.unpark_all()

    def _check(self) -> None:
        if self._is_closed:
            raise trio.ClosedResourceError(f"the connection with {self.peer} was closed here")


def memory_stream_pair(first: str, second: str) -> tuple[MemoryStream, MemoryStream]:
    """Return both ends of a new connection, that of `first` and that of `second`."""
    there, back = _Pipe(), _Pipe()
    return MemoryStream(second, back, there), MemoryStream(first, there, back)
