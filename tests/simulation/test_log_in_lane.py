"""A log under load on a simulated lane: readers, a writer and retention at the same time.

What `test_log_model` leaves out: reads that are under way while segments are appended to, deleted
and closed, operations that hang, and power that fails in the middle of all of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from attrs import evolve

from tests.storage.bench import Bench, batch, values_in
from trio_broker.config import TopicConfig
from trio_broker.errors import StorageError
from trio_broker.host import jobs
from trio_broker.storage.handles import open_files_of
from trio_broker.testing.sim.faults import DiskFaults
from trio_broker.testing.sim.host import SimMachine
from trio_broker.testing.sim.run import Simulation, simulate

if TYPE_CHECKING:
    from random import Random

    from trio_broker.host.interface import Host, Lane
    from trio_broker.storage.log import Log

CONFIG = TopicConfig(segment_bytes=1024, index_interval_bytes=100, file_delete_delay_ms=0)
ROUNDS = 25
HANGS = DiskFaults(hang_rate=0.01, hang_seconds=5.0)


class Load:
    """One log, its lane, and what is known of its content.

    Attributes:
        published: every value that readers may see, by offset.
        acknowledged: offsets below are promised to survive.
    """

    def __init__(self, machine: SimMachine, draws: Random, faults: DiskFaults) -> None:
        self.machine = machine
        self.host = machine.host
        self.faults = faults
        self.draws = draws
        self.bench = Bench(machine.fs, "/data", files_max=3)
        self.bench.config = CONFIG
        self.published: dict[int, bytes] = {}
        self.acknowledged = 0
        self.reads = 0
        self.is_over = False

    async def run(self, _: Host) -> None:
        """Open the log, load it, close it."""
        lane = self.host.open_lane("lane", 1.0)
        async with trio.open_nursery() as nursery:
            await nursery.start(lane.serve)
            log: Log = await lane.run(self.bench.opening())
            self.machine.fs.faults = self.faults
            async with trio.open_nursery() as work:
                for _reader in range(3):
                    work.start_soon(self._read, lane, log)
                await self._write(lane, log)
                self.is_over = True
            log.close_files()
            while lane.stuck_seconds:  # noqa: ASYNC110 - nobody is told when a call comes back
                await trio.sleep(1)  # a file is held as long as a call on it hangs
            assert open_files_of(self.host.fs, log.owner) == []
            nursery.cancel_scope.cancel()

    async def _write(self, lane: Lane, log: Log) -> None:
        """Append, checkpoint and delete, as one shard's writer: one after the other."""
        for _round in range(ROUNDS):
            if log.is_broken:
                return
            values = [b"%06d" % self.draws.randrange(10**6) * 20 for _ in range(4)]
            plan = log.plan_append(
                [batch([v]) for v in values], now_ms=self.bench.now_ms, leader_epoch=0
            )
            try:
                await lane.run(log.append_job(plan, sync=True))
            except StorageError:
                log.abandon(plan)
                continue
            self.published.update(enumerate(values, log.log_end_offset))
            log.publish(plan, synced=True)
            self.acknowledged = log.log_end_offset
            if self.draws.random() < 0.3:
                await self._delete(lane, log)

    async def _delete(self, lane: Lane, log: Log) -> None:
        log.config = evolve(CONFIG, retention_bytes=2500)
        plan = log.plan_deletion(self.bench.now_ms)
        if plan is None:
            return
        try:
            log.publish_deletion(await lane.run(log.delete_segments_job(plan)), self.bench.now_ms)
        except (OSError, StorageError):
            log.mark_broken()
            return
        unlinking = log.unlink_deleted_job(self.bench.now_ms)
        assert unlinking is not None
        try:
            await lane.run(unlinking)
        except StorageError:
            pass  # the next start removes them

    async def _read(self, lane: Lane, log: Log) -> None:
        """Read anywhere, again and again; what comes must be what was published there."""
        while not self.is_over:
            await trio.sleep(self.draws.random() * 0.01)
            start, end = log.log_start_offset, log.log_end_offset
            offset = self.draws.randint(start, end)
            plan = log.locate(offset, max_bytes=600, upper_offset=end)
            assert plan is not None
            buffers = log.read_cached(plan)
            if buffers is None:
                try:
                    buffers = await lane.run(log.read_job(plan))
                except StorageError:
                    continue
            found = values_in(buffers)
            self.reads += 1
            if not found:
                assert offset == end or offset < log.log_start_offset, "only what was deleted"
                continue
            assert found[0][0] <= offset <= found[-1][0]
            assert found == [(at, self.published[at]) for at, _ in found]


def check_survivors(machine: SimMachine, load: Load) -> None:
    """Open the log after a power cut: all that was acknowledged and not deleted is there."""
    bench = Bench(machine.fs, "/data")
    bench.config = CONFIG
    step = machine.fs.step(jobs.run_inline, (bench.opening(),))
    log: Log = step  # type: ignore[assignment]
    assert log.log_end_offset >= load.acknowledged
    bench._log = log
    found = dict(machine.fs.step(bench.read_all, ()))  # type: ignore[call-overload]
    for offset in range(log.log_start_offset, load.acknowledged):
        assert found[offset] == load.published[offset]
    bench.crash()


@pytest.mark.parametrize("hangs", [False, True])
def test_readers_see_what_was_published_whatever_goes_on(hangs: bool, seed: int) -> None:
    async def main(simulation: Simulation) -> int:
        machine = SimMachine(simulation)
        machine.fs.prepare_directory("/data")
        load = Load(machine, simulation.random("load"), HANGS if hangs else DiskFaults())
        await machine.run(load.run)
        check_survivors(machine.power_on(), load)
        return load.reads

    assert sum(simulate(main, seed + number).unwrap() for number in range(5)) > 50


def test_power_may_fail_at_any_moment_of_the_load(seed: int) -> None:
    async def main(simulation: Simulation) -> None:
        crash_at = simulation.random("crash").randint(10, 250)
        machine = SimMachine(simulation)
        machine.fs.prepare_directory("/data")
        load = Load(machine, simulation.random("load"), DiskFaults(crash_at=crash_at))
        await machine.run(load.run)
        check_survivors(machine.power_on(), load)

    for number in range(15):
        simulate(main, seed + number).unwrap()
