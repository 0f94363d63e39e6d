"""What happened in a run: a hash of it for comparing runs, and the latest steps for people.

A trace covers every step of every task (virtual time and task), every task's name when it starts,
and every event that the simulated machine reports (`note`). Two runs of one seed with different
hashes mean nondeterminism; `first_difference` says where it began.
"""

from __future__ import annotations

import struct
from collections import deque
from hashlib import blake2b
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trio.lowlevel import Task

    from trio_broker.testing.sim.clock import SimClock

E = TypeVar("E")

_STEP = struct.Struct("<dI")
_FLUSH_BYTES = 65536
#: Latest entries kept for the report of a failure.
RECENT_MAX = 200


class Entry(NamedTuple):
    """One step of a task, one start of a task, or one event of the machine.

    `kind` is "step", "start" or "event"; `what` the task's name or the event.
    """

    seconds: float
    kind: str
    what: str
    numbers: tuple[object, ...]

    def __str__(self) -> str:
        numbers = " ".join(map(str, self.numbers))
        return f"{self.seconds:.6f} {self.kind} {self.what} {numbers}".rstrip()

    def exact(self) -> str:
        """Return it as one line that is equal for equal entries only, in every process."""
        return repr(tuple(self))


class Trace(trio.abc.Instrument):
    """Hashes a run as it happens.

    Attributes:
        steps: task steps so far.
        entries: everything that happened, if `keep_all`, else the latest of it.
    """

    def __init__(
        self,
        clock: SimClock,
        *,
        keep_all: bool,
        max_steps: int,
        on_max_steps: Callable[[], None],
    ) -> None:
        self.steps = 0
        self.entries: deque[Entry] = deque(maxlen=None if keep_all else RECENT_MAX)
        self._clock = clock
        self._max_steps = max_steps
        self._on_max_steps = on_max_steps
        self._numbers: dict[Task, int] = {}
        self._started = 0
        self._hash = blake2b(digest_size=16)
        self._pending = bytearray()

    def task_spawned(self, task: Task) -> None:
        """Give the task its number (called by Trio)."""
        self._started += 1
        self._numbers[task] = self._started
        self._pending += task.name.encode()
        self.entries.append(Entry(self._clock.now, "start", task.name, (self._started,)))

    def task_exited(self, task: Task) -> None:
        """Forget the task (called by Trio)."""
        self._numbers.pop(task, None)

    def before_task_step(self, task: Task) -> None:
        """Take a step into the hash (called by Trio)."""
        self.steps += 1
        number = self._numbers[task]
        now = self._clock.now
        self._pending += _STEP.pack(now, number)
        self.entries.append(Entry(now, "step", task.name, (number,)))
        if len(self._pending) > _FLUSH_BYTES:
            self._flush()
        if self.steps >= self._max_steps:
            self._max_steps += max(10_000, self._max_steps // 5)
            self._on_max_steps()

    def forget_tasks(self) -> None:
        """Let go of tasks that will not end any more (called after a run)."""
        self._numbers.clear()

    def note(self, what: str, *numbers: object) -> None:
        """Take an event of the simulated machine into the hash."""
        self._pending += f"{what}{numbers}".encode()
        self.entries.append(Entry(self._clock.now, "event", what, numbers))

    def digest(self) -> str:
        """Return the hash so far, as hexadecimal text."""
        self._flush()
        return self._hash.hexdigest()

    def _flush(self) -> None:
        self._hash.update(self._pending)
        self._pending.clear()


class Difference(NamedTuple, Generic[E]):
    """Where two runs part: the number of the entry, and the entry in each (None past its end)."""

    position: int
    first: E | None
    second: E | None


def first_difference(first: Sequence[E], second: Sequence[E]) -> Difference[E] | None:
    """Return where two complete traces (or texts of them) part, or None if they are equal."""
    for position, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return Difference(position, one, other)
    shorter = min(len(first), len(second))
    if len(first) == len(second):
        return None
    return Difference(
        shorter,
        first[shorter] if shorter < len(first) else None,
        second[shorter] if shorter < len(second) else None,
    )
