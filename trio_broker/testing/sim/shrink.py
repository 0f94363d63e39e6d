"""A failing run made small: which few decisions does the failure need?

Delta debugging (Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", IEEE
TSE 2002) over the recorded decisions of a run. Each trial is a run in which some of them are left
out, so that the plainest draw stands in their place; it counts if it fails in the same way. What
remains is simplified: orders in which fewer tasks overtake others, rounder numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrs import frozen

from trio_broker.testing.sim.replay import Replay

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from trio_broker.testing.sim.draws import Decision, Value
    from trio_broker.testing.sim.run import Result

#: Streams with fewer such decisions are short enough.
_RETUNED_MIN = 3
#: Times that are changed to fit and choices left out for it, at most; what times are changed by.
_TUNED_MAX = 3
_FACTORS = tuple(0.85**power for power in range(1, 21))


@frozen
class Shrunk:
    """What is left of a failing run.

    Attributes:
        result: of the smallest run that still fails.
        runs: how many runs were tried.
        is_minimal: nothing more can be left out; False if the time was over before.
    """

    result: Result[Any]
    runs: int
    is_minimal: bool

    @property
    def replay(self) -> Replay:
        """How to repeat it."""
        return Replay.of(self.result.seed, self.result.decisions)


def shrink(
    failing: Result[Any],
    run: Callable[[Replay], Result[Any]],
    is_same: Callable[[Result[Any]], bool],
    *,
    may_go_on: Callable[[], bool],
) -> Shrunk | None:
    """Find a small run that fails like a recorded one.

    Args:
        failing: that one.
        run: repeats a run.
        is_same: tells whether a run fails in the same way.
        may_go_on: asked before each run; False ends the search with what it has.

    Returns:
        None if the recorded run does not even fail when it is repeated in full.
    """
    search = _Search(failing.seed, run, is_same, may_go_on)
    if not search.try_decisions(failing.decisions):
        return None
    is_minimal = search.run_to_end()
    assert search.best is not None
    return Shrunk(search.best, search.runs, is_minimal)


class _OutOfTime(Exception):
    """The search was told to end."""


class _Search:
    def __init__(
        self,
        seed: int,
        run: Callable[[Replay], Result[Any]],
        is_same: Callable[[Result[Any]], bool],
        may_go_on: Callable[[], bool],
    ) -> None:
        self.best: Result[Any] | None = None
        self.runs = 0
        self._seed = seed
        self._run = run
        self._is_same = is_same
        self._may_go_on = may_go_on

    @property
    def _decisions(self) -> tuple[Decision, ...]:
        assert self.best is not None
        return self.best.decisions

    def run_to_end(self) -> bool:
        """Search until nothing helps any more; return False if the time was over before."""
        try:
            if self._decisions and not self.try_decisions(()):
                self._drop_streams()
                before = None
                while before != self._decisions:
                    before = self._decisions
                    self._drop_chunks()
                    self._retune()
                    self._simplify()
        except _OutOfTime:
            return False
        return True

    def try_decisions(self, decisions: Sequence[Decision]) -> bool:
        """Run with these decisions only; keep the run if it fails in the same way."""
        if self.best is not None and not self._may_go_on():
            raise _OutOfTime
        self.runs += 1
        result = self._run(Replay.of(self._seed, decisions))
        if not self._is_same(result):
            return False
        # The run tells which of the decisions it came to: no others are needed.
        self.best = result
        return True

    def _drop_streams(self) -> None:
        """Leave out all decisions of one stream, of the most talkative one first."""
        counts: dict[str, int] = {}
        for decision in self._decisions:
            counts[decision.stream] = counts.get(decision.stream, 0) + 1
        for name in sorted(counts, key=lambda name: -counts[name]):
            rest = [decision for decision in self._decisions if decision.stream != name]
            if len(rest) < len(self._decisions):
                self.try_decisions(rest)

    def _retune(self) -> None:
        """Leave out streams of times and the like, while another such decision is changed to fit.

        A fault must meet its moment: with the drawn latencies gone, everything happens earlier, and
        so must the fault.
        """
        for name in dict.fromkeys(decision.stream for decision in self._decisions):
            if sum(isinstance(each.value, float) for each in self._of(name)) < _RETUNED_MIN:
                continue
            rest = [decision for decision in self._decisions if decision.stream != name]
            any(self.try_decisions(trial) for trial in _tuned(rest))

    def _of(self, name: str) -> list[Decision]:
        return [decision for decision in self._decisions if decision.stream == name]

    def _drop_chunks(self) -> None:
        """Leave out runs of decisions, long ones first, late ones first."""
        size = max(1, len(self._decisions) // 2)
        while self._decisions:
            end = len(self._decisions)
            while end > 0:
                start = max(0, end - size)
                self.try_decisions(self._decisions[:start] + self._decisions[end:])
                # A kept trial may be shorter by more than the chunk.
                end = min(start, len(self._decisions))
            if size == 1:
                return
            size = max(1, min(size // 2, len(self._decisions)))

    def _simplify(self) -> None:
        """Try plainer values for each decision that is left."""
        for place in [decision.place for decision in self._decisions]:
            decisions = list(self._decisions)
            found = [number for number, each in enumerate(decisions) if each.place == place]
            if not found:
                continue
            number = found[0]
            for value in _plainer(decisions[number].value):
                decisions[number] = decisions[number]._replace(value=value)
                if self.try_decisions(decisions):
                    break


def _tuned(decisions: list[Decision]) -> Iterator[list[Decision]]:
    """Yield variants with one time changed, and without one of the choices or with all."""
    times = [at for at, each in enumerate(decisions) if isinstance(each.value, float)]
    choices = [at for at, each in enumerate(decisions) if isinstance(each.value, int)]
    for left_out in (None, *choices[:_TUNED_MAX]):
        for at in times[:_TUNED_MAX]:
            for factor in _FACTORS:
                value = decisions[at].value
                assert isinstance(value, float)
                changed = [*decisions[:at], decisions[at]._replace(value=value * factor)]
                changed += decisions[at + 1 :]
                yield [each for number, each in enumerate(changed) if number != left_out]


def _plainer(value: Value) -> Iterator[Value]:
    """Yield plainer values than this one, the plainest first."""
    if isinstance(value, tuple):
        kept = [place for place, item in enumerate(value) if item]
        for place in kept if len(kept) > 1 else []:
            yield _stripped((*(0,) * place, value[place]))
        for place in reversed(kept) if len(kept) > 1 else []:
            yield _stripped((*value[:place], 0, *value[place + 1 :]))
    elif isinstance(value, float):
        for digits in (0, 1, 2):
            if round(value, digits) != value:
                yield round(value, digits)
    elif value > 1:
        yield 1
        if value > 3:
            yield value // 2


def _stripped(code: tuple[int, ...]) -> tuple[int, ...]:
    while code and code[-1] == 0:
        code = code[:-1]
    return code
