"""A simulated lane: disk jobs driven step by step on the event loop, each step an operation.

Implements `Lane` of `trio_broker.host.interface`. Where the real lane runs a whole job on a thread
of its own, this one lets virtual time pass for each call of a `SimFile` or `SimFileSystem`, so
that every other task may run in between, and makes the call's effect at the end of that time. So
a job that touches the event loop's state between two of its calls, or a buffer that is changed
while it is being written, shows in simulation.

An operation that outlives the deadline behaves as on a real machine: `run` raises `StuckIO`, the
file refuses further operations, the lane serves nothing else; when the operation comes back its
effect happens, the job is thrown `StuckIO`, and the lane goes on. When the power fails, everybody
in the lane meets `NodeDead`, and nothing that a job does in ``finally`` reaches the disk.
"""

from __future__ import annotations

import math
import sys
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import outcome
import trio
from attrs import define

from trio_broker.errors import StuckIO
from trio_broker.testing.sim.disk import SimFileSystem
from trio_broker.testing.sim.faults import NodeDead
from trio_broker.testing.sim.handles import SimDirectoryLock, SimFile

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_broker.host.interface import Job

T = TypeVar("T")


@define(eq=False)
class _Entry:
    """One job in the lane, and the task that waits for it."""

    job: Job[Any]
    task: trio.lowlevel.Task
    is_started: bool = False
    is_answered: bool = False

    def answer(self, result: outcome.Outcome[Any]) -> None:
        """Wake the waiting task with the result; the first answer counts."""
        if not self.is_answered:
            self.is_answered = True
            trio.lowlevel.reschedule(self.task, result)


class SimLane:
    """Runs jobs one after another in virtual time; see the module's text."""

    def __init__(self, name: str, operation_deadline_seconds: float) -> None:
        """Make a lane; the arguments are those of `Host.open_lane`."""
        self._name = name
        self._operation_deadline_seconds = operation_deadline_seconds
        self._deadline_seconds = operation_deadline_seconds
        self._queue: deque[_Entry] = deque()
        self._arrived = trio.Event()
        self._was_started = False
        self._is_ended = False
        self._is_dead = False
        self._stuck_in = ""
        self._call_began_at: float | None = None
        self._call_scope: trio.CancelScope | None = None
        self._stop_deadline = math.inf

    def __repr__(self) -> str:
        state = "ended" if self._is_ended else f"{len(self._queue)} queued"
        return f"<SimLane {self._name} {state}>"

    @property
    def name(self) -> str:
        """Name for logs."""
        return self._name

    @property
    def stuck_seconds(self) -> float:
        """How long the operation now running has been running, 0.0 if none is."""
        if self._call_began_at is None:
            return 0.0
        return trio.current_time() - self._call_began_at

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Drive jobs until cancelled; see `Lane.serve`.

        Raises:
            NodeDead: the power failed.
        """
        if self._was_started:
            raise RuntimeError(f"lane {self._name} was served before")
        self._was_started = True
        task_status.started()
        try:
            while not self._is_dead:
                # Told to end, it ends the job it is in and begins no other.
                await trio.lowlevel.checkpoint_if_cancelled()
                if self._queue:
                    await self._drive(self._queue.popleft())
                else:
                    self._arrived = trio.Event()
                    await self._arrived.wait()
            raise NodeDead
        finally:
            self._is_ended = True
            self._fail_queued()

    async def run(self, job: Job[T]) -> T:
        """Run a job to its end; see `Lane.run`."""
        if not self._was_started:
            raise RuntimeError(f"lane {self._name} is not being served")
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._is_ended or self._stuck_in:
            job.close()
            raise self._refusal()
        entry = _Entry(job, trio.lowlevel.current_task())
        self._queue.append(entry)
        self._arrived.set()

        def abort(_: Callable[[], None]) -> trio.lowlevel.Abort:
            if entry.is_started:
                return trio.lowlevel.Abort.FAILED
            self._queue.remove(entry)
            job.close()
            return trio.lowlevel.Abort.SUCCEEDED

        result: T = await trio.lowlevel.wait_task_rescheduled(abort)
        return result

    async def call(self, function: Callable[..., T], *args: object) -> T:
        """Run one call as a job of its own; see `Lane.call`."""
        return await self.run(_single_call(function, args))

    def limit_stop(self, deadline: float) -> None:
        """Wait for no call beyond `deadline`; see `Lane.limit_stop`."""
        self._stop_deadline = deadline
        if self._call_scope is not None:
            self._call_scope.deadline = min(self._call_scope.deadline, deadline)

    def limit_calls(self, seconds: float) -> None:
        """Let no call take longer than `seconds`; see `Lane.limit_calls`."""
        self._deadline_seconds = min(self._operation_deadline_seconds, seconds)
        if self._call_scope is not None and self._call_began_at is not None:
            late_at = self._call_began_at + self._deadline_seconds
            self._call_scope.deadline = min(late_at, self._stop_deadline)

    def _refusal(self) -> BaseException:
        """Say why a job was not started."""
        if self._is_dead:
            return NodeDead()
        reason = "has stopped" if self._is_ended else f"is held up by {self._stuck_in}"
        return StuckIO(f"lane {self._name} {reason}; the job was not started")

    def _fail_queued(self) -> None:
        while self._queue:
            entry = self._queue.popleft()
            entry.job.close()
            entry.answer(outcome.Error(self._refusal()))

    async def _drive(self, entry: _Entry) -> None:
        """Take one job from its first call to its end."""
        entry.is_started = True
        result: outcome.Outcome[Any] = outcome.Value(None)
        try:
            while True:
                yielded = outcome.capture(result.send, entry.job)
                if isinstance(yielded, outcome.Error):
                    break
                result = await self._perform(entry, *yielded.value)
        finally:
            # Ends a job whose lane was told to end while an operation hung; else without effect.
            entry.job.close()
            if sys.exception() is not None:
                entry.answer(outcome.Error(StuckIO(f"lane {self._name} was stopped in this job")))
        if self._is_dead:
            # Whatever the job made of it: a machine without power says nothing more.
            entry.answer(outcome.Error(NodeDead()))
        elif isinstance(yielded.error, StopIteration):
            entry.answer(outcome.Value(yielded.error.value))
        else:
            entry.answer(yielded)

    async def _perform(
        self, entry: _Entry, function: Callable[..., Any], args: tuple[Any, ...]
    ) -> outcome.Outcome[Any]:
        """Make one call of a job, as an operation if it is one of the simulated disk."""
        method = function.func if isinstance(function, partial) else function
        target = getattr(method, "__self__", None)
        if isinstance(target, SimFile):
            fs, path = target.fs, target.path
            try:
                target.enter_call(method.__name__)
            except (StuckIO, OSError) as error:
                return outcome.Error(error)
        elif isinstance(target, SimFileSystem):
            fs, path = target, str(args[0])
        else:
            pure: outcome.Outcome[Any] = outcome.capture(function, *args)
            return pure
        token = fs.enter_call(path)
        is_late = await self._spend(entry, fs, method.__name__, path, target)
        result: outcome.Outcome[Any] = outcome.capture(fs.step, function, args)
        fs.leave_call(token)
        if isinstance(target, SimFile):
            target.leave_call()
        if not fs.alive:
            self._is_dead = True
            return outcome.Error(NodeDead())
        if is_late:
            _discard(result)
            return outcome.Error(self._late_error(method.__name__, path))
        return result

    async def _spend(
        self,
        entry: _Entry,
        fs: SimFileSystem,
        call: str,
        path: str,
        target: SimFile | SimFileSystem,
    ) -> bool:
        """Let an operation's time pass; return whether it outlived the deadline."""
        self._call_began_at = trio.current_time()
        late_at = min(self._call_began_at + self._deadline_seconds, self._stop_deadline)
        ends_at = self._call_began_at + fs.delay_seconds(call, path)
        with trio.CancelScope(deadline=late_at, shield=True) as scope:
            self._call_scope = scope
            await fs.spend(ends_at - self._call_began_at, path)
        if scope.cancelled_caught:
            if isinstance(target, SimFile):
                target.mark_stuck()
            self._stuck_in = f"{call} {path}"
            entry.answer(outcome.Error(self._late_error(call, path)))
            self._fail_queued()
            # Not shielded: a lane that is told to end leaves the operation in the kernel.
            await fs.spend(ends_at - trio.current_time(), path)
            self._stuck_in = ""
        self._call_began_at = None
        return scope.cancelled_caught

    def _late_error(self, call: str, path: str) -> StuckIO:
        return StuckIO(f"{call} of {path} did not return within {self._deadline_seconds:g} s")


def _single_call(function: Callable[..., T], args: tuple[object, ...]) -> Job[T]:
    result: T = yield function, args
    return result


def _discard(result: outcome.Outcome[Any]) -> None:
    """Give back what a call opened too late: nobody will ever know of it."""
    if not isinstance(result, outcome.Value):
        return
    if isinstance(result.value, SimFile):
        result.value.close()
    elif isinstance(result.value, SimDirectoryLock):
        result.value.release()
