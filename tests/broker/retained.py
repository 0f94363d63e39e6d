"""What the tests of retention and of the node budget have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from trio_broker.config import KIB, TopicConfig
from trio_broker.records.build import Record
from trio_broker.storage.retention import DeletionReason
from trio_broker.testing.sim.faults import DiskFaults

if TYPE_CHECKING:
    from tests.broker.harness import Running, World

#: A disk on which nothing takes any time, so that "at" means at.
INSTANT = DiskFaults(latency_seconds=(0.0, 0.0), sync_latency_seconds=(0.0, 0.0))
DEFAULTS = {"topic": TopicConfig()}
BATCH = 64 * KIB
#: What it takes on disk, and a little more.
BATCH_MAX = BATCH + KIB


def now_ms(world: World) -> int:
    return world.host.wall.now_ms()


async def sleep_until_ms(world: World, wall_ms: int) -> None:
    await trio.sleep((wall_ms - now_ms(world)) / 1000)
    assert now_ms(world) == wall_ms


def kept(run: Running, topic: str, partition: int = 0) -> int:
    """Return how many records are still there."""
    log = run.replica(topic, partition).log
    return log.log_end_offset - log.log_start_offset


def deleted(run: Running, topic: str) -> dict[DeletionReason, int]:
    """Return how many segments went, by reason."""
    counts = run.state.router.by_name[topic].traffic.deleted_segments
    return {reason: count for reason, count in counts.items() if count}


async def fill(
    run: Running, topic: str, size_bytes: int, *, partition: int = 0, batch_bytes: int = BATCH
) -> None:
    for _ in range(size_bytes // batch_bytes):
        record = Record(
            key=None, value=b"x" * batch_bytes, timestamp_ms=run.state.host.wall.now_ms()
        )
        await run.broker.produce_batch(topic, [record], partition=partition)


async def eventually(condition: Any, seconds: float = 200.0) -> None:
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - of a simulated clock, by a condition of any kind
            await trio.sleep(0.05)
