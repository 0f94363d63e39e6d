"""One deterministic run: the same program and seed do the same thing, step for step.

`simulate` runs an async function under virtual time, a seeded scheduler and a trace, with
everything that no seed can repeat forbidden (`guards`) and the cyclic garbage collector at rest (it
would finalise async generators at moments that depend on memory). `find_difference` runs it twice.

Call it from synchronous code. A Trio loop in another thread keeps its own scheduler and does not
change a run, as long as it leaves the garbage collector alone; `exploration`, which runs for long,
does not start beside one. Whatever is random in the program must come from
`Simulation.random`; whatever is iterated must have an order (no sets of strings).
"""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import ExitStack, contextmanager
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
from trio_broker.testing.sim.draws import Decision, DrawBook
from trio_broker.testing.sim.guards import Guard, guarded
from trio_broker.testing.sim.scheduler import Policy, Scheduler, make_policy
from trio_broker.testing.sim.streams import RandomStreams
from trio_broker.testing.sim.trace import Difference, Entry, Trace, first_difference

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

    from trio_broker.testing.sim.host import SimMachine
    from trio_broker.testing.sim.network import SimInternet
    from trio_broker.testing.sim.replay import Replay

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


class Simulation:
    """What the simulated program may use of the run it is in.

    Attributes:
        seed: the number everything random follows from.
        clock: virtual time; the same as Trio's in the run.
        streams: random streams by name.
        note: takes one event, a text and values, into the trace.
        scheduler: orders tasks, and lets machines pause.
        drawn: what `choose` and `show` were given, for the report of a failure.
    """

    def __init__(
        self, clock: SimClock, streams: RandomStreams, trace: Trace, scheduler: Scheduler
    ) -> None:
        """Made by `simulate`."""
        self.seed = streams.seed
        self.clock = clock
        self.streams = streams
        self.note: Callable[..., None] = trace.note
        self.scheduler = scheduler
        self.drawn: dict[str, object] = {}
        self._internet: SimInternet | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} seed={self.seed} now={self.clock.now:.6f}>"

    def random(self, name: str) -> random.Random:
        """Return the random stream of that name."""
        return self.streams.stream(name)

    def choose(self, name: str, options: Sequence[T]) -> T:
        """Draw one of some options, and show which in the report of a failure.

        Args:
            name: of what is drawn; the stream it is drawn from is called "choose/" and this.
            options: put the plainest first, which a failure is reduced to where it can.
        """
        option = self.random(f"choose/{name}").choice(options)
        self.show(name, option)
        return option

    def show(self, name: str, value: object) -> None:
        """Let the report of a failure show a value, for example of the configuration."""
        self.drawn[name] = value
        self.note(f"{name} = {value!r}")

    @property
    def internet(self) -> SimInternet:
        """What joins the machines of this simulation."""
        if self._internet is None:
            from trio_broker.testing.sim.network import SimInternet

            self._internet = SimInternet(self.streams, note=self.note)
        return self._internet

    def machine(self, name: str, **options: Any) -> SimMachine:
        """Switch on a machine on this simulation's `internet`.

        Args:
            name: also its address.
            options: of `SimMachine`, for example `faults`.
        """
        from trio_broker.testing.sim.host import SimMachine

        return SimMachine(self, name, **{"internet": self.internet, **options})


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
        drawn: what the program told about what it drew, see `Simulation.show`.
        policy: name of the scheduler's policy.
        decisions: draws that were not the plainest, if they were recorded or replayed.
        entries: the whole trace, if it was asked for, else the end of it.
        is_traced: whether it is the whole.
    """

    seed: int
    value: T | None
    error: BaseException | None
    trace_hash: str
    steps: int
    virtual_seconds: float
    stopped: StopReason | None
    blocked: tuple[str, ...]
    drawn: dict[str, object] = field(factory=dict)
    policy: str = ""
    decisions: tuple[Decision, ...] = field(default=(), repr=False)
    entries: tuple[Entry, ...] = field(default=(), repr=False)
    is_traced: bool = False

    def unwrap(self) -> T:
        """Return the value, or raise the error with a note that says how to repeat the run."""
        if self.error is not None:
            self.error.add_note(f"simulation seed {self.seed}, trace {self.trace_hash}")
            raise self.error
        return self.value  # type: ignore[return-value] # without an error this is what main gave


def simulate(
    main: Main[T],
    seed: int = 0,
    *,
    policy: str | Policy = "random",
    max_steps: int = STEPS_MAX,
    max_seconds: float = inf,
    keep_trace: bool = False,
    record: bool = False,
    replay: Replay | None = None,
    strict: bool = False,
    allow: Collection[str] = (),
    simulation_type: type[Simulation] = Simulation,
) -> Result[T]:
    """Run ``main(simulation)`` deterministically and return what came of it.

    Args:
        main: the program.
        seed: decides everything that is drawn.
        policy: a name from `scheduler.POLICY_NAMES`, or a policy.
        max_steps: task steps after which the run is cancelled.
        max_seconds: virtual seconds after which the run is cancelled.
        keep_trace: keep the whole trace, for comparing.
        record: write down every draw, for `Result.decisions`.
        replay: repeat this run; its seed goes before `seed`.
        strict: look at every call of a C function for what no seed can repeat (`guards`).
        allow: names of modules that may touch the machine.
        simulation_type: what `main` is given.

    Raises:
        UnsupportedTrio: the self-test says that runs would not be repeatable.
        RuntimeError: called from a Trio run, or while another simulation runs.
    """
    _check_trio()
    options = _Options(
        policy=policy,
        max_steps=max_steps,
        max_seconds=max_seconds,
        keep_trace=keep_trace,
        strict=strict,
        allow=frozenset(allow),
        simulation_type=simulation_type,
    )
    if replay is not None:
        return _Run(replay.seed, options, DrawBook(replay.decisions)).run(main)
    return _Run(seed, options, DrawBook() if record else None).run(main)


def find_difference(main: Main[Any], seed: int, **options: Any) -> Difference[Entry] | None:
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


@frozen(kw_only=True)
class _Options:
    policy: str | Policy = "random"
    max_steps: int = STEPS_MAX
    max_seconds: float = inf
    keep_trace: bool = False
    strict: bool = False
    allow: frozenset[str] = frozenset()
    simulation_type: type[Simulation] = Simulation


class _Run:
    """One run: puts the parts together, and takes them apart again."""

    def __init__(self, seed: int, options: _Options, book: DrawBook | None) -> None:
        self._options = options
        self._book = book
        streams = RandomStreams(seed, book)
        self._clock = SimClock(options.max_seconds, streams=streams)
        policy = options.policy
        if isinstance(policy, str):
            policy = make_policy(policy, streams.unrecorded("scheduler"))
        self._policy = policy
        self._trace = Trace(
            self._clock,
            keep_all=options.keep_trace,
            max_steps=options.max_steps,
            on_max_steps=lambda: self._clock.stop("max_steps"),
        )
        if book is not None:
            book.now = lambda: (self._trace.steps, self._clock.now)
            book.task = _task_name
        self._scheduler = Scheduler(policy, book)
        self._simulation = options.simulation_type(
            self._clock, streams, self._trace, self._scheduler
        )
        self._guard = Guard(options.allow)
        self._guarding = ExitStack()
        self._blocked: tuple[str, ...] = ()

    def run(self, main: Main[T]) -> Result[T]:
        """Run the program and return what came of it."""
        clock, trace = self._clock, self._trace

        def run() -> T | None:
            return trio.run(self._stoppable, main, clock=clock, instruments=[trace])

        with _garbage_kept(), private.deterministic(self._scheduler.arrange), self._guarding:
            ended = outcome.capture(run)
        value = ended.value if isinstance(ended, outcome.Value) else None
        error = ended.error if isinstance(ended, outcome.Error) else None
        if isinstance(error, KeyboardInterrupt):
            raise error
        clock.on_stop = None
        trace.forget_tasks()
        if clock.stopped is not None:
            error = _judge(error, clock.stopped, self._blocked)
        violation = self._guard.violation
        if violation is not None and not _contains(error, violation):
            violation.__cause__ = error
            error = violation
        return Result(
            seed=self._simulation.seed,
            value=value if error is None else None,
            error=error,
            trace_hash=trace.digest(),
            steps=trace.steps,
            virtual_seconds=clock.now - START_SECONDS,
            stopped=clock.stopped,
            blocked=self._blocked,
            drawn=self._simulation.drawn,
            policy=self._policy.name,
            decisions=tuple(self._book.taken) if self._book is not None else (),
            entries=tuple(trace.entries),
            is_traced=self._options.keep_trace,
        )

    async def _stoppable(self, main: Main[T]) -> T | None:
        scope = trio.CancelScope()
        task = trio.lowlevel.current_task()
        task.name = "main"

        def stop(reason: StopReason) -> None:
            paused = tuple(f"{node} pauses" for node in self._scheduler.paused)
            for node in self._scheduler.paused:
                self._scheduler.resume(node)
            if not scope.cancel_called:
                self._blocked = (*blocked_tasks(task), *paused)
                scope.cancel(reason=reason)
            else:
                remaining = ("still there after cancellation:", *blocked_tasks(task))
                self._blocked = (*self._blocked, *remaining)
                private.remove_shields()

        self._clock.on_stop = stop
        # Not around the whole run, because Trio itself opens a socket and reads signals.
        self._guarding.enter_context(guarded(self._guard, strict=self._options.strict))
        with self._guarding, scope:
            return await main(self._simulation)
        return None


def _task_name() -> str:
    """Return the name of the task that runs now."""
    return trio.lowlevel.current_task().name if trio.lowlevel.in_trio_task() else "nobody"


def _contains(error: BaseException | None, wanted: BaseException) -> bool:
    """Return whether an error is, or has within, a certain one."""
    if isinstance(error, BaseExceptionGroup):
        return any(_contains(inner, wanted) for inner in error.exceptions)
    return error is wanted


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
        return _Run(seed, _Options(max_steps=10_000), None).run(program)

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
