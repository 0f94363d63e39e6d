"""A whole broker on a simulated machine, through all the lives that a test makes it lead.

`SimulatedBroker` starts the broker's "process" on a `SimMachine`, stops it in order, cancels the
program around it, kills it, cuts the power, and starts it again on what the disk then holds. The
broker is the real one, all of it: only the `Host` is simulated. Clients connect to it through the
simulated internet from machines of their own, or run beside it in the same program (`residents`).

`Life` is one run of the process: what it was, how it ended, and whether it left what it owed to
leave. Nothing here judges; that is for `trio_broker.testing.invariants`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import trio
from attrs import define, field

from trio_broker.broker.embed import open_broker
from trio_broker.cluster.store import OutcomeUnknown, StoreUnavailable
from trio_broker.config import BrokerConfig
from trio_broker.config_checks import split_address
from trio_broker.errors import BrokerCrashed, StorageError
from trio_broker.testing.sim.host import LAST_WORDS, SimMachine
from trio_broker.testing.sim.network import SimInternet

if TYPE_CHECKING:
    from trio_broker.broker.embed import Broker
    from trio_broker.broker.replica import Replica
    from trio_broker.broker.shutdown import ShutdownReport
    from trio_broker.broker.state import BrokerState
    from trio_broker.host.interface import Host
    from trio_broker.testing.sim.disk import SimFileSystem
    from trio_broker.testing.sim.faults import DiskFaults
    from trio_broker.testing.sim.run import Simulation

DATA_DIRECTORY = "/data"
#: What a broker that cannot start may raise, if its disk does not work.
START_FAILURES = (StorageError, OSError, StoreUnavailable, OutcomeUnknown)


class Ending(Enum):
    """How a life ended."""

    RUNNING = "running"
    FAILED_START = "failed to start"
    STOPPED = "stopped"  # in order: asked to, or the program left the broker's block
    CANCELLED = "cancelled"  # the program around it: the hard stop
    KILLED = "killed"  # the process; the page cache survives
    POWER_CUT = "power cut"


@define(eq=False)
class Life:
    """One run of the broker's process.

    Attributes:
        number: 1 for the first.
        machine: that it runs on.
        broker: what the embedding program sees; None before it serves.
        error: why it did not start.
        ending: how it ended.
        began_at: Trio time.
        stop_asked_at: Trio time at which the stop was asked for; inf if it was not.
        ended_at: Trio time; inf before.
        lied_below: directories in which an fsync may have failed or hung in this life, so that
            modes which do not wait for fsync may have lost what they acknowledged there.
        disk_failed_at: when (Trio time) the disk began to refuse something in this life.
        settled: set when it serves, or will not any more.
        ended: set at its end.
        leaving: set when the program beside the broker shall leave the broker's block.
        scope: around the program.
        task: that the program runs in.
    """

    number: int
    machine: SimMachine
    began_at: float
    broker: Broker | None = None
    error: BaseException | None = None
    ending: Ending = Ending.RUNNING
    stop_asked_at: float = float("inf")
    ended_at: float = float("inf")
    lied_below: list[str] = field(factory=list)
    disk_failed_at: float = float("inf")
    settled: trio.Event = field(factory=trio.Event)
    ended: trio.Event = field(factory=trio.Event)
    leaving: trio.Event = field(factory=trio.Event)
    scope: trio.CancelScope = field(factory=trio.CancelScope)
    task: trio.lowlevel.Task | None = None

    def __str__(self) -> str:
        return f"life {self.number} ({self.ending.value})"

    @property
    def state(self) -> BrokerState:
        """The broker's inside."""
        assert self.broker is not None
        return self.broker._state

    @property
    def disk_lied(self) -> bool:
        """Whether an fsync may have failed or hung in this life, wherever it was."""
        return bool(self.lied_below)

    def disk_lied_at(self, path: str) -> bool:
        """Whether that may have been in this directory; an empty path stands for any."""
        return any(
            below == "/" or not path or f"{path}/".startswith(f"{below}/")
            for below in self.lied_below
        )

    @property
    def disk_failed(self) -> bool:
        """Whether the disk has refused something in this life."""
        return self.disk_failed_at < float("inf")

    @property
    def is_serving(self) -> bool:
        """Whether the broker runs and nobody has told it to end."""
        return (
            self.broker is not None
            and self.ending is Ending.RUNNING
            and self.machine.fs.alive
            and self.stop_asked_at == float("inf")
        )

    @property
    def report(self) -> ShutdownReport | None:
        """How an orderly or hard stop went."""
        return self.broker.shutdown_report if self.broker is not None else None

    @property
    def was_clean(self) -> bool:
        """Whether it stopped and left nothing to recover."""
        return self.report is not None and self.report.clean


#: A program beside the broker; cancelled when the broker's block is left.
Resident: TypeAlias = Callable[[Life], Awaitable[None]]


class SimulatedBroker:
    """A broker that can be stopped, killed and started again.

    Attributes:
        config: for the next start; may be replaced between lives.
        internet: that its clients use too.
        machine: the one it runs on now, or will run on next.
        life: the present or latest life; None before the first.
        lives: how many there have been.
        on_start: called with each life at the moment it serves, before any other task runs.
        on_end: called with each life at the moment its end is decided or noticed.
        residents: programs to run beside the broker, in its own block.
        lies_below: the directory in which an fsync may fail or hang now, None if there is none;
            each new life is told.
        disk_refuses: the disk may refuse something now; each new life is told.
    """

    def __init__(
        self,
        sim: Simulation,
        config: BrokerConfig | None = None,
        *,
        nursery: trio.Nursery,
        name: str = "server",
        internet: SimInternet | None = None,
        faults: DiskFaults | None = None,
    ) -> None:
        """Switch the machine on; nothing runs on it before `start`.

        Args:
            sim: the run.
            config: None: `simulated_config(name)`.
            nursery: where the broker's program runs.
            name: of the machine.
            internet: None: one of its own.
            faults: of its disk.
        """
        self.config = config or simulated_config(name)
        self.internet = internet or SimInternet(sim.streams, note=sim.note)
        self.machine = SimMachine(sim, name, faults=faults, internet=self.internet)
        self.machine.fs.prepare_directory(DATA_DIRECTORY)
        self.life: Life | None = None
        self.lives = 0
        self.on_start: list[Callable[[Life], None]] = []
        self.on_end: list[Callable[[Life], None]] = []
        self.residents: list[Resident] = []
        self.lies_below: str | None = None
        self.disk_refuses = False
        self._sim = sim
        self._nursery = nursery

    @property
    def fs(self) -> SimFileSystem:
        """The disk in its present state."""
        return self.machine.fs

    @property
    def address(self) -> tuple[str, int]:
        """Where clients on other machines find it."""
        return split_address(self.config.listeners[0])

    @property
    def serving(self) -> Life | None:
        """The present life, if it serves."""
        life = self.life
        return life if life is not None and life.is_serving else None

    async def start(self) -> Life:
        """Start the broker; return once it serves, or will not.

        On a machine without power it is switched on first. Look at `Life.is_serving`: a disk that
        fails (`Life.error`), or power that does, keeps a broker from starting.
        """
        assert self.life is None or self.life.ended.is_set() or not self.life.machine.fs.alive
        if not self.machine.fs.alive:
            self.machine = self.machine.power_on()
        self.lives += 1
        life = self.life = Life(
            self.lives,
            self.machine,
            trio.current_time(),
            lied_below=[self.lies_below] if self.lies_below is not None else [],
            disk_failed_at=trio.current_time() if self.disk_refuses else float("inf"),
        )
        self._sim.note(f"{self.machine.name} starts", life.number)
        self._nursery.start_soon(self._live, life, name=f"life {life.number}")
        await life.settled.wait()
        return life

    def ask_to_stop(self, *, by_leaving: bool = False) -> Life:
        """Begin an orderly stop; await `Life.ended` of what is returned."""
        life = self._running()
        assert life.broker is not None
        life.stop_asked_at = min(life.stop_asked_at, trio.current_time())
        if by_leaving:
            life.leaving.set()
        else:
            life.broker.request_stop()
        return life

    def cancel(self) -> Life:
        """Cancel the program around the broker: the hard stop. Await `Life.ended`."""
        life = self._running()
        life.stop_asked_at = min(life.stop_asked_at, trio.current_time())
        if life.ending is Ending.RUNNING:
            life.ending = Ending.CANCELLED
        life.scope.cancel(reason="the program was cancelled")
        return life

    def kill(self) -> Life:
        """End the process at once; the next `start` is of a new one on the same page cache."""
        life = self._running()
        self._over(life, Ending.KILLED)
        self.machine = self.machine.restart_process()
        return life

    def cut_power(self) -> Life | None:
        """Cut the power, whether the broker runs or not; the next `start` switches it on again."""
        life = self.life
        if life is not None and not life.ended.is_set() and life.machine.fs.alive:
            self._over(life, Ending.POWER_CUT)
        self.machine.power_off()
        return life

    def new_process(self) -> None:
        """Let the next `start` be in a new process, where the last one has ended in order."""
        assert self.life is None or self.life.ended.is_set()
        if self.machine.fs.alive:
            self.machine = self.machine.restart_process()

    def _running(self) -> Life:
        life = self.life
        assert life is not None and not life.ended.is_set(), "the broker does not run"
        return life

    def _over(self, life: Life, ending: Ending) -> None:
        """Say once how a life ended, while its broker can still be looked at."""
        if life.ended_at == float("inf"):
            life.ending, life.ended_at = ending, trio.current_time()
            self._sim.note(f"{life.machine.name} {ending.value}", life.number)
            for hook in self.on_end:
                hook(life)

    async def _live(self, life: Life) -> None:
        callbacks = life.machine.fs.on_power_off
        power_lost = partial(self._over, life, Ending.POWER_CUT)
        callbacks.insert(0, power_lost)
        life.task = trio.lowlevel.current_task()
        try:
            with life.scope:
                await life.machine.run(partial(self._program, life))
        except START_FAILURES as error:
            if life.broker is not None:
                raise
            life.error = error
        finally:
            callbacks.remove(power_lost)
            if life.ending is Ending.CANCELLED or life.scope.cancelled_caught:
                self._over(life, Ending.CANCELLED)
            else:
                self._over(life, Ending.FAILED_START if life.broker is None else Ending.STOPPED)
            life.ended.set()
            life.settled.set()

    async def _program(self, life: Life, host: Host) -> None:
        try:
            async with open_broker(self.config, host=host) as broker:
                life.broker = broker
                for hook in self.on_start:
                    hook(life)
                life.settled.set()
                async with trio.open_nursery() as residents:
                    for resident in self.residents:
                        residents.start_soon(resident, life)
                    residents.start_soon(_wait_stopped, broker, life.leaving)
                    await life.leaving.wait()
                    residents.cancel_scope.cancel()
        except BrokerCrashed as error:
            if life.machine.fs.alive or not _is_last_word(error.__cause__):
                raise


async def _wait_stopped(broker: Broker, leaving: trio.Event) -> None:
    await broker.wait_stopped()
    leaving.set()


def _is_last_word(error: BaseException | None) -> bool:
    """Whether a machine without power explains an exception, all of it."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(LAST_WORDS)[1] is None
    return isinstance(error, LAST_WORDS)


def directory_of(replica: Replica) -> str:
    """Return the directory of a replica on its broker's disk."""
    return replica.shard.log_dir.directory.replica_path(replica.topic_partition)


def simulated_config(name: str = "server") -> BrokerConfig:
    """Return a plain configuration for a broker on the machine of that name."""
    return BrokerConfig(
        data_dir=DATA_DIRECTORY, listeners=(f"{name}:9092",), auto_create_topics=False
    )


@asynccontextmanager
async def open_simulated_broker(
    sim: Simulation,
    config: BrokerConfig | None = None,
    *,
    name: str = "server",
    internet: SimInternet | None = None,
    faults: DiskFaults | None = None,
) -> AsyncIterator[SimulatedBroker]:
    """Run a broker on a simulated machine for the length of a block::

        async def main(sim: Simulation) -> None:
            async with open_simulated_broker(sim) as server:
                await server.life.broker.create_topic("orders")
                server.kill()
                await server.start()

        simulate(main, seed=7).unwrap()

    Leaving the block stops the broker in order, if it still runs.

    Args:
        sim: the run.
        config: None: `simulated_config(name)`.
        name: of the machine.
        internet: that clients on other machines are attached to too; None: one of its own.
        faults: of its disk.

    Raises:
        StorageError, OSError: the first start failed.
        BrokerCrashed: the broker failed while it ran.
    """
    async with trio.open_nursery() as nursery:
        server = SimulatedBroker(
            sim, config, nursery=nursery, name=name, internet=internet, faults=faults
        )
        life = await server.start()
        if life.error is not None:
            raise life.error
        try:
            yield server
        finally:
            last = server.life
            if last is not None and last.is_serving:
                server.ask_to_stop()
                with trio.CancelScope(shield=True, deadline=trio.current_time() + 3600):
                    await last.ended.wait()
            nursery.cancel_scope.cancel()
