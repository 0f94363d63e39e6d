"""Arithmetic of the high watermark: how far consumers may read, and acks=all be answered.

Called by `broker.Replica` after each publish. The rules are KIP-966's: the watermark is the least
offset among all replicas that are, or may already count as, in sync; it stands still while too
few of them are; and it never falls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_broker.config import Durability

if TYPE_CHECKING:
    from collections.abc import Iterable


def counted_offset(durability: Durability, *, log_end_offset: int, durable_offset: int) -> int:
    """Return how much of its own log a replica vouches for.

    In `fsync` mode that is what would survive a power failure, so that nothing can be read or
    acknowledged that may be gone tomorrow; in the other modes it is everything published.

    Args:
        durability: of the topic.
        log_end_offset: end of what is published.
        durable_offset: end of what is on stable storage.
    """
    if durability is Durability.FSYNC:
        return min(durable_offset, log_end_offset)
    return log_end_offset


def min_in_sync_replicas(min_insync_replicas: int, replica_count: int) -> int:
    """Return how many replicas must be in sync for the watermark to move.

    A partition with fewer replicas than `min_insync_replicas` can never have that many in sync:
    acks=all is refused there, but what acks=1 wrote must become readable.
    """
    return min(min_insync_replicas, replica_count)


def advance(
    current: int,
    own_offset: int,
    follower_offsets: Iterable[int] = (),
    *,
    in_sync_count: int = 1,
    min_in_sync_count: int = 1,
) -> int:
    """Return the new high watermark.

    With one replica it is simply `own_offset`, unless that is below `current`.

    Args:
        current: high watermark so far.
        own_offset: `counted_offset` of the leader.
        follower_offsets: the same of each follower in the maximal ISR: in sync, or about to be.
        in_sync_count: replicas in sync, the leader included and those about to be not.
        min_in_sync_count: see `min_in_sync_replicas`.
    """
    if in_sync_count < min_in_sync_count:
        return current
    return max(current, min([own_offset, *follower_offsets]))
