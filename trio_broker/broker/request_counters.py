"""What the busy paths count: requests by API with their latencies, bytes and batches by topic.

Plain integers and one bisection a request: well below a microsecond, so that it can stay on. Read
by `statistics`, which copies; written by connections, by the answers to Produce and Fetch, and by
the shards' writers.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Final

from trio_broker.storage.retention import DeletionReason

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Upper bounds of the buckets, in seconds, inclusive as Prometheus has them; one more bucket holds
#: what is above the last.
LATENCY_BOUNDS_SECONDS: Final = (
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
)


class ApiCounter:
    """Requests of one API that were answered.

    Attributes:
        counts: by bucket, not cumulative.
        seconds: sum of all latencies.
    """

    __slots__ = ("counts", "seconds")

    def __init__(self) -> None:
        self.counts = [0] * (len(LATENCY_BOUNDS_SECONDS) + 1)
        self.seconds = 0.0

    def __repr__(self) -> str:
        return f"<ApiCounter {sum(self.counts)} requests, {self.seconds:.3f} s>"

    def observe(self, seconds: float) -> None:
        """Count one request that took so long."""
        self.counts[bisect_left(LATENCY_BOUNDS_SECONDS, seconds)] += 1
        self.seconds += seconds


class RequestCounters:
    """One counter for each API that the broker serves, there from the start."""

    __slots__ = ("_by_key",)

    def __init__(self, api_keys: Mapping[int, object]) -> None:
        self._by_key = {int(key): ApiCounter() for key in api_keys}

    def __repr__(self) -> str:
        return f"<RequestCounters of {len(self._by_key)} APIs>"

    def __getitem__(self, api_key: int) -> ApiCounter:
        """Return the counter of an API.

        Raises:
            KeyError: it is not served.
        """
        return self._by_key[api_key]

    def items(self) -> list[tuple[int, ApiCounter]]:
        """Return every (API key, counter)."""
        return list(self._by_key.items())


class TopicTraffic:
    """What went into a topic and out of it. Hangs off `RoutedTopic` and goes with it.

    Attributes:
        produced_bytes: stored batches.
        produced_batches: how many.
        produced_records: how many records they held.
        fetched_bytes: batches sent.
        fetches: parts of Fetch responses that held any.
        deleted_segments: taken away by retention, by rule.
        deleted_bytes: in them.
    """

    __slots__ = (
        "deleted_bytes",
        "deleted_segments",
        "fetched_bytes",
        "fetches",
        "produced_batches",
        "produced_bytes",
        "produced_records",
    )

    def __init__(self) -> None:
        self.produced_bytes = 0
        self.produced_batches = 0
        self.produced_records = 0
        self.fetched_bytes = 0
        self.fetches = 0
        self.deleted_segments = dict.fromkeys(DeletionReason, 0)
        self.deleted_bytes = dict.fromkeys(DeletionReason, 0)

    def __repr__(self) -> str:
        return f"<TopicTraffic in={self.produced_bytes} B out={self.fetched_bytes} B>"

    def produced(self, size_bytes: int, batches: int, records: int) -> None:
        """Count what one group commit has stored."""
        self.produced_bytes += size_bytes
        self.produced_batches += batches
        self.produced_records += records

    def fetched(self, size_bytes: int) -> None:
        """Count one partition's part of a Fetch response."""
        self.fetched_bytes += size_bytes
        self.fetches += 1

    def deleted(self, reason: DeletionReason, segments: int, size_bytes: int) -> None:
        """Count what retention has taken away."""
        self.deleted_segments[reason] += segments
        self.deleted_bytes[reason] += size_bytes
