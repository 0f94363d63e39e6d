"""Many seeds of one program: until one fails, and then what a person needs to understand it.

`explore` runs a program once per seed. Some of the seeds run twice, the second time with memory
laid out differently and every call of a C function looked at, so that a program which is not
repeatable is found before its failures are. The first seed that fails is run again to record it,
then shrunk (`shrink`), and ends as a `Failure` whose `report` tells what happened and how to
repeat it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial
from traceback import format_exception
from typing import TYPE_CHECKING, Any

from attrs import evolve, frozen

from trio_broker.testing.sim import private
from trio_broker.testing.sim.clock import START_SECONDS
from trio_broker.testing.sim.guards import OutsideSimulation
from trio_broker.testing.sim.replay import Replay
from trio_broker.testing.sim.run import Main, OutOfSteps, Result, SimulationStopped, simulate
from trio_broker.testing.sim.shrink import Shrunk, shrink
from trio_broker.testing.sim.trace import Difference, first_difference

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

#: Seeds that `explore` runs unless told otherwise.
SEEDS = 100
#: Share of the seeds that run twice.
DOUBLE_RUN = 0.05
#: Real seconds that shrinking may take.
SHRINK_SECONDS = 10.0
#: Lines of the trace, and decisions, that a report shows.
STEPS_SHOWN = 40
DECISIONS_SHOWN = 25
#: Runs longer than this are compared by their hash alone, which takes less memory.
_TRACE_STEPS_MAX = 500_000
#: How many times the steps of the failing run a smaller one may take, and how many at least.
_TRIAL_STEPS = 2
_TRIAL_STEPS_MIN = 1000
#: Longest token that is printed; beyond, the seed must do.
TOKEN_LENGTH_MAX = 4000
#: Trio's own tasks and what starts the program, of which a report says nothing.
_UNINTERESTING = frozenset(
    {
        "<init>",
        "<TrioToken.run_sync_soon task>",
        "trio_broker.testing.sim.run._Run._stoppable",
    }
)


class NotRepeatable(AssertionError):
    """Two runs of one seed did different things.

    Attributes:
        difference: where they part, None if it did not show a second time.
    """

    def __init__(
        self, seed: int, difference: Difference[Any] | None, around: Sequence[str]
    ) -> None:
        lines = [f"two runs of seed {seed} differ"]
        if difference is None:
            lines.append("but not every time: they did not when both were traced")
        else:
            lines += [
                f"at entry {difference.position} of their traces:",
                *(f"  both:   {line}" for line in around),
                f"  first:  {difference.first or 'has ended'}",
                f"  second: {difference.second or 'has ended'}",
            ]
        super().__init__("\n".join(lines))
        self.difference = difference


class OtherLoops(RuntimeError):
    """Trio runs in another thread of this process, so that a run could not be repeated."""

    def __init__(self, threads: tuple[str, ...]) -> None:
        super().__init__(
            f"Trio runs in another thread ({', '.join(threads)}): what it does would be in the"
            " simulation's way. End it first, or simulate in a process of its own"
        )


@frozen
class Failure:
    """A seed that failed, and what became of it.

    Attributes:
        result: of the seed as it was found.
        shrunk: the smallest run that fails in the same way; None if there is none or nobody looked.
    """

    result: Result[Any]
    shrunk: Shrunk | None = None

    @property
    def smallest(self) -> Result[Any]:
        """The run to look at first."""
        return self.result if self.shrunk is None else self.shrunk.result

    @property
    def error(self) -> BaseException:
        """What the smallest run failed with."""
        error = self.smallest.error
        assert error is not None
        return error

    @property
    def token(self) -> str | None:
        """Replay token of the smallest run, None if the seed alone has to do."""
        if self.shrunk is None:
            return None
        token = self.shrunk.replay.token()
        return token if len(token) <= TOKEN_LENGTH_MAX else None

    def report(
        self,
        repeat: Sequence[str] = (),
        *,
        steps: int = STEPS_SHOWN,
        with_traceback: bool = False,
    ) -> str:
        """Describe the failure for people.

        Args:
            repeat: command lines that repeat it.
            steps: how many of the last lines of the trace to show.
            with_traceback: begin with the traceback, where nobody else shows it.
        """
        found, smallest = self.result, self.smallest
        lines = []
        if with_traceback:
            error = self.error
            lines += "".join(format_exception(type(error), error, _own_part(error))).splitlines()
        lines.append(f"seed {found.seed} fails: {describe_error(self.error)}")
        lines.append(
            f"found with policy {found.policy}, after {found.steps} steps"
            f" and {found.virtual_seconds:.6f} virtual seconds, trace {found.trace_hash}"
        )
        lines += [f"  {name} = {value!r}" for name, value in smallest.drawn.items()]
        if self.shrunk is not None:
            lines += self._shrunk_lines(self.shrunk)
        visible = [entry for entry in smallest.entries if entry.what not in _UNINTERESTING]
        shown = visible[-steps:] if steps else []
        if shown:
            lines.append(
                f"the last {len(shown)} lines of its trace, time begins at {START_SECONDS:g}:"
            )
            lines += [f"  {entry}" for entry in shown]
        if repeat:
            lines += ["repeat it:", *(f"  {line}" for line in repeat)]
        return "\n".join(lines)

    def _shrunk_lines(self, shrunk: Shrunk) -> list[str]:
        decisions = shrunk.result.decisions
        count = len(decisions)
        end = "" if shrunk.is_minimal else ", when its time was over"
        noun = "decision" if count == 1 else "decisions"
        verb = "differs" if count == 1 else "differ"
        what = f"{count or 'no'} {noun} that {verb} from the plainest run"
        lines = [f"shrunk to {what}, in {shrunk.runs} runs{end}:"]
        lines += [f"  {decision.text}" for decision in decisions[:DECISIONS_SHOWN]]
        if count > DECISIONS_SHOWN:
            lines.append(f"  and {count - DECISIONS_SHOWN} more")
        return lines


@frozen
class Explored:
    """What came of many seeds.

    Attributes:
        runs: how many runs there were, the second ones not counted.
        steps: task steps of all of them.
        seconds: real time that they took.
        failure: the first seed that failed, if one did; no further ones were run.
    """

    runs: int
    steps: int
    seconds: float
    failure: Failure | None = None

    def unwrap(self) -> None:
        """Raise the error of the seed that failed, if one did, with its report as a note."""
        if self.failure is not None:
            self.failure.error.add_note(self.failure.report())
            raise self.failure.error


def explore(
    main: Main[Any],
    seeds: int | Iterable[int] = SEEDS,
    *,
    policy: str = "mix",
    double_run: float = DOUBLE_RUN,
    shrink_seconds: float = SHRINK_SECONDS,
    is_failure: Callable[[BaseException], bool] = lambda _: True,
    on_run: Callable[[Result[Any]], object] = lambda _: None,
    **options: Any,
) -> Explored:
    """Run a program with many seeds, until one fails.

    Args:
        main: the program; must make everything it uses anew.
        seeds: how many, from 0 on, or which.
        policy: of the scheduler, a name from `scheduler.POLICY_NAMES`.
        double_run: share of the seeds that run twice, the first of them always; 0 for none.
        shrink_seconds: real time that making the failing run smaller may take; 0 to leave it.
        is_failure: tells errors that are failures from others, which are raised at once.
        on_run: told the result of every seed.
        options: of `run.simulate`.

    Raises:
        ValueError: no seeds, or an impossible share.
        OtherLoops: Trio runs in another thread of this process.
        Exception: what a run raised and `is_failure` denies.
    """
    if not 0 <= double_run <= 1:
        raise ValueError(f"double_run is a share of the seeds, from 0 to 1, not {double_run}")
    if loops := private.threads_with_loops():
        raise OtherLoops(loops)
    chosen = range(seeds) if isinstance(seeds, int) else seeds
    run: Callable[..., Result[Any]] = partial(simulate, main, policy=policy, **options)
    began, runs, steps = time.perf_counter(), 0, 0
    failure = None
    for number, seed in enumerate(chosen):
        is_twice = double_run > 0 and (
            number == 0 or int(number * double_run) != int((number - 1) * double_run)
        )
        result = run(seed, keep_trace=is_twice)
        runs += 1
        steps += result.steps
        on_run(result)
        if result.error is None and is_twice:
            result = _run_again(run, result)
        if result.error is not None:
            if not is_failure(result.error):
                raise result.error
            failure = examine(main, result, shrink_seconds=shrink_seconds, policy=policy, **options)
            break
    if not runs:
        raise ValueError("there are no seeds to explore")
    return Explored(runs, steps, time.perf_counter() - began, failure)


def parse_seeds(text: str, first: int = 0) -> range:
    """Return the seeds that a text stands for: ``100`` from `first` on, or ``7-9`` certain ones.

    Raises:
        ValueError: it is neither.
    """
    begin, dash, last = text.partition("-")
    seeds = range(int(begin), int(last) + 1) if dash else range(first, first + int(begin))
    if not seeds:
        raise ValueError(f"there are no seeds in {text!r}")
    return seeds


def _run_again(run: Callable[..., Result[Any]], first: Result[Any]) -> Result[Any]:
    """Run a seed a second time, elsewhere in memory; return its result, an error if they differ."""
    moved = [bytearray(size % 977) for size in range(20_011)]
    second = run(first.seed, keep_trace=first.steps < _TRACE_STEPS_MAX, strict=True)
    del moved
    if second.error is None and second.trace_hash != first.trace_hash:
        return _with_error(second, difference_error(first, second))
    return second


def difference_error(first: Result[Any], second: Result[Any]) -> NotRepeatable:
    """Return the error that says where two traced runs part."""
    difference = first_difference(first.entries, second.entries)
    around: list[str] = []
    if difference is not None:
        start = max(0, difference.position - 5)
        around = [str(entry) for entry in first.entries[start : difference.position]]
    return NotRepeatable(first.seed, difference, around)


def _with_error(result: Result[Any], error: BaseException) -> Result[Any]:
    return evolve(result, value=None, error=error)


def examine(
    main: Main[Any],
    found: Result[Any],
    *,
    shrink_seconds: float = SHRINK_SECONDS,
    steps_max: int | None = None,
    **options: Any,
) -> Failure:
    """Record a failing seed and make it small.

    Args:
        main: the program.
        found: the result of the seed that failed.
        shrink_seconds: real time for it; 0 to leave the run as it is.
        steps_max: most steps of a smaller run; None: twice as many as it had, and a thousand more.
        options: of `run.simulate`, as they were when it failed.
    """
    if isinstance(found.error, (NotRepeatable, OutsideSimulation)):
        return Failure(found)  # which says all there is to say
    is_long = found.steps > _TRACE_STEPS_MAX
    recorded = simulate(main, found.seed, record=True, keep_trace=not is_long, **options)
    if recorded.trace_hash != found.trace_hash:
        again = simulate(main, found.seed, keep_trace=not is_long, **options)
        error = difference_error(recorded, again)
        error.__cause__ = found.error
        return Failure(_with_error(found, error))
    if shrink_seconds <= 0:
        return Failure(recorded)
    kind = kind_of(recorded.error)
    ends_at = time.perf_counter() + shrink_seconds
    trial = dict(options)
    if not isinstance(recorded.error, OutOfSteps):
        # Without the drawn pauses a program may do far more; that would not be a smaller run.
        usual = _TRIAL_STEPS * recorded.steps + _TRIAL_STEPS_MIN
        trial["max_steps"] = usual if steps_max is None else steps_max
    shrunk = shrink(
        recorded,
        lambda replay: simulate(main, replay=replay, **trial),
        lambda result: bool(kind & kind_of(result.error)),
        may_go_on=lambda: time.perf_counter() < ends_at,
    )
    return Failure(recorded, shrunk)


def repeat(main: Main[Any], token: str, **options: Any) -> Result[Any]:
    """Run what a replay token stands for.

    Raises:
        ValueError: it is not a token.
    """
    return simulate(main, replay=Replay.from_token(token), **options)


def kind_of(error: BaseException | None) -> frozenset[tuple[str, str, int]]:
    """Return what tells one failure from another: types and places of the errors in it."""
    if error is None:
        return frozenset()
    if isinstance(error, BaseExceptionGroup):
        return frozenset().union(*map(kind_of, error.exceptions))
    name = type(error).__qualname__
    trace = error.__traceback__
    if isinstance(error, SimulationStopped) or trace is None:
        return frozenset({(name, "", 0)})
    while trace.tb_next is not None:
        trace = trace.tb_next
    return frozenset({(name, trace.tb_frame.f_code.co_filename, trace.tb_lineno)})


def _own_part(error: BaseException) -> TracebackType | None:
    """Return the traceback without what runs the simulation."""
    trace = error.__traceback__
    while trace is not None:
        module = str(trace.tb_frame.f_globals.get("__name__", ""))
        if not module.startswith((__package__ or __name__, "trio.", "outcome.")):
            return trace
        trace = trace.tb_next
    return error.__traceback__


def describe_error(error: BaseException) -> str:
    """Return one line about an error, about the first of a group."""
    count = 1
    while isinstance(error, BaseExceptionGroup):
        count *= len(error.exceptions)
        error = error.exceptions[0]
    text = str(error).partition("\n")[0]
    more = f" (and {count - 1} more)" if count > 1 else ""
    return f"{type(error).__name__}{': ' if text else ''}{text}{more}"
