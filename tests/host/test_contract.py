"""One contract, two machines: what `host.interface` promises, on the real and the simulated host.

Whatever the broker relies on must be tested here, so that a success in simulation means something
on a real disk and network.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from tests.host.machines import Machine, fails_with, simulated_machine
from trio_broker.errors import LogDirInUse, StuckIO
from trio_broker.host import jobs
from trio_broker.host.interface import WRITE_BUFFERS_MAX
from trio_broker.host.real import real_host

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trio_broker.host.interface import (
        File,
        FileSystem,
        Job,
        Lane,
    )

OWNER = "contract"


@pytest.fixture
def fs(machine: Machine) -> Iterator[FileSystem]:
    yield machine.host.fs
    assert [*machine.host.fs.open_files()] == [], "a test of the contract left files open"


@pytest.fixture
def file(machine: Machine, fs: FileSystem) -> Iterator[File]:
    file = fs.open(machine.path("data"), OWNER, create=True)
    yield file
    file.close()


# ---------------------------------------------------------------------------------------- files


def test_reads_return_what_was_written(file: File) -> None:
    assert file.write_at(0, [b"abc", bytearray(b"def"), memoryview(b"ghi")]) == 9
    assert file.size == 9
    assert file.read_at(0, 9) == b"abcdefghi"
    assert file.read_at(4, 2) == b"ef"


def test_reads_are_short_only_at_the_end(file: File) -> None:
    file.write_at(0, [b"abcdef"])
    assert file.read_at(4, 10) == b"ef"
    assert file.read_at(6, 10) == b""
    assert file.read_at(60, 10) == b""
    assert file.read_at(0, 0) == b""


def test_a_write_takes_as_many_buffers_as_the_interface_says(file: File) -> None:
    assert file.write_at(0, [b"x"] * WRITE_BUFFERS_MAX) == WRITE_BUFFERS_MAX
    assert file.read_at(0, 2000) == b"x" * WRITE_BUFFERS_MAX


def test_writes_overwrite_and_fill_gaps_with_zeros(file: File) -> None:
    file.write_at(0, [b"aaaa"])
    file.write_at(1, [b"bb"])
    assert (file.read_at(0, 10), file.size) == (b"abba", 4)
    file.write_at(6, [b"c"])
    assert (file.read_at(0, 10), file.size) == (b"abba\0\0c", 7)


def test_truncate_cuts_and_extends(file: File) -> None:
    file.write_at(0, [b"abcdef"])
    file.truncate(2)
    assert (file.size, file.read_at(0, 10)) == (2, b"ab")
    file.truncate(4)
    assert (file.size, file.read_at(0, 10)) == (4, b"ab\0\0")
    file.write_at(4, [b"!"])
    assert file.read_at(0, 10) == b"ab\0\0!"


def test_room_set_aside_changes_nothing_that_can_be_read(
    machine: Machine, fs: FileSystem, file: File
) -> None:
    file.write_at(0, [b"abc"])
    assert 3 <= file.reserved_end < 100_000  # a filesystem gives whole blocks
    file.reserve(1_000_000)
    assert (file.size, file.reserved_end) == (3, 1_000_000)
    assert file.read_at(0, 10) == b"abc"
    info = fs.stat(machine.path("data"))
    assert info is not None
    assert info.size_bytes == 3
    file.reserve(2)  # is there already
    file.write_at(3, [b"def"])
    file.sync()
    assert file.read_at(0, 10) == b"abcdef"
    other = fs.open(machine.path("data"), OWNER)
    assert other.size == 6
    other.close()
    file.truncate(6)
    assert (file.size, file.reserved_end) == (6, 6)
    assert file.read_at(0, 10) == b"abcdef"


def test_what_is_in_memory_is_what_is_read(file: File) -> None:
    file.write_at(0, [b"abcdef"])
    for offset, length in [(0, 6), (2, 2), (4, 10), (6, 10)]:
        cached = file.read_cached(offset, length)
        assert cached is None or bytes(cached) == file.read_at(offset, length)


def test_sync_succeeds(file: File) -> None:
    file.write_at(0, [b"abc"])
    file.sync()
    file.sync()
    assert file.read_at(0, 3) == b"abc"


def test_a_closed_file_refuses_everything(file: File) -> None:
    file.write_at(0, [b"abc"])
    file.close()
    file.close()
    calls: list[Callable[[], object]] = [
        lambda: file.write_at(0, [b"x"]),
        lambda: file.read_at(0, 1),
        lambda: file.truncate(0),
        lambda: file.reserve(100),
        file.sync,
    ]
    for call in calls:
        with fails_with(errno.EBADF):
            call()
    assert file.read_cached(0, 1) is None
    assert file.size == 3


def test_a_read_only_file_cannot_be_changed(machine: Machine, fs: FileSystem, file: File) -> None:
    file.write_at(0, [b"abc"])
    reader = fs.open(machine.path("data"), OWNER, read_only=True)
    assert reader.read_at(0, 10) == b"abc"
    with fails_with(errno.EBADF):
        reader.write_at(0, [b"x"])
    with fails_with(errno.EINVAL, errno.EBADF):
        reader.truncate(0)
    reader.close()
    assert file.read_at(0, 10) == b"abc"


def test_two_handles_share_content_but_each_knows_the_size_it_saw(
    machine: Machine, fs: FileSystem, file: File
) -> None:
    other = fs.open(machine.path("data"), "other")
    file.write_at(0, [b"abc"])
    assert other.read_at(0, 10) == b"abc"
    assert (file.size, other.size) == (3, 0)
    other.close()
    again = fs.open(machine.path("data"), "other")
    assert again.size == 3
    again.close()


def test_open_creates_only_when_asked_and_never_truncates(machine: Machine, fs: FileSystem) -> None:
    path = machine.path("new")
    with fails_with(errno.ENOENT):
        fs.open(path, OWNER)
    with fails_with(errno.ENOENT):
        fs.open(machine.path("missing/new"), OWNER, create=True)
    first = fs.open(path, OWNER, create=True)
    first.write_at(0, [b"kept"])
    second = fs.open(path, OWNER, create=True)
    assert second.read_at(0, 10) == b"kept"
    first.close()
    second.close()


def test_a_directory_cannot_be_opened_as_a_file(machine: Machine, fs: FileSystem) -> None:
    fs.make_directory(machine.path("sub"))
    with pytest.raises(OSError):  # noqa: PT011 - systems word it differently
        fs.open(machine.path("sub"), OWNER)


def test_the_ledger_lists_open_files_with_their_owners(machine: Machine, fs: FileSystem) -> None:
    first = fs.open(machine.path("a"), "replica/1", create=True)
    second = fs.open(machine.path("b"), "replica/2", create=True)
    listed = [(entry.path, entry.owner) for entry in fs.open_files()]
    assert listed == [(machine.path("a"), "replica/1"), (machine.path("b"), "replica/2")]
    assert (first.path, first.owner) == listed[0]
    assert [entry.path for entry in fs.open_files({"replica/2", "nobody"})] == [machine.path("b")]
    assert not fs.open_files(())
    first.close()
    assert [entry.owner for entry in fs.open_files()] == ["replica/2"]
    assert fs.open_files()[0].opened_at > 1_600_000_000
    second.close()


# ---------------------------------------------------------------------------------------- names


def test_directories(machine: Machine, fs: FileSystem) -> None:
    path = machine.path("sub")
    fs.make_directory(path)
    with fails_with(errno.EEXIST):
        fs.make_directory(path)
    fs.make_directory(path, exist_ok=True)
    with fails_with(errno.ENOENT):
        fs.make_directory(machine.path("missing/sub"))
    fs.make_directory(f"{path}/inner")
    with fails_with(errno.ENOTEMPTY, errno.EEXIST):
        fs.remove_directory(path)
    fs.remove_directory(f"{path}/inner")
    fs.remove_directory(path)
    assert fs.list_directory(machine.directory) == []
    with fails_with(errno.ENOENT):
        fs.remove_directory(path)


def test_exist_ok_is_only_for_directories(machine: Machine, fs: FileSystem, file: File) -> None:
    with fails_with(errno.EEXIST):
        fs.make_directory(machine.path("data"), exist_ok=True)


def test_names_are_listed_sorted(machine: Machine, fs: FileSystem) -> None:
    for name in ["b", "a", "C", "10", "9"]:
        fs.open(machine.path(name), OWNER, create=True).close()
    assert fs.list_directory(machine.directory) == ["10", "9", "C", "a", "b"]
    with fails_with(errno.ENOENT):
        fs.list_directory(machine.path("missing"))
    with fails_with(errno.ENOTDIR):
        fs.list_directory(machine.path("a"))


def test_rename_replaces_a_file_and_keeps_handles(
    machine: Machine, fs: FileSystem, file: File
) -> None:
    file.write_at(0, [b"new"])
    target = fs.open(machine.path("target"), OWNER, create=True)
    target.write_at(0, [b"old"])
    fs.rename(machine.path("data"), machine.path("target"))
    assert fs.list_directory(machine.directory) == ["target"]
    assert (file.read_at(0, 3), target.read_at(0, 3)) == (b"new", b"old")
    target.close()
    with fails_with(errno.ENOENT):
        fs.rename(machine.path("data"), machine.path("elsewhere"))


def test_rename_moves_a_directory_with_its_content(machine: Machine, fs: FileSystem) -> None:
    fs.make_directory(machine.path("replica"))
    inner = fs.open(machine.path("replica/log"), OWNER, create=True)
    fs.rename(machine.path("replica"), machine.path("replica.deleted"))
    assert fs.list_directory(machine.path("replica.deleted")) == ["log"]
    assert fs.stat(machine.path("replica")) is None
    inner.write_at(0, [b"still open"])
    inner.close()
    fs.make_directory(machine.path("full"))
    with fails_with(errno.ENOTEMPTY, errno.EEXIST):
        fs.rename(machine.path("full"), machine.path("replica.deleted"))
    with fails_with(errno.EINVAL):
        fs.rename(machine.path("full"), machine.path("full/inside"))


def test_rename_between_kinds_is_refused(machine: Machine, fs: FileSystem, file: File) -> None:
    fs.make_directory(machine.path("sub"))
    with fails_with(errno.EISDIR):
        fs.rename(machine.path("data"), machine.path("sub"))
    with fails_with(errno.ENOTDIR):
        fs.rename(machine.path("sub"), machine.path("data"))


def test_unlink_leaves_open_handles_alone(machine: Machine, fs: FileSystem, file: File) -> None:
    file.write_at(0, [b"abc"])
    fs.unlink(machine.path("data"))
    assert fs.list_directory(machine.directory) == []
    assert file.read_at(0, 3) == b"abc"
    with fails_with(errno.ENOENT):
        fs.unlink(machine.path("data"))
    fs.make_directory(machine.path("sub"))
    with fails_with(errno.EISDIR, errno.EPERM):
        fs.unlink(machine.path("sub"))


def test_stat(machine: Machine, fs: FileSystem, file: File) -> None:
    file.write_at(0, [b"abc"])
    found = fs.stat(machine.path("data"))
    assert found is not None
    assert (found.size_bytes, found.is_directory) == (3, False)
    assert found.modified_ms > 1_600_000_000_000
    directory = fs.stat(machine.directory)
    assert directory is not None
    assert directory.is_directory
    assert fs.stat(machine.path("missing")) is None


def test_names_of_255_bytes_and_no_more(machine: Machine, fs: FileSystem) -> None:
    fs.open(machine.path("n" * 255), OWNER, create=True).close()
    with fails_with(errno.ENAMETOOLONG):
        fs.open(machine.path("n" * 256), OWNER, create=True)


def test_sync_directory(machine: Machine, fs: FileSystem) -> None:
    fs.make_directory(machine.path("sub"))
    fs.sync_directory(machine.directory)
    with fails_with(errno.ENOENT):
        fs.sync_directory(machine.path("missing"))
    fs.open(machine.path("file"), OWNER, create=True).close()
    with fails_with(errno.ENOTDIR):
        fs.sync_directory(machine.path("file"))


def test_space(machine: Machine, fs: FileSystem) -> None:
    space = fs.space(machine.directory)
    assert 0 < space.free_bytes <= space.total_bytes
    assert space.free_inodes > 0
    with fails_with(errno.ENOENT):
        fs.space(machine.path("missing"))


def test_a_directory_has_one_lock(machine: Machine, fs: FileSystem) -> None:
    lock = fs.lock_directory(machine.directory, "broker 7")
    with pytest.raises(LogDirInUse, match="broker 7"):
        fs.lock_directory(machine.directory, "broker 8")
    fs.make_directory(machine.path("other"))
    fs.lock_directory(machine.path("other"), "broker 8").release()
    lock.release()
    lock.release()
    fs.lock_directory(machine.directory, "broker 8").release()
    assert fs.list_directory(machine.directory) == [".lock", "other"]


# ------------------------------------------------------------- the same history on both machines

_NAMES = st.sampled_from(["a", "b", "sub", "sub/a", "sub/b", "sub/deep"])
_CALLS = st.one_of(
    st.tuples(st.just("write"), _NAMES, st.integers(0, 20), st.binary(min_size=1, max_size=20)),
    st.tuples(st.just("truncate"), _NAMES, st.integers(0, 30)),
    st.tuples(st.just("make_directory"), _NAMES),
    st.tuples(st.just("remove_directory"), _NAMES),
    st.tuples(st.just("unlink"), _NAMES),
    st.tuples(st.just("rename"), _NAMES, _NAMES),
    st.tuples(st.just("list_directory"), _NAMES),
    st.tuples(st.just("read"), _NAMES),
    st.tuples(st.just("stat"), _NAMES),
)
#: Where systems differ in which of two true reasons they give.
_SAME_ERRNO = {errno.ENOTEMPTY: errno.EEXIST, errno.EPERM: errno.EISDIR}


def outcome_of(machine: Machine, call: tuple[Any, ...]) -> object:
    """Make a call and return what came of it, comparable between machines."""
    fs = machine.host.fs
    name, first, *rest = call
    path = machine.path(first)
    try:
        if name in {"write", "truncate", "read"}:
            file = fs.open(path, OWNER, create=name == "write")
            try:
                if name == "write":
                    return file.write_at(rest[0], [rest[1]])
                if name == "truncate":
                    return file.truncate(rest[0])
                return file.read_at(0, file.size)
            finally:
                file.close()
        if name == "stat":
            found = fs.stat(path)
            return found and (found.is_directory or found.size_bytes)
        arguments = [machine.path(rest[0])] if rest else []
        return getattr(fs, name)(path, *arguments)
    except OSError as error:
        number = error.errno or 0
        if name in {"write", "truncate", "read"} and number in {errno.EISDIR, errno.EINVAL}:
            return errno.EISDIR
        return _SAME_ERRNO.get(number, number)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(_CALLS, max_size=25))
def test_any_history_has_the_same_outcome_on_both(
    tmp_path_factory: pytest.TempPathFactory, calls: list[tuple[Any, ...]]
) -> None:
    real = Machine(real_host(), str(tmp_path_factory.mktemp("history")))
    simulated = simulated_machine()
    for call in calls:
        assert outcome_of(real, call) == outcome_of(simulated, call), call


# ---------------------------------------------------------------------------------------- lanes


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
        await trio.lowlevel.checkpoint()
        nursery.start_soon(lane.run, pure_job(log, "other"))
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


# ---------------------------------------------------------------------------- clock and randomness


def test_civil_time_moves_on_from_a_sensible_date(machine: Machine) -> None:
    first = machine.host.wall.now_ms()
    assert first > 1_600_000_000_000
    assert machine.host.wall.now_ms() >= first


def test_randomness_comes_in_named_streams(machine: Machine) -> None:
    entropy = machine.host.entropy
    assert entropy.random("a") is entropy.random("a")
    assert entropy.random("a") is not entropy.random("b")
    assert {entropy.random("a").random() for _ in range(5)}.isdisjoint(
        {entropy.random("b").random() for _ in range(5)}
    )


def test_uuids_are_fresh_version_4(machine: Machine) -> None:
    found = {machine.host.entropy.uuid() for _ in range(300)}
    assert len(found) == 300
    assert {uuid.version for uuid in found} == {4}
    assert not any(uuid.bytes[0] >> 2 == 0b111110 for uuid in found)
    assert UUID(int=0) not in found


def test_a_host_says_whether_it_is_simulated(machine: Machine) -> None:
    assert machine.host.simulated is (machine.directory == "/data")
