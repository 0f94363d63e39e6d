"""Jobs of one task, each of which enters the lane where the one before has ended.

A task that awaits one job, decides what comes of it and then awaits the next costs the event loop a
turn for each. In a series both happen where the lane delivers a result, and where somebody says
that there is something to do: the task itself sleeps until it is needed for something else, or has
an error to deal with. Both kinds of lanes, real and simulated, have this one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import outcome
import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_broker.host.interface import Job

T = TypeVar("T")


class SeriesLane(Protocol):
    """What a series needs of its lane."""

    def enter(self, job: Job[Any], series: JobSeries[Any]) -> object:
        """Take in a job of a series, whose `task` waits for it; return what stands for it.

        When it has ended, `job_ended` is called. If it fails, the task is told instead.

        Raises:
            StuckIO: the lane takes no jobs.
        """

    def withdraw(self, entered: Any) -> bool:
        """Take a job out again unless it has begun; return whether it was taken out."""


class JobSeries(Generic[T]):
    """See `interface.JobSeries`.

    Attributes:
        task: which waits in `run`; None: nobody does.
    """

    __slots__ = ("task", "_entered", "_is_busy", "_is_ending", "_lane", "_next_job", "_settle")

    def __init__(
        self,
        lane: SeriesLane,
        next_job: Callable[[], Job[T] | None],
        settle: Callable[[T], None],
    ) -> None:
        self.task: trio.lowlevel.Task | None = None
        self._lane = lane
        self._next_job = next_job
        self._settle = settle
        self._entered: object = None  # the job that is in the lane
        self._is_busy = False  # settling, or making a job
        self._is_ending = False

    @property
    def is_resting(self) -> bool:
        """Whether `stir` has a chance to begin a job."""
        return self.task is not None and self._entered is None and not self._is_ending

    async def run(self) -> None:
        """Let the jobs follow one another; see the interface."""
        assert self.task is None, "a series is run by one task at a time"
        await trio.lowlevel.checkpoint_if_cancelled()
        self._is_ending = False
        self.task = trio.lowlevel.current_task()
        try:
            self._begin_next()
            if self._entered is not None or not self._is_ending:
                await trio.lowlevel.wait_task_rescheduled(self._abort)
        finally:
            self.task = None
            self._entered = None

    def stir(self) -> None:
        """Begin a job if none is in the lane and there is one; see the interface."""
        if self.is_resting and not self._is_busy:
            self._wake_after(outcome.capture(self._begin_next))

    def end(self) -> None:
        """Let `run` return, as soon as no job is in the lane."""
        self._is_ending = True
        if self._entered is None and not self._is_busy:
            self._wake(outcome.Value(None))

    def job_ended(self, result: T) -> None:
        """Settle what a job has come to, and begin the next; called by the lane."""
        self._entered = None
        self._wake_after(outcome.capture(self._go_on, result))

    def _go_on(self, result: T) -> None:
        self._is_busy = True
        try:
            self._settle(result)
        finally:
            self._is_busy = False
        if not self._is_ending:
            self._begin_next()

    def _begin_next(self) -> None:
        if self.task is None:
            return  # cancelled by what was settled
        self._is_busy = True
        try:
            job = self._next_job()
            if job is not None and self.task is not None:  # or cancelled in there
                self._entered = self._lane.enter(job, self)
        finally:
            self._is_busy = False

    def _wake_after(self, step: outcome.Outcome[None]) -> None:
        """Wake the task if a step has failed, or was the last one."""
        if isinstance(step, outcome.Error) or (self._is_ending and self._entered is None):
            self._wake(step)

    def _wake(self, result: outcome.Outcome[None]) -> None:
        task, self.task = self.task, None
        if task is not None:
            trio.lowlevel.reschedule(task, result)

    def _abort(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        if self._entered is None or self._lane.withdraw(self._entered):
            self.task = None
            return trio.lowlevel.Abort.SUCCEEDED
        self._is_ending = True  # it runs: what comes of it is waited for
        return trio.lowlevel.Abort.FAILED
