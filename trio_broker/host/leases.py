"""Shares of the process's descriptors: brokers in one process know of each other.

The limit (RLIMIT_NOFILE) is the process's, so each broker takes a lease before it opens anything,
and gives it back once it has closed everything. Whenever one comes or goes, the shares of all are
settled anew and told. Brokers may run in different threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple


class Claim(NamedTuple):
    """What one broker wants.

    Attributes:
        reserved: what it uses in any case.
        least: without so many more it cannot run.
        most: it has no use for more than so many more.
    """

    reserved: int
    least: int
    most: int


class Lease:
    """One broker's share, while it lasts.

    Attributes:
        claim: what was asked for.
        taken: descriptors that were open before the first of those that share came.
        others: what the other brokers need, together; as of when it was taken.
        room: how many it may have besides those reserved; changes while others come and go.
        tell: lets its broker know of that.
    """

    def __init__(self, claim: Claim, changed: Callable[[], None]) -> None:
        self.claim = claim
        self.taken = 0
        self.others = 0
        self.room = 0
        self.tell = changed

    def __repr__(self) -> str:
        return f"<Lease of {self.claim.reserved} + {self.room}>"


class DescriptorLeases:
    """The leases of one process. Safe on any thread; nothing waits."""

    def __init__(self) -> None:
        self.forget()

    def __repr__(self) -> str:
        return f"<DescriptorLeases {self._leases}>"

    def forget(self) -> None:
        """Know of nobody: in a child of a fork, where those of the parent do not run."""
        self._lock = threading.Lock()
        self._leases: list[Lease] = []
        self._taken = 0

    @contextmanager
    def lease(
        self, claim: Claim, changed: Callable[[], None], *, allowed: int, taken: Callable[[], int]
    ) -> Iterator[Lease]:
        """Take a share for the length of a block, if there is enough; else its `room` is negative.

        Args:
            claim: what is wanted.
            changed: called when `Lease.room` has changed because others have come or gone, by
                whoever has, maybe in another thread.
            allowed: descriptors that the process may have.
            taken: tells how many are open; asked if nobody has a share yet.
        """
        lease = Lease(claim, changed)
        with self._lock:
            if not self._leases:
                self._taken = taken()
            lease.taken = self._taken
            lease.others = sum(other.claim.reserved + other.claim.least for other in self._leases)
            needed = self._taken + lease.others + claim.reserved + claim.least
            if needed > allowed:
                lease.room = allowed - needed
            else:
                self._leases.append(lease)
            affected = self._settle(allowed)
        for other in affected:
            if other is not lease:
                other.tell()
        try:
            yield lease
        finally:
            with self._lock:
                if lease in self._leases:
                    self._leases.remove(lease)
                affected = self._settle(allowed)
            for other in affected:
                other.tell()

    def _settle(self, allowed: int) -> list[Lease]:
        """Settle all shares anew; return whose have changed."""
        claims = [lease.claim for lease in self._leases]
        found = rooms(allowed - self._taken, claims)
        changed = []
        for lease, room in zip(self._leases, found, strict=True):
            if room != lease.room:
                lease.room = room
                changed.append(lease)
        return changed


def rooms(total: int, claims: Sequence[Claim]) -> list[int]:
    """Divide so that everybody has the least it needs, and the rest goes in equal parts.

    What somebody has no use for goes to the others.
    """
    found = [claim.least for claim in claims]
    rest = total - sum(claim.reserved + claim.least for claim in claims)
    hungry = [number for number, claim in enumerate(claims) if claim.most > claim.least]
    while rest > 0 and hungry:
        part = max(rest // len(hungry), 1)
        for number in hungry:
            more = min(part, rest, claims[number].most - found[number])
            found[number] += more
            rest -= more
        hungry = [number for number in hungry if claims[number].most > found[number]]
    return found
