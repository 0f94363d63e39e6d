"""Which of the runnable tasks goes next: policies that explore different interleavings.

Trio collects what is runnable into a batch, runs every task of it once, and collects again. A
policy chooses the order within each batch, so whatever it does remains possible in production.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

from trio_broker.testing.sim import private
from trio_broker.testing.sim.draws import apply_code, order_code

if TYPE_CHECKING:
    import random

    from trio.lowlevel import Task

    from trio_broker.testing.sim.draws import DrawBook

#: Name under which schedules are recorded; each batch of two or more tasks is one draw.
SCHEDULE = "schedule"
#: Tasks named in the description of a decision, at most.
_NAMED_MAX = 4
#: The node (machine) that a task runs on; tasks inherit it from the one that starts them.
NODE: ContextVar[object] = ContextVar("NODE", default=None)

#: Names that `make_policy` knows.
POLICY_NAMES = ("random", "fifo", "pct", "mix")


class Policy(Protocol):
    """Orders batches of runnable tasks."""

    @property
    def name(self) -> str:
        """Name for reports."""

    def arrange(self, batch: list[Task]) -> None:
        """Reorder a batch of at least two tasks in place; the last one runs first.

        The batch arrives in order of creation of the tasks.
        """


class RandomPolicy:
    """Every order of a batch is equally likely."""

    name = "random"

    def __init__(self, random: random.Random) -> None:
        self._random = random

    def arrange(self, batch: list[Task]) -> None:
        """Shuffle."""
        self._random.shuffle(batch)


class FifoPolicy:
    """Older tasks first, always: the plainest schedule, to which failures are reduced."""

    name = "fifo"

    def arrange(self, batch: list[Task]) -> None:
        """Put the oldest task last, where Trio begins."""
        batch.reverse()


class PriorityPolicy:
    """Probabilistic concurrency testing with fair batches.

    Each task has a drawn priority and always goes before those with less; at a few drawn moments
    the one in front loses its place for good. Finds orderings that need one task to be
    consistently early or late, which shuffling makes unlikely (Burckhardt et al., "A Randomized
    Scheduler with Probabilistic Guarantees of Finding Bugs", ASPLOS 2010). Fair: unlike the
    original it never starves a task, since each still runs once per batch.
    """

    name = "pct"

    def __init__(self, random: random.Random, *, changes: int = 4, batches: int = 2000) -> None:
        """Make a policy.

        Args:
            random: where priorities come from.
            changes: how many times a task loses its place.
            batches: within how many batches of two or more tasks.
        """
        self._random = random
        self._priorities: dict[Task, float] = {}
        self._batches = 0
        self._lowest = 0.0
        self._changes = frozenset(random.randrange(batches) for _ in range(changes))

    def arrange(self, batch: list[Task]) -> None:
        """Sort by priority."""
        priorities = self._priorities
        for task in batch:
            if task not in priorities:
                priorities[task] = self._random.random()
        if self._batches in self._changes:
            self._lowest -= 1.0
            priorities[max(batch, key=priorities.__getitem__)] = self._lowest
        self._batches += 1
        batch.sort(key=priorities.__getitem__)


def make_policy(name: str, random: random.Random) -> Policy:
    """Return the policy of that name.

    Args:
        name: one of `POLICY_NAMES`; "mix" draws one, most often "random".
        random: where it draws from.

    Raises:
        ValueError: there is no policy of that name.
    """
    if name == "mix":
        name = random.choices(("random", "pct", "fifo"), (80, 15, 5))[0]
    if name == "random":
        return RandomPolicy(random)
    if name == "fifo":
        return FifoPolicy()
    if name == "pct":
        return PriorityPolicy(random)
    raise ValueError(f"unknown policy {name!r}, known are {', '.join(POLICY_NAMES)}")


class Scheduler:
    """Orders the batches of one run: holds back nodes that pause, asks the policy, keeps book."""

    def __init__(self, policy: Policy, book: DrawBook | None) -> None:
        """Make a scheduler.

        Args:
            policy: orders what the book does not decide.
            book: records or replays the schedule, if given.
        """
        self._policy = policy
        self._book = book
        self._batches = -1
        self._held: dict[object, list[Task]] = {}

    @property
    def paused(self) -> tuple[object, ...]:
        """Nodes that pause now, in order."""
        return tuple(self._held)

    def pause(self, node: object) -> None:
        """Let no task of a node run until `resume`; what it waits for goes on. Idempotent."""
        self._held.setdefault(node, [])

    def resume(self, node: object) -> None:
        """Let the tasks of a node run again. Idempotent."""
        private.requeue(self._held.pop(node, []))

    def arrange(self, batch: list[Task]) -> None:
        """Put a batch of runnable tasks into order, the last one runs first."""
        if self._held:
            self._hold_back(batch)
        if len(batch) < 2:
            return
        if self._book is None:
            self._policy.arrange(batch)
            return
        self._batches += 1
        if self._book.given is None:
            self._record(batch, self._book)
        else:
            self._replay(batch, self._book)

    def _hold_back(self, batch: list[Task]) -> None:
        running = []
        for task in batch:
            held = self._held.get(task.context.get(NODE))
            if held is None:
                running.append(task)
            else:
                held.append(task)
        batch[:] = running

    def _record(self, batch: list[Task], book: DrawBook) -> None:
        positions = {task: position for position, task in enumerate(batch)}
        self._policy.arrange(batch)
        code = order_code([positions[task] for task in reversed(batch)])
        if code:
            book.take(SCHEDULE, self._batches, code)

    def _replay(self, batch: list[Task], book: DrawBook) -> None:
        assert book.given is not None
        code = book.given.get((SCHEDULE, self._batches), ())
        plain = list(batch)
        order = apply_code(code, batch) if isinstance(code, tuple) else plain
        batch[:] = reversed(order)
        if order != plain and isinstance(code, tuple):
            _, seconds = book.now()
            text = f"{seconds:.6f} {SCHEDULE}: {_describe(plain, order)}"
            book.take(SCHEDULE, self._batches, code, text)


def _describe(plain: list[Task], order: list[Task]) -> str:
    """Say who goes before whom, other than by age."""
    ages = {task: age for age, task in enumerate(plain)}
    parts = []
    for place, task in enumerate(order):
        overtaken = [other.name for other in order[place + 1 :] if ages[other] < ages[task]]
        if overtaken:
            shown = ", ".join(overtaken[:_NAMED_MAX])
            more = f" and {len(overtaken) - _NAMED_MAX} more" if len(overtaken) > _NAMED_MAX else ""
            parts.append(f"{task.name} goes before {shown}{more}")
    return "; ".join(parts[:_NAMED_MAX]) + (" ..." if len(parts) > _NAMED_MAX else "")
