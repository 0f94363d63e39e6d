"""The contract of lanes, real and simulated: order, errors and cancellation."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.host.machines import fails_with
from trio_broker.errors import StuckIO
from trio_broker.host import jobs

if TYPE_CHECKING:
    from tests.host.machines import Machine
    from trio_broker.host.interface import Job, Lane

OWNER = "contract"


@pytest.fixture
async def lane(machine: Machine, nursery: trio.Nursery) -> Lane:
    lane = machine.host.open_lane("contract", 30.0)
    await nursery.start(lane.serve)
    return lane


def append_job(machine: Machine, name: str, data: bytes) -> Job[int]:
    file = yield from jobs.open_file(machine.host.fs, machine.path(name), OWNER, create=True)
    try:
        written = yield from jobs.append_all(file, file.size, [data])
        yield from jobs.sync(file)
    finally:
        file.close()
    return written


def pure_job(log: list[str], label: str, calls: int = 1) -> Job[str]:
    for _ in range(calls):
        yield log.append, (label,)
    return label


async def test_a_lane_returns_what_the_job_returns(machine: Machine, lane: Lane) -> None:
    assert lane.name == "contract"
    assert await lane.run(append_job(machine, "data", b"abc")) == 3
    assert await lane.call(machine.host.fs.list_directory, machine.directory) == ["data"]
    assert lane.stuck_seconds == 0.0
    assert machine.host.fs.open_files() == []


async def test_a_lane_raises_what_the_job_raises(machine: Machine, lane: Lane) -> None:
    with fails_with(errno.ENOENT):
        await lane.call(machine.host.fs.unlink, machine.path("missing"))
    assert await lane.run(append_job(machine, "data", b"abc")) == 3


async def test_a_job_may_handle_the_errors_of_its_calls(machine: Machine, lane: Lane) -> None:
    def careful() -> Job[str]:
        try:
            yield machine.host.fs.unlink, (machine.path("missing"),)
        except FileNotFoundError:
            return "handled"
        return "not reached"

    assert await lane.run(careful()) == "handled"


async def test_jobs_run_one_by_one_in_order_of_arrival(lane: Lane) -> None:
    log: list[str] = []
    async with trio.open_nursery() as nursery:
        for label in "abcde":
            nursery.start_soon(lane.run, pure_job(log, label, calls=3))
            await trio.lowlevel.checkpoint()
            await wait_all_tasks_blocked()
    assert "".join(log) == "aaabbbcccdddeee"


async def test_a_job_cancelled_before_it_starts_does_nothing(machine: Machine, lane: Lane) -> None:
    log: list[str] = []
    with trio.CancelScope() as scope:
        scope.cancel()
        await lane.run(pure_job(log, "cancelled"))
    assert scope.cancelled_caught
    await lane.run(pure_job(log, "after"))
    assert log == ["after"]


async def test_cancelling_a_started_job_lets_it_finish(machine: Machine, lane: Lane) -> None:
    scope = trio.CancelScope()
    token = trio.lowlevel.current_trio_token()

    def job() -> Job[str]:
        # Runs on the lane: the cancellation reaches the waiting task while the job goes on.
        yield token.run_sync_soon, (scope.cancel,)
        for _ in range(3):
            yield from append_job(machine, "data", b"x")
        return "finished"

    with scope:
        result = await lane.run(job())
    assert result == "finished"
    found = await lane.call(machine.host.fs.stat, machine.path("data"))
    assert found is not None
    assert found.size_bytes == 3


async def test_a_lane_that_was_stopped_refuses_jobs(machine: Machine) -> None:
    lane = machine.host.open_lane("short-lived", 30.0)
    async with trio.open_nursery() as nursery:
        await nursery.start(lane.serve)
        assert await lane.run(append_job(machine, "data", b"x")) == 1
        nursery.cancel_scope.cancel()
    with pytest.raises(StuckIO, match="short-lived"):
        await lane.run(append_job(machine, "data", b"x"))


async def test_a_lane_must_be_served(machine: Machine) -> None:
    lane = machine.host.open_lane("idle", 30.0)
    with pytest.raises(RuntimeError, match="idle"):
        await lane.call(machine.host.fs.stat, machine.directory)
