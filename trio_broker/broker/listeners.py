"""Accept loops, one per bound address, and the boundary around each connection.

Being out of descriptors or memory is a state, not a fault: it is logged at most every ten seconds,
and accepting goes on when it has passed. Clients above the limits on connections, and those for
whom there is no descriptor, are closed at once, which is the only answer the protocol has for them.
"""

from __future__ import annotations

import errno
import logging
from collections import Counter
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

import trio

from trio_broker.broker.connection import Connection
from trio_broker.broker.session import Session
from trio_broker.config_checks import split_address

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_broker.broker.paced_log import PacedLog
    from trio_broker.broker.state import BrokerState
    from trio_broker.host.interface import Listener, Stream

logger = logging.getLogger("trio_broker.listeners")

#: accept() errors that mean "not now": too many files, no memory.
_OVERLOADED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
#: accept() errors that concern one client only. Linux hands over what has already gone wrong on the
#: new connection (accept(2), "Error handling").
_CLIENT_GONE = frozenset(
    getattr(errno, name)
    for name in (
        "ECONNABORTED",
        "EHOSTDOWN",
        "EHOSTUNREACH",
        "ENETDOWN",
        "ENETUNREACH",
        "ENONET",
        "ENOPROTOOPT",
        "EOPNOTSUPP",
        "EPERM",
        "EPROTO",
        "ETIMEDOUT",
    )
    if hasattr(errno, name)
)
_OVERLOAD_PAUSE_SECONDS = 0.1


class ConnectionGate:
    """Counts connections, in all and per client address, against their limits.

    Args:
        connections_max: tells how many there may be in all; may change.
        per_address_max: how many of one address.
    """

    def __init__(self, connections_max: Callable[[], int], per_address_max: int) -> None:
        self._connections_max = connections_max
        self._per_address_max = per_address_max
        self._per_address: Counter[str] = Counter()
        self.open_count = 0

    def enter(self, address: str) -> str:
        """Count one more connection from `address`; if that is one too many, return why."""
        if self.open_count >= (most := self._connections_max()):
            return f"{self.open_count} are open, and {most} may be"
        if self._per_address[address] >= self._per_address_max:
            return f"{self._per_address_max} are open from {address}"
        self.open_count += 1
        self._per_address[address] += 1
        return ""

    def leave(self, address: str) -> None:
        """Count one less."""
        self.open_count -= 1
        self._per_address[address] -= 1
        if not self._per_address[address]:
            del self._per_address[address]


async def bind_listeners(state: BrokerState, resources: ExitStack) -> list[Listener]:
    """Bind every configured address, without listening yet; `resources` closes them.

    Raises:
        OSError: an address cannot be bound; it is named.
    """
    listeners: list[Listener] = []
    for text in state.config.listeners:
        host, port = split_address(text)
        for listener in await state.host.network.bind(host, port):
            resources.callback(listener.close)
            listeners.append(listener)
    return listeners


class PatientListener:
    """Accepts at one address, and waits while the system has no room for another client.

    Args:
        listener: at that address.
        log: says that there is no room, for all addresses together.
        count: told how many clients were closed because there was no descriptor for them.
    """

    def __init__(
        self, listener: Listener, log: PacedLog, count: Callable[[int], None] = lambda _: None
    ) -> None:
        self._listener = listener
        self._log = log
        self._count = count
        self._counted = listener.turned_away

    async def accept(self) -> Stream | None:
        """Return the next client's stream, or None once the listener is closed.

        Raises:
            OSError: the listener does not work any more.
        """
        while True:
            try:
                return await self._listener.accept()
            except trio.ClosedResourceError:
                return None
            except OSError as error:
                if error.errno in _CLIENT_GONE:
                    continue
                if error.errno not in _OVERLOADED:
                    raise
                turned_away = self._listener.turned_away
                self._count(turned_away - self._counted)
                self._counted = turned_away
                self._log.log(
                    logging.ERROR,
                    errno.errorcode.get(error.errno or 0, ""),
                    f"cannot accept clients at {self._listener.port}, those connected already are "
                    f"served: {error}",
                )
                await trio.sleep(_OVERLOAD_PAUSE_SECONDS)


async def accept_forever(state: BrokerState, listener: Listener, gate: ConnectionGate) -> None:
    """Accept clients of one address until the listener is closed or the task cancelled.

    After a fault it goes on, ever more slowly; those who are connected do not notice.
    """
    boundary = f"listener {listener.host}:{listener.port}"
    await state.supervisor.keep_running(boundary, partial(_accept, state, listener, gate))


async def _accept(state: BrokerState, listener: Listener, gate: ConnectionGate) -> None:
    def count(turned_away: int) -> None:
        state.connections_refused += turned_away

    patient = PatientListener(listener, state.accept_log, count)
    while (stream := await patient.accept()) is not None:
        with ExitStack() as unless_served:
            unless_served.callback(stream.close)
            if state.draining:
                continue
            address = stream.peer.rpartition(":")[0]
            if refusal := gate.enter(address):
                state.connections_refused += 1
                state.accept_log.log(
                    logging.WARNING, "gate", f"a connection from {address} was refused: {refusal}"
                )
                continue
            unless_served.callback(gate.leave, address)
            assert state.connections is not None
            state.connections.start_soon(
                _serve_client, state, stream, (listener.host, listener.port), gate, address
            )
            state.connections_accepted += 1
            unless_served.pop_all()


async def _serve_client(
    state: BrokerState,
    stream: Stream,
    listened_at: tuple[str, int],
    gate: ConnectionGate,
    address: str,
) -> None:
    try:
        await serve_stream(state, stream, Session(peer=stream.peer, listener=listened_at))
    finally:
        gate.leave(address)


async def serve_stream(state: BrokerState, stream: Stream, session: Session) -> None:
    """Serve one client until it leaves; the boundary around its connection. Closes the stream."""
    connection = Connection(stream, session, state)
    state.clients[connection] = None
    state.reaper.stir()
    try:
        await state.supervisor.absorb("connection", connection.run)
    finally:
        del state.clients[connection]
        state.client_left.unpark_all()
        stream.close()
