"""Where errors stop: the only file of the broker that may catch `Exception`.

A fault raised while a scope is being cancelled arrives as a group together with `Cancelled`. It
slips past ``except Exception`` and would cancel the siblings of the task that failed; ``except*``
takes the fault out of the group and lets the `Cancelled` go on to the scope it belongs to.

Callers are the levels of the tree that the architecture page names as boundaries: connection,
handler, replica, shard, log dir. A boundary says what is to be done about the fault; it never
hides one: each is counted and logged here, and `Supervisor.reraise` makes tests fail on it.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import trio
from attrs import define, field

from trio_broker.admin.statistics import boundary_kind
from trio_broker.broker.paced_log import PacedLog
from trio_broker.errors import StuckIO

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_broker.host.interface import Job

logger = logging.getLogger("trio_broker.supervise")

P = ParamSpec("P")
R = TypeVar("R")

#: The only boundaries that come and go by the thousand: those of replicas.
REPLICA_KIND = "replica"

BACKOFF_FIRST_SECONDS = 1.0
BACKOFF_LAST_SECONDS = 60.0


@define
class Backoff:
    """Waiting times between restarts: 1 s doubling to 60 s, back to 1 s after a calm minute."""

    first_seconds: float = BACKOFF_FIRST_SECONDS
    last_seconds: float = BACKOFF_LAST_SECONDS
    attempts: int = 0
    _last_failure: float = float("-inf")

    def next_seconds(self, now: float) -> float:
        """Return how long to wait after a failure at `now` (Trio's clock, seconds)."""
        if now - self._last_failure > 2 * self.last_seconds:
            self.attempts = 0
        self._last_failure = now
        wait = min(self.last_seconds, self.first_seconds * 2.0 ** min(self.attempts, 16))
        self.attempts += 1
        return wait


@define
class FaultRecord:
    """What a boundary has seen: for statistics and health."""

    count: int = 0
    last_cause: str = ""


@define
class Supervisor:
    """Holds the boundaries of one broker.

    Attributes:
        reraise: tests set it: an unexpected exception then goes on to the root instead of
            stopping at its boundary, so that a bug fails the test.
        faults: per boundary, how often it absorbed a fault and the last cause; the boundary that
            did so last comes last.
        down: boundaries behind which nothing runs between a fault and the next start, and why.
    """

    reraise: bool = False
    faults: dict[str, FaultRecord] = field(factory=dict)
    down: dict[str, str] = field(factory=dict)
    _replicas: Counter[str] = field(factory=Counter, init=False)
    _paced: PacedLog = field(factory=lambda: PacedLog(logger), init=False)

    async def absorb(
        self,
        boundary: str,
        function: Callable[P, Awaitable[object]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Exception | None:
        """Run `function`; return the fault it ended with, or None if it ended well.

        Cancellation passes through. A group of faults is returned as one ExceptionGroup, a lone
        one as itself.
        """
        fault: Exception | None = None
        try:
            await function(*args, **kwargs)
        except* Exception as group:  # the boundary itself
            fault = _alone(group)
            self.record(boundary, fault)
            if self.reraise:
                raise
        return fault

    async def result_of(
        self,
        boundary: str,
        function: Callable[P, Awaitable[R]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R | None:
        """Run `function` as `absorb` does, and return its result, or None if there was a fault."""
        try:
            return await function(*args, **kwargs)
        except* Exception as group:  # the boundary itself
            self.record(boundary, _alone(group))
            if self.reraise:
                raise
        return None

    def absorb_now(
        self,
        boundary: str,
        function: Callable[P, object],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Exception | None:
        """Do as `absorb` does for a function that does not wait, and so is never cancelled."""
        try:
            function(*args, **kwargs)
        except Exception as fault:
            self.take(boundary, fault)
            return fault
        return None

    async def keep_running(self, boundary: str, function: Callable[[], Awaitable[None]]) -> None:
        """Run `function` until it ends by itself; after a fault, again, ever more slowly."""
        backoff = Backoff()
        while True:
            fault = await self.absorb(boundary, function)
            if fault is None:
                return
            self.down[boundary] = described(fault)
            try:
                await trio.sleep(backoff.next_seconds(trio.current_time()))
            finally:
                self.down.pop(boundary, None)

    def take(self, boundary: str, fault: Exception) -> None:
        """Take in a fault that a boundary has stopped elsewhere, on a lane for example."""
        self.record(boundary, fault)
        if self.reraise:
            raise fault

    def record(self, boundary: str, fault: BaseException) -> None:
        """Count and log a fault that a boundary has taken care of.

        However many there are of one kind, the log gets one in ten seconds.
        """
        if boundary_kind(boundary) == REPLICA_KIND and not self._replicas[boundary]:
            boundary = REPLICA_KIND  # it has been forgotten, and this comes late
        record = self.faults.pop(boundary, None) or FaultRecord()
        self.faults[boundary] = record
        record.count += 1
        record.last_cause = described(fault)
        self._paced.log(
            logging.ERROR,
            f"{boundary_kind(boundary)} {type(fault).__name__}",
            f"fault in {boundary}: {record.last_cause}",
            exc_info=fault,
        )

    def expect(self, boundary: str) -> None:
        """Take note of a replica, whose faults are shown under its name until `forget`.

        Another one may have the same name: that of a deleted topic which is not quite gone yet.
        """
        self._replicas[boundary] += 1

    def forget(self, boundary: str) -> None:
        """Drop the name of a replica that is no more; what it counted goes to all of its kind.

        And so do faults that are still to come, of what had begun before.
        """
        self._replicas[boundary] -= 1
        if self._replicas[boundary] > 0:
            return
        del self._replicas[boundary]
        record = self.faults.pop(boundary, None)
        if record is not None:
            rest = self.faults.setdefault(boundary_kind(boundary), FaultRecord())
            rest.count += record.count
            rest.last_cause = record.last_cause


def contained(job: Job[R]) -> Job[R | Exception]:
    """Run a job to its end; return its result or its fault, for jobs that share a lane job.

    Raises:
        StuckIO: a call came back after its deadline; nobody waits for the rest any more.
    """
    try:
        return (yield from job)
    except StuckIO:
        raise
    except Exception as fault:
        return fault


def described(fault: BaseException) -> str:
    """Return what a fault says, in one line."""
    return f"{type(fault).__name__}: {fault}"


def _alone(group: ExceptionGroup[Exception]) -> Exception:
    """Unwrap groups of one."""
    fault: Exception = group
    while isinstance(fault, ExceptionGroup) and len(fault.exceptions) == 1:
        fault = fault.exceptions[0]
    return fault


def first_cause(error: BaseException) -> BaseException:
    """Unwrap groups that hold one exception, so that nobody meets a group for a single error."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
