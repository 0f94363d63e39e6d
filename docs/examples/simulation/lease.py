"""Workers that add to one number, one at a time: whoever wants to must hold a lease.

An ordinary Trio program: a server and its clients, which speak lines of JSON. It knows nothing of
simulation; only the function that opens a connection is handed in, `trio.open_tcp_stream` for real.

A lease ends after ten seconds, so that a worker that died does not keep the others waiting. So a
worker that was only slow may write when the lease is another's. `checks_leases` says whether the
server notices. (M. Kleppmann, "How to do distributed locking", 2016, tells the story.)
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

LEASE_SECONDS = 10.0


async def receive(stream: trio.abc.Stream) -> dict[str, Any] | None:
    """Receive one line, None at the end of the stream; nobody sends two before an answer."""
    line = b""
    while not line.endswith(b"\n"):
        data = await stream.receive_some()
        if not data:
            return None
        line += data
    return json.loads(line)


async def send(stream: trio.abc.Stream, **message: Any) -> None:
    """Send one line."""
    await stream.send_all(json.dumps(message).encode() + b"\n")


class Server:
    """Keeps the number, and tells who may change it."""

    def __init__(self, *, checks_leases: bool) -> None:
        self.value = 0
        self.checks_leases = checks_leases
        self.lease = 0
        self.ends_at = 0.0
        self.ended = trio.Event()

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Answer one client."""
        while (request := await receive(stream)) is not None:
            match request["do"]:
                case "lease":
                    await send(stream, lease=await self.next_lease())
                case "read":
                    await send(stream, value=self.value)
                case "write":
                    await send(stream, ok=self.write(request["value"], request["lease"]))

    async def next_lease(self) -> int:
        """Wait until nobody holds the lease, and give it out."""
        while trio.current_time() < self.ends_at:
            with trio.move_on_at(self.ends_at):
                await self.ended.wait()
        self.lease += 1
        self.ends_at = trio.current_time() + LEASE_SECONDS
        self.ended = trio.Event()
        return self.lease

    def write(self, value: int, lease: int) -> bool:
        """Take a new value, which ends the lease."""
        if self.checks_leases and lease != self.lease:
            return False
        self.value = value
        self.ends_at = trio.current_time()
        self.ended.set()
        return True


async def add_one(open_stream: Callable[[str, int], Awaitable[trio.abc.Stream]]) -> None:
    """Add one to the number, whatever it takes."""
    async with await open_stream("server", 80) as stream:
        while True:
            await send(stream, do="lease")
            lease = (await receive(stream))["lease"]
            await send(stream, do="read")
            value = (await receive(stream))["value"]
            await send(stream, do="write", value=value + 1, lease=lease)
            if (await receive(stream))["ok"]:
                return
