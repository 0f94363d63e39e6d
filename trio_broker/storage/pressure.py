"""Room: how many bytes logs may take, and whose segments give way when they take more.

Pure. Two rules, for which `broker.space_keeper` does the work:

- The *node budget* (`storage.bytes_max`, by default a share of each disk) bounds the logs
  themselves. What is left when all that may give way has given way is promised; if even that is
  more than the budget, produce is refused.
- A disk that is nearly full (`disk_state.DiskState` LOW or DEGRADED), by whatever fills it, is
  given room in the same way, but nothing is refused because of this rule: the disk's own state
  sees to that.

Who gives way: partitions of topics whose `retention.ms` and `retention.bytes` are the broker's
defaults. Topics for which one of them was set are promised what it says, and the broker's own
topics hold what only they know: neither ever gives way.
"""

from __future__ import annotations

from heapq import heapify, heappop, heapreplace
from typing import TYPE_CHECKING, NamedTuple

from trio_broker.config import GIB, KIB, MIB
from trio_broker.storage.disk_state import DEGRADED_SHARE, LOW_INODES, thresholds
from trio_broker.storage.retention import newest_ms

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from trio_broker.host.interface import Space
    from trio_broker.storage.retention import SegmentFacts

#: Share of a disk that its logs may take if nothing else is configured.
DISK_SHARE = 0.8
#: Once over the budget, so much more of it is made free, so that not every batch starts a search.
SLACK_SHARE = 0.02
#: Once a disk is low on space, room is made up to this many times the threshold.
LOW_MARGIN = 1.25
#: Files that go with a segment: the log, its offset index, its time index.
FILES_PER_SEGMENT = 3
#: A budget is cut into at least so many pieces of which one can give way.
PIECES = 16
PIECE_BYTES_MIN = 256 * KIB
#: Room set aside for logs that grow fast (`storage.reserve_bytes_max` for each) is together at most
#: this share of what is free on the disk; there is none where that comes to less than so much each.
RESERVE_SHARE = 1 / 16
RESERVE_BYTES_MIN = MIB
#: Least that one group commit may carry.
COMMIT_BYTES_MIN = 64 * KIB

#: Topic configs that are a promise if they were set for a topic.
PROMISES = frozenset({"retention.ms", "retention.bytes"})


class Wanted(NamedTuple):
    """Room to be made.

    Attributes:
        size_bytes: at least so many bytes,
        segments: and at least so many segments, whatever their size.
    """

    size_bytes: int = 0
    segments: int = 0

    def __bool__(self) -> bool:
        """Tell whether there is anything to do."""
        return self.size_bytes > 0 or self.segments > 0


class Holding(NamedTuple):
    """What one partition holds that may give way.

    Attributes:
        segments: oldest first.
        sealed: how many of them, from the oldest on, are never written again.
        upper_offset: the high watermark: what ends above it does not give way.
    """

    segments: Sequence[SegmentFacts]
    sealed: int
    upper_offset: int


class GivingWay(NamedTuple):
    """What is to go.

    Attributes:
        counts: for each holding how many of its oldest segments.
        size_bytes: of all of them.
        is_enough: they make all the room that was wanted.
    """

    counts: Sequence[int]
    size_bytes: int
    is_enough: bool


def gives_way(explicit_configs: Collection[str], *, is_internal: bool) -> bool:
    """Tell whether a topic gives way.

    Args:
        explicit_configs: names of the configs that were set for it.
        is_internal: it is one of the broker's own.
    """
    return not is_internal and PROMISES.isdisjoint(explicit_configs)


def choose(holdings: Sequence[Holding], wanted: Wanted, *, now_ms: int) -> GivingWay:
    """Decide which segments go to make room: as few as possible, in this order.

    Sealed segments before active ones; among those, the oldest first over all partitions, by the
    newest record in each; in every partition from its beginning on.

    Args:
        holdings: of partitions that give way.
        wanted: how much room.
        now_ms: wall clock, against which timestamps in the future are judged.
    """
    counts = [0] * len(holdings)
    size_bytes = segments = 0
    for takes_active in (False, True):
        heads: list[tuple[int, int]] = []
        for number, holding in enumerate(holdings):
            head = _head(holding, counts[number], takes_active=takes_active)
            if head is not None:
                heads.append((newest_ms(head, now_ms), number))
        heapify(heads)
        while heads and (size_bytes < wanted.size_bytes or segments < wanted.segments):
            number = heads[0][1]
            holding = holdings[number]
            size_bytes += holding.segments[counts[number]].size_bytes
            segments += 1
            counts[number] += 1
            head = _head(holding, counts[number], takes_active=takes_active)
            if head is None:
                heappop(heads)
            else:
                heapreplace(heads, (newest_ms(head, now_ms), number))
    is_enough = size_bytes >= wanted.size_bytes and segments >= wanted.segments
    return GivingWay(counts, size_bytes, is_enough)


def _head(holding: Holding, at: int, *, takes_active: bool) -> SegmentFacts | None:
    """Return the segment that would go next, None if none does in this round."""
    end = len(holding.segments) if takes_active else holding.sealed
    if at >= end:
        return None
    head = holding.segments[at]
    if head.size_bytes == 0 or head.end_offset > holding.upper_offset:
        return None
    return head


def default_bytes_max(total_bytes: int) -> int:
    """Return how many bytes logs may take on a disk of this size, unless configured otherwise."""
    return int(total_bytes * DISK_SHARE)


def over_budget(used_bytes: int, limit_bytes: int) -> Wanted:
    """Return the room to be made for logs to be within their budget; none if they are."""
    if used_bytes <= limit_bytes:
        return Wanted()
    return Wanted(used_bytes - limit_bytes + int(limit_bytes * SLACK_SHARE))


def low_on_space(space: Space) -> Wanted:
    """Return the room to be made on a disk for it to be well above its LOW threshold."""
    room_bytes = int(thresholds(space.total_bytes).low_bytes * LOW_MARGIN)
    missing_inodes = 0
    if 0 < space.free_inodes < LOW_INODES:
        missing_inodes = int(LOW_INODES * LOW_MARGIN) - space.free_inodes
    return Wanted(max(0, room_bytes - space.free_bytes), -(-missing_inodes // FILES_PER_SEGMENT))


def piece_bytes(limit_bytes: int, partitions: int) -> int:
    """Return the size at which segments that may give way roll, whatever `segment.bytes` says.

    Only whole segments give way. With the 1 GiB that a segment may have by default, a small disk
    would hold nothing but active ones, and making room would take all that a partition has.

    Args:
        limit_bytes: the budget.
        partitions: how many may give way.
    """
    return max(PIECE_BYTES_MIN, limit_bytes // (PIECES * max(1, partitions)))


def commit_bytes(total_bytes: int, shards: int) -> int:
    """Return how much one group commit may carry on a disk of this size.

    Little enough that what all shards have under way fits twice between the default budget and the
    free space at which produce is refused, so that making room is always in time.
    """
    gap_bytes = int(min(total_bytes, 10 * GIB) * (1 - DISK_SHARE - DEGRADED_SHARE))
    return max(COMMIT_BYTES_MIN, gap_bytes // (2 * shards))


def reserve_bytes(space: Space, logs: int, most_bytes: int) -> int:
    """Return how much room each log may have set aside for it.

    Args:
        space: of the disk.
        logs: how many there are on it.
        most_bytes: the limit that is configured.
    """
    each_bytes = int(space.free_bytes * RESERVE_SHARE) // max(logs, 1)
    return min(each_bytes, most_bytes) if each_bytes >= RESERVE_BYTES_MIN else 0


def refusal(used_bytes: int, limit_bytes: int, scope: str) -> str:
    """Return what a producer is told when nothing is left that may give way."""
    return (
        f"the logs {scope} take {used_bytes} of {limit_bytes} bytes (storage.bytes_max), and all "
        "that is left is promised: topics with a retention.ms or retention.bytes of their own, and "
        "the broker's own topics; shorten their retention, delete records or topics, or raise the "
        "limit"
    )
