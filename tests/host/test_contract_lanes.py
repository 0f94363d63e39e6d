"""The contract of lanes, real and simulated: order, errors, cancellation, and series of jobs."""

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


class Labels:
    """Makes the jobs of a series, one for each label; ends the series behind the last."""

    def __init__(self, lane: Lane, *labels: str) -> None:
        self.labels = list(labels)
        self.log: list[str] = []
        self.settled: list[str] = []
        self.series = lane.series(self.next_job, self.settled.append)

    def next_job(self) -> Job[str] | None:
        if not self.labels:
            self.series.end()
            return None
        return pure_job(self.log, self.labels.pop(0))


async def test_the_jobs_of_a_series_let_others_in_between(machine: Machine, lane: Lane) -> None:
    work = Labels(lane, "second", "third")
    log, next_job, has_entered = work.log, work.next_job, False

    def first_job() -> Job[str]:
        while not has_entered:
            yield from append_job(machine, "data", b"x")
        return (yield from pure_job(log, "first"))

    makers = [first_job]
    series = lane.series(lambda: makers.pop()() if makers else next_job(), work.settled.append)
    work.series = series
    async with trio.open_nursery() as nursery:
        nursery.start_soon(series.run)
        for _ in range(2):  # then it has had its turn
            await trio.lowlevel.checkpoint()
        nursery.start_soon(lane.run, pure_job(log, "other"))
        for _ in range(2):
            await trio.lowlevel.checkpoint()
        has_entered = True
    assert log == ["first", "other", "second", "third"]
    assert work.settled == ["first", "second", "third"]


async def test_a_series_rests_until_it_is_stirred_and_runs_until_it_is_ended(lane: Lane) -> None:
    log: list[str] = []
    labels: list[str] = []
    settled = trio.Event()
    series = lane.series(
        lambda: pure_job(log, labels.pop()) if labels else None, lambda _: settled.set()
    )
    assert not series.is_resting
    series.stir()  # nobody runs it
    for _ in range(2):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(series.run)
            await wait_all_tasks_blocked()
            assert series.is_resting
            series.stir()  # there is nothing to do
            assert series.is_resting
            for label in ("first", "second"):
                labels.append(label)
                settled = trio.Event()
                series.stir()
                assert not series.is_resting
                series.stir()  # it is under way
                await settled.wait()
            labels.append("left")
            series.end()
            series.stir()
        assert labels.pop() == "left"
        assert not series.is_resting
    assert log == ["first", "second"] * 2


async def test_what_goes_wrong_in_a_series_is_raised_where_it_is_run(
    machine: Machine, lane: Lane
) -> None:
    settled: list[object] = []

    def removing() -> Job[object]:
        return (yield machine.host.fs.unlink, (machine.path("missing"),))

    with fails_with(errno.ENOENT):
        await lane.series(removing, settled.append).run()
    assert settled == []

    log: list[str] = []
    labels = ["first", "second"]
    with pytest.raises(IndexError):  # at the third
        await lane.series(lambda: pure_job(log, labels.pop(0)), settled.append).run()
    assert settled == ["first", "second"]

    def refuse(_result: str) -> None:
        raise ValueError("not this one")

    with pytest.raises(ValueError, match="not this one"):
        await lane.series(lambda: pure_job(log, "third"), refuse).run()

    def fail_when_stirred() -> Job[str] | None:
        if settled:
            settled.clear()
            return None
        raise ValueError("stirred")

    series = lane.series(fail_when_stirred, settled.append)

    async def run_in_vain() -> None:
        with pytest.raises(ValueError, match="stirred"):
            await series.run()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_in_vain)
        await wait_all_tasks_blocked()
        series.stir()
        series.stir()
    assert await lane.run(pure_job(log, "after")) == "after"
    assert log == ["first", "second", "third", "after"]


async def test_a_series_that_is_cancelled_settles_the_job_that_runs_and_makes_no_other(
    machine: Machine, lane: Lane
) -> None:
    scope = trio.CancelScope()
    token = trio.lowlevel.current_trio_token()
    was_cancelled: list[bool] = []
    made: list[int] = []
    settled: list[str] = []

    def cancel() -> None:
        scope.cancel()
        was_cancelled.append(True)

    def next_job() -> Job[str]:
        made.append(len(made))
        return job(made[-1])

    def job(number: int) -> Job[str]:
        if number == 1:
            # Runs on the lane: the cancellation reaches the waiting task while the job goes on.
            yield token.run_sync_soon, (cancel,)
            while not was_cancelled:
                yield from append_job(machine, "data", b"x")
        return f"job {number}"

    series = lane.series(next_job, settled.append)
    with scope:
        await series.run()
        series.stir()
        await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert made == [0, 1]
    assert settled == ["job 0", "job 1"]
    with trio.CancelScope() as scope:
        scope.cancel()
        await series.run()
    assert scope.cancelled_caught
    assert made == [0, 1]


async def test_a_series_that_is_cancelled_in_the_queue_or_at_rest_does_nothing(
    machine: Machine, lane: Lane
) -> None:
    log: list[str] = []
    has_begun = is_over = False

    def long_job() -> Job[None]:
        nonlocal has_begun
        while not is_over:
            yield from append_job(machine, "data", b"x")
            has_begun = True

    series = lane.series(lambda: pure_job(log, "never"), log.append)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lane.run, long_job())
        while not has_begun:
            await trio.lowlevel.checkpoint()
        with trio.move_on_after(0.01) as scope:
            await series.run()
        assert scope.cancelled_caught
        series.stir()
        is_over = True
    resting = lane.series(lambda: None, log.append)
    with trio.move_on_after(0.01) as scope:
        await resting.run()
    assert scope.cancelled_caught
    assert log == []


async def test_a_series_cancelled_by_what_it_does_begins_no_further_job(lane: Lane) -> None:
    log: list[str] = []
    settled: list[str] = []
    with trio.CancelScope() as scope:

        def settle(result: str) -> None:
            settled.append(result)
            scope.cancel()

        await lane.series(lambda: pure_job(log, "once"), settle).run()
    assert scope.cancelled_caught
    assert settled == ["once"]
    assert await lane.run(pure_job(log, "after")) == "after"
    assert log == ["once", "after"]


async def test_a_lane_that_was_stopped_refuses_jobs(machine: Machine) -> None:
    lane = machine.host.open_lane("short-lived", 30.0)
    async with trio.open_nursery() as nursery:
        await nursery.start(lane.serve)
        assert await lane.run(append_job(machine, "data", b"x")) == 1
        nursery.cancel_scope.cancel()
    with pytest.raises(StuckIO, match="short-lived"):
        await lane.run(append_job(machine, "data", b"x"))
    with pytest.raises(StuckIO, match="short-lived"):
        await lane.series(lambda: append_job(machine, "data", b"x"), print).run()


async def test_a_lane_must_be_served(machine: Machine) -> None:
    lane = machine.host.open_lane("idle", 30.0)
    with pytest.raises(RuntimeError, match="idle"):
        await lane.call(machine.host.fs.stat, machine.directory)
