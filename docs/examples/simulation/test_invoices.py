"""Does every order get its invoice, even if the program is stopped and started again?

``COMMITS_IN_ORDER=0 pytest test_invoices.py`` tests the careless program, and fails.
"""

from __future__ import annotations

import os

import pytest
import trio
from invoices import write_invoices

from trio_broker.client import open_client
from trio_broker.testing import memory_broker, records, wait_for_lag

COMMITS_IN_ORDER = os.environ.get("COMMITS_IN_ORDER", "1") == "1"
ORDERS = [b"pizza", b"pasta", b"salad", b"soup"]


@pytest.mark.explore(seeds=30)
async def test_every_order_gets_its_invoice(sim) -> None:
    """Run once per seed, each with a broker of its own."""

    async def find_price(order: bytes) -> int:
        await trio.sleep(sim.random("prices").expovariate(1 / 2))
        return len(order)

    async def run_for(seconds: float) -> None:
        with trio.move_on_after(seconds):
            async with open_client(broker=broker) as client:
                await write_invoices(client, find_price, commits_in_order=COMMITS_IN_ORDER)

    async with memory_broker() as broker:
        await broker.create_topic("orders")
        await broker.create_topic("invoices")
        for order in ORDERS:
            await broker.produce("orders", order)

        await run_for(sim.random("stop").uniform(0, 5))  # stopped some time...
        await run_for(60)  # ...and started again, for long enough
        await wait_for_lag(broker, "billing", 0)
        invoices = await records(broker, "invoices")

    paid_for = {record.value.split()[0] for record in invoices}
    assert paid_for == set(ORDERS)
