"""Which of the runnable tasks goes next: policies that explore different interleavings.

Trio collects what is runnable into a batch, runs every task of it once, and collects again. A
policy chooses the order within each batch, so whatever it does remains possible in production.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import random

    from trio.lowlevel import Task

#: Names that `make_policy` knows.
POLICY_NAMES = ("random", "fifo", "pct", "mix")


class Policy(Protocol):
    """Orders batches of runnable tasks."""

    def arrange(self, batch: list[Task]) -> None:
        """Reorder a batch of at least two tasks in place; the last one runs first.

        The batch arrives in order of creation of the tasks.
        """


class RandomPolicy:
    """Every order of a batch is equally likely."""

    def __init__(self, random: random.Random) -> None:
        self._random = random

    def arrange(self, batch: list[Task]) -> None:
        """Shuffle."""
        self._random.shuffle(batch)


class FifoPolicy:
    """Older tasks first, always: the plainest schedule, to which failures are reduced."""

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
