"""One contract, two machines: what `host.interface` promises, on the real and the simulated host.

Whatever the broker relies on must be tested here, so that a success in simulation means something
on a real disk and network.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.host.machines import Machine, fails_with, simulated_machine
from trio_broker.errors import LogDirInUse
from trio_broker.host.interface import WRITE_BUFFERS_MAX
from trio_broker.host.real import real_host

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trio_broker.host.interface import (
        File,
        FileSystem,
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
