"""One timer for every deadline of every connection, instead of a cancel scope per request.

It looks twice a second at what is under way, and not at all while every client is idle: then it
sleeps until the first of them has been silent for too long. So a client that comes with work tells
it, with `stir`. That keeps a broker without work quiet, which a test under a virtual clock pays for
by the hour.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Collection

    from trio_broker.broker.connection import Connection
    from trio_broker.broker.supervise import Supervisor

REAP_INTERVAL_SECONDS = 0.5


class Reaper:
    """Looks after the connections of one broker.

    Args:
        clients: those that are open; read only.
        supervisor: takes the faults of one connection each.
    """

    def __init__(self, clients: Collection[Connection], supervisor: Supervisor) -> None:
        self._clients = clients
        self._supervisor = supervisor
        self._sleep = trio.CancelScope()
        self._is_long = False

    def __repr__(self) -> str:
        return f"<Reaper {'asleep' if self._is_long else 'awake'} clients={len(self._clients)}>"

    def stir(self) -> None:
        """Look within the interval: a client has come, or one that was idle has sent something.

        Cheap where nothing has to be done, since every piece that clients send comes by here.
        """
        if self._is_long:
            self._is_long = False
            latest = trio.current_time() + REAP_INTERVAL_SECONDS
            self._sleep.deadline = min(self._sleep.deadline, latest)

    async def run(self) -> None:
        """Close clients that keep the broker waiting and answer produces that are late."""
        while True:
            with trio.CancelScope(deadline=self._next_look()) as self._sleep:
                await trio.sleep_forever()
            now = trio.current_time()
            for connection in list(self._clients):
                fault = self._supervisor.absorb_now("connection", connection.reap, now)
                if fault is not None:
                    connection.close("its deadlines could not be looked after")

    def _next_look(self) -> float:
        self._is_long = all(connection.is_idle for connection in self._clients)
        if self._is_long:
            return min((each.deadline for each in self._clients), default=math.inf)
        return trio.current_time() + REAP_INTERVAL_SECONDS
