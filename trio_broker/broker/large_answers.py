"""Large answers are made piece by piece, and one after another.

What concerns ten thousand partitions takes tens of milliseconds to decode, to collect and to
encode. In one step that would be how late everybody else is, so others get a turn after each
piece. Pieces of many large answers at a time would hold many half-made ones in memory; so whoever
has made its first piece waits for those that came before. Small answers are one piece, and never
wait for anybody.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

R = TypeVar("R")
T = TypeVar("T")

#: Partitions, or whatever an answer is about, in one piece: less than a millisecond.
ITEMS_PER_PIECE = 100


class Described(Sequence[R]):
    """A part of an answer that is made element by element, when it is encoded.

    So of ten thousand elements only those of one piece are in memory at a time, which also keeps
    them away from the cyclic collector.
    """

    __slots__ = ("_describe", "_things")

    def __init__(self, things: Sequence[T], describe: Callable[[T], R]) -> None:
        self._things: Sequence[Any] = things
        self._describe: Callable[[Any], R] = describe

    def __len__(self) -> int:
        return len(self._things)

    def __iter__(self) -> Iterator[R]:
        return map(self._describe, self._things)

    def __getitem__(self, index: Any) -> Any:
        return list(self)[index]


class LargeAnswers:
    """Whose turn it is to make a large answer."""

    def __init__(self) -> None:
        self._turn = trio.Lock()
        self._owner: trio.lowlevel.Task | None = None

    def __repr__(self) -> str:
        return f"<LargeAnswers owner={self._owner!r} {self._turn.statistics()!r}>"

    @property
    def is_mine(self) -> bool:
        """Whether the running task is in the middle of a large answer."""
        return self._owner is not None and self._owner is trio.lowlevel.current_task()

    async def make(self, making: Generator[None, None, R], *, yields_per_piece: int = 1) -> R:
        """Run a generator to its end, and let others run where it yields.

        Once it has yielded so often it has the turn, until `done`. What it looks at may change
        whenever it yields.

        Args:
            making: makes an answer, or a part of it.
            yields_per_piece: how often it yields before others run.

        Cancellation: what it has made so far is dropped; `done` has to be called all the same.
        """
        while True:
            try:
                for _ in range(yields_per_piece):
                    next(making)
            except StopIteration as stop:
                made: R = stop.value
                return made
            await self.pause()

    async def collect(self, collecting: Generator[None, None, R]) -> R:
        """Run a generator that yields after each of the items that it looks at; see `make`."""
        return await self.make(collecting, yields_per_piece=ITEMS_PER_PIECE)

    async def pause(self) -> None:
        """Let others run; from then on the running task has the turn, until `done`.

        Cancellation: as if it had not been called.
        """
        if self.is_mine:
            await trio.lowlevel.checkpoint()
            return
        await self._turn.acquire()
        self._owner = trio.lowlevel.current_task()

    def done(self) -> None:
        """Give the turn to the next one, if the running task has it.

        To be called at the end, and before waiting for anything else: a disk, other answers.
        """
        if self.is_mine:
            self._owner = None
            self._turn.release()
