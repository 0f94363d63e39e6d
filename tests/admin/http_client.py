"""A client that sends HTTP as it is told to, over the host's own sockets, real or simulated."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from trio_broker.host.interface import Network, Stream

PATIENCE_SECONDS = 60.0


class HttpAnswer(NamedTuple):
    """An answer: status, headers with lower-case names, body."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return self.body.decode()


class HttpClient:
    """One connection."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.received = b""

    async def send(self, data: bytes) -> None:
        with trio.fail_after(PATIENCE_SECONDS):
            await self.stream.send_vectored([data])

    async def more(self) -> bool:
        """Receive something; False at the end of the connection, however it ended."""
        buffer = bytearray(65536)
        with trio.fail_after(PATIENCE_SECONDS):
            try:
                count = await self.stream.receive_into(memoryview(buffer))
            except trio.BrokenResourceError:
                count = 0
        self.received += buffer[:count]
        return count > 0

    async def answer(self, *, has_body: bool = True) -> HttpAnswer | None:
        """Return the next answer, or None if the connection ends without a whole one."""
        while b"\r\n\r\n" not in self.received:
            if not await self.more():
                return None
        head, _, self.received = self.received.partition(b"\r\n\r\n")
        first, *lines = head.decode("ascii").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        length = int(headers.get("content-length", "0")) if has_body else 0
        while len(self.received) < length:
            if not await self.more():
                return None
        body, self.received = self.received[:length], self.received[length:]
        return HttpAnswer(int(first.split()[1]), headers, body)

    async def wait_closed(self) -> None:
        """Wait until the other side has closed; whatever still comes does not matter."""
        while await self.more():
            pass

    async def request(
        self, path: str, *, method: str = "GET", headers: Mapping[str, str] | None = None
    ) -> HttpAnswer:
        await self.send(encode(path, method=method, headers=headers))
        answer = await self.answer(has_body=method != "HEAD")
        assert answer is not None, "the connection was closed without an answer"
        return answer


def encode(path: str, *, method: str = "GET", headers: Mapping[str, str] | None = None) -> bytes:
    """Return a request without a body."""
    lines = {"Host": "localhost:9644"} | dict(headers or {})
    text = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"{method} {path} HTTP/1.1\r\n{text}\r\n".encode()


@asynccontextmanager
async def open_http(network: Network, address: tuple[str, int]) -> AsyncIterator[HttpClient]:
    """Connect for the length of a block."""
    stream = await network.connect(*address)
    try:
        yield HttpClient(stream)
    finally:
        stream.close()


async def get(
    network: Network,
    address: tuple[str, int],
    path: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
) -> HttpAnswer:
    """Ask once, on a connection of its own."""
    async with open_http(network, address) as client:
        return await client.request(path, method=method, headers=headers)
