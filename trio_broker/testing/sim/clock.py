"""Virtual time: jumps exactly to the next deadline, and proves deadlocks.

Trio asks the clock how long to sleep only when no task can run. Nothing real is waited for in a
simulation, so the answer is always "not at all", after the hands have been put forward. If there
is no deadline either, nothing will ever happen again: a deadlock, proven, not guessed.
"""

from __future__ import annotations

import os
from heapq import heappop, heappush
from math import inf
from typing import TYPE_CHECKING, Literal, TypeAlias

import trio

from trio_broker.testing.sim import private
from trio_broker.testing.sim.streams import RandomStreams

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.lowlevel import Task

#: Where virtual time begins; not 0, so that "0.0 means never" mistakes show.
START_SECONDS = 1000.0
#: Virtual time that cleaning up may take after a run was stopped.
GRACE_SECONDS = 3600.0

#: Modules that only call the program.
_RUNNERS = frozenset({"trio_broker.testing.sim.run", "trio_broker.testing.pytest_explore"})

StopReason: TypeAlias = Literal["deadlock", "max_seconds", "max_steps"]


class SimulationHung(BaseException):
    """A stopped run does not end: a task waits for ever and cannot be cancelled, or ignores it.

    Attributes:
        tasks: what is left of the run.
    """

    def __init__(self, tasks: list[Task]) -> None:
        super().__init__("a stopped simulation does not end")
        self.tasks = tasks


class SimClock(trio.abc.Clock):
    """Trio's time in a simulation.

    Attributes:
        now: virtual seconds; begins at `START_SECONDS`.
        max_seconds: virtual seconds a run may take.
        on_stop: called with the reason when the run must end early, and once more if it does not;
            makes tasks runnable.
        stopped: that reason, once it is called.
        streams: random streams of the run, for what finds itself under this clock.
    """

    def __init__(self, max_seconds: float = inf, *, streams: RandomStreams | None = None) -> None:
        self.now = START_SECONDS
        self.max_seconds = max_seconds
        self.streams = streams or RandomStreams(0)
        self.on_stop: Callable[[StopReason], None] | None = None
        self.stopped: StopReason | None = None
        self._stops = 0
        self._hung: SimulationHung | None = None
        self._alarms: list[tuple[float, int, Callable[[], None]]] = []
        self._alarms_set = 0

    def start_clock(self) -> None:
        """Begin (asked by Trio)."""

    def current_time(self) -> float:
        """Return the virtual time."""
        if self._hung is not None:
            raise self._hung
        return self.now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Jump to `deadline`, unless something other than time is waited for."""
        if private.is_woken_from_outside():
            return 0.0
        if private.is_idle_awaited():
            return inf
        if self._alarms and self._alarms[0][0] <= min(deadline, self._end):
            at, _, ring = heappop(self._alarms)
            self.now = max(self.now, at)
            ring()
        elif deadline == inf:
            self.stop("deadlock")
        elif deadline > self._end:
            self.stop("max_seconds")
        else:
            self.now = max(self.now, deadline)
        return 0.0

    def call_at(self, at: float, ring: Callable[[], None]) -> None:
        """Call a function at that virtual time, outside of any task; it may wake some.

        For what the simulated world does by itself. A pending call does not keep the run going
        once its program has returned.
        """
        self._alarms_set += 1
        heappush(self._alarms, (at, self._alarms_set, ring))

    @property
    def _end(self) -> float:
        return START_SECONDS + self.max_seconds

    def stop(self, reason: StopReason) -> None:
        """End the run early; with more force each time it is called.

        The third time the next look at the clock raises `SimulationHung`, which ends it for sure.
        """
        self._stops += 1
        if self._stops > 2 or self.on_stop is None:
            self._hung = SimulationHung(private.all_tasks())
            return
        if self.stopped is None:
            self.stopped = reason
        self.max_seconds = self.now - START_SECONDS + GRACE_SECONDS
        self.on_stop(reason)


def blocked_tasks(root: Task) -> tuple[str, ...]:
    """Describe `root` and each task below it: where it waits, and for whom if that is known."""
    return tuple(
        f"{task.name}: {_describe(task)}" for task in private.all_tasks() if _is_below(task, root)
    )


def _is_below(task: Task | None, root: Task) -> bool:
    while task is not None:
        if task is root:
            return True
        task = task.parent_nursery.parent_task if task.parent_nursery is not None else None
    return False


def _describe(task: Task) -> str:
    places: list[str] = []
    waits_for = ""
    for frame, line in task.iter_await_frames():
        file = os.path.basename(frame.f_code.co_filename)
        place = f"{frame.f_code.co_name} ({file}:{line})"
        module = str(frame.f_globals.get("__name__", ""))
        if module in _RUNNERS:
            continue
        if not module.startswith("trio."):
            places.append(place)
            waits_for = ""
            continue
        target = frame.f_locals.get("self")
        if target is not None and (not waits_for or isinstance(target, trio.Nursery)):
            waits_for = _name_awaited(target)
        elif not waits_for and target is None:
            waits_for = frame.f_code.co_name
    return (" > ".join(places) or "begins") + (f" waits for {waits_for}" if waits_for else "")


def _name_awaited(target: object) -> str:
    """Name one of Trio's primitives that a task waits in, and its holder if it has one."""
    kind = type(target).__name__
    if isinstance(target, (trio.Lock, trio.StrictFIFOLock)):
        owner = target.statistics().owner
        return f"{kind} held by {owner.name}" if owner is not None else kind
    if isinstance(target, trio.Nursery):
        names = ", ".join(sorted(child.name for child in target.child_tasks))
        return f"{kind} of {names}" if names else kind
    return kind
