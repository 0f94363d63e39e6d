"""What a coordinator's state machine answers: decide in pure code, act in task code.

The pattern of this folder (after Kafka's CoordinatorResult and CoordinatorRuntime): a command is
given to a ``handle_...`` method with the time, and changes nothing. The task code in `broker/`
appends the records of the `Decision` to the log that backs the state machine, gives each to
``replay`` when it is durable, and only then sends the reply. After a restart the same ``replay``
rebuilds the state from the log.
"""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

Reply = TypeVar("Reply")


class CoordinatorRecord(NamedTuple):
    """One record of the log that backs a coordinator.

    Attributes:
        key: says what the record is about; see `schemas`.
        value: the newest state of that; None deletes it.
    """

    key: bytes
    value: bytes | None


class Decision(NamedTuple, Generic[Reply]):
    """What to do about a command.

    Attributes:
        records: to append in one batch and then replay, in this order; perhaps none.
        reply: what to answer once they are durable.
        wake_at_ms: wall-clock time at which the state machine wants to be asked again, or None.
    """

    records: tuple[CoordinatorRecord, ...]
    reply: Reply
    wake_at_ms: int | None = None
