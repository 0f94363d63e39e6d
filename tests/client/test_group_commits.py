"""Commits of a member that the coordinator does not take at once, in simulation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from trio_broker import BrokerConfig, GroupConfig, open_broker
from trio_broker.client import ConsumerOptions, GroupOptions, TopicPartition, open_client
from trio_broker.testing.request_faults import ErrorFault, RequestFaults
from trio_broker.testing.sim.host import SimMachine
from trio_broker.testing.sim.network import SimInternet
from trio_broker.testing.sim.run import simulate

if TYPE_CHECKING:
    from trio_broker.testing.sim.run import Simulation

PLACE = TopicPartition("orders", 0)
#: Longer than the pause before the second attempt.
PATIENCE_SECONDS = 2


async def program(sim: Simulation) -> list[int]:
    """Commit while an earlier commit is tried again; return what is committed, then and later."""
    internet = SimInternet(sim.streams, note=sim.note)
    server = SimMachine(sim, "server", internet=internet).host
    laptop = SimMachine(sim, "laptop", internet=internet).host
    config = BrokerConfig(
        data_dir="/data",
        listeners=("server:9092",),
        group=GroupConfig(initial_rebalance_delay_ms=0),
    )
    faults = RequestFaults()
    committed = []
    async with (
        open_broker(config, host=server, interceptor=faults) as broker,
        open_client("server:9092", host=laptop) as client,
    ):
        await broker.create_topic("orders")
        for _ in range(10):
            await broker.produce("orders", b"x")
        async with client.open_group_consumer(
            "billing",
            ["orders"],
            ConsumerOptions(auto_offset_reset="earliest"),
            group_options=GroupOptions(auto_commit_seconds=5),
        ) as consumer:
            for _ in range(5):
                await consumer.next_record()
            loading = ErrorFault(api="OffsetCommit", code="COORDINATOR_LOAD_IN_PROGRESS")
            faults.add(loading)
            await loading.wait_met()
            for _ in range(5):
                await consumer.next_record()
            await consumer.commit()
            for _ in range(2):
                offsets = await client.admin.group_offsets("billing")
                committed.append(offsets[PLACE].offset)
                await trio.sleep(PATIENCE_SECONDS)
    return committed


def test_a_commit_that_is_tried_again_does_not_come_after_a_later_one(seed: int) -> None:
    committed: Any = simulate(program, seed, max_seconds=1_000.0).unwrap()
    assert committed == [10, 10]
