"""What looking costs: ``python -m tests.admin.cost``; the reference page quotes its figures.

A simulated broker with many partitions and groups is asked for its statistics and its metrics page;
and a request is counted many times over. Times are of one thread's CPU, so that a busy machine
disturbs little.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tests.broker.harness import World
from trio_broker.admin.families import Shown
from trio_broker.admin.metrics import render
from trio_broker.broker.request_counters import ApiCounter
from trio_broker.broker.statistics import health_facts, snapshot
from trio_broker.group.commands import CommitOffsets
from trio_broker.group.offsets import OffsetToCommit
from trio_broker.names import TopicName
from trio_broker.testing.sim.run import simulate

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_broker.testing.sim.run import Simulation

TOPICS = 10
PARTITIONS = 100
ROUNDS = 7


def best_ms(function: Callable[[], object]) -> float:
    """Return the CPU time of the quickest of some calls, in milliseconds."""
    found = []
    for _ in range(ROUNDS):
        began = time.thread_time()
        function()
        found.append((time.thread_time() - began) * 1000)
    return min(found)


async def measure(sim: Simulation) -> None:
    """Build the broker, and print what it costs to look at it."""
    world = World(sim)
    async with world.running() as run:
        for number in range(TOPICS):
            name = f"topic-{number}"
            await run.broker.create_topic(name, partitions=PARTITIONS)
            offsets = tuple(
                OffsetToCommit(TopicName(name), index, 0, topic_id=run.topic_id(name))
                for index in range(PARTITIONS)
            )
            request = CommitOffsets(group_id=f"group-{number}", offsets=offsets)
            await run.state.coordinator.commit(request)
        found = snapshot(run.state)
        pages = {
            "": render(Shown(found))[0],
            " without per-partition series": render(Shown(found, per_partition=False))[0],
        }
        count = TOPICS * PARTITIONS
        print(f"{count} partitions, {count} committed offsets in {TOPICS} groups")
        print(f"  statistics()            {best_ms(lambda: snapshot(run.state)):8.2f} ms")
        print(f"  facts for a probe       {best_ms(lambda: health_facts(run.state)):8.2f} ms")
        for what, page in pages.items():
            series = sum(not line.startswith(b"#") for line in page.splitlines())
            per_partition = not what
            took = best_ms(
                lambda per_partition=per_partition: render(  # type: ignore[misc]
                    Shown(found, per_partition=per_partition)
                )
            )
            print(f"  page of {series:5} series    {took:8.2f} ms{what}, off the event loop")


def measure_counter() -> None:
    """Print what counting one request costs."""
    counter = ApiCounter()
    count = 100_000
    took = best_ms(lambda: [counter.observe(0.003) for _ in range(count)])
    print(f"  counting a request      {took / count * 1000:8.2f} us, without reading the clock")


if __name__ == "__main__":
    simulate(measure, 1, max_seconds=1e6, max_steps=10**9).unwrap()
    measure_counter()
