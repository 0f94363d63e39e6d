"""A connection that counts what it asks and what is answered: I6, looked at on the wire."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from trio_broker.testing.model import Violation
from trio_broker.testing.sim.host import SimMachine
from trio_broker.wire.api import APIS
from trio_broker.wire.frames import FrameSplitter
from trio_broker.wire.message import decode_response, encode_request

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_broker.testing.workload.world import World

#: Whoever waits for longer than this waits for ever.
PATIENCE_SECONDS = 60.0


class Witness:
    """One connection; counts what it asks and what is answered.

    Attributes:
        has_ended: the connection has, whoever ended it.
    """

    def __init__(self, world: World, name: str) -> None:
        self.name = name
        self.answered = 0
        self.has_ended = False
        self._machine = SimMachine(world.sim, name, internet=world.server.internet)
        self._address = world.server.address
        self._splitter = FrameSplitter(2**31 - 1, 2**31 - 1)
        self._stream: Any = None
        self._asked = 0
        self._open: dict[int, tuple[Any, int, Callable[[Any], None]]] = {}
        self.changed = trio.Event()

    def __repr__(self) -> str:
        return f"<Witness {self.name} open={list(self._open)} ended={self.has_ended}>"

    @property
    def cut_off(self) -> int:
        """Requests that will not be answered any more."""
        return len(self._open) if self.has_ended else 0

    @property
    def is_settled(self) -> bool:
        """Whether nothing is to be waited for."""
        return self.has_ended or not self._open

    async def connect(self) -> None:
        """Open the connection."""
        self._stream = await self._machine.network.connect(*self._address)

    def ask(self, body: Any, version: int | None, take: Callable[[Any], None]) -> None:
        """Send a request; `take` gets its answer."""
        if self.has_ended:
            return
        key = type(body).api_key
        version = APIS[key].max_version if version is None else version
        self._asked += 1
        data = encode_request(key, version, self._asked, self.name, body)
        self._open[self._asked] = type(body), version, take
        try:
            sent = self._stream.send_nowait(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._end()
        else:
            assert sent == len(data), "the window of a simulated connection is larger than this"

    def _end(self) -> None:
        self.has_ended = True
        self._note_change()

    def _note_change(self) -> None:
        changed, self.changed = self.changed, trio.Event()
        changed.set()

    async def listen(self) -> None:
        """Take answers until the connection ends."""
        while True:
            while (frame := self._splitter.next_frame()) is not None:
                self._take(bytes(frame))
            try:
                count = await self._stream.receive_into(self._splitter.writable())
            except trio.BrokenResourceError:
                count = 0
            except trio.ClosedResourceError:
                return
            if not count:
                self._end()
                return
            self._splitter.received(count)

    def _take(self, frame: bytes) -> None:
        number = int.from_bytes(frame[:4], "big", signed=True)
        if number not in self._open:
            raise Violation(f"I6 {self.name} gets an answer to {number}, open are {self._open}")
        if number != next(iter(self._open)):
            raise Violation(f"I6 {self.name} gets {number} before {next(iter(self._open))}")
        request_type, version, take = self._open.pop(number)
        _, response = decode_response(APIS[request_type.api_key].response_type, version, frame)
        self.answered += 1
        take(response)
        self._note_change()

    def close(self) -> None:
        """Close the connection, which nobody waits for."""
        self._stream.close()


async def settled(witnesses: list[Witness]) -> None:
    """Wait until nobody waits any more.

    Raises:
        Violation: somebody waits for ever.
    """
    with trio.move_on_after(PATIENCE_SECONDS) as patience:
        for witness in witnesses:
            while not witness.is_settled:
                await witness.changed.wait()
    if patience.cancelled_caught:
        raise Violation(f"I6 never answered: {[w for w in witnesses if not w.is_settled]}")
