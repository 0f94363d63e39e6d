"""One deterministic run: the same program and seed do the same thing, step for step.

`simulate` runs an async function under virtual time, a seeded scheduler and a trace, with real
threads, sockets and files forbidden and the cyclic garbage collector at rest (it would finalise
async generators at moments that depend on memory). `find_difference` runs it twice.

Call it from synchronous code. Whatever is random in the program must come from
`Simulation.random`; whatever is iterated must have an order (no sets of strings).
"""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import contextmanager
from functools import cache
from math import inf
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

import outcome
import trio
from attrs import field, frozen

from trio_broker.testing.sim import private
from trio_broker.testing.sim.clock import (
    START_SECONDS,
    SimClock,
    SimulationHung,
    StopReason,
    blocked_tasks,
)
from trio_broker.testing.sim.scheduler import Policy, make_policy
from trio_broker.testing.sim.streams import RandomStreams
from trio_broker.testing.sim.trace import Difference, Entry, Trace, first_difference

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

T = TypeVar("T")

#: Steps a run may take unless told otherwise: about a minute of one core.
STEPS_MAX = 1_000_000


class SimulationStopped(Exception):
    """A run did not end by itself.

    Attributes:
        blocked: one line per task: where it was, and what it waited for.
    """

    def __init__(self, reason: str, blocked: tuple[str, ...]) -> None:
        super().__init__("\n  ".join((reason, *blocked)))
        self.blocked = blocked


class Deadlock(SimulationStopped):
    """Every task waits and nothing can wake any of them."""


class OutOfTime(SimulationStopped):
    """The run took more virtual time than allowed."""


class OutOfSteps(SimulationStopped):
    """The run took more task steps than allowed: a loop that makes no progress, or a low limit."""


class RealIOInSimulation(AssertionError):
    """Simulated code touched a real file, socket or process."""


@frozen
class Simulation:
    """What the simulated program may use of the run it is in.

    Attributes:
        seed: the number everything random follows from.
        clock: virtual time; the same as Trio's in the run.
        streams: random streams by name.
        note: takes one event, a text and values, into the trace.
    """

    seed: int
    clock: SimClock
    streams: RandomStreams
    note: Callable[..., None] = field(repr=False)

    def random(self, name: str) -> random.Random:
        """Return the random stream of that name."""
        return self.streams.stream(name)


Main: TypeAlias = Callable[[Simulation], Awaitable[T]]


@frozen
class Result(Generic[T]):
    """What came of a run.

    Attributes:
        seed: of the run.
        value: what the program returned; None if it failed.
        error: what it raised, or a `SimulationStopped`; None if it returned.
        trace_hash: equal for equal runs.
        steps: task steps.
        virtual_seconds: time that passed for the program.
        stopped: why it was ended early, if it was.
        blocked: in that case one line per task.
        entries: the whole trace, if it was asked for, else the end of it.
    """

    seed: int
    value: T | None
    error: BaseException | None
    trace_hash: str
    steps: int
    virtual_seconds: float
    stopped: StopReason | None
    blocked: tuple[str, ...]
    entries: tuple[Entry, ...] = field(repr=False)

    def unwrap(self) -> T:
        """Return the value, or raise the error with a note that says how to repeat the run."""
        if self.error is not None:
            self.error.add_note(f"simulation seed {self.seed}, trace {self.trace_hash}")
            raise self.error
        return self.value  # type: ignore[return-value] # without an error this is what main gave


def simulate(
    main: Main[T],
    seed: int,
    *,
    policy: str | Policy = "random",
    max_steps: int = STEPS_MAX,
    max_seconds: float = inf,
    keep_trace: bool = False,
) -> Result[T]:
    """Run ``main(simulation)`` deterministically and return what came of it.

    Args:
        main: the program.
        seed: decides everything that is drawn.
        policy: a name from `scheduler.POLICY_NAMES`, or a policy.
        max_steps: task steps after which the run is cancelled.
        max_seconds: virtual seconds after which the run is cancelled.
        keep_trace: keep the whole trace, for comparing.

    Raises:
        UnsupportedTrio: the self-test says that runs would not be repeatable.
        RuntimeError: called from a Trio run, or while another simulation runs.
    """
    _check_trio()
    return _run_once(
        main,
        seed,
        policy=policy,
        max_steps=max_steps,
        max_seconds=max_seconds,
        keep_trace=keep_trace,
    )


def find_difference(main: Main[Any], seed: int, **options: Any) -> Difference | None:
    """Run a program twice with one seed; return where the runs part, None if they do not.

    Memory is laid out differently the second time, so that order by address shows.

    Args:
        main: the program; must make everything it uses anew.
        seed: of both runs.
        options: as for `simulate`.
    """
    first = simulate(main, seed, keep_trace=True, **options)
    moved = [bytearray(size % 977) for size in range(20_011)]
    second = simulate(main, seed, keep_trace=True, **options)
    del moved
    return first_difference(first.entries, second.entries)


def _run_once(
    main: Main[T],
    seed: int,
    *,
    policy: str | Policy,
    max_steps: int,
    max_seconds: float,
    keep_trace: bool,
) -> Result[T]:
    streams = RandomStreams(seed)
    clock = SimClock(max_seconds)
    if isinstance(policy, str):
        policy = make_policy(policy, streams.stream("scheduler"))
    trace = Trace(
        clock,
        keep_all=keep_trace,
        max_steps=max_steps,
        on_max_steps=lambda: clock.stop("max_steps"),
    )
    simulation = Simulation(seed, clock, streams, trace.note)
    blocked: tuple[str, ...] = ()

    async def stoppable() -> T | None:
        scope = trio.CancelScope()
        task = trio.lowlevel.current_task()
        task.name = "main"

        def stop(reason: StopReason) -> None:
            nonlocal blocked
            if not scope.cancel_called:
                blocked = blocked_tasks(task)
                scope.cancel(reason=reason)
            else:
                blocked = (*blocked, "still there after cancellation:", *blocked_tasks(task))
                private.remove_shields()

        clock.on_stop = stop
        with scope:
            return await main(simulation)
        return None

    def run() -> T | None:
        return trio.run(stoppable, clock=clock, instruments=[trace])

    with _garbage_kept(), private.deterministic(policy.arrange), _real_io_forbidden():
        ended = outcome.capture(run)
    value = ended.value if isinstance(ended, outcome.Value) else None
    error = ended.error if isinstance(ended, outcome.Error) else None
    if isinstance(error, KeyboardInterrupt):
        raise error
    clock.on_stop = None
    trace.forget_tasks()
    if clock.stopped is not None:
        error = _judge(error, clock.stopped, blocked)
    return Result(
        seed=seed,
        value=value if error is None else None,
        error=error,
        trace_hash=trace.digest(),
        steps=trace.steps,
        virtual_seconds=clock.now - START_SECONDS,
        stopped=clock.stopped,
        blocked=blocked,
        entries=tuple(trace.entries),
    )


def _judge(
    error: BaseException | None, stopped: StopReason, blocked: tuple[str, ...]
) -> SimulationStopped:
    """Turn the end of a run that was ended early into the error that says so."""
    hung = error.__cause__ if isinstance(error, trio.TrioInternalError) else None
    if isinstance(hung, SimulationHung) and error is not None:
        # Tracebacks refer to the loop, and so to the tasks that shall go.
        error.with_traceback(None)
        hung.with_traceback(None)
        private.abandon(hung.tasks)
        error = None
    kind, reason = {
        "deadlock": (Deadlock, "every task waits, and nothing can wake any of them:"),
        "max_seconds": (OutOfTime, "the run took more virtual time than allowed:"),
        "max_steps": (OutOfSteps, "the run took more steps than allowed:"),
    }[stopped]
    verdict = kind(reason, blocked)
    verdict.__cause__ = error
    return verdict


@contextmanager
def _garbage_kept() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


# ------------------------------------------------------------------------------------- real I/O

_FORBIDDEN_EVENTS = frozenset(
    {
        "os.mkdir",
        "os.remove",
        "os.rename",
        "os.rmdir",
        "os.truncate",
        "socket.bind",
        "socket.connect",
        "socket.getaddrinfo",
        "subprocess.Popen",
    }
)
_WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC
_simulating_threads: set[int] = set()


@cache
def _install_guard() -> None:
    def guard(event: str, args: tuple[Any, ...]) -> None:
        if not _simulating_threads or threading.get_ident() not in _simulating_threads:
            return
        if event == "open":
            path, _, flags = args
            # An import may write its bytecode; reading files is what imports and tracebacks do.
            if flags & _WRITE_FLAGS and "__pycache__" not in str(path):
                raise RealIOInSimulation(f"opening {path!r} for writing in a simulation")
        elif event in _FORBIDDEN_EVENTS:
            raise RealIOInSimulation(f"{event}{args!r} in a simulation")

    sys.addaudithook(guard)


@contextmanager
def _real_io_forbidden() -> Iterator[None]:
    _install_guard()
    thread = threading.get_ident()
    _simulating_threads.add(thread)
    try:
        yield
    finally:
        _simulating_threads.discard(thread)


# ------------------------------------------------------------------------------------ self-test


@cache
def _check_trio() -> None:
    """Prove once per process that runs are repeatable with this version of Trio."""
    private.check_names()

    async def wait(log: list[int], number: int, event: trio.Event) -> None:
        with trio.move_on_after(1.0):
            await event.wait()
        await trio.sleep(0.25 * (number % 4))
        log.append(number)

    async def twenty_tasks(_: Simulation) -> list[int]:
        log: list[int] = []
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(wait, log, number, trio.Event())
        return log

    async def stuck(_: Simulation) -> None:
        await trio.Event().wait()

    def run(program: Main[Any], seed: int) -> Result[Any]:
        return _run_once(
            program, seed, policy="random", max_steps=10_000, max_seconds=inf, keep_trace=False
        )

    first, again, other = run(twenty_tasks, 1), run(twenty_tasks, 1), run(twenty_tasks, 2)
    if first.error is not None:
        raise private.UnsupportedTrio("a simple run fails") from first.error
    if first.trace_hash != again.trace_hash or first.value != again.value:
        raise private.UnsupportedTrio("runs with one seed differ")
    if first.value == other.value:
        raise private.UnsupportedTrio("the seed does not decide the schedule")
    if first.virtual_seconds != 1.75:
        raise private.UnsupportedTrio("virtual time is not exact")
    if not isinstance(run(stuck, 1).error, Deadlock):
        raise private.UnsupportedTrio("a deadlock is not found")
