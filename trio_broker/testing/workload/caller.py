"""A connection to the simulated broker that is opened again when it breaks.

What every client of the workload has in common: patience, and the demand that a request is answered
or its connection ends (I6), which nobody may put off once all trouble is over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import trio

from trio_broker.client.connection import Connection, ConnectionLost, connect
from trio_broker.testing.model import Violation
from trio_broker.testing.sim.host import SimMachine
from trio_broker.wire.message import Request, Response

if TYPE_CHECKING:
    from trio_broker.testing.brokers import Life
    from trio_broker.testing.workload.world import World

R = TypeVar("R", bound=Response)

#: A client takes a connection for dead if an answer is later than this.
PATIENCE_SECONDS = 35.0
#: Once trouble is over an answer must come within this.
ANSWER_SECONDS = 30.0
_RETRY_SECONDS = 0.2


class Caller:
    """A client's way to the broker.

    Attributes:
        name: of the client, and of its machine.
        life: of the broker, which the present connection is to.
        losses: how often something may have been lost before that connection was made.
    """

    def __init__(self, world: World, name: str) -> None:
        self.name = name
        self.life: Life | None = None
        self.losses = 0
        self._world = world
        self._machine = SimMachine(world.sim, name, internet=world.server.internet)
        self._connection: Connection | None = None
        world.callers.append(self)

    @property
    def wall_ms(self) -> int:
        """Civil time of the client."""
        return self._machine.wall.now_ms()

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection, as far as the client knows."""
        return self._connection is not None

    async def connection(self) -> Connection:
        """Return the connection, making one if there is none, however long that takes."""
        while self._connection is None:
            with trio.move_on_after(PATIENCE_SECONDS):
                try:
                    self._connection = await connect(
                        self._machine.network, *self._world.server.address, client_id=self.name
                    )
                except (OSError, ConnectionLost):
                    pass
            if self._connection is None:
                await trio.sleep(_RETRY_SECONDS)
            else:
                self.life, self.losses = self._world.server.life, self._world.losses
        return self._connection

    async def call(
        self,
        body: Request,
        response_type: type[R],
        *,
        version_max: int | None = None,
        waits_seconds: float = 0.0,
    ) -> R | None:
        """Send a request and return its answer, None if there is none.

        Args:
            body: what to send.
            response_type: of the answer.
            version_max: newest version wanted.
            waits_seconds: how long the broker may wait before it answers.

        Raises:
            Violation: there was no reason for not answering.
        """
        connection = await self.connection()
        try:
            await connection.send(body, version_max=version_max)
        except ConnectionLost:
            self.close()
            return None
        return await self.receive(response_type, waits_seconds=waits_seconds)

    async def receive(self, response_type: type[R], *, waits_seconds: float = 0.0) -> R | None:
        """Wait for the oldest answer; None if it does not come, and the connection is closed.

        Raises:
            Violation: there was no reason for not answering.
        """
        connection = self._connection
        assert connection is not None
        asked_at = trio.current_time()
        answer: R | None = None
        with trio.move_on_after(PATIENCE_SECONDS + waits_seconds) as patience:
            try:
                answer = await connection.receive(response_type)
            except ConnectionLost:
                pass
        if answer is None:
            self.close()
        calm_seconds = trio.current_time() - max(asked_at, self._world.calm_since)
        if patience.cancelled_caught and calm_seconds > ANSWER_SECONDS + waits_seconds:
            raise Violation(
                f"I6 {self.name} waits for a {response_type.__name__} for {calm_seconds:.1f} s"
            )
        return answer

    def give_up(self) -> None:
        """Leave while a request is under way."""
        if self._connection is not None:
            self._world.saw("given up")
        self.close()

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def check_silent(self) -> None:
        """Check I6: nothing has come, or is coming, that nobody asked for.

        Raises:
            Violation: something has.
        """
        if self._connection is None or self._connection.in_flight:
            return
        unread = self._connection._stream._inbox  # type: ignore[attr-defined] # of a SimStream
        if any(data for _, data in unread):
            raise Violation(f"I6 {self.name} gets answers that it did not ask for")
