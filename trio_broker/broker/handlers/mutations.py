"""Changes of topics that clients ask for: how long they may take, and how many there may be.

The bound on topics that are created, grown and deleted is that of KIP-599.

From the versions on that know THROTTLING_QUOTA_EXCEEDED, what is over the limit is refused with it;
older clients get everything done, and are not listened to until the debt is paid (KIP-219). Calls
of the program that embeds the broker are not counted.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import trio

from trio_broker.errors import ErrorCode

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from trio_broker.broker.session import Session
    from trio_broker.broker.state import BrokerState

#: A change has at least this long to be done, also for clients that ask for no timeout.
TIMEOUT_MS_MIN = 1000
REFUSAL = (
    ErrorCode.THROTTLING_QUOTA_EXCEEDED,
    "Too many topics are created, grown or deleted at present (limits.topic_mutations_per_second).",
)


def timeout_seconds(timeout_ms: int) -> float:
    """Return how long a change may take before its client is told that it goes on."""
    return max(timeout_ms, TIMEOUT_MS_MIN) / 1000


class Payment(NamedTuple):
    """What a request may do.

    Attributes:
        refused: names that are over the limit.
        throttle_time_ms: how long the client should wait before it asks again.
    """

    refused: Collection[str]
    throttle_time_ms: int


def pay_for_mutations(
    state: BrokerState, session: Session, names: Sequence[str], *, strict: bool
) -> Payment:
    """Pay for changing some topics, one token each.

    Args:
        state: the broker.
        session: who asks; told to keep silent for a while if it asks too much.
        names: what really would be changed, each once.
        strict: refuse what is over the limit, rather than do it and let the client wait.
    """
    if session.is_embedded or not names:
        return Payment((), 0)
    bucket, now = state.topic_mutations, trio.current_time()
    count = len(names)
    if strict:
        granted = bucket.take(count, now)
        wait = bucket.seconds_until(count - granted, now) if granted < count else 0.0
    else:
        granted = count
        bucket.owe(count, now)
        wait = bucket.seconds_until(0, now)
    if wait:
        session.muted_until = now + wait
    return Payment(dict.fromkeys(names[granted:]), math.ceil(wait * 1000))
