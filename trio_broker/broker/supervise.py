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
from typing import TYPE_CHECKING, ParamSpec

from attrs import define, field

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

logger = logging.getLogger("trio_broker.supervise")

P = ParamSpec("P")

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
        faults: per boundary, how often it absorbed a fault and the last cause.
    """

    reraise: bool = False
    faults: dict[str, FaultRecord] = field(factory=dict)

    async def absorb(
        self,
        boundary: str,
        function: Callable[P, Awaitable[None]],
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

    def record(self, boundary: str, fault: BaseException) -> None:
        """Count and log a fault that a boundary has taken care of."""
        record = self.faults.setdefault(boundary, FaultRecord())
        record.count += 1
        record.last_cause = f"{type(fault).__name__}: {fault}"
        logger.error("fault in %s: %s", boundary, record.last_cause, exc_info=fault)


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
