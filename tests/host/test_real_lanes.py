"""Lanes on real threads: order, cancellation before the start only, and hung calls."""

from __future__ import annotations

import os
import threading
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_broker.errors import StuckIO
from trio_broker.host import jobs, waker
from trio_broker.host.lanes import RealLane

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.host.conftest import Hang
    from trio_broker.host.file_system import RealFileSystem
    from trio_broker.host.interface import Job

#: Short enough for tests that wait for it to pass, and more than a busy machine needs for a call
#: that does not hang.
SHORT_SECONDS = 0.2
LONG_SECONDS = 60.0


@asynccontextmanager
async def serving(operation_seconds_max: float = LONG_SECONDS) -> AsyncIterator[RealLane]:
    lane = RealLane("test", operation_seconds_max)
    async with trio.open_nursery() as nursery:
        await nursery.start(lane.serve)
        yield lane
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def stoppable(lane: RealLane) -> AsyncIterator[trio.CancelScope]:
    """Serve `lane` in a scope of its own, so that the test goes on when it cancels that."""
    scope = trio.CancelScope()

    async def serve(*, task_status: trio.TaskStatus[None]) -> None:
        with scope:
            await lane.serve(task_status=task_status)

    async with trio.open_nursery() as nursery:
        await nursery.start(serve)
        yield scope
        scope.cancel()


class Recorder:
    """Collects outcomes of tasks, in the order in which they come."""

    def __init__(self) -> None:
        self.events: list[str] = []

    async def run(self, lane: RealLane, label: str, job: Job[Any]) -> None:
        try:
            result = await lane.run(job)
        except (OSError, StuckIO) as error:
            self.events.append(f"{label}: {type(error).__name__}")
        except trio.Cancelled:
            self.events.append(f"{label}: cancelled")
            raise
        else:
            self.events.append(f"{label}: {result}")


async def wait_for_thread(event: threading.Event) -> None:
    """Wait for an event that a lane's thread sets, without a thread of our own."""
    await poll(event.is_set)


async def poll(is_so: Callable[[], bool]) -> None:
    while not is_so():  # noqa: ASYNC110 - threads cannot set a trio.Event
        await trio.sleep(0.001)


async def test_a_call_returns_its_result_and_runs_on_a_thread_of_its_own() -> None:
    async with serving() as lane:
        assert await lane.call(divmod, 17, 5) == (3, 2)
        thread = await lane.call(threading.current_thread)
        assert thread.name == "lane test"
        assert thread.daemon
        assert thread is await lane.call(threading.current_thread)


async def test_errors_reach_the_caller_and_the_lane_goes_on() -> None:
    async with serving() as lane:
        with pytest.raises(ZeroDivisionError):
            await lane.call(divmod, 1, 0)
        assert await lane.call(str.upper, "a") == "A"


async def test_a_job_is_thrown_the_errors_of_its_calls() -> None:
    def job() -> Job[str]:
        try:
            yield divmod, (1, 0)
        except ZeroDivisionError:
            return (yield str.upper, ("handled",))
        return "not reached"

    async with serving() as lane:
        assert await lane.run(job()) == "HANDLED"


async def test_jobs_run_whole_and_in_order_of_arrival() -> None:
    seen: list[tuple[int, int]] = []

    def job(number: int) -> Job[int]:
        for step in range(3):
            yield seen.append, ((number, step),)
        return number

    recorder = Recorder()
    async with serving() as lane, trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(recorder.run, lane, "job", job(number))
            await wait_all_tasks_blocked()
    assert seen == [(number, step) for number in range(20) for step in range(3)]
    assert sorted(recorder.events) == sorted(f"job: {number}" for number in range(20))


async def test_a_lane_must_be_served_and_only_once() -> None:
    lane = RealLane("test", LONG_SECONDS)
    with pytest.raises(RuntimeError, match="not being served"):
        await lane.call(int)
    async with trio.open_nursery() as nursery:
        await nursery.start(lane.serve)
        with pytest.raises(RuntimeError, match="served before"):
            await lane.serve()
        nursery.cancel_scope.cancel()


async def test_the_portable_waker_serves_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trio_broker.host.lanes.make_waker", waker.SocketWaker)
    async with serving() as lane:
        for number in range(100):
            assert await lane.call(abs, -number) == number


@pytest.mark.parametrize("make", [waker.make_waker, waker.SocketWaker])
async def test_rings_are_not_lost(make: Any) -> None:
    bell = make()
    for _ in range(100_000 if make is waker.SocketWaker else 3):
        bell.ring()  # also far more than a socket's buffer holds
    await bell.wait()
    bell.ring()
    with trio.move_on_after(0) as scope:
        await bell.wait()
    assert scope.cancelled_caught
    await bell.wait()
    bell.close()


# Cancellation


async def test_a_job_cancelled_beforehand_is_never_begun() -> None:
    calls: list[int] = []
    async with serving() as lane:
        with trio.CancelScope() as scope:
            scope.cancel()
            await lane.call(calls.append, 1)
        assert scope.cancelled_caught
        await lane.call(int)
    assert calls == []


async def test_a_queued_job_can_be_cancelled_and_the_running_one_cannot(hang: Hang) -> None:
    calls: list[int] = []
    recorder = Recorder()

    def first() -> Job[str]:
        yield hang, ()
        yield calls.append, (1,)
        return "whole"

    async with serving() as lane, trio.open_nursery() as nursery:
        nursery.start_soon(recorder.run, lane, "first", first())
        await wait_for_thread(hang.entered)
        nursery.start_soon(recorder.run, lane, "second", jobs.single_call(calls.append, (2,)))
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await wait_all_tasks_blocked()
            assert recorder.events == ["second: cancelled"]
            hang.go_on.set()
    assert recorder.events == ["second: cancelled", "first: whole"]
    assert calls == [1]


# Hung calls


async def test_a_hung_call_fails_its_job_and_what_is_queued_until_it_returns(hang: Hang) -> None:
    recorder = Recorder()
    steps: list[str] = []

    def victim() -> Job[str]:
        try:
            yield hang, ()
        except StuckIO:
            yield steps.append, ("cleaned up",)
            raise
        return "not reached"

    async with serving(SHORT_SECONDS) as lane:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(recorder.run, lane, "victim", victim())
            await wait_for_thread(hang.entered)
            nursery.start_soon(recorder.run, lane, "queued", jobs.single_call(steps.append, ("x",)))
        assert sorted(recorder.events) == ["queued: StuckIO", "victim: StuckIO"]
        with pytest.raises(StuckIO, match="held up by"):
            await lane.call(int)
        assert lane.stuck_seconds >= SHORT_SECONDS
        assert "stuck in" in repr(lane)
        assert steps == []

        hang.go_on.set()
        await poll(lambda: "stuck" not in repr(lane))
        await lane.call(steps.append, "works again")
        assert steps == ["cleaned up", "works again"]
        assert lane.stuck_seconds == 0.0


async def test_a_call_that_runs_already_is_given_up_when_less_time_is_allowed(hang: Hang) -> None:
    async with serving() as lane, trio.open_nursery() as nursery:
        recorder = Recorder()

        def job() -> Job[None]:
            yield hang, ()

        nursery.start_soon(recorder.run, lane, "hung", job())
        await wait_for_thread(hang.entered)
        lane.limit_calls(SHORT_SECONDS)
        with trio.fail_after(LONG_SECONDS / 2):
            while not recorder.events:  # noqa: ASYNC110 - the lane's own deadline is later
                await trio.sleep(0.01)
        assert recorder.events == ["hung: StuckIO"]
        hang.go_on.set()
        await poll(lambda: lane.stuck_seconds == 0)
        lane.limit_calls(2 * LONG_SECONDS)  # no longer than it was made for
        assert await lane.call(str.upper, "a") == "A"


async def test_time_in_the_queue_does_not_count(hang: Hang) -> None:
    recorder = Recorder()

    def patient() -> Job[int]:
        # More calls than fit into one deadline, none of which comes near it.
        for _ in range(60):  # three deadlines in all
            yield threading.Event().wait, (SHORT_SECONDS / 20,)
        return 60

    async with serving(SHORT_SECONDS) as lane, trio.open_nursery() as nursery:
        nursery.start_soon(recorder.run, lane, "first", patient())
        nursery.start_soon(recorder.run, lane, "second", jobs.single_call(abs, (-1,)))
    assert sorted(recorder.events) == ["first: 60", "second: 1"]


async def test_the_file_of_a_hung_write_is_closed_when_it_returns_and_not_before(
    fs: RealFileSystem, hang: Hang, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = fs.open(str(tmp_path / "log"), "replica/x-0", create=True)
    lock = fs.lock_directory(str(tmp_path), "test")
    async with serving(SHORT_SECONDS) as lane:
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwritev", hang.wrap(os.pwritev))
            with pytest.raises(StuckIO, match=rf"write_at {file.path} has not returned"):
                await lane.run(jobs.append_all(file, 0, [b"late"]))
            with pytest.raises(StuckIO):
                file.read_at(0, 1)
            file.close()
            lock.release()
            assert [row.owner for row in fs.open_files()] == ["replica/x-0"]
        hang.go_on.set()
        await poll(lambda: not fs.open_files())
    fs.lock_directory(str(tmp_path), "next").release()


async def test_a_hung_write_to_a_file_still_open_is_cut_back(
    fs: RealFileSystem, hang: Hang, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = fs.open(str(tmp_path / "log"), "test", create=True)
    file.write_at(0, [b"kept"])
    async with serving(SHORT_SECONDS) as lane:
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwritev", hang.wrap(os.pwritev))
            with pytest.raises(StuckIO):
                await lane.run(jobs.append_all(file, 4, [b"late"]))
        hang.go_on.set()
        await poll(lambda: "stuck" not in repr(lane))
        assert await lane.call(lambda: os.stat(file.path).st_size) == file.size == 4
    file.close()


async def test_a_file_opened_too_late_is_closed(
    fs: RealFileSystem, hang: Hang, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "log")
    async with serving(SHORT_SECONDS) as lane:
        opening = hang.wrap(partial(fs.open, create=True))
        with pytest.raises(StuckIO, match="has not returned"):
            await lane.call(opening, path, "test")
        hang.go_on.set()
        await poll(lambda: "stuck" not in repr(lane))
        await lane.call(int)
    assert fs.open_files() == []


async def test_a_call_that_the_whole_process_slept_through_is_not_condemned(hang: Hang) -> None:
    # As after SIGSTOP: the event loop wakes long after the deadline, and so does the thread.
    recorder = Recorder()
    async with serving(SHORT_SECONDS * 2) as lane, trio.open_nursery() as nursery:
        nursery.start_soon(recorder.run, lane, "job", jobs.single_call(hang, ()))
        await wait_for_thread(hang.entered)
        threading.Event().wait(SHORT_SECONDS * 2.5)  # stops the event loop, on purpose
        hang.go_on.set()
    assert recorder.events == ["job: None"]


# Stopping


async def test_stopping_waits_for_the_running_job_and_fails_the_queued(hang: Hang) -> None:
    lane = RealLane("test", LONG_SECONDS)
    recorder = Recorder()

    def running() -> Job[str]:
        yield hang, ()
        return (yield str.upper, ("whole",))

    async with stoppable(lane) as scope, trio.open_nursery() as users:
        users.start_soon(recorder.run, lane, "running", running())
        await wait_for_thread(hang.entered)
        users.start_soon(recorder.run, lane, "queued", jobs.single_call(int, ()))
        await wait_all_tasks_blocked()
        scope.cancel()
        await wait_all_tasks_blocked()
        assert recorder.events == ["queued: StuckIO"]
        with pytest.raises(StuckIO, match="has stopped"):
            await lane.call(int)
        hang.go_on.set()
    assert recorder.events == ["queued: StuckIO", "running: WHOLE"]
    assert "closed" in repr(lane)


async def test_stopping_does_not_wait_for_a_stuck_call(hang: Hang) -> None:
    calls: list[str] = []

    def job() -> Job[None]:
        try:
            yield hang, ()
        except StuckIO:
            yield calls.append, ("too late to change anything",)
            raise
        yield calls.append, ("not reached",)

    async with serving(SHORT_SECONDS) as lane:
        thread = await lane.call(threading.current_thread)
        with pytest.raises(StuckIO):
            await lane.run(job())
    assert thread.is_alive()
    hang.go_on.set()
    thread.join(60)
    assert not thread.is_alive()
    assert calls == []


async def test_stopping_with_a_call_that_then_hangs_ends_at_its_deadline(hang: Hang) -> None:
    lane = RealLane("test", SHORT_SECONDS)
    recorder = Recorder()
    async with stoppable(lane) as scope, trio.open_nursery() as users:
        users.start_soon(recorder.run, lane, "running", jobs.single_call(hang, ()))
        await wait_for_thread(hang.entered)
        scope.cancel()
    assert recorder.events == ["running: StuckIO"]


async def test_a_job_between_two_calls_is_abandoned_in_the_end() -> None:
    """Stopping gives a job one deadline's time in all, however short its calls are."""
    lane = RealLane("test", SHORT_SECONDS)
    recorder = Recorder()
    begun, ended = threading.Event(), threading.Event()

    def endless() -> Job[None]:
        try:
            while True:
                yield begun.set, ()
        finally:
            ended.set()

    async with stoppable(lane) as scope, trio.open_nursery() as users:
        users.start_soon(recorder.run, lane, "endless", endless())
        await wait_for_thread(begun)
        scope.cancel()
    assert recorder.events == ["endless: StuckIO"]
    await wait_for_thread(ended)


async def test_everything_cancelled_at_once_leaves_no_thread_and_no_descriptor(
    fs: RealFileSystem, tmp_path: Path
) -> None:
    recorder = Recorder()
    file = fs.open(str(tmp_path / "log"), "test", create=True)
    lane = RealLane("cancelled", LONG_SECONDS)
    async with trio.open_nursery() as nursery:
        await nursery.start(lane.serve)
        for number in range(50):
            job = jobs.append_all(file, 0, [b"%d" % number])
            nursery.start_soon(recorder.run, lane, "job", job)
        await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert len(recorder.events) == 50
    file.close()
    for thread in threading.enumerate():
        if thread.name == "lane cancelled":
            thread.join(60)
            assert not thread.is_alive()
