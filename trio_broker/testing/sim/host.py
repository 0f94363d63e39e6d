"""A simulated machine: disk, lanes, network, civil time and randomness behind one `Host`.

`sim_host` is all that most tests need. `SimMachine` adds what a real machine cannot be asked for:
to lose its power or its process in the middle of something, and to come back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import trio

from trio_broker.errors import StorageError
from trio_broker.host.interface import Host
from trio_broker.testing.sim.clock import START_SECONDS, SimClock
from trio_broker.testing.sim.disk import SimFileSystem
from trio_broker.testing.sim.faults import DiskFaults, NodeDead
from trio_broker.testing.sim.lane import SimLane
from trio_broker.testing.sim.network import SimInternet
from trio_broker.testing.sim.scheduler import NODE
from trio_broker.testing.sim.streams import RandomStreams
from trio_broker.testing.sim.trio_network import SimTrioListener, SimTrioStream

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable

    from trio_broker.testing.sim.run import Simulation

#: Civil time at the start of every simulation: 2024-01-01 00:00 UTC.
EPOCH_MS = 1_704_067_200_000
#: What code on a machine that has just lost its power may raise on its way out.
LAST_WORDS = (
    NodeDead,
    StorageError,
    OSError,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
)


class SimWallClock:
    """Civil time of one machine: moves with Trio's time, goes wrong, and jumps, when told to.

    Attributes:
        offset_ms: how far it is off; may be set to anything.
    """

    def __init__(self) -> None:
        self.offset_ms = 0
        self._began_at: float | None = None
        self._drift = 0.0
        self._drifts_from = 0.0

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch."""
        elapsed = self._elapsed_seconds()
        drifted = (elapsed - self._drifts_from) * self._drift
        return EPOCH_MS + round((elapsed + drifted) * 1000) + self.offset_ms

    def jump(self, seconds: float) -> None:
        """Set the clock forward, or with a negative number back, at once."""
        self.offset_ms += round(seconds * 1000)

    def drift(self, seconds_per_second: float) -> None:
        """Let the clock go wrong by so much from now on; 0 stops it, and corrects nothing."""
        elapsed = self._elapsed_seconds()
        self.jump((elapsed - self._drifts_from) * self._drift)
        self._drifts_from = elapsed
        self._drift = seconds_per_second

    def _elapsed_seconds(self) -> float:
        if not trio.lowlevel.in_trio_run():
            return 0.0
        now = trio.current_time()
        if self._began_at is None:
            is_simulated = isinstance(trio.lowlevel.current_clock(), SimClock)
            self._began_at = START_SECONDS if is_simulated else now
        return now - self._began_at


class SimEntropy:
    """Randomness of one machine, all of it from the simulation's seed."""

    def __init__(self, streams: RandomStreams, name: str) -> None:
        self._streams = streams
        self._name = name

    def random(self, stream: str) -> random.Random:
        """Return the generator for the named purpose."""
        return self._streams.stream(f"{self._name}/entropy/{stream}")

    def uuid(self) -> UUID:
        """Return the next UUID, version 4, whose base64 text does not begin with '-'."""
        draws = self.random("uuid")
        while True:
            found = UUID(int=draws.getrandbits(128), version=4)
            if found.bytes[0] >> 2 != 0b111110:  # the first base64 digit is not '-'
                return found


class SimMachine:
    """One machine of a simulation.

    Attributes:
        name: also its address.
        fs: its disk.
        wall: its civil time.
        network: its sockets; `open_tcp_stream` and its like are as Trio's.
        host: what the program on it is given.
    """

    def __init__(
        self,
        source: Simulation | RandomStreams | int,
        name: str = "local",
        *,
        faults: DiskFaults | None = None,
        internet: SimInternet | None = None,
        fs: SimFileSystem | None = None,
        wall: SimWallClock | None = None,
    ) -> None:
        """Switch a machine on.

        Args:
            source: the simulation it belongs to, or a seed or random streams outside of one.
            name: must be different for each machine of a simulation.
            faults: of its disk, if `fs` is not given.
            internet: what joins it with others; its own if not given.
            fs: a disk from an earlier life; an empty one if not given.
            wall: a clock from an earlier life; one that is right if not given.
        """
        if isinstance(source, int):
            source = RandomStreams(source)
        note = None if isinstance(source, RandomStreams) else source.note
        streams = source if isinstance(source, RandomStreams) else source.streams
        self.name = name
        self.wall = SimWallClock() if wall is None else wall
        self._source = source
        self._internet = internet or SimInternet(streams, note=note)
        self._scope: trio.CancelScope | None = None
        self._pauses = 0
        if fs is None:
            fs = SimFileSystem(
                streams, name=f"{name}/disk", faults=faults, now_ms=self.wall.now_ms, note=note
            )
        self.fs = fs
        self.network = self._internet.attach(name)
        self.host = Host(
            name=name,
            fs=fs,
            network=self.network,
            wall=self.wall,
            entropy=SimEntropy(streams, name),
            open_lane=SimLane,
            simulated=True,
        )
        fs.on_power_off.append(self._fall_silent)

    def __repr__(self) -> str:
        return f"<SimMachine {self.name} {'on' if self.fs.alive else 'off'}>"

    def __str__(self) -> str:
        return self.name

    def _fall_silent(self) -> None:
        self.network.power_off()
        if self._pauses:
            self.resume()
        if self._scope is not None:
            self._scope.cancel(reason=f"the power of {self.name} failed")

    async def run(self, program: Callable[[Host], Awaitable[object]]) -> None:
        """Run a program on this machine until it returns or the machine dies, which is no error.

        The tasks it starts belong to the machine too: they stop when it pauses.

        Raises:
            Exception: what the program raised; if the machine has died, only what a dying machine
                does not explain.
        """
        before = NODE.set(self)
        with trio.CancelScope() as self._scope:
            try:
                await program(self.host)
            except (NodeDead, BaseExceptionGroup) as error:
                if self.fs.alive:
                    raise
                group = BaseExceptionGroup("last words", [error])
                unexplained = group.split(LAST_WORDS)[1]
                if unexplained is not None:
                    raise unexplained from None
            finally:
                NODE.reset(before)

    def pause(self, seconds: float | None = None) -> None:
        """Stop everything that runs here, as a garbage collector or a hypervisor does.

        Time goes on, deadlines pass, what was sent arrives: the machine meets all of it when it
        goes on. What others send to it meanwhile waits in its buffers.

        Args:
            seconds: how long; None means until `resume`.

        Raises:
            RuntimeError: the machine was made outside of a simulation.
        """
        simulation = self._simulation()
        simulation.scheduler.pause(self)
        simulation.note(f"{self.name} pauses")
        self._pauses += 1
        if seconds is not None:
            clock, number = simulation.clock, self._pauses
            clock.call_at(clock.now + seconds, lambda: self._end_pause(number))

    def resume(self) -> None:
        """Let the machine go on after `pause`. Idempotent."""
        simulation = self._simulation()
        if self in simulation.scheduler.paused:
            simulation.scheduler.resume(self)
            simulation.note(f"{self.name} goes on")

    def _end_pause(self, number: int) -> None:
        if number == self._pauses:  # and no other pause has begun since
            self.resume()

    def _simulation(self) -> Simulation:
        if isinstance(self._source, RandomStreams):
            raise RuntimeError("only a machine of a simulation can pause")
        return self._source

    # ------------------------------------------------------------- for programs written for Trio

    async def open_tcp_stream(self, host: str, port: int) -> SimTrioStream:
        """Connect to another machine; stands for `trio.open_tcp_stream`.

        Raises:
            OSError: nobody listens there, or no machine has that name.
        """
        return SimTrioStream(await self.network.connect(host, port))

    async def open_tcp_listeners(self, port: int, *, host: str = "") -> list[SimTrioListener]:
        """Listen on a port of this machine; stands for `trio.open_tcp_listeners`.

        Raises:
            OSError: the port is in use.
        """
        return [SimTrioListener(each) for each in await self.network.listen(host, port)]

    async def serve_tcp(
        self,
        handler: Callable[[SimTrioStream], Awaitable[object]],
        port: int,
        *,
        host: str = "",
        handler_nursery: trio.Nursery | None = None,
        task_status: trio.TaskStatus[list[SimTrioListener]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve connections until cancelled; stands for `trio.serve_tcp`.

        Raises:
            OSError: the port is in use.
        """
        listeners = await self.open_tcp_listeners(port, host=host)
        await trio.serve_listeners(
            handler, listeners, handler_nursery=handler_nursery, task_status=task_status
        )

    def power_off(self) -> None:
        """Cut the power now: nothing that still runs here has any effect. Idempotent."""
        self.fs.power_off()

    def power_on(self) -> SimMachine:
        """Return the machine with its power back: same name, and the disk as the cut left it."""
        return self._successor(self.fs.crash())

    def restart_process(self) -> SimMachine:
        """Kill the process at once and return the machine for a new one: no write is lost."""
        return self._successor(self.fs.restart())

    def _successor(self, fs: SimFileSystem) -> SimMachine:
        return SimMachine(self._source, self.name, internet=self._internet, fs=fs, wall=self.wall)


def sim_host(
    source: Simulation | RandomStreams | int,
    name: str = "local",
    *,
    faults: DiskFaults | None = None,
    internet: SimInternet | None = None,
) -> Host:
    """Return the `Host` of a new simulated machine; the arguments are those of `SimMachine`."""
    return SimMachine(source, name, faults=faults, internet=internet).host
