"""What befalls the broker: one trouble after another, drawn from those that the seed allows.

A trouble that ends the broker's process starts it again. A disk or network that fails works again
after a while, a few seconds at most, because what the broker does next is what matters.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import trio
from attrs import evolve

from trio_broker.broker.broker import HURRY_SECONDS
from trio_broker.testing.brokers import directory_of
from trio_broker.testing.sim.disk import SimFileSystem
from trio_broker.testing.sim.inodes import BLOCK_BYTES
from trio_broker.testing.sim.path_faults import PathFaults
from trio_broker.testing.workload.containment import Bystanders

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_broker.testing.workload.world import World

#: Longest a disk or a network fails.
_SECONDS_MAX = 5.0
#: How many clients ask for what is beside a fault.
_BYSTANDERS = 2
#: A broker that stops in a hurry gives up calls that take longer, or somewhat longer.
_HURRIED_CALL_SECONDS = 0.1 * HURRY_SECONDS
#: Within this a process that meets a failed fsync has left a note of it.
_NOTE_SECONDS = 0.1


#: Of a disk that is on its way out.
_SLOW = PathFaults(latency_seconds=(0.1, 0.2), sync_latency_seconds=(0.1, 0.4))

_UNREADABLE = PathFaults(read_error_rate=1.0)
#: As after somebody's chmod: files that are open go on.
_FORBIDDEN = PathFaults(name_error_rate=1.0, error_number=errno.EACCES)


class Troublemaker:
    """Makes the troubles of one run.

    Attributes:
        count: of troubles so far.
    """

    def __init__(self, world: World) -> None:
        self.count = 0
        self._world = world
        self._server = world.server
        self._draws = world.sim.random("troubles")
        self._calm = world.server.fs.faults
        self._faulty_path = ""
        self._bystanders = Bystanders(world, _BYSTANDERS)
        self._kinds: dict[str, Callable[[], Awaitable[None]]] = {
            "stop": self._stop,
            "cancel": self._cancel,
            "kill": self._kill,
            "power cut": self._cut_power,
            "power cut at an operation": self._cut_power_at_an_operation,
            "failed fsync": self._fail_fsync,
            "write errors": self._fail_writes,
            "read errors": self._fail_reads,
            "short writes": self._write_short,
            "slow disk": self._slow_disk_down,
            "full disk": self._fill_disk,
            "frozen disk": self._freeze_disk,
            "failing log dir": self._fail_log_dir,
            "failing partition": self._fail_partition,
            "no descriptors": self._take_descriptors,
            "reset": self._reset_connections,
            "cut network": self._cut_network,
            "clock jump": self._let_clock_jump,
        }

    async def run(self) -> None:
        """Make trouble until cancelled."""
        kinds = [kind for kind in self._world.swarm.troubles if kind in self._kinds]
        while kinds:
            await trio.sleep(self._draws.expovariate(1 / self._world.swarm.trouble_seconds))
            kind = self._draws.choice(kinds)
            await self.see_to_it_that_it_runs()  # an earlier trouble may have come late
            self._world.sim.note(f"trouble: {kind}")
            self._world.saw(f"trouble: {kind}")
            self.count += 1
            await self._kinds[kind]()
            await self.see_to_it_that_it_runs()

    async def see_to_it_that_it_runs(self) -> None:
        """Start the broker if it does not run, again and again if it cannot."""
        while self._server.serving is None:
            life = self._server.life
            if life is not None and life.machine.fs.alive and not life.ended.is_set():
                # It is about to serve, or about to end.
                await (life.ended if life.settled.is_set() else life.settled).wait()
                continue
            await self._world.start()
            if self._server.serving is None:
                await trio.sleep(0.1)
                if self._draws.random() < 0.5:
                    self._world.cut_power()
                else:
                    self._server.new_process()

    def heal(self) -> None:
        """Let disk and network work from now on."""
        self._disk()
        self._server.fs.thaw()
        self._server.internet.heal()
        self._server.machine.wall.offset_ms = 0

    # ------------------------------------------------------------------------------------ processes

    async def _stop(self) -> None:
        await self._world.stop(by_leaving=self._draws.random() < 0.3)
        roll = self._draws.random()
        if roll < 0.4:
            self._world.cut_power()
        elif roll < 0.7:
            self._server.new_process()

    async def _cancel(self) -> None:
        life = self._server.cancel()
        await life.ended.wait()
        if self._draws.random() < 0.5:
            self._server.new_process()

    async def _kill(self) -> None:
        self._server.kill()

    async def _cut_power(self) -> None:
        self._world.cut_power()
        await trio.sleep(self._draws.choice((0.0, 0.5)))

    async def _cut_power_at_an_operation(self) -> None:
        """Also of the next starts."""
        for _ in range(self._draws.choice((1, 1, 2, 3))):
            fs = self._server.fs
            if not fs.alive:
                await self._world.start()
                fs = self._server.fs
            crash_at = fs.operation_count + self._draws.randint(1, 30)
            fs.faults = evolve(
                fs.faults,
                crash_at=crash_at,
                names_lost=self._draws.choice(("prefix", "subset")),
                writes_lost=self._draws.choice(("any", "ordered")),
            )
            with trio.move_on_after(self._draws.uniform(0, 1.0)):
                await self._power_off(fs)

    async def _power_off(self, fs: SimFileSystem) -> None:
        gone = trio.Event()
        fs.on_power_off.append(gone.set)
        if fs.alive:
            await gone.wait()

    # ---------------------------------------------------------------------------------------- disks

    def _disk(self, *, lies: bool = False, refuses: bool = True, **faults: object) -> None:
        """Replace what may go wrong with the disk; without `faults` nothing may."""
        self._take_effect(lies=lies, refuses=refuses and bool(faults))
        self._server.fs.faults = evolve(self._calm, **faults)  # type: ignore[arg-type] # its fields

    def _path(self, path: str, faults: PathFaults, *, lies: bool = False) -> None:
        """Let it go wrong below a path only."""
        self._take_effect(lies=lies, refuses=True, path=path)
        self._server.fs.faults = self._calm
        self._server.fs.set_faults_below(path, faults)

    def _take_effect(self, *, lies: bool, refuses: bool, path: str = "") -> None:
        server, world = self._server, self._world
        if self._faulty_path:
            server.fs.set_faults_below(self._faulty_path, None)
        self._faulty_path = path
        world.disk_troubles += 1
        world.disk_changed_at = trio.current_time()
        server.lies_below, server.disk_refuses = (path or "/") if lies else None, refuses
        life = server.life
        if life is None or life.ended.is_set():
            return
        if refuses:
            life.disk_failed_at = min(life.disk_failed_at, trio.current_time())
        if lies:
            world.disk_lied(life, path or "/")

    async def _for_a_while(self, seconds: float | None = None, *, may_end: bool = True) -> None:
        """Let it be so for a while, in which the process may have to end."""
        if seconds is None:
            seconds = self._draws.choice((0.02, 0.2, 1.0, _SECONDS_MAX))
        await trio.sleep(seconds * self._draws.random())
        # Not killed: nobody can tell the next process then that an fsync has failed.
        kinds = [k for k in ("stop", "cancel", "power cut") if k in self._world.swarm.troubles]
        may_end = may_end and self._draws.random() < 0.5
        if kinds and self._server.serving is not None and may_end:
            faults = self._server.fs.faults
            await self._kinds[self._draws.choice(kinds)]()
            self._server.fs.faults = faults
            await self._world.start()
        await trio.sleep(seconds * self._draws.random())
        self._disk()
        self._server.fs.thaw()
        await trio.sleep(_NOTE_SECONDS)

    def _patience_seconds(self) -> float:
        """How long a call of the disk may take; less if the broker may have to stop soon."""
        config = self._world.swarm.config
        seconds = min(config.storage.operation_seconds_max, 0.2 * config.shutdown.deadline_seconds)
        hurries = "cancel" in self._world.swarm.troubles
        return min(seconds, _HURRIED_CALL_SECONDS) if hurries else seconds

    async def _fail_fsync(self) -> None:
        self._disk(lies=True, sync_error_rate=self._draws.choice((0.05, 0.5, 1.0)))
        await self._for_a_while()

    async def _fail_writes(self) -> None:
        self._disk(write_error_rate=self._draws.choice((0.05, 0.5, 1.0)))
        await self._for_a_while()

    async def _fail_reads(self) -> None:
        self._disk(read_error_rate=self._draws.choice((0.1, 1.0)), cached_read_rate=0.1)
        await self._for_a_while()

    async def _write_short(self) -> None:
        self._disk(refuses=False, short_write_rate=0.5)
        await self._for_a_while()

    async def _slow_disk_down(self) -> None:
        slow = self._draws.choice((0.01, 0.1))
        # So slow that calls may be given up, where these have a short deadline.
        lies = self._patience_seconds() < 50 * slow
        self._disk(
            lies=lies,
            refuses=lies,
            latency_seconds=(slow, 2 * slow),
            sync_latency_seconds=(slow, 4 * slow),
        )
        await self._for_a_while(may_end=False)

    async def _fill_disk(self) -> None:
        room = self._draws.choice((0, 1, 2, 5)) * BLOCK_BYTES
        self._world.model.disk_was_full = True
        self._disk(capacity_bytes=self._server.fs.used_bytes + room)
        await self._for_a_while()

    async def _fail_log_dir(self) -> None:
        """Something is the matter with one log dir; the others go on."""
        draws, config = self._draws, self._world.swarm.config
        seconds = draws.choice((0.5, 2.0, 2 * _SECONDS_MAX))
        hangs = 2 * seconds >= config.storage.operation_seconds_max
        faults, lies = draws.choice(
            (
                (PathFaults(write_error_rate=1.0), False),
                (PathFaults(read_error_rate=1.0), False),
                (PathFaults(sync_error_rate=draws.choice((0.5, 1.0))), True),
                (PathFaults(is_full=True), False),
                (PathFaults(is_frozen=True), hangs),
                (_SLOW, self._patience_seconds() < _SECONDS_MAX),
            )
        )
        self._world.model.disk_was_full |= faults.is_full
        path = draws.choice(config.log_directories)
        may_end = hangs or not faults.is_frozen  # see `_freeze_disk`
        await self._fail_below(
            path, faults, "a failing log dir", seconds=seconds, lies=lies, may_end=may_end
        )

    async def _fail_partition(self) -> None:
        """One partition cannot be read; the others go on."""
        life = self._server.serving
        directories = [directory_of(each) for each in life.state.router.replicas()] if life else []
        seconds = self._draws.choice((0.5, 2.0))
        if directories:
            path = self._draws.choice(directories)
            faults = self._draws.choice((_UNREADABLE, _FORBIDDEN))
            await self._fail_below(path, faults, "a failing partition", seconds=seconds)

    async def _fail_below(
        self,
        path: str,
        faults: PathFaults,
        what: str,
        *,
        seconds: float,
        lies: bool = False,
        may_end: bool = True,
    ) -> None:
        """Let it go wrong below a path, and see to it that it stays there (I12)."""
        is_well = await self._bystanders.wait_until_all_is_well()
        self._path(path, faults, lies=lies)
        if is_well:
            await self._bystanders.stand_by(path, what, seconds * self._draws.random())
        await self._for_a_while(seconds, may_end=may_end)

    async def _take_descriptors(self) -> None:
        files = len(self._server.fs.open_files())
        self._disk(open_files_max=files + self._draws.choice((0, 1)))
        await self._for_a_while()

    async def _freeze_disk(self) -> None:
        seconds = self._draws.choice((0.2, 1.0, _SECONDS_MAX, _SECONDS_MAX))
        lies = 2 * seconds >= self._world.swarm.config.storage.operation_seconds_max
        self._disk(lies=lies, hang_rate=0.0)
        self._server.fs.freeze()
        # Who stops a broker whose disk is frozen waits for longer than the disk is frozen for.
        await self._for_a_while(seconds, may_end=lies)

    # ------------------------------------------------------------------------------------ the clock

    async def _let_clock_jump(self) -> None:
        """Ahead or back, less than what timestamps of clients may be off by."""
        self._server.machine.wall.offset_ms = self._draws.choice((-1, 1)) * self._draws.choice(
            (1_000, 60_000, 30 * 60_000)
        )
        self._note_clock()

    def _note_clock(self) -> None:
        """Whatever retention has deleted by a clock that was ahead was old enough then."""
        model, wall = self._world.model, self._server.machine.wall
        model.wall_ahead_ms = max(model.wall_ahead_ms, wall.offset_ms)

    # ------------------------------------------------------------------------------------- networks

    async def _reset_connections(self) -> None:
        for stream in self._server.machine.network.streams:
            if self._draws.random() < 0.5:
                stream.reset()

    async def _cut_network(self) -> None:
        callers = self._world.callers
        if not callers:
            return
        caller = self._draws.choice(callers)
        name, server = caller.name, self._server.machine.name
        both = self._draws.random() < 0.5
        ends = self._draws.choice(((name, server), (server, name)))
        self._server.internet.cut(*ends, both_ways=both)
        await trio.sleep(self._draws.choice((0.05, 0.5, _SECONDS_MAX)))
        self._server.internet.heal()
