"""Does every increment count? Three workers, and machines that stand still now and then.

``CHECKS_LEASES=0 pytest test_lease.py`` tests the server that does not look at leases, and fails.
"""

from __future__ import annotations

import os
from functools import partial

import pytest
import trio
from lease import Server, add_one

CHECKS_LEASES = os.environ.get("CHECKS_LEASES", "1") == "1"


@pytest.mark.explore(seeds=100)
async def test_every_increment_counts(sim) -> None:
    """Run once per seed."""
    server = Server(checks_leases=CHECKS_LEASES)
    machine = sim.machine("server")
    workers = [sim.machine(f"worker-{number}") for number in range(3)]

    async def work(worker, _) -> None:
        await add_one(worker.open_tcp_stream)

    async def stand_still() -> None:
        """Let some worker stand still for a while, as a virtual machine that is being moved."""
        draws = sim.random("standing still")
        for _ in range(3):
            await trio.sleep(draws.uniform(0, 0.02))
            draws.choice(workers).pause(seconds=draws.choice([1, 30]))

    async with trio.open_nursery() as nursery:
        await nursery.start(machine.serve_tcp, server.serve, 80)
        nursery.start_soon(stand_still, name="standing still")
        async with trio.open_nursery() as working:
            for worker in workers:
                working.start_soon(worker.run, partial(work, worker), name=worker.name)
        nursery.cancel_scope.cancel()

    assert server.value == len(workers)
