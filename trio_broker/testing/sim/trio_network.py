"""Simulated connections as Trio's own kinds of streams, for programs that were written for Trio.

`SimMachine.open_tcp_stream`, `open_tcp_listeners` and `serve_tcp` give these: hand them to a
program in the place of Trio's functions. What happens to the bytes is `network`'s business.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_broker.testing.sim.network import SimListener, SimStream


_RECEIVE_BYTES = 65_536


class SimTrioStream(trio.abc.HalfCloseableStream):
    """A simulated connection; errors and cancellation as with `trio.SocketStream`.

    Attributes:
        stream: what it stands before, to reset or cut it.
    """

    def __init__(self, stream: SimStream) -> None:
        self.stream = stream
        self._busy: set[str] = set()
        self._is_end_sent = False

    def __repr__(self) -> str:
        return repr(self.stream)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of it. Cancelled, an unknown part of it was sent.

        Raises:
            trio.BusyResourceError: another task is sending.
            trio.BrokenResourceError: the connection is broken.
            trio.ClosedResourceError: it was closed here, or its end was sent.
        """
        with self._alone("sending"):
            if self._is_end_sent:
                raise trio.ClosedResourceError("the end of the stream was sent")
            if len(data):
                await self.stream.send_vectored([data])
            else:
                self.stream.check()
                await trio.lowlevel.checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        """Return; how much fits is found out by sending."""
        with self._alone("sending"):
            self.stream.check()
            await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Wait for bytes and return them, none at the end of the stream.

        Raises:
            trio.BusyResourceError: another task is receiving.
            trio.BrokenResourceError: the connection is broken.
            trio.ClosedResourceError: it was closed here.
        """
        if max_bytes is not None and max_bytes < 1:
            raise ValueError("max_bytes must be at least 1")
        buffer = bytearray(max_bytes or _RECEIVE_BYTES)
        with self._alone("receiving"):
            received = await self.stream.receive_into(memoryview(buffer))
        return bytes(buffer[:received])

    async def send_eof(self) -> None:
        """Tell the other end that nothing more comes; receiving goes on."""
        with self._alone("sending"):
            await trio.lowlevel.checkpoint()
            self._is_end_sent = True
            self.stream.send_eof()

    async def aclose(self) -> None:
        """Close both directions. Idempotent; takes effect even if cancelled."""
        self.stream.close()
        await trio.lowlevel.checkpoint()

    @contextmanager
    def _alone(self, doing: str) -> Iterator[None]:
        if doing in self._busy:
            raise trio.BusyResourceError(f"another task is {doing} on this stream")
        self._busy.add(doing)
        try:
            yield
        finally:
            self._busy.remove(doing)


class SimTrioListener(trio.abc.Listener[SimTrioStream]):
    """A simulated bound address.

    Attributes:
        listener: what it stands before.
    """

    def __init__(self, listener: SimListener) -> None:
        self.listener = listener

    @property
    def port(self) -> int:
        """Port bound to."""
        return self.listener.port

    async def accept(self) -> SimTrioStream:
        """Wait for the next connection.

        Raises:
            trio.ClosedResourceError: the listener was closed.
        """
        return SimTrioStream(await self.listener.accept())

    async def aclose(self) -> None:
        """Stop listening. Idempotent; takes effect even if cancelled."""
        self.listener.close()
        await trio.lowlevel.checkpoint()
