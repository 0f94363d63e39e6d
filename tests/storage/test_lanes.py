"""A log worked on by several tasks at once, its jobs on a lane that lets the others run between."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
from attrs import evolve

from tests.storage.bench import Bench, batch, values_in
from trio_broker.config import Durability, TopicConfig
from trio_broker.errors import StuckIO
from trio_broker.storage.log import Accepted
from trio_broker.testing.sim.host import SimMachine
from trio_broker.testing.sim.lane import SimLane
from trio_broker.testing.sim.run import Simulation, simulate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from trio_broker.storage.log import Log

DEADLINE_SECONDS = 1.0
SMALL = TopicConfig(segment_bytes=2000, index_interval_bytes=300, file_delete_delay_ms=0)


def run(program: Callable[[Stand], Awaitable[Any]], seed: int = 1) -> Any:
    """Run a program with an open log in a deterministic simulation."""

    async def main(simulation: Simulation) -> Any:
        machine = SimMachine(simulation)
        machine.fs.prepare_directory("/logs")
        async with served(machine) as lane:
            stand = Stand(machine, lane)
            await stand.open()
            result = await program(stand)
            stand.log.close_files()
            stand.bench.cache.take_offers()
            assert not machine.fs.open_files()
            return result

    return simulate(main, seed, max_seconds=3600).unwrap()


@asynccontextmanager
async def served(machine: SimMachine) -> AsyncIterator[SimLane]:
    lane = SimLane("shard", DEADLINE_SECONDS)
    async with trio.open_nursery() as nursery:
        await nursery.start(lane.serve)
        yield lane
        nursery.cancel_scope.cancel()


class Stand:
    """A log, its lane, and the lock that a shard has for changing logs."""

    def __init__(self, machine: SimMachine, lane: SimLane) -> None:
        self.machine = machine
        self.lane = lane
        self.changes = trio.Lock()
        self.bench = Bench(machine.fs, "/logs", files_max=2)
        self.bench.config = SMALL
        self.bench.settings = evolve(self.bench.settings, recovery_point_bytes=5000)

    @property
    def log(self) -> Log:
        return self.bench.log

    async def open(self) -> None:
        self.bench._log = await self.lane.run(self.bench.opening())

    async def append(self, *values: bytes, sync: bool = True) -> list[int]:
        async with self.changes:
            log = self.log
            plan = log.plan_append(
                [batch([value]) for value in values],
                now_ms=self.machine.wall.now_ms(),
                leader_epoch=0,
            )
            done = False
            try:
                await self.lane.run(log.append_job(plan, sync=sync))
                done = True
            finally:
                if done:
                    log.publish(plan, synced=sync, now_seconds=trio.current_time())
                else:
                    log.abandon(plan)
            return [o.base_offset for o in plan.outcomes if isinstance(o, Accepted)]

    async def keep_house(self) -> None:
        log = self.log
        async with self.changes:
            if log.checkpoint_due:
                log.mark_checkpointed(await self.lane.run(log.checkpoint_job()))
            now_ms = self.machine.wall.now_ms()
            plan = log.plan_deletion(now_ms)
            if plan is not None:
                log.publish_deletion(await self.lane.run(log.delete_segments_job(plan)), now_ms)
            unlinking = log.unlink_deleted_job(now_ms)
            if unlinking is not None:
                await self.lane.run(unlinking)


@pytest.mark.parametrize("durability", [Durability.FSYNC, Durability.INTERVAL])
def test_readers_see_what_was_written_while_segments_roll_and_go(
    seed: int, durability: Durability
) -> None:
    async def program(stand: Stand) -> int:
        stored: dict[int, bytes] = {}
        stopped = False
        sync = durability is Durability.FSYNC
        stand.bench.durability = stand.log.durability = durability
        stand.log.config = evolve(SMALL, retention_bytes=8000)

        async def write() -> None:
            nonlocal stopped
            for number in range(60):
                values = [b"%d-%d" % (number, n) + b"." * (37 * n % 400) for n in range(3)]
                offsets = await stand.append(*values, sync=sync)
                stored.update(zip(offsets, values, strict=True))
            stopped = True

        async def read(lag: int) -> None:
            while not stopped:
                log = stand.log
                offset = max(log.log_start_offset, log.log_end_offset - lag)
                plan = log.locate(offset, max_bytes=700, upper_offset=log.log_end_offset)
                if plan is None:
                    continue
                buffers = log.read_cached(plan)
                if buffers is None:
                    buffers = await stand.lane.run(log.read_job(plan))
                for found, value in values_in(buffers):
                    assert stored.get(found, value) == value
                await trio.sleep(0.001)

        async def keep_house() -> None:
            while not stopped:
                await trio.sleep(0.01)
                await stand.keep_house()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            nursery.start_soon(keep_house)
            for lag in (1, 10, 10_000):
                nursery.start_soon(read, lag)
        log = stand.log
        assert log.log_end_offset == 180
        assert log.log_start_offset > 0
        return log.log_end_offset

    assert run(program, seed) == 180


def test_a_commit_that_was_cancelled_in_the_queue_did_not_happen() -> None:
    async def program(stand: Stand) -> None:
        stand.machine.fs.freeze()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hold_lane, stand)
            await trio.sleep(0.01)
            with trio.move_on_after(0.1) as scope:
                await stand.append(b"never")
            assert scope.cancelled_caught
            assert not stand.log.is_broken
            stand.machine.fs.thaw()
        assert await stand.append(b"now") == [0]

    run(program)


async def hold_lane(stand: Stand) -> None:
    await stand.lane.call(stand.machine.fs.list_directory, "/logs")


def test_a_commit_that_hangs_breaks_the_log_until_it_is_opened_again() -> None:
    async def program(stand: Stand) -> None:
        assert await stand.append(b"first") == [0]
        stand.machine.fs.freeze()
        with pytest.raises(StuckIO):
            await stand.append(b"hanging")
        log = stand.log
        assert log.is_broken
        assert log.log_end_offset == 1
        log.close_files()
        assert stand.machine.fs.open_files()  # the descriptor stays with the hanging call
        stand.machine.fs.thaw()
        await trio.sleep(1.0)
        assert not stand.machine.fs.open_files()
        await stand.open()
        # What hung was refused, and may be in the log all the same.
        offset = stand.log.log_end_offset
        assert offset in {1, 2}
        assert await stand.append(b"after") == [offset]

    run(program)


def test_a_log_opened_while_another_is_written(seed: int) -> None:
    async def program(stand: Stand) -> None:
        await stand.append(b"a" * 3000, b"b" * 3000)
        stand.log.close_files()
        await stand.open()
        found = stand.log.locate(0, max_bytes=10_000, upper_offset=2)
        assert found is not None
        assert len(values_in(await stand.lane.run(stand.log.read_job(found)))) == 1

    run(program, seed)
