"""An orderly stop: its phases, their shares of one deadline, and what each of them took.

The phases are those of the architecture page: stop listening, drain requests, stop background
work, flush logs, close files. Each has a share of the deadline; what one leaves over goes to those
that follow. A phase that does not end in time is cut off, and the next begins: a missed flush
means no clean marker, so that the next start recovers. Cut off is slow, never wrong.

`Shutdown` keeps the clock and the report. The steps themselves are in `broker.broker`, at the
places of the tree that they belong to.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio
from attrs import define, field, frozen

if TYPE_CHECKING:
    from trio_broker.config import ShutdownConfig

logger = logging.getLogger("trio_broker.shutdown")

LISTENERS = "listeners"
DRAIN = "drain"
BACKGROUND = "background"
FLUSH = "flush"
CLOSE = "close"
#: In the order they run. The first three are skipped when somebody asks a second time.
PHASES = (LISTENERS, DRAIN, BACKGROUND, FLUSH, CLOSE)
_SKIPPED_IN_A_HURRY = frozenset({LISTENERS, DRAIN, BACKGROUND})
#: Names of laggards shown in the log; the report has them all.
_LEFTOVERS_SHOWN = 5


@frozen
class PhaseReport:
    """How one phase of a stop went.

    Attributes:
        name: one of `PHASES`.
        milliseconds: how long it took.
        leftovers: what had not ended when it was cut off.
        was_cut: it ran out of its share, or was skipped.
    """

    name: str
    milliseconds: float
    leftovers: tuple[str, ...]
    was_cut: bool


@frozen
class ShutdownReport:
    """How a stop went.

    Attributes:
        reason: who asked for it.
        milliseconds: from the request to the end.
        phases: those that ran, in order.
        failures: what went wrong, each a sentence.
        clean: every log dir got its clean marker: all that was acknowledged is on stable storage,
            and the next start scans nothing but the logs of replicas that were offline.
    """

    reason: str
    milliseconds: float
    phases: tuple[PhaseReport, ...]
    failures: tuple[str, ...]
    clean: bool

    def __str__(self) -> str:
        phases = " ".join(f"{phase.name}={phase.milliseconds:.0f}ms" for phase in self.phases)
        verdict = "clean" if self.clean else "not clean"
        text = f"stopped ({self.reason}), {verdict}, after {self.milliseconds:.0f} ms: {phases}"
        if laggards := [name for phase in self.phases for name in phase.leftovers]:
            text += f"; cut off: {_some(laggards)}"
        if self.failures:
            text += f"; failed: {_some(self.failures)}"
        return text


@define
class PhaseRun:
    """A phase while it runs.

    Attributes:
        deadline: Trio time at which it is cut off.
        leftovers: to be filled by who runs it, if it is cut off.
        is_over: nobody waits for it any more; to be set by who runs it, for jobs of lanes to see.
    """

    deadline: float
    leftovers: list[str] = field(factory=list)
    is_over: bool = False


class Shutdown:
    """One stop: when it was asked for, by whom, until when, and how far it has come.

    Attributes:
        requested: set once a stop has been asked for.
        deadline: Trio time at which everything ends; inf before.
        phases: those that are over, in order.
    """

    def __init__(self, config: ShutdownConfig) -> None:
        self.requested = trio.Event()
        self.deadline = float("inf")
        self.reason = ""
        self._config = config
        self._began = float("inf")
        self._hurried = False
        self.phases: list[PhaseReport] = []
        self._grace_scope = trio.CancelScope()
        self._failures: list[str] = []
        self._current: tuple[str, trio.CancelScope, PhaseRun] | None = None

    def request(self, reason: str, *, within_seconds: float | None = None) -> None:
        """Ask for a stop. Asking again can only bring the deadline nearer."""
        now = trio.current_time()
        if not self.requested.is_set():
            self.reason = reason
            self._began = now
            logger.info("stopping: %s", reason)
        if within_seconds is None:
            within_seconds = self._config.ready_grace_seconds + self._config.deadline_seconds
        self.deadline = min(self.deadline, now + within_seconds)
        self.requested.set()

    def hurry(self, reason: str, *, within_seconds: float) -> None:
        """Give up on clients and background work at once; go on with flushing."""
        self.request(reason, within_seconds=within_seconds)
        logger.warning("stopping in a hurry: %s", reason)
        self._hurried = True
        self._grace_scope.cancel()
        if self._current is None:
            return
        name, scope, run = self._current
        run.deadline = min(run.deadline, self._phase_deadline(name, trio.current_time()))
        scope.deadline = run.deadline
        if name in _SKIPPED_IN_A_HURRY:
            scope.cancel()

    def seconds_for_calls(self) -> float:
        """Return for how long system calls may be waited for now, in a hurry.

        Those that belong to what is skipped take what that would have taken: the rest is for the
        flush.
        """
        now = trio.current_time()
        if self._current is not None and self._current[0] not in _SKIPPED_IN_A_HURRY:
            return max(self._current[2].deadline - now, 0.0)
        shares = self._config.shares()
        skipped = sum(shares[name] for name in _SKIPPED_IN_A_HURRY)
        return max(self.deadline - now, 0.0) * skipped / sum(shares.values())

    async def grace(self) -> None:
        """Go on as before for a while, so that load balancers see that we are not ready any more.

        Not counted against the deadline; over at once when somebody is in a hurry.
        """
        seconds = self._config.ready_grace_seconds
        if seconds and not self._hurried:
            logger.info(
                "clients are served for another %g s (shutdown.ready_grace_seconds)", seconds
            )
        with self._grace_scope:
            self._grace_scope.deadline = self._began + seconds
            await trio.sleep_forever()

    def failed(self, what: str, causes: Sequence[BaseException]) -> None:
        """Take note of what did not end in order."""
        if causes:
            self._failures += [f"{what}: {cause}" for cause in causes]
            logger.error("stopping: %s: %s", what, _some([str(cause) for cause in causes]))

    @contextmanager
    def phase(self, name: str) -> Iterator[PhaseRun]:
        """Run the block as one phase: cut it off at the end of its share, measure and log it."""
        began = trio.current_time()
        run = PhaseRun(min(self.deadline, self._phase_deadline(name, began)))
        was_cut = True
        try:
            with trio.CancelScope(deadline=run.deadline) as scope:
                self._current = name, scope, run
                if self._hurried and name in _SKIPPED_IN_A_HURRY:
                    scope.cancel()
                yield run
                was_cut = False
        finally:  # the last phase and all of the stop end at the same time
            self._current = None
            milliseconds = (trio.current_time() - began) * 1000
            report = PhaseReport(name, milliseconds, tuple(run.leftovers), was_cut)
            self.phases.append(report)
            _log_phase(report)

    def _phase_deadline(self, name: str, now: float) -> float:
        """Share out what is left among this phase and those that follow it."""
        shares = self._config.shares()
        left = sum(shares[later] for later in PHASES[PHASES.index(name) :])
        return now + max(self.deadline - now, 0.0) * shares[name] / left

    def report(self, *, clean: bool) -> ShutdownReport:
        """Sum up, once everything has ended."""
        milliseconds = (trio.current_time() - self._began) * 1000
        return ShutdownReport(
            self.reason, milliseconds, tuple(self.phases), tuple(self._failures), clean
        )


def _some(names: Sequence[str]) -> str:
    """List the first few of what may be thousands."""
    more = len(names) - _LEFTOVERS_SHOWN
    return ", ".join(names[:_LEFTOVERS_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _log_phase(report: PhaseReport) -> None:
    names = _some(report.leftovers)
    if report.was_cut:
        logger.warning(
            "stop phase %s cut off after %.0f ms, left: %s",
            report.name,
            report.milliseconds,
            names or "nothing",
        )
    elif names:
        logger.warning("stop phase %s took %.0f ms: %s", report.name, report.milliseconds, names)
    else:
        logger.info("stop phase %s took %.0f ms", report.name, report.milliseconds)
