"""Real TCP: listeners and byte streams on non-blocking sockets, without Trio's stream layer.

Owns the sockets. `broker.listeners` accepts, one task per connection receives and sends. A
`trio.SocketStream` would cost four times as much per 16 KiB request: here bytes land in the
caller's own buffer, and a reply of many parts goes out in one system call.

Faults of a connection are `trio.BrokenResourceError`, with the `OSError` as cause. Those of a
listener reach the caller as they are, since some of them ("no descriptors left") are the broker's.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

import trio
from trio.lowlevel import checkpoint_if_cancelled, notify_closing, wait_readable, wait_writable

from trio_broker.host.spares import NO_DESCRIPTORS, SpareDescriptors

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trio_broker.host.interface import Buffer

#: Most buffers of one vectored send (IOV_MAX on Linux and macOS).
SEND_BUFFERS_MAX = 1024
#: As long as the system lets it be (net.core.somaxconn): a reconnecting fleet arrives at once.
_BACKLOG = 0xFFFF
#: What poll(2) is asked for (POLLERR and POLLHUP come by themselves); 0: it cannot tell, here.
_PEER_LEFT: int = getattr(select, "POLLRDHUP", 0)
#: How often to try for one free port on all addresses of a name, when port 0 is asked for.
_PORT_ATTEMPTS_MAX = 8
#: Most clients closed at once while there is no descriptor for them.
_TURNED_AWAY_MAX = 256
#: From so much of a frame on, a task is not woken for every packet of it (SO_RCVLOWAT, socket(7)).
_LOW_WATER_BYTES_MIN = 16 * 1024
#: So much is worth a wake-up: while it is copied, the peer may send more.
_LOW_WATER_BYTES_MAX = 256 * 1024


def _address_text(address: tuple[str, int] | tuple[str, int, int, int]) -> str:
    """Return ``host:port``, with brackets around an IPv6 address."""
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class RealStream:
    """A connected socket; the terms are those of `interface.Stream`.

    Attributes:
        peer: remote address, ``host:port``.
    """

    __slots__ = ("peer", "_socket", "_descriptor", "_low_water_bytes")

    def __init__(self, connected: socket.socket, peer: str) -> None:
        """Take over `connected`, which is non-blocking."""
        self.peer = peer
        self._socket = connected
        self._descriptor = connected.fileno()  # -1: closed
        self._low_water_bytes = 1

    def __repr__(self) -> str:
        return f"<RealStream {self.peer} {'closed' if self._descriptor < 0 else 'open'}>"

    async def receive_into(self, buffer: memoryview, expected_bytes: int = 1) -> int:
        """Wait for bytes and put them into `buffer`; return how many, 0 at the end."""
        assert len(buffer) > 0, "an empty buffer cannot be told from the end of the stream"
        if expected_bytes >= _LOW_WATER_BYTES_MIN or self._low_water_bytes > 1:
            self._set_low_water(expected_bytes)
        while True:
            # Waiting first costs less than trying first: the bytes are rarely there already.
            await wait_readable(self._usable())
            try:
                return self._socket.recv_into(buffer)
            except BlockingIOError:
                continue
            except OSError as error:
                raise self._broken(error) from error

    def _set_low_water(self, expected_bytes: int) -> None:
        """Let the kernel wake us only when so much has come (or the end, or a fault)."""
        low_water_bytes = 1
        if expected_bytes >= _LOW_WATER_BYTES_MIN:
            low_water_bytes = min(expected_bytes, _LOW_WATER_BYTES_MAX)
        if low_water_bytes != self._low_water_bytes:
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, low_water_bytes)
            except OSError:
                return  # closed, which the wait says; or a system without it
            self._low_water_bytes = low_water_bytes

    def send_nowait(self, buffer: Buffer) -> int:
        """Hand over what fits without waiting; return the number of bytes (possibly 0)."""
        self._usable()
        try:
            return self._socket.send(buffer)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise self._broken(error) from error

    async def send_vectored(self, buffers: Sequence[Buffer]) -> None:
        """Send all buffers in order. Yields to other tasks only when the peer is slow."""
        await checkpoint_if_cancelled()
        first = 0
        rest: memoryview | None = None  # what a partial send left of buffers[first]
        while first < len(buffers):
            chunk: Sequence[Buffer] = buffers[first : first + SEND_BUFFERS_MAX]
            if rest is not None:
                chunk = [rest, *chunk[1:]]
            sent = self._send_chunk(chunk)
            if sent == sum(map(len, chunk)):
                first += len(chunk)
                rest = None
                continue
            skipped = 0
            while sent >= len(chunk[skipped]):
                sent -= len(chunk[skipped])
                skipped += 1
            first += skipped
            rest = memoryview(chunk[skipped])[sent:]
            await wait_writable(self._usable())

    def _send_chunk(self, chunk: Sequence[Buffer]) -> int:
        self._usable()
        try:
            return self._socket.sendmsg(chunk)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise self._broken(error) from error

    def is_abandoned(self) -> bool:
        """Whether the peer has closed or reset the connection and left nothing to read."""
        if self._descriptor < 0:
            return True
        try:
            return not self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def has_peer_left(self) -> bool:
        """Whether the peer has closed or reset the connection, whatever is left to read."""
        if self._descriptor < 0:
            return True
        if not _PEER_LEFT:
            return self.is_abandoned()
        poll = select.poll()
        poll.register(self._descriptor, _PEER_LEFT)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Close at once, in both directions. Idempotent; wakes tasks waiting in this stream."""
        if self._descriptor < 0:
            return
        notify_closing(self._descriptor)
        self._descriptor = -1
        _close_socket(self._socket)

    def _usable(self) -> int:
        if self._descriptor < 0:
            message = f"the connection with {self.peer} was closed here"
            raise trio.ClosedResourceError(message)
        return self._descriptor

    def _broken(self, error: OSError) -> trio.BrokenResourceError:
        return trio.BrokenResourceError(f"connection with {self.peer}: {error}")


class RealListener:
    """A bound socket, which listens when told; the terms are those of `interface.Listener`.

    Attributes:
        host: address bound to.
        port: port bound to.
        turned_away: see `interface.Listener`.
    """

    __slots__ = ("host", "port", "turned_away", "_socket", "_descriptor", "_spares")

    def __init__(self, bound: socket.socket, spares: SpareDescriptors) -> None:
        """Take over `bound`, which is non-blocking."""
        self.host, self.port = bound.getsockname()[:2]
        self.turned_away = 0
        self._socket = bound
        self._descriptor = bound.fileno()  # -1: closed
        self._spares = spares
        spares.want(1)

    def __repr__(self) -> str:
        state = "closed" if self._descriptor < 0 else "open"
        return f"<RealListener {_address_text((self.host, self.port))} {state}>"

    def listen(self) -> None:
        """Take clients from now on; see `interface.Listener`."""
        try:
            self._socket.listen(_BACKLOG)
        except OSError as error:
            raise _cannot_listen(error, (self.host, self.port)) from error

    async def accept(self) -> RealStream:
        """Wait for the next connection.

        With no descriptor left, a spare one is given up to take those who wait and close them,
        since they would else stay in the backlog until they time out. The error is raised all the
        same: the caller logs it and pauses.

        Raises:
            OSError: EMFILE, ENFILE, ENOBUFS, ENOMEM, ECONNABORTED, ...; the listener still works.
            ClosedResourceError: it was closed.
        """
        while True:
            if self._descriptor < 0:
                raise trio.ClosedResourceError
            await wait_readable(self._descriptor)
            if self._descriptor < 0:  # closed after this task was woken, and before it ran
                raise trio.ClosedResourceError
            try:
                accepted, address = self._socket.accept()
            except BlockingIOError:
                continue  # the client has gone again
            except OSError as error:
                if error.errno in NO_DESCRIPTORS:
                    self._turn_away()
                raise
            return _stream(accepted, address)

    def close(self) -> None:
        """Stop listening; a waiting `accept` raises ClosedResourceError. Idempotent."""
        if self._descriptor < 0:
            return
        notify_closing(self._descriptor)
        self._descriptor = -1
        self._spares.want(-1)
        _close_socket(self._socket)

    def _turn_away(self) -> None:
        """Close the connections that wait in the backlog, with a spare descriptor's help."""
        with suppress(OSError):  # the spare ones are in use too: those who wait go on waiting
            self._spares.call(self._close_waiting)

    def _close_waiting(self) -> None:
        for _ in range(_TURNED_AWAY_MAX):
            try:
                accepted, _address = self._socket.accept()
            except BlockingIOError:
                return
            accepted.close()
            self.turned_away += 1


class RealNetwork:
    """The sockets of this machine; the terms are those of `interface.Network`."""

    def __init__(self, spares: SpareDescriptors | None = None) -> None:
        self._spares = spares or SpareDescriptors()

    async def listen(self, host: str, port: int) -> Sequence[RealListener]:
        """Bind as `bind` does, and listen. Raises OSError as it does."""
        listeners = await self.bind(host, port)
        try:
            for listener in listeners:
                listener.listen()
        except BaseException:
            for listener in listeners:
                listener.close()
            raise
        return listeners

    async def bind(self, host: str, port: int) -> Sequence[RealListener]:
        """Bind every address that `host` resolves to, all on the same port.

        Nobody else can listen there then, and clients are refused until `RealListener.listen`.

        IPv6 addresses are left out where the system has IPv6 switched off and there are others.

        Raises:
            OSError: naming the address; then nothing stays bound.
        """
        try:
            found = await trio.socket.getaddrinfo(
                host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
        except socket.gaierror as error:
            raise OSError(errno.EADDRNOTAVAIL, f"cannot resolve {host!r}: {error}") from error
        # In the resolver's order, without what it says twice.
        addresses = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
        for attempt in range(_PORT_ATTEMPTS_MAX):
            try:
                return _bind_all(addresses, self._spares)
            except OSError as error:
                # The port that the first address got by chance is taken on another one.
                is_chance = port == 0 and error.errno == errno.EADDRINUSE
                if not is_chance or attempt == _PORT_ATTEMPTS_MAX - 1:
                    raise
        raise AssertionError

    def hold_port(self, host: str, port: int) -> Callable[[], None]:
        """Keep a port from others without listening at it: connections are refused.

        Meanwhile the system gives it to nobody who asks for any port, neither to listen at nor to
        connect from. (A client that tries again and again could else get it, and be connected with
        itself.)

        Args:
            host: a numeric address.
            port: which was listened at before.

        Returns:
            What gives it back; idempotent.

        Raises:
            OSError: somebody else has it.
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        holding = socket.socket(family, socket.SOCK_STREAM)
        try:
            holding.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            holding.bind((host, port))
        except BaseException:
            holding.close()
            raise
        return holding.close

    async def connect(self, host: str, port: int) -> RealStream:
        """Connect to the first address of `host` that answers (RFC 8305).

        Raises:
            OSError: no address did; the errno is that of one of them.
        """
        try:
            stream = await trio.open_tcp_stream(host, port)
        except OSError as error:
            number, reason = _first_cause(error)
            raise OSError(number, f"cannot connect to {host}:{port}: {reason}") from error
        # Trio's stream is left without a socket, and this one takes the descriptor over.
        connected = socket.socket(fileno=stream.socket.detach())
        try:
            address = connected.getpeername()
        except OSError:  # the peer has already gone: the first use of the stream says so
            address = (host, port)
        return _stream(connected, address)

    def send_datagram(self, path: str, payload: bytes) -> None:
        """See `interface.Network.send_datagram`."""
        address = "\0" + path[1:] if path.startswith("@") else path
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto(payload, address)


def _stream(connected: socket.socket, address: tuple[str, int]) -> RealStream:
    """Make a stream of a connected socket, or close it if that fails."""
    try:
        connected.setblocking(False)
        with suppress(OSError):  # macOS: EINVAL if the peer has gone; its first use will say so
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # A client that vanished without a word is noticed in the end, as with Kafka.
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return RealStream(connected, _address_text(address))
    except BaseException:
        connected.close()
        raise


_Address = tuple[int, tuple[str | bytes, int] | tuple[str, int, int, int] | tuple[int, bytes]]


def _bind_all(addresses: Sequence[_Address], spares: SpareDescriptors) -> list[RealListener]:
    """Bind each address; give later ones the port that the system chose for the first."""
    sockets: list[socket.socket] = []
    left_out: OSError | None = None
    port = 0
    try:
        for family, address in addresses:
            bind_to = (address[0], address[1] or port, *address[2:])
            try:
                sockets.append(_bind_one(family, bind_to))
            except OSError as error:
                if family == socket.AF_INET6 and error.errno in {
                    errno.EAFNOSUPPORT,
                    errno.EADDRNOTAVAIL,
                }:
                    left_out = error
                    continue
                raise
            port = sockets[-1].getsockname()[1]
        if not sockets and left_out is not None:
            raise left_out
    except BaseException:
        for bound in sockets:
            bound.close()
        raise
    return [RealListener(bound, spares) for bound in sockets]


def _bind_one(family: int, address: tuple[object, ...]) -> socket.socket:
    bound: socket.socket | None = None
    try:
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setblocking(False)
        # Else a restart would have to wait for the last connections' TIME_WAIT.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(address)
    except OSError as error:
        if bound is not None:
            bound.close()
        raise _cannot_listen(error, address) from error
    return bound


def _cannot_listen(error: OSError, address: tuple[object, ...]) -> OSError:
    text = f"cannot listen on {address[0]}:{address[1]}: {error.strerror or error}"
    return OSError(error.errno, text)


def _first_cause(error: BaseException) -> tuple[int | None, str]:
    """Return errno and reason of `error`, or of the first of its causes that has an errno."""
    if isinstance(error, socket.gaierror):
        return errno.EHOSTUNREACH, error.strerror or str(error)  # its own numbers are no errnos
    if isinstance(error, OSError) and error.errno is not None:
        # Trio writes a text of its own there, beside the address, which the caller names.
        return error.errno, os.strerror(error.errno)
    causes = error.exceptions if isinstance(error, BaseExceptionGroup) else (error.__cause__,)
    found = (_first_cause(cause) for cause in causes if cause is not None)
    return next((each for each in found if each[0] is not None), (None, str(error)))


def _close_socket(closing: socket.socket) -> None:
    with suppress(ConnectionError):  # FreeBSD and macOS report a reset here; it is closed anyway
        closing.close()
