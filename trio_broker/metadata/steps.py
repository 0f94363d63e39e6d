"""Steps: the transactions of one decision, each of bounded size and true as a whole.

Used by the modules that decide (`topic_creation`, `topic_deletion`, `broker_start`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

from attrs import frozen

from trio_broker.metadata.transaction import Guard, Operation, Transaction

#: A step is closed once it has this many operations; one topic is never split.
STEP_OPERATIONS_TARGET = 1000


class Step(NamedTuple):
    """A transaction, and which of the decision's results are true once it is committed."""

    transaction: Transaction
    result_indexes: tuple[int, ...]


R = TypeVar("R")


@frozen
class Decision(Generic[R]):
    """What to commit, and the answers that hold once it is committed.

    Attributes:
        results: one per thing asked for; refusals are among them.
        steps: to be committed in order; each result that is no refusal belongs to one.
    """

    results: tuple[R, ...]
    steps: tuple[Step, ...]


class StepBuilder:
    """Packs the operations of one topic after another into steps of bounded size."""

    def __init__(self) -> None:
        self._steps: list[Step] = []
        self._guards: list[Guard] = []
        self._operations: list[Operation] = []
        self._result_indexes: list[int] = []

    def add(
        self, result_index: int | None, guards: Sequence[Guard], operations: Sequence[Operation]
    ) -> None:
        """Add what must happen together; it never gets split over two steps."""
        size = len(self._operations) + len(operations)
        if self._operations and size > STEP_OPERATIONS_TARGET:
            self._close()
        self._guards += guards
        self._operations += operations
        if result_index is not None:
            self._result_indexes.append(result_index)

    def steps(self) -> tuple[Step, ...]:
        """Return everything added so far."""
        if self._operations:
            self._close()
        return tuple(self._steps)

    def _close(self) -> None:
        transaction = Transaction(tuple(self._guards), tuple(self._operations))
        self._steps.append(Step(transaction, tuple(self._result_indexes)))
        self._guards, self._operations, self._result_indexes = [], [], []
