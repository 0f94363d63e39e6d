"""Draws that are written down, and draws that are given: how a run is recorded and shrunk.

In an ordinary run a stream is a plain `random.Random`, which costs nothing. To record a run its
streams are `RecordingRandom`: the same generators, but each draw that is not the plainest one
possible is written into a `DrawBook`. To replay, streams are `ReplayingRandom`: they answer what
the book says, and where it says nothing the plainest value. So a run is a set of decisions, each
with a place (stream, number of the draw), and a smaller set is again a run.

The plainest values: 0, the first of a choice, the order as it was, the least of a range, and of
`random()` the greatest, because "``random() < rate``" then says no. Draws of more than 32 bits
make names and payloads, which must differ: their plainest value is a fresh one from the seed.
"""

from __future__ import annotations

import os
import random
import sys
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, MutableSequence, Sequence

#: What was drawn: a number, or for orders and several choices a list of numbers.
Value: TypeAlias = "int | float | tuple[int, ...]"
#: Name of the stream, and which of its draws.
Place: TypeAlias = tuple[str, int]

#: `random()` never gives 1.0; this is the closest to it.
_GREATEST = 1.0 - 2.0**-53
#: Wider draws are names or payloads, not decisions.
_DECISION_BITS_MAX = 32
#: Plainest draws of one stream within one step after which real ones are given, since the program
#: may draw until it likes what it gets.
_PLAIN_DRAWS_MAX = 1000


class Decision(NamedTuple):
    """One draw that was not the plainest possible.

    `text` tells people what it was; it is filled in for replayed draws only.
    """

    stream: str
    number: int
    value: Value
    text: str = ""

    @property
    def place(self) -> Place:
        """Where in a run it belongs."""
        return (self.stream, self.number)


class DrawBook:
    """The decisions of one run.

    Attributes:
        given: what to answer, None while recording.
        taken: decisions that were drawn, in order.
        now: tells the step and the virtual time of the run.
        task: tells the name of the task that runs.
    """

    def __init__(self, given: Mapping[Place, Value] | None = None) -> None:
        self.given = given
        self.taken: list[Decision] = []
        self.now: Callable[[], tuple[int, float]] = lambda: (0, 0.0)
        self.task: Callable[[], str] = lambda: "nobody"

    def take(self, stream: str, index: int, value: Value, text: str = "") -> None:
        """Write down a decision."""
        self.taken.append(Decision(stream, index, value, text))

    def stream(self, name: str, seed: int) -> random.Random:
        """Return a stream that records into this book, or replays from it."""
        if self.given is None:
            return RecordingRandom(name, seed, self)
        return ReplayingRandom(name, seed, self)


def order_code(order: Sequence[int]) -> tuple[int, ...]:
    """Return a permutation of range(n) as picks among what is left, without the zeros at its end.

    The identity is the empty code, and every code is a permutation of any length (`apply_code`).
    """
    left = sorted(order)
    code = []
    for item in order:
        code.append(left.index(item))
        del left[code[-1]]
    while code and code[-1] == 0:
        code.pop()
    return tuple(code)


def apply_code(code: Sequence[int], items: Sequence[Any]) -> list[Any]:
    """Return items in the order that a code of `order_code` says, whatever their number."""
    left = list(items)
    picked = [left.pop(pick % len(left)) for pick, _ in zip(code, items, strict=False)]
    return picked + left


class _DrawingRandom(random.Random):
    """What recording and replaying streams share: each method is one draw with one value."""

    def __init__(self, name: str, seed: int, book: DrawBook) -> None:
        super().__init__(0)
        self._source = random.Random(seed)
        self._name = name
        self._book = book
        self._index = -1

    def __reduce__(self) -> Any:
        raise TypeError("a stream of a simulation cannot be copied: draw from it where it is")

    def _draw(
        self, call: str, fresh: Callable[[], Value], plainest: Callable[[], Value] | Value
    ) -> Value:
        """Return the value of the next draw."""
        raise NotImplementedError

    def _show(self, value: object) -> None:
        """Describe the latest draw by what came of it."""

    def _draw_index(self, call: str, count: int, fresh: Callable[[], int]) -> int:
        """Return which of `count` was drawn."""
        value = self._draw(call, fresh, 0)
        return value % count if isinstance(value, int) else 0

    def _draw_float(self, call: str, fresh: Callable[[], float], plainest: float) -> float:
        value = self._draw(call, fresh, plainest)
        return plainest if isinstance(value, tuple) else float(value)

    # ------------------------------------------------------------------ what random.Random offers

    def seed(self, a: Any = None, version: int = 2) -> None:
        """Do nothing when made; a stream that is seeded anew would not follow from the run's."""
        if hasattr(self, "_book"):
            raise TypeError("a stream of a simulation follows from the seed of the run")
        super().seed(a, version)

    def random(self) -> float:
        """Draw from [0, 1); plainest is the greatest, so that what is rare does not happen."""
        value = self._draw_float("random", self._source.random, _GREATEST)
        return value if 0.0 <= value < 1.0 else _GREATEST

    def uniform(self, a: float, b: float) -> float:
        """Draw from [a, b]; plainest is a."""
        return self._draw_float("uniform", lambda: self._source.uniform(a, b), a)

    def expovariate(self, lambd: float = 1.0) -> float:
        """Draw from the exponential distribution; plainest is 0."""
        return self._draw_float("expovariate", lambda: self._source.expovariate(lambd), 0.0)

    def gauss(self, mu: float = 0.0, sigma: float = 1.0) -> float:
        """Draw from the normal distribution; plainest is `mu`."""
        return self._draw_float("gauss", lambda: self._source.gauss(mu, sigma), mu)

    def normalvariate(self, mu: float = 0.0, sigma: float = 1.0) -> float:
        """Draw from the normal distribution; plainest is `mu`."""
        fresh = self._source.normalvariate
        return self._draw_float("normalvariate", lambda: fresh(mu, sigma), mu)

    def getrandbits(self, k: int) -> int:
        """Draw an integer of `k` bits; plainest is 0, of more than 32 bits a fresh one."""
        fresh = self._source.getrandbits
        if k <= _DECISION_BITS_MAX:
            return self._draw_index("getrandbits", 1 << k, lambda: fresh(k)) if k else fresh(k)
        value = self._draw("getrandbits", lambda: fresh(k), lambda: fresh(k))
        return value % (1 << k) if isinstance(value, int) else fresh(k)

    def randbytes(self, n: int) -> bytes:
        """Draw bytes; plainest are fresh ones."""
        return self.getrandbits(n * 8).to_bytes(n, "little") if n else b""

    def randrange(self, start: int, stop: int | None = None, step: int = 1) -> int:
        """Draw from a range; plainest is its first."""
        found = range(start) if stop is None else range(start, stop, step)
        if not found:
            raise ValueError(f"empty range for randrange: {found}")
        source = self._source
        index = self._draw_index(
            "randrange",
            len(found),
            lambda: found.index(source.randrange(found.start, found.stop, found.step)),
        )
        self._show(found[index])
        return found[index]

    def randint(self, a: int, b: int) -> int:
        """Draw from a to b, both included; plainest is a."""
        return self.randrange(a, b + 1)

    def choice(self, seq: Any) -> Any:
        """Draw one item; plainest is the first."""
        count = len(seq)
        if not count:
            raise IndexError("Cannot choose from an empty sequence")
        indexes = range(count)
        item = seq[self._draw_index("choice", count, lambda: self._source.choice(indexes))]
        self._show(item)
        return item

    def choices(
        self,
        population: Any,
        weights: Any = None,
        *,
        cum_weights: Any = None,
        k: int = 1,
    ) -> list[Any]:
        """Draw `k` items with replacement; plainest is the first that can be drawn."""
        indexes = range(len(population))

        def fresh() -> tuple[int, ...]:
            return tuple(
                self._source.choices(indexes, weights=weights, cum_weights=cum_weights, k=k)
            )

        sums = (
            list(weights if cum_weights is None else cum_weights)
            if (weights is not None or cum_weights is not None)
            else [1]
        )
        first = next((place for place, weight in enumerate(sums) if weight > 0), 0)
        drawn = self._draw("choices", fresh, (first,) * k)
        if not isinstance(drawn, tuple) or len(drawn) != k:
            drawn = (first,) * k
        return [population[index % len(indexes)] for index in drawn]

    def shuffle(self, x: MutableSequence[Any]) -> None:
        """Draw an order; plainest is the one that is there."""

        def fresh() -> tuple[int, ...]:
            order = list(range(len(x)))
            self._source.shuffle(order)
            return order_code(order)

        code = self._draw("shuffle", fresh, ())
        if isinstance(code, tuple):
            x[:] = apply_code(code, x)

    def sample(self, population: Any, k: int, *, counts: Any = None) -> list[Any]:
        """Draw `k` items without replacement; plainest are the first ones."""
        if counts is not None:
            items = zip(population, counts, strict=True)
            population = [item for item, count in items for _ in range(count)]
        count = len(population)
        if not 0 <= k <= count:
            raise ValueError("Sample larger than population or is negative")
        plainest = tuple(range(k))
        drawn = self._draw("sample", lambda: tuple(self._source.sample(range(count), k)), plainest)
        if not isinstance(drawn, tuple) or len({index % count for index in drawn}) != k:
            drawn = plainest
        return [population[index % count] for index in drawn]


def _add_other_distributions() -> None:
    """Give `_DrawingRandom` the rest: their plainest value is the one that a fixed seed gives."""

    def make(name: str) -> Callable[..., float]:
        def draw(self: _DrawingRandom, *args: Any, **kwargs: Any) -> float:
            plainest: float = getattr(random.Random(0), name)(*args, **kwargs)
            fresh = getattr(self._source, name)
            value = self._draw_float(name, lambda: fresh(*args, **kwargs), plainest)
            return round(value) if isinstance(plainest, int) else value

        draw.__name__ = name
        return draw

    for name in (
        "triangular",
        "betavariate",
        "gammavariate",
        "lognormvariate",
        "vonmisesvariate",
        "paretovariate",
        "weibullvariate",
        "binomialvariate",
    ):
        if hasattr(random.Random, name):
            setattr(_DrawingRandom, name, make(name))


_add_other_distributions()


class RecordingRandom(_DrawingRandom):
    """Draws what a plain stream would, and writes it down."""

    def _draw(
        self, call: str, fresh: Callable[[], Value], plainest: Callable[[], Value] | Value
    ) -> Value:
        self._index += 1
        value = fresh()
        if value != plainest:
            self._book.take(self._name, self._index, value, call)
        return value


class ReplayingRandom(_DrawingRandom):
    """Draws what its book says, and the plainest where that says nothing."""

    def __init__(self, name: str, seed: int, book: DrawBook) -> None:
        super().__init__(name, seed, book)
        self._step = -1
        self._plain_draws = 0
        self._call = ""

    def _draw(
        self, call: str, fresh: Callable[[], Value], plainest: Callable[[], Value] | Value
    ) -> Value:
        self._index += 1
        assert self._book.given is not None
        value = self._book.given.get((self._name, self._index))
        if value is None:
            return self._plain(fresh, plainest)
        self._call = call
        self._book.take(self._name, self._index, value)
        self._show(list(value) if isinstance(value, tuple) else value)
        return value

    def _show(self, value: object) -> None:
        taken = self._book.taken
        if taken and taken[-1].place == (self._name, self._index):
            _, seconds = self._book.now()
            drawn = f"{self._name}: {self._call} gives {value!r}"
            text = f"{seconds:.6f} {drawn} to {self._book.task()}, in {_caller()}"
            taken[-1] = taken[-1]._replace(text=text)

    def _plain(self, fresh: Callable[[], Value], plainest: Callable[[], Value] | Value) -> Value:
        step, _ = self._book.now()
        if step != self._step:
            self._step, self._plain_draws = step, 0
        self._plain_draws += 1
        if self._plain_draws > _PLAIN_DRAWS_MAX:
            return fresh()
        return plainest() if callable(plainest) else plainest


#: Files that only pass draws on.
_PASSING_ON = frozenset(
    {__file__, random.__file__, os.path.join(os.path.dirname(__file__), "run.py")}
)


def _caller() -> str:
    """Name the place outside of this module that draws."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename in _PASSING_ON:
        frame = frame.f_back
    file = os.path.basename(frame.f_code.co_filename)
    return f"{frame.f_code.co_name} ({file}:{frame.f_lineno})"
