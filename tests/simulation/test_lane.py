"""The simulated lane and machine: hung operations, races with jobs, and loss of power."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
from attrs import evolve

from trio_broker.errors import LogDirInUse, StuckIO
from trio_broker.host import jobs
from trio_broker.testing.sim.faults import DiskFaults, NodeDead
from trio_broker.testing.sim.host import EPOCH_MS, SimMachine, sim_host
from trio_broker.testing.sim.lane import SimLane
from trio_broker.testing.sim.run import Simulation, simulate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from trio_broker.host.interface import Host, Job
    from trio_broker.testing.sim.disk import SimFileSystem

DEADLINE_SECONDS = 1.0


def run(program: Callable[[SimMachine, SimLane], Awaitable[Any]], seed: int = 1) -> Any:
    """Run a program with a machine and a lane that is served."""

    async def main(simulation: Simulation) -> Any:
        machine = SimMachine(simulation)
        machine.fs.prepare_directory("/data")
        async with served(machine) as lane:
            return await program(machine, lane)

    return simulate(main, seed).unwrap()


@asynccontextmanager
async def served(machine: SimMachine) -> AsyncIterator[SimLane]:
    lane = SimLane("lane", DEADLINE_SECONDS)
    async with trio.open_nursery() as nursery:
        await nursery.start(lane.serve)
        yield lane
        nursery.cancel_scope.cancel()


def write_job(fs: SimFileSystem, *contents: bytes) -> Job[int]:
    file = yield from jobs.open_file(fs, "/data/file", "test", create=True)
    try:
        for content in contents:
            yield from jobs.append_all(file, file.size, [content])
        yield from jobs.sync(file)
    finally:
        file.close()
    return file.size


def test_every_call_takes_time() -> None:
    async def program(machine: SimMachine, lane: SimLane) -> None:
        began_at = trio.current_time()
        assert await lane.run(write_job(machine.fs, b"abc", b"def")) == 6
        least = 3 * machine.fs.faults.latency_seconds[0] + machine.fs.faults.sync_latency_seconds[0]
        assert trio.current_time() - began_at > least
        assert machine.fs.operation_count == 4

    run(program)


def test_other_tasks_run_between_the_calls_of_a_job() -> None:
    async def program(machine: SimMachine, lane: SimLane) -> None:
        buffer = bytearray(b"right")

        async def careless() -> None:
            await trio.sleep(0.00015)
            buffer[:] = b"wrong"

        async with trio.open_nursery() as nursery:
            nursery.start_soon(careless)
            await lane.run(write_job(machine.fs, buffer))
        assert machine.fs.content("/data/file") == b"wrong", "the race must show"

    run(program)


def test_a_hung_call_is_given_up_and_its_file_left_alone() -> None:
    async def program(machine: SimMachine, lane: SimLane) -> None:
        fs = machine.fs
        file = await lane.run(jobs.open_file(fs, "/data/file", "test", create=True))
        lock = await lane.call(fs.lock_directory, "/data", "first")
        fs.freeze()
        began_at = trio.current_time()
        with pytest.raises(StuckIO, match="write_at of /data/file"):
            await lane.call(file.write_at, 0, [b"late"])
        assert trio.current_time() == began_at + DEADLINE_SECONDS
        assert lane.stuck_seconds == DEADLINE_SECONDS
        with pytest.raises(StuckIO, match="held up by write_at /data/file"):
            await lane.call(fs.stat, "/data")
        assert file.read_cached(0, 1) is None
        file.close()
        assert len(fs.open_files()) == 1, "closed only when the call has come back"
        lock.release()
        await trio.sleep(10)
        fs.thaw()
        await trio.sleep(1)
        assert (fs.open_files(), lane.stuck_seconds) == ([], 0.0)
        assert fs.content("/data/file") == b"late", "the call had its effect all the same"
        await lane.call(fs.lock_directory, "/data", "second")

    run(program)


def test_a_stuck_file_refuses_until_the_call_has_come_back() -> None:
    async def program(machine: SimMachine, lane: SimLane) -> None:
        fs = machine.fs
        file = await lane.run(jobs.open_file(fs, "/data/file", "test", create=True))
        fs.freeze()
        async with served(machine) as other:
            with pytest.raises(StuckIO):
                await lane.run(jobs.append_all(file, 0, [b"late"]))
            with pytest.raises(StuckIO, match="has not returned"):
                await other.run(jobs.append_all(file, 0, [b"other"]))
            fs.thaw()
            await trio.sleep(1)
            assert await other.run(jobs.append_all(file, 0, [b"other"])) == 5
        # The job that was given up has cut back what it wrote, once it could.
        assert fs.content("/data/file") == b"other"
        file.close()

    run(program)


def test_the_lock_of_a_directory_outlives_a_hung_call_in_it() -> None:
    async def program(machine: SimMachine, lane: SimLane) -> None:
        fs = machine.fs
        lock = await lane.call(fs.lock_directory, "/data", "first")
        fs.freeze()
        with pytest.raises(StuckIO):
            await lane.call(fs.unlink, "/data/missing")
        lock.release()
        fs.thaw()
        with pytest.raises(LogDirInUse):
            fs.step(fs.lock_directory, ("/data", "second"))
        await trio.sleep(1)
        fs.step(fs.lock_directory, ("/data", "second"))

    run(program)


def test_what_a_hung_open_finds_is_closed() -> None:
    async def program(machine: SimMachine, lane: SimLane) -> None:
        machine.fs.freeze()
        with pytest.raises(StuckIO):
            await lane.run(jobs.open_file(machine.fs, "/data/file", "test", create=True))
        machine.fs.thaw()
        await trio.sleep(1)
        assert machine.fs.content("/data/file") == b""
        assert machine.fs.open_files() == []

    run(program)


def test_a_lane_can_be_stopped_while_a_call_hangs_for_ever() -> None:
    async def program(machine: SimMachine, lane: SimLane) -> None:
        machine.fs.faults = DiskFaults(hang_rate=1.0)
        with pytest.raises(StuckIO):
            await lane.call(machine.fs.stat, "/data")

    run(program)


def test_a_lane_that_is_stopped_ends_its_job_and_starts_no_other() -> None:
    async def program(machine: SimMachine, lane: SimLane) -> None:
        results: list[object] = []

        async def caller(label: str, other: SimLane, job: Job[Any]) -> None:
            try:
                results.append((label, await other.run(job)))
            except StuckIO as error:
                results.append((label, str(error)))

        async with trio.open_nursery() as callers:
            async with served(machine) as other:
                callers.start_soon(caller, "first", other, write_job(machine.fs, b"a", b"b"))
                await trio.testing.wait_all_tasks_blocked()
                callers.start_soon(caller, "second", other, write_job(machine.fs, b"c"))
                await trio.testing.wait_all_tasks_blocked()
        assert results == [
            ("first", 2),
            ("second", "lane lane has stopped; the job was not started"),
        ]

    run(program)


def test_overlapping_calls_on_one_file_are_a_mistake() -> None:
    async def program(machine: SimMachine, lane: SimLane) -> None:
        file = await lane.run(jobs.open_file(machine.fs, "/data/file", "test", create=True))
        async with served(machine) as other, trio.open_nursery() as nursery:
            nursery.start_soon(lane.call, file.sync)
            nursery.start_soon(other.call, file.sync)

    with pytest.raises(BaseExceptionGroup) as caught:
        run(program)
    assert caught.group_contains(AssertionError, match="must not overlap")


# --------------------------------------------------------------------------------- loss of power


async def append_for_ever(host: Host, log: list[object]) -> None:
    lane = host.open_lane("lane", DEADLINE_SECONDS)
    async with trio.open_nursery() as nursery:
        await nursery.start(lane.serve)
        while True:
            try:
                log.append(await lane.run(write_job(host.fs, b"x")))  # type: ignore[arg-type]
            except StuckIO:
                log.append("stuck")
            finally:
                # A dead machine must not be able to tidy up.
                with trio.CancelScope(shield=True, deadline=trio.current_time() + 5):
                    if not host.fs.alive:  # type: ignore[attr-defined]
                        with pytest.raises((NodeDead, StuckIO)):
                            await lane.call(host.fs.unlink, "/data/file")
                        log.append("dead")


@pytest.mark.parametrize("frozen", [False, True])
def test_a_machine_without_power_does_nothing_more(frozen: bool) -> None:
    async def main(simulation: Simulation) -> list[object]:
        log: list[object] = []
        machine = SimMachine(simulation)
        machine.fs.prepare_directory("/data")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(machine.run, lambda host: append_for_ever(host, log))
            await trio.sleep(0.1)
            if frozen:
                machine.fs.freeze()
                await trio.sleep(0.1)
            machine.power_off()
        operations = machine.fs.operation_count
        synced = max(entry for entry in log if isinstance(entry, int))
        assert log[-1] == "dead"
        after = machine.power_on()
        assert machine.fs.operation_count == operations
        content = after.fs.tree().get("/data/file", b"")
        assert content is not None
        assert len(content) in {0, synced, synced + 1}, "its name was never synced"
        return log

    for seed in range(5):
        simulate(main, seed).unwrap()


def test_crash_at_takes_the_whole_machine() -> None:
    async def main(simulation: Simulation) -> int:
        log: list[object] = []
        machine = SimMachine(simulation, faults=DiskFaults(crash_at=17))
        machine.fs.prepare_directory("/data")
        await machine.run(lambda host: append_for_ever(host, log))
        with pytest.raises(NodeDead):
            machine.network.check_alive()
        return machine.fs.operation_count

    assert simulate(main, 1).unwrap() == 17


def test_a_mistake_on_a_dying_machine_still_shows() -> None:
    async def main(simulation: Simulation) -> None:
        machine = SimMachine(simulation)

        async def program(_: Host) -> None:
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("a mistake in tidying up")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(machine.run, program)
            await trio.sleep(1)
            machine.power_off()

    with pytest.raises(BaseExceptionGroup) as caught:
        simulate(main, 1).unwrap()
    assert caught.group_contains(ValueError, match="tidying up")


def test_errors_of_a_living_machine_are_errors() -> None:
    async def main(simulation: Simulation) -> None:
        async def program(_: Host) -> None:
            raise OSError("broken")

        await SimMachine(simulation).run(program)

    assert isinstance(simulate(main, 1).error, OSError)


def test_civil_time_follows_and_jumps() -> None:
    async def main(simulation: Simulation) -> list[int]:
        machine = SimMachine(simulation)
        await trio.sleep(1.5)
        times = [machine.wall.now_ms()]
        machine.wall.offset_ms = -10_000
        times.append(machine.wall.now_ms())
        times.append(machine.power_on().wall.now_ms())
        return [time - EPOCH_MS for time in times]

    assert simulate(main, 1).unwrap() == [1500, -8500, -8500]


def test_a_host_works_without_a_simulation() -> None:
    host = sim_host(7)
    assert host.simulated
    assert host.wall.now_ms() == EPOCH_MS
    assert host.entropy.uuid() == sim_host(7).entropy.uuid() != sim_host(8).entropy.uuid()
    machine = SimMachine(7)
    machine.fs.faults = evolve(machine.fs.faults, capacity_bytes=5 * 4096)
    machine.fs.prepare_directory("/data")
    assert jobs.run_inline(write_job(machine.fs, b"abc")) == 3
