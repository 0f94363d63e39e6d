"""`sim.broker()` and `sim.brokers()` in explored tests, run as users' tests are."""

from __future__ import annotations

import pytest

from trio_broker.client import open_client
from trio_broker.testing.simulation import BrokerSimulation


@pytest.mark.explore(seeds=4, double_run=0.5)
async def test_a_broker_is_killed_and_comes_back(sim: BrokerSimulation) -> None:
    laptop = sim.machine("laptop").host
    async with (
        sim.broker() as server,
        open_client("server:9092", host=laptop) as client,
        client.open_producer() as producer,
    ):
        await client.admin.create_topic("orders")
        await producer.send("orders", b"1", partition=0)
        server.kill()
        await server.start()
        placed = await producer.send("orders", b"2", partition=0)
        assert placed.offset == 1


@pytest.mark.explore(seeds=2)
async def test_several_brokers_share_a_network(sim: BrokerSimulation) -> None:
    laptop = sim.machine("laptop").host
    async with sim.brokers(3) as servers:
        for number, server in enumerate(servers):
            async with open_client(f"server-{number}:9092", host=laptop) as client:
                await client.admin.create_topic(f"topic-{number}")
                topics = await client.admin.list_topics()
                assert [topic.name for topic in topics] == [f"topic-{number}"]
            assert server.machine.name == f"server-{number}"
