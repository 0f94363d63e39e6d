"""The embedded store on a simulated disk: power cuts and errors at each operation.

The model is a list of states, one per commit. After a crash the store holds the state of the last
commit it acknowledged, or of the one it was asked for at that moment; nothing else ever.

Each run tries some of the operations, others with another seed; all of them take a minute:
``SWEEP_EVERY_OPERATION=1 python -m pytest tests/cluster/test_embedded_faults.py``.
"""

from __future__ import annotations

import errno
import os
from functools import partial

import pytest
from attrs import evolve

from tests.cluster.conftest import open_store
from trio_broker.cluster.store import OutcomeUnknown, StoreUnavailable
from trio_broker.errors import StorageError
from trio_broker.metadata.transaction import Committed, Delete, Put, Transaction
from trio_broker.testing.sim.faults import DiskFaults
from trio_broker.testing.sim.host import SimMachine
from trio_broker.testing.sim.run import simulate

pytestmark = pytest.mark.usefixtures("small_store")

DIRECTORY = "/data/metadata"
QUICK = DiskFaults(latency_seconds=(0, 0), sync_latency_seconds=(0, 0))
COMMITS = 24


def transaction(number: int) -> Transaction:
    """Return the commit with this number: a few puts, and at times a deletion."""
    operations = [Put(f"key/{number % 7}", b"%d." % number * (20 + number % 50))]
    if number % 3 == 0:
        operations.append(Put(f"other/{number}", b""))
    if number % 5 == 4:
        operations.append(Delete(f"key/{(number + 3) % 7}"))
    return Transaction((), tuple(operations))


class Workload:
    """Commits one transaction after another and remembers what each was told.

    Attributes:
        states: content after each number of commits, as a model says.
        acknowledged: commits that returned.
        in_doubt: whether one more may have happened.
    """

    def __init__(self) -> None:
        self.states: list[dict[str, bytes]] = [{}]
        self.acknowledged = 0
        self.in_doubt = False
        for number in range(3 * COMMITS):
            state = dict(self.states[-1])
            for operation in transaction(number).operations:
                if isinstance(operation, Put):
                    state[operation.key] = operation.value
                else:
                    state.pop(operation.key, None)
            self.states.append(state)

    async def check(self, store) -> None:
        """Compare the store with what may be; from here on it is known which it was."""
        snapshot = await store.snapshot()
        content = {entry.key: entry.value for entry in snapshot.entries}
        possible = {self.acknowledged, self.acknowledged + self.in_doubt}
        assert snapshot.revision in possible
        assert content == self.states[snapshot.revision]
        self.acknowledged, self.in_doubt = snapshot.revision, False

    async def commit(self, store, count: int) -> None:
        for _ in range(count):
            self.in_doubt = True
            outcome = await store.commit(transaction(self.acknowledged))
            assert isinstance(outcome, Committed)
            self.acknowledged += 1
            self.in_doubt = False

    async def run(self, host) -> None:
        """Open, check, commit, close, twice."""
        for _ in range(2):
            async with open_store(host, DIRECTORY, node_id=1) as store:
                await self.check(store)
                await self.commit(store, COMMITS // 2)


def new_machine(simulation, faults: DiskFaults = QUICK) -> SimMachine:
    machine = SimMachine(simulation, faults=faults)
    machine.fs.prepare_directory("/data")
    return machine


def count_operations() -> int:
    async def main(simulation) -> int:
        machine = new_machine(simulation)
        await machine.run(Workload().run)
        return machine.fs.operation_count

    return simulate(main, 0).unwrap()


def points(seed: int, stride: int) -> list[int]:
    """Return operations to fail at: every `stride`-th, another residue with another seed."""
    if "SWEEP_EVERY_OPERATION" in os.environ:
        stride = 1
    return list(range(1 + seed % stride, count_operations() + 1, stride))


@pytest.mark.parametrize("power", ["cut", "process killed"])
def test_a_crash_at_any_operation_loses_nothing_acknowledged(seed, power):
    async def main(simulation, operation: int) -> int:
        names_lost = "subset" if operation % 2 else "prefix"
        faults = evolve(QUICK, crash_at=operation, names_lost=names_lost)
        machine = new_machine(simulation, faults)
        workload = Workload()
        await machine.run(workload.run)
        assert not machine.fs.alive
        lives = 1
        while not machine.fs.alive:
            machine = machine.power_on() if power == "cut" else machine.restart_process()
            if lives == 1:  # and crash again, soon after the first recovery began
                machine.fs.faults = evolve(QUICK, crash_at=1 + operation % 23)
            lives += 1
            await machine.run(workload.run)
        return lives

    for operation in points(seed, 11):
        result = simulate(partial(main, operation=operation), seed + operation)
        assert result.unwrap() == 3, f"operation {operation}"


@pytest.mark.parametrize("error_number", [errno.EIO, errno.ENOSPC])
def test_an_error_at_any_operation_is_told_and_loses_nothing(seed, error_number):
    async def main(simulation, operation: int) -> None:
        faults = evolve(QUICK, fail_at=(operation, error_number))
        machine = new_machine(simulation, faults)
        workload = Workload()

        async def use(host) -> None:
            try:
                await workload.run(host)
            except* (StoreUnavailable, OutcomeUnknown, StorageError, OSError):
                pass  # what was refused did not happen, what is unknown is found out below

        await machine.run(use)
        # A power cut next: what was acknowledged is on the platter, not just in the cache.
        machine = machine.power_on()
        await machine.run(workload.run)

    for operation in points(seed, 13):
        simulate(partial(main, operation=operation), seed + operation).unwrap()


def test_after_a_refused_commit_the_store_goes_on(seed):
    """A disk that is full for a while costs the commits of that while, and nothing else."""

    async def main(simulation) -> tuple[int, int]:
        machine = new_machine(simulation)
        refused = 0
        workload = Workload()

        async def use(host) -> None:
            nonlocal refused
            async with open_store(host, DIRECTORY, node_id=1) as store:
                for number in range(COMMITS):
                    full = number % 6 >= 3
                    room = machine.fs.used_bytes if full else None
                    machine.fs.faults = evolve(QUICK, capacity_bytes=room)
                    try:
                        await workload.commit(store, 1)
                    except StoreUnavailable:
                        refused += 1
                        workload.in_doubt = False
                    await workload.check(store)

        await machine.run(use)
        machine = machine.power_on()
        machine.fs.faults = QUICK
        await machine.run(workload.run)
        return refused, workload.acknowledged

    refused, acknowledged = simulate(main, seed).unwrap()
    assert refused > 0
    assert acknowledged == COMMITS - refused + COMMITS


def test_after_a_failed_fsync_nothing_is_committed_until_it_is_opened_anew(seed):
    async def main(simulation) -> None:
        machine = new_machine(simulation)
        workload = Workload()

        async def use(host) -> None:
            async with open_store(host, DIRECTORY, node_id=1) as store:
                await workload.commit(store, 3)
                machine.fs.faults = evolve(QUICK, sync_error_rate=1.0)
                with pytest.raises(OutcomeUnknown):
                    await workload.commit(store, 1)
                machine.fs.faults = QUICK
                with pytest.raises(StoreUnavailable, match="has failed"):
                    await store.commit(transaction(0))
                assert "has failed" in repr(store)
                assert store.statistics().failure
                assert (await store.snapshot()).revision == 3
            await workload.run(host)

        await machine.run(use)
        machine = machine.power_on()
        await machine.run(workload.run)

    simulate(main, seed).unwrap()


def test_a_hung_disk_is_told_and_closing_does_not_wait_for_ever(seed):
    async def main(simulation) -> None:
        machine = new_machine(simulation)
        workload = Workload()

        async def use(host) -> None:
            async with open_store(host, DIRECTORY, node_id=1) as store:
                await workload.commit(store, 3)
                machine.fs.freeze()
                with pytest.raises(OutcomeUnknown):
                    await workload.commit(store, 1)
                with pytest.raises(StoreUnavailable, match="has failed"):
                    await store.commit(transaction(0))

        await machine.run(use)
        machine = machine.power_on()
        await machine.run(workload.run)

    result = simulate(main, seed)
    result.unwrap()
    assert result.virtual_seconds < 60
