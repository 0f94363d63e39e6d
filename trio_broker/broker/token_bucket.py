"""A bound on how often something may happen: tokens that come back at a rate, up to a burst.

Owns numbers only; whoever asks says what time it is. `BrokerState` has one for topics that clients
create, grow and delete (Kafka: controller_mutation_rate, KIP-599).
"""

from __future__ import annotations

import math


class TokenBucket:
    """Tokens to pay with.

    Args:
        rate_per_second: tokens that come back; 0: there is no limit.
        burst: most tokens there can be, and most that can be owed.
        now: Trio time.
    """

    def __init__(self, rate_per_second: float, burst: float, now: float) -> None:
        self._rate_per_second = rate_per_second
        self._burst = burst
        self._tokens = burst
        self._as_of = now

    def __repr__(self) -> str:
        return f"<TokenBucket {self._tokens:g} of {self._burst:g}>"

    def take(self, count: int, now: float) -> int:
        """Take up to `count` tokens; return how many there were."""
        if not self._rate_per_second:
            return count
        self._refill(now)
        taken = min(count, max(0, math.floor(self._tokens)))
        self._tokens -= taken
        return taken

    def owe(self, count: int, now: float) -> None:
        """Take `count` tokens, whether they are there or not."""
        if self._rate_per_second:
            self._refill(now)
            self._tokens = max(self._tokens - count, -self._burst)

    def seconds_until(self, count: int, now: float) -> float:
        """Return how long it takes until `count` tokens are there, or the bucket is full."""
        if not self._rate_per_second:
            return 0.0
        self._refill(now)
        return max(0.0, min(count, self._burst) - self._tokens) / self._rate_per_second

    def _refill(self, now: float) -> None:
        passed = max(0.0, now - self._as_of)
        self._tokens = min(self._burst, self._tokens + passed * self._rate_per_second)
        self._as_of = max(self._as_of, now)
