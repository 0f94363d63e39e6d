"""The broker's only threads: a lane runs disk jobs, one after another, on a thread of its own.

Owns one daemon thread, the queue that feeds it and the bell that wakes Trio. The task tree starts
`RealLane.serve` and cancels it; any task calls `run`. No nursery, no task of its own.

A deadline cannot end a system call: the thread stays inside it. So when a call outlives its
deadline the lane stops *waiting* for it instead. Whoever waited gets `StuckIO`, the files of the
call refuse further operations and keep their descriptors (see `files`), and whatever is queued
behind it fails at once. When the call returns after all, the job is thrown StuckIO, so that it can
put its file in order, and the lane works again.

What each side may touch:

- event loop only: `_waiting`, `_check_at`, `_suspect`, `_check_scope`;
- thread only: the generator of a job that it has claimed;
- both, under `_lock`: `_running` being cleared, `_stuck`, `_waker`;
- both, each step atomic by itself: the queue, `_finished`, `_Ticket.claim`, `_is_closed`.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
from collections import deque
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import outcome
import trio

from trio_broker.errors import StuckIO
from trio_broker.host.file_system import RealDirectoryLock
from trio_broker.host.files import RealFile
from trio_broker.host.jobs import single_call
from trio_broker.host.waker import Waker, make_waker

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_broker.host.interface import Job

T = TypeVar("T")

_log = logging.getLogger(__name__)

#: A slow call is first suspected at this share of its deadline and condemned only at a second look.
#: A process that was stopped (SIGSTOP, a paused machine) would else condemn every call that was
#: under way, the moment it goes on.
_SUSPECT_SHARE = 0.9


class _Ticket:
    """A job in the lane. Whoever claims it first, thread or canceller, decides its fate."""

    __slots__ = ("job", "result", "_unclaimed")

    def __init__(self, job: Job[Any]) -> None:
        self.job: Job[Any] | None = job
        self.result: outcome.Outcome[Any] | None = None
        self._unclaimed = threading.Lock()

    def claim(self) -> bool:
        """Return True to the first caller, on whatever thread, and False to all others."""
        return self._unclaimed.acquire(blocking=False)


class _Running(NamedTuple):
    """The call that the thread is in."""

    started_at: float  # perf_counter, which both sides may read
    ticket: _Ticket
    function: Callable[..., Any]
    arguments: tuple[Any, ...]

    def describe(self) -> str:
        """Name the call and the file or path that it is about."""
        function = self.function
        while isinstance(function, partial):
            function = function.func
        name = getattr(function, "__name__", type(function).__name__)
        files = self.files()
        paths = [file.path for file in files] or [a for a in self.arguments if isinstance(a, str)]
        return f"{name} {paths[0]}" if paths else name

    def files(self) -> list[RealFile]:
        """Return the files that the call can be seen to use."""
        function = self.function
        while isinstance(function, partial):
            function = function.func
        owner = getattr(function, "__self__", None)
        return [thing for thing in (owner, *self.arguments) if isinstance(thing, RealFile)]


class RealLane:
    """A thread that runs jobs; the terms are those of `interface.Lane`.

    Attributes:
        name: for logs and thread listings.
    """

    def __init__(self, name: str, operation_seconds_max: float) -> None:
        """Store the parameters; `serve` starts the thread.

        Args:
            name: see the attributes.
            operation_seconds_max: how long one system call may run before `StuckIO`.
        """
        self.name = name
        self._operation_seconds_max = operation_seconds_max
        self._limit = operation_seconds_max
        self._queue: queue.SimpleQueue[_Ticket | None] = queue.SimpleQueue()
        self._waiting: dict[_Ticket, trio.lowlevel.Task] = {}  # in order of arrival
        self._finished: deque[_Ticket] = deque()
        self._lock = threading.Lock()
        self._running: _Running | None = None
        self._stuck: _Running | None = None
        self._waker: Waker | None = None
        self._was_started = False
        self._is_stopping = False  # takes no more jobs
        self._stop_deadline = math.inf
        self._is_closed = False  # makes no more calls
        self._check_at = math.inf  # Trio's clock: when to look for a call past its deadline
        self._check_scope: trio.CancelScope | None = None
        self._suspect: _Running | None = None

    def __repr__(self) -> str:
        running = self._running
        if not self._was_started:
            state = "not started"
        elif self._stuck is not None:
            state = f"stuck in {self._stuck.describe()} for {self.stuck_seconds:.1f} s"
        elif self._is_closed:
            state = "closed"
        elif self._is_stopping:
            state = "stopping"
        elif running is not None:
            state = f"running {running.describe()}"
        else:
            state = "idle"
        return f"<RealLane {self.name} {state} waiting={len(self._waiting)}>"

    @property
    def stuck_seconds(self) -> float:
        """How long the system call now running has been running, 0.0 if none is."""
        running = self._running
        return 0.0 if running is None else perf_counter() - running.started_at

    async def call(self, function: Callable[..., T], *args: object) -> T:
        """Run one call as a job of its own; see `run`."""
        result: T = await self.run(single_call(function, args))
        return result

    async def run(self, job: Job[T]) -> T:
        """Run a job to its end; see `interface.Lane.run`.

        Raises:
            StuckIO: see there; also at once while the lane is stuck, and after it was closed. The
                message says which; then nothing of the job was done.
        """
        if not self._was_started:
            message = f"lane {self.name} is not being served"
            raise RuntimeError(message)
        if self._is_stopping:
            message = f"lane {self.name} has stopped; the job was not started"
            raise StuckIO(message)
        if self._stuck is not None:
            raise self._not_started(self._stuck)
        await trio.lowlevel.checkpoint_if_cancelled()
        ticket = _Ticket(job)

        def abort(_raise_cancel: Callable[[], Any]) -> trio.lowlevel.Abort:
            if not ticket.claim():
                return trio.lowlevel.Abort.FAILED  # it runs: its result is waited for
            ticket.job = None
            del self._waiting[ticket]
            return trio.lowlevel.Abort.SUCCEEDED

        self._waiting[ticket] = trio.lowlevel.current_task()
        self._queue.put(ticket)
        if self._check_at == math.inf:
            self._look_again_in(self._limit * _SUSPECT_SHARE)
        result: T = await trio.lowlevel.wait_task_rescheduled(abort)
        return result

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Deliver results until cancelled; see `interface.Lane.serve`.

        When cancelled, what is queued fails with StuckIO and the job that runs is waited for, for
        one operation deadline at most: its task is owed the truth about what it wrote.
        """
        if self._was_started:
            message = f"lane {self.name} was served before"
            raise RuntimeError(message)
        self._was_started = True
        waker = self._waker = make_waker()
        try:
            threading.Thread(target=self._work, name=f"lane {self.name}", daemon=True).start()
            task_status.started()
            await self._deliver(waker, until_empty=False)
        finally:
            self._is_stopping = True
            self._fail_queued(f"lane {self.name} was stopped; the job was not started")
            deadline = min(trio.current_time() + self._limit, self._stop_deadline)
            with trio.CancelScope(deadline=deadline, shield=True):
                await self._deliver(waker, until_empty=True)
            self._close()

    def limit_stop(self, deadline: float) -> None:
        """See `interface.Lane.limit_stop`."""
        self._stop_deadline = deadline

    def limit_calls(self, seconds: float) -> None:
        """See `interface.Lane.limit_calls`."""
        self._limit = min(self._operation_seconds_max, seconds)
        if self._waiting:
            self._look_again_in(0.0)

    # The event loop's side

    async def _deliver(self, waker: Waker, *, until_empty: bool) -> None:
        """Hand results to the tasks that wait for them, and look for stuck calls in time."""
        while self._waiting or not until_empty:
            with trio.CancelScope(deadline=self._check_at) as self._check_scope:
                while self._waiting or not until_empty:
                    await waker.wait()
                    self._hand_over()
            if self._check_scope.cancelled_caught:
                self._look_for_stuck_call()

    def _hand_over(self) -> None:
        while self._finished:
            ticket = self._finished.popleft()
            result, ticket.result = ticket.result, None
            task = self._waiting.pop(ticket, None)  # None: it was told StuckIO long ago
            if task is not None:
                assert result is not None
                trio.lowlevel.reschedule(task, result)

    def _look_again_in(self, seconds: float) -> None:
        self._check_at = trio.current_time() + seconds
        if self._check_scope is not None:
            self._check_scope.deadline = self._check_at

    def _look_for_stuck_call(self) -> None:
        """Condemn the running call if it is past its deadline, else say when to look again.

        One timer per deadline's length while there is work, none while idle, none per job.
        """
        running = self._running
        suspect, self._suspect = self._suspect, None
        self._check_at = math.inf  # the next `run` sets it
        suspected_at = self._limit * _SUSPECT_SHARE
        if running is None:
            if self._waiting:
                self._look_again_in(suspected_at)
            return
        if running is self._stuck:
            return
        age = perf_counter() - running.started_at
        if age < suspected_at:
            self._look_again_in(suspected_at - age)
        elif running is not suspect:
            self._suspect = running
            self._look_again_in(max(self._limit - age, self._limit - suspected_at))
        elif age < self._limit:
            self._suspect = running
            self._look_again_in(self._limit - age)
        else:
            self._condemn(running)

    def _condemn(self, running: _Running) -> None:
        """Stop waiting for a call, unless it returned this moment."""
        with self._lock:
            if self._running is not running:
                return
            self._stuck = running
        for file in running.files():
            file.mark_stuck()
        message = (
            f"lane {self.name}: {running.describe()} has not returned for "
            f"{perf_counter() - running.started_at:.1f} s"
        )
        _log.error("%s", message)
        task = self._waiting.pop(running.ticket, None)
        if task is not None:
            trio.lowlevel.reschedule(task, outcome.Error(StuckIO(message)))
        self._fail_queued(str(self._not_started(running)))

    def _not_started(self, stuck: _Running) -> StuckIO:
        return StuckIO(
            f"lane {self.name} is held up by {stuck.describe()}; the job was not started"
        )

    def _fail_queued(self, message: str) -> None:
        """Fail every job that the thread has not begun."""
        for ticket, task in list(self._waiting.items()):
            if ticket.claim():
                ticket.job = None
                del self._waiting[ticket]
                trio.lowlevel.reschedule(task, outcome.Error(StuckIO(message)))

    def _close(self) -> None:
        """Tell the thread to end, and fail what it still runs."""
        self._is_closed = True
        self._hand_over()  # what ended this very moment has ended
        running = self._running
        if self._waiting and running is not None:
            self._condemn(running)
        for task in self._waiting.values():
            message = f"lane {self.name} was stopped before the job ended"
            trio.lowlevel.reschedule(task, outcome.Error(StuckIO(message)))
        self._waiting.clear()
        self._queue.put(None)
        with self._lock:
            waker, self._waker = self._waker, None
        assert waker is not None
        waker.close()

    # The thread's side

    def _work(self) -> None:
        while (ticket := self._queue.get()) is not None:
            if ticket.claim():
                job, ticket.job = ticket.job, None
                assert job is not None
                ticket.result = outcome.capture(self._drive, ticket, job)
                with self._lock:
                    self._finished.append(ticket)
                    if self._waker is not None:
                        self._waker.ring()
                del job
            del ticket  # what it read may be large, and the next job far

    def _drive(self, ticket: _Ticket, job: Job[T]) -> T:
        result: outcome.Outcome[Any] = outcome.Value(None)
        while not self._is_closed:
            try:
                function, arguments = result.send(job)
            except StopIteration as stop:
                value: T = stop.value
                return value
            result = self._invoke(_Running(perf_counter(), ticket, function, arguments))
        # Nobody waits any more. No further call, so that nothing changes behind the next owner.
        _discard(result)
        job.close()
        message = f"lane {self.name} was stopped before the job ended"
        raise StuckIO(message)

    def _invoke(self, running: _Running) -> outcome.Outcome[Any]:
        """Make one call; replace its result by StuckIO if it came after its deadline."""
        self._running = running
        result: outcome.Outcome[Any] = outcome.capture(running.function, *running.arguments)
        with self._lock:
            self._running = None
            was_condemned = self._stuck is running
            if was_condemned:
                self._stuck = None
        if not was_condemned:
            try:
                return result
            finally:
                del result  # an error refers to this frame
        message = (
            f"lane {self.name}: {running.describe()} returned after "
            f"{perf_counter() - running.started_at:.1f} s"
        )
        if isinstance(result, outcome.Error):
            message += f" with {result.error!r}"
        _log.warning("%s", message)
        _discard(result)
        return outcome.Error(StuckIO(message))


def _discard(result: outcome.Outcome[Any]) -> None:
    """Give back what a call opened when nobody is left to receive it."""
    if not isinstance(result, outcome.Value):
        return
    if isinstance(result.value, RealFile):
        result.value.close()
    elif isinstance(result.value, RealDirectoryLock):
        result.value.release()
