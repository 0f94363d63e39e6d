"""Simulated connections between simulated machines, with what networks do to them.

Implements `Network`, `Listener` and `Stream` of `trio_broker.host.interface`. One `SimInternet`
joins the machines of a simulation; each machine holds one `SimNetwork`, its name is its address.

Fault model
    - Every piece of data has its own latency; the order within a connection is kept.
    - A receiver gets what has arrived in pieces of any size (`fragment_rate`).
    - A connection holds `window_bytes` per direction; a sender that is ahead of a slow receiver
      waits, and `send_nowait` takes less than it was given, or nothing.
    - A cut between two machines, in one direction or both, holds everything back until it is
      healed, connecting included: nobody gets an error.
    - A reset breaks both ends; what was under way is lost (`reset`, `reset_rate` per send).
    - Closing ends the other direction too; if received data was left unread, or more is sent, the
      other end is reset, as TCP does. `send_eof` closes one direction only.
    - A machine without power is silent; connections to it hang. When it is back, the other ends
      of its old connections are reset. A killed process resets them at once.
    - Refused connections, full backlogs, accept errors on request.
    Not modelled: reordering and duplication (TCP hides them), names with several addresses.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from itertools import count
from math import inf
from typing import TYPE_CHECKING

import trio
from attrs import frozen

from trio_broker.testing.sim.faults import NodeDead

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trio_broker.host.interface import Buffer
    from trio_broker.testing.sim.streams import RandomStreams

_OWN_ADDRESSES = frozenset({"", "0.0.0.0", "::", "localhost", "127.0.0.1", "::1"})  # noqa: S104
_BACKLOG_MAX = 128
_FIRST_FREE_PORT = 20_000
_SEGMENT_BYTES_MAX = 65_536


@frozen
class NetworkFaults:
    """Properties and faults of a simulated network; all rates are probabilities.

    Attributes:
        latency_seconds: least and mean time that data is under way.
        fragment_rate: a receive gets only a part of what is there.
        reset_rate: a send breaks its connection.
        refuse_rate: a connect is refused.
        window_bytes: bytes that one direction of a connection holds.
    """

    latency_seconds: tuple[float, float] = (0.0002, 0.001)
    fragment_rate: float = 0.1
    reset_rate: float = 0.0
    refuse_rate: float = 0.0
    window_bytes: int = 262_144


class SimStream:
    """One end of a simulated connection; see `trio_broker.host.interface.Stream`."""

    def __init__(self, network: SimNetwork, peer: str) -> None:
        """Make an end; `join` gives it its other one."""
        self.network = network
        self._peer = peer
        self._far: SimStream = self
        # What was sent to this end: (arrival, bytes), in order; no bytes mean the end.
        self._inbox: deque[tuple[float, bytes]] = deque()
        self._inbox_bytes = 0
        self._last_arrival = 0.0
        self._broken_at = inf
        self._is_reset_here = False
        self._is_closed = False
        self._is_end_sent = False
        self._changed = trio.Event()
        self._receiving = trio.CancelScope()

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "open"
        return f"<SimStream {self.network.name} to {self._peer} {state}>"

    @property
    def peer(self) -> str:
        """Remote address, ``host:port``."""
        return self._peer

    async def receive_into(self, buffer: memoryview, expected_bytes: int = 1) -> int:  # noqa: ARG002
        """Wait for bytes and put them into `buffer`; return how many, 0 at the end."""
        assert len(buffer) > 0, "an empty buffer cannot be told from the end of the stream"
        await trio.lowlevel.checkpoint()
        while True:
            self.check()
            arrival = self._inbox[0][0] if self._inbox and not self._is_cut else inf
            if arrival <= trio.current_time():
                return self._take(buffer)
            with trio.CancelScope(deadline=self._until(arrival)) as self._receiving:
                await self._changed.wait()

    def send_nowait(self, buffer: Buffer) -> int:
        """Hand over what fits without waiting; return the number of bytes (possibly 0)."""
        self.check()
        if self._is_end_sent:
            raise trio.BrokenResourceError(f"the end was already sent to {self._peer}")
        internet = self.network.internet
        if internet.draw(internet.faults.reset_rate):
            self.reset()
            self.check()
        data = memoryview(buffer).cast("B")
        accepted = min(len(data), self._room)
        for start in range(0, accepted, _SEGMENT_BYTES_MAX):
            self._far._deliver(bytes(data[start : min(accepted, start + _SEGMENT_BYTES_MAX)]))
        if accepted:
            internet.note(f"net {self.network.name} sends to {self._peer}", accepted)
            if self._far._is_closed:
                self._break()  # nobody is there any more: the answer is a reset
        return accepted

    async def send_vectored(self, buffers: Sequence[Buffer]) -> None:
        """Send all buffers in order, waiting for the peer to take them."""
        await trio.lowlevel.checkpoint()
        for buffer in buffers:
            rest = memoryview(buffer).cast("B")
            while (sent := self.send_nowait(rest)) < len(rest):
                rest = rest[sent:]
                while self._room == 0:
                    with trio.CancelScope(deadline=self._until(inf)):
                        await self._changed.wait()
                    self.check()

    def check(self) -> None:
        """Raise what makes this end unusable, if anything does.

        Raises:
            trio.ClosedResourceError: it was closed here.
            trio.BrokenResourceError: a reset has arrived, or was sent.
            NodeDead: the machine has no power.
        """
        self.network.check_alive()
        if self._is_closed:
            raise trio.ClosedResourceError(f"the connection with {self._peer} was closed here")
        is_broken = trio.current_time() >= self._broken_at and not self._is_cut
        if is_broken or self._is_reset_here:
            raise trio.BrokenResourceError(f"connection with {self._peer}: reset")

    def is_abandoned(self) -> bool:
        """Whether the peer has closed or reset the connection and left nothing to read."""
        try:
            self.check()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return True
        if not self._inbox or self._is_cut:
            return False
        arrival, data = self._inbox[0]
        return arrival <= trio.current_time() and not data

    def has_peer_left(self) -> bool:
        """Whether the peer has closed or reset the connection, whatever is left to read."""
        if self.is_abandoned():
            return True
        if not self._inbox or self._is_cut:
            return False
        arrival, data = self._inbox[-1]
        return arrival <= trio.current_time() and not data

    def send_eof(self) -> None:
        """Tell the peer that nothing more comes; receiving goes on (for hostile peers)."""
        self.check()
        if not self._is_end_sent:
            self._is_end_sent = True
            self._far._deliver(b"")

    def reset(self) -> None:
        """Break the connection: at this end now, at the other one when it gets to know."""
        self._is_reset_here = True
        self._changed.set()
        self._far._break()

    def close(self) -> None:
        """Close both directions. Idempotent; wakes tasks waiting in this stream."""
        if self._is_closed:
            return
        self._is_closed = True
        self._changed.set()
        if not self.network.is_alive:
            return
        self.network.forget(self)
        if any(data for _, data in self._inbox):
            self._far._break()
        elif not self._is_end_sent and not self._is_reset_here:
            self._far._deliver(b"")
        self._is_end_sent = True
        self._inbox.clear()

    # ------------------------------------------------------------------------- used by this module

    def join(self, far: SimStream) -> None:
        """Make two ends a connection."""
        self._far, far._far = far, self

    @property
    def _is_cut(self) -> bool:
        """True while nothing gets here from the other end."""
        return self.network.internet.is_cut(self._far.network, self.network)

    @property
    def _room(self) -> int:
        window = self.network.internet.faults.window_bytes
        return max(0, window - self._far._inbox_bytes)

    def _take(self, buffer: memoryview) -> int:
        arrival, data = self._inbox[0]
        if not data:
            return 0  # and the end stays in the inbox
        internet = self.network.internet
        length = min(len(data), len(buffer))
        if length > 1 and internet.draw(internet.faults.fragment_rate):
            length = internet.random.randrange(1, length)
        buffer[:length] = data[:length]
        if length == len(data):
            self._inbox.popleft()
        else:
            self._inbox[0] = (arrival, data[length:])
        self._inbox_bytes -= length
        self._far.kick()
        internet.note(f"net {self.network.name} receives from {self._peer}", length)
        return length

    def _deliver(self, data: bytes) -> None:
        """Let data, or the end, arrive here some time later."""
        if self._is_closed:
            if data and self.network.is_alive:
                # The kernel answers data for nobody with a reset; until it arrives, data piles up.
                self._inbox_bytes += len(data)
                self._far._break()
            return
        arrival = trio.current_time() + self.network.internet.draw_latency()
        self._last_arrival = max(self._last_arrival, arrival)
        self._inbox.append((self._last_arrival, data))
        self._inbox_bytes += len(data)
        # Moves the alarm of the task that receives, which is cheaper than waking it twice.
        if not self._is_cut and self._last_arrival < self._receiving.deadline:
            self._receiving.deadline = self._last_arrival

    def _break(self) -> None:
        """Let a reset arrive here some time later."""
        arrival = trio.current_time() + self.network.internet.draw_latency()
        self._broken_at = min(self._broken_at, arrival)
        self.kick()

    def kick(self) -> None:
        """Wake the tasks that wait in this stream, to look again."""
        self._changed.set()
        self._changed = trio.Event()

    def _until(self, until: float) -> float:
        """Return when to look again: then, or when a reset that is under way arrives."""
        return self._broken_at if trio.current_time() < self._broken_at < until else until


class SimListener:
    """A simulated bound address; see `trio_broker.host.interface.Listener`.

    Attributes:
        is_listening: connections are not refused.
    """

    def __init__(self, network: SimNetwork, host: str, port: int) -> None:
        self._network = network
        self._host = host
        self._port = port
        self._backlog: deque[SimStream] = deque()
        self._errors: deque[int] = deque()
        self._changed = trio.Event()
        self._is_closed = False
        self.is_listening = False

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else f"{len(self._backlog)} waiting"
        return f"<SimListener {self._network.name} {self._host}:{self._port} {state}>"

    @property
    def host(self) -> str:
        """Address bound to."""
        return self._host

    @property
    def port(self) -> int:
        """Port bound to."""
        return self._port

    @property
    def is_full(self) -> bool:
        """True when further connections must wait."""
        return len(self._backlog) >= _BACKLOG_MAX

    def listen(self) -> None:
        """Take connections from now on; see `Listener.listen`."""
        self.is_listening = True

    async def accept(self) -> SimStream:
        """Wait for the next connection."""
        await trio.lowlevel.checkpoint()
        while True:
            self._network.check_alive()
            if self._is_closed:
                raise trio.ClosedResourceError
            if self._errors:
                number = self._errors.popleft()
                raise OSError(number, os.strerror(number))
            if self._backlog:
                stream = self._backlog.popleft()
                self.kick()
                return stream
            await self.wait_changed()

    @property
    def turned_away(self) -> int:
        """Nobody: here an `accept` that fails leaves its client waiting."""
        return 0

    def fail_accept(self, number: int) -> None:
        """Let the next `accept` raise OSError with this errno."""
        self._errors.append(number)
        self.kick()

    def deliver(self, stream: SimStream) -> None:
        """Put a new connection into the backlog (called by connecting machines)."""
        self._backlog.append(stream)
        self.kick()

    def kick(self) -> None:
        """Wake whoever waits for this listener."""
        self._changed.set()
        self._changed = trio.Event()

    async def wait_changed(self) -> None:
        """Wait until something may have changed."""
        await self._changed.wait()

    def close(self) -> None:
        """Stop listening; what is in the backlog is reset. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        self.kick()
        if self._network.is_alive:
            self._network.unlisten(self)
            for stream in self._backlog:
                stream.reset()
                stream.close()
        self._backlog.clear()


class SimNetwork:
    """The sockets of one simulated machine; see `trio_broker.host.interface.Network`.

    Attributes:
        name: of the machine, and its address.
        internet: what it is attached to.
        is_alive: False once the machine's power has failed.
    """

    def __init__(self, internet: SimInternet, name: str) -> None:
        self.name = name
        self.internet = internet
        self.is_alive = True
        self._listeners: dict[int, SimListener] = {}
        self._streams: dict[SimStream, None] = {}

    def __repr__(self) -> str:
        return f"<SimNetwork {self.name} {len(self._streams)} streams>"

    @property
    def streams(self) -> tuple[SimStream, ...]:
        """Connections open now, oldest first."""
        return tuple(self._streams)

    def check_alive(self) -> None:
        """Raise NodeDead if the machine has no power."""
        if not self.is_alive:
            raise NodeDead

    async def listen(self, host: str, port: int) -> Sequence[SimListener]:
        """Bind an address of this machine, and listen; see `Network.listen`."""
        listeners = await self.bind(host, port)
        for listener in listeners:
            listener.listen()
        return listeners

    async def bind(self, host: str, port: int) -> Sequence[SimListener]:
        """Bind an address of this machine; see `Network.bind`."""
        await trio.lowlevel.checkpoint()
        self.check_alive()
        if host not in _OWN_ADDRESSES and host != self.name:
            raise OSError(errno.EADDRNOTAVAIL, f"{host} is no address of {self.name}")
        if port == 0:
            port = next(p for p in count(_FIRST_FREE_PORT) if p not in self._listeners)
        if port in self._listeners:
            raise OSError(errno.EADDRINUSE, f"{host}:{port} is in use")
        listener = self._listeners[port] = SimListener(self, host or "0.0.0.0", port)  # noqa: S104
        return [listener]

    async def connect(self, host: str, port: int) -> SimStream:
        """Connect to a machine by its name; see `Network.connect`."""
        await trio.lowlevel.checkpoint()
        self.check_alive()
        target = self.name if host in _OWN_ADDRESSES else host
        internet = self.internet
        await trio.sleep(internet.draw_latency())
        while True:
            await internet.wait_reachable(self.name, target)
            self.check_alive()
            remote = internet.machine(target)
            if remote is None:
                raise OSError(errno.EHOSTUNREACH, f"no machine is called {host}")
            listener = remote.listener(port)
            if listener is None or internet.draw(internet.faults.refuse_rate):
                raise OSError(errno.ECONNREFUSED, f"{host}:{port} refuses the connection")
            if not listener.is_full:
                break
            await listener.wait_changed()
        near = SimStream(self, f"{host}:{port}")
        far = SimStream(remote, f"{self.name}:{internet.next_port()}")
        near.join(far)
        self._streams[near] = None
        remote._streams[far] = None
        listener.deliver(far)
        internet.note(f"net {self.name} connects to {target}", port)
        return near

    def send_datagram(self, path: str, payload: bytes) -> None:  # noqa: ARG002 - nobody gets it
        """Find nobody: simulated machines have no Unix sockets."""
        raise FileNotFoundError(errno.ENOENT, "no such socket on a simulated machine", path)

    def listener(self, port: int) -> SimListener | None:
        """Return what listens on a port."""
        listener = self._listeners.get(port)
        return listener if listener is not None and listener.is_listening else None

    def unlisten(self, listener: SimListener) -> None:
        """Free a listener's port."""
        if self._listeners.get(listener.port) is listener:
            del self._listeners[listener.port]

    def forget(self, stream: SimStream) -> None:
        """Drop a closed or broken connection."""
        self._streams.pop(stream, None)

    def power_off(self) -> None:
        """Fall silent: calls here raise NodeDead, other machines notice nothing. Idempotent."""
        self.is_alive = False
        self._wake_all()

    def leave(self) -> None:
        """Reset the far ends of all connections: the kernel's part when a process has ended."""
        self.is_alive = False
        for stream in self._streams:
            stream.reset()
        self._wake_all()
        self._streams.clear()
        self._listeners.clear()

    def _wake_all(self) -> None:
        for stream in self._streams:
            stream.kick()
        for listener in self._listeners.values():
            listener.kick()


class SimInternet:
    """What the machines of a simulation are attached to.

    Attributes:
        faults: what happens to connections from now on; may be replaced at any time.
        random: its random stream.
        note: told every event, for the trace.
    """

    def __init__(
        self,
        streams: RandomStreams,
        *,
        faults: NetworkFaults | None = None,
        note: Callable[..., None] | None = None,
    ) -> None:
        self.faults = NetworkFaults() if faults is None else faults
        self.random = streams.stream("network")
        self.note: Callable[..., None] = note or (lambda *_: None)
        self._machines: dict[str, SimNetwork] = {}
        self._cuts: set[tuple[str, str]] = set()
        self._healed = trio.Event()
        self._ports = count(40_000)

    def attach(self, name: str) -> SimNetwork:
        """Attach a machine; one that had the name before has left, its connections are reset."""
        before = self._machines.get(name)
        if before is not None:
            before.leave()
        network = self._machines[name] = SimNetwork(self, name)
        self._heal()  # wakes who waits for a machine that was off
        return network

    def machine(self, name: str) -> SimNetwork | None:
        """Return the machine of that name."""
        return self._machines.get(name)

    def cut(self, source: str, target: str, *, both_ways: bool = True) -> None:
        """Let nothing through from one machine to another until `heal`."""
        self._cuts.add((source, target))
        if both_ways:
            self._cuts.add((target, source))

    def heal(self) -> None:
        """Take back every cut."""
        self._cuts.clear()
        self._heal()

    def _heal(self) -> None:
        self._healed.set()
        self._healed = trio.Event()
        for machine in self._machines.values():
            for stream in machine.streams:
                stream.kick()

    def is_cut(self, source: SimNetwork, target: SimNetwork) -> bool:
        """Return whether nothing gets through from one machine to another."""
        is_silent = not source.is_alive and self._machines.get(source.name) is source
        return is_silent or (source.name, target.name) in self._cuts

    async def wait_reachable(self, source: str, target: str) -> None:
        """Wait until a connection between the two can be set up."""
        while True:
            machine = self._machines.get(target)
            is_silent = machine is not None and not machine.is_alive
            is_cut = (source, target) in self._cuts or (target, source) in self._cuts
            if not is_silent and not is_cut:
                return
            await self._healed.wait()

    def draw_latency(self) -> float:
        """Draw how long a piece of data is under way."""
        least, mean = self.faults.latency_seconds
        return least + self.random.expovariate(1.0) * (mean - least) if mean > least else least

    def draw(self, rate: float) -> bool:
        """Draw whether something happens that happens at this rate."""
        return rate > 0 and self.random.random() < rate

    def next_port(self) -> int:
        """Return the next client port."""
        return next(self._ports)
