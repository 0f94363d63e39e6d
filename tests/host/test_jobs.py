"""Jobs: whatever a write does, the file ends in a state that the caller knows."""

from __future__ import annotations

import errno
import subprocess
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.requirements import require_tmpfs
from trio_broker.errors import AppendFailed, FormatTooNew, StuckIO, SyncFailed
from trio_broker.host import jobs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from trio_broker.host.file_system import RealFileSystem


class ShortFile:
    """A file in memory whose writes take what `limits` says, in turn; an errno makes one fail."""

    path = "short.log"
    owner = "test"

    def __init__(self, content: bytes = b"", limits: Sequence[int | OSError] = ()) -> None:
        self.content = bytearray(content)
        self.limits = list(limits)
        self.buffers_seen: list[int] = []
        self.truncate_error: OSError | None = None
        self.sync_error: OSError | None = None

    @property
    def size(self) -> int:
        return len(self.content)

    def write_at(self, offset: int, buffers: Sequence[bytes]) -> int:
        assert offset == len(self.content)
        self.buffers_seen.append(len(buffers))
        data = b"".join(buffers)
        limit = self.limits.pop(0) if self.limits else len(data)
        if isinstance(limit, OSError):
            raise limit
        self.content += data[:limit]
        return min(limit, len(data))

    def truncate(self, size: int) -> None:
        if self.truncate_error is not None:
            raise self.truncate_error
        del self.content[size:]

    def sync(self) -> None:
        if self.sync_error is not None:
            raise self.sync_error


def append(file: Any, offset: int, buffers: Sequence[bytes]) -> int:
    return jobs.run_inline(jobs.append_all(file, offset, buffers))


@given(
    buffers=st.lists(st.binary(max_size=20), max_size=50),
    limits=st.lists(st.integers(1, 60), max_size=30),
)
def test_short_writes_lose_and_repeat_nothing(buffers: list[bytes], limits: list[int]) -> None:
    file = ShortFile(b"before", limits)
    written = append(file, 6, buffers)
    assert written == sum(map(len, buffers))
    assert bytes(file.content) == b"before" + b"".join(buffers)


def test_many_buffers_are_written_in_chunks_that_the_system_accepts() -> None:
    file = ShortFile()
    append(file, 0, [b"ab"] * 2500)
    assert file.buffers_seen == [1024, 1024, 452]
    assert file.size == 5000


def test_a_failed_write_is_cut_back_to_where_the_append_began() -> None:
    file = ShortFile(b"kept", [3, OSError(errno.ENOSPC, "full")])
    with pytest.raises(AppendFailed) as caught:
        append(file, 4, [b"abcdef"])
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.cut_back
    assert bytes(file.content) == b"kept"


def test_a_failed_cut_is_reported() -> None:
    file = ShortFile(b"kept", [3, OSError(errno.EIO, "broken")])
    file.truncate_error = OSError(errno.EIO, "broken")
    with pytest.raises(AppendFailed) as caught:
        append(file, 4, [b"abcdef"])
    assert not caught.value.cut_back


def test_a_write_that_accepts_nothing_fails_instead_of_looping() -> None:
    file = ShortFile(b"", [2, 0])
    with pytest.raises(AppendFailed) as caught:
        append(file, 0, [b"abcdef"])
    assert caught.value.errno == errno.ENOSPC
    assert file.size == 0


def test_a_write_that_was_given_up_is_cut_back_when_it_returns() -> None:
    file = ShortFile(b"kept")
    job = jobs.append_all(file, 4, [b"late"])  # type: ignore[arg-type]
    function, arguments = next(job)
    function(*arguments)
    function, arguments = job.throw(StuckIO("too slow"))
    function(*arguments)
    with pytest.raises(StuckIO):
        job.send(None)
    assert bytes(file.content) == b"kept"


def test_a_failed_sync_names_the_file() -> None:
    file = ShortFile()
    file.sync_error = OSError(errno.EIO, "broken")
    with pytest.raises(SyncFailed, match=r"short\.log failed with EIO"):
        jobs.run_inline(jobs.sync(file))  # type: ignore[arg-type]


def small(fs: RealFileSystem, path: Path) -> bytes | None:
    return jobs.run_inline(jobs.read_small_file(fs, str(path), "test"))


def write_small(fs: RealFileSystem, path: Path, payload: bytes) -> None:
    jobs.run_inline(jobs.write_small_file(fs, str(path), "test", payload))


def test_a_small_file_is_read_as_it_was_written(fs: RealFileSystem, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    assert small(fs, path) is None
    write_small(fs, path, b"first")
    assert small(fs, path) == b"first"
    write_small(fs, path, b"")
    assert small(fs, path) == b""
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"]
    assert fs.open_files() == []


def test_what_a_crash_left_of_a_small_file_is_overwritten(
    fs: RealFileSystem, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint"
    (tmp_path / "checkpoint.tmp").write_bytes(b"x" * 1000)
    write_small(fs, path, b"new")
    assert small(fs, path) == b"new"


def test_every_damage_to_a_small_file_is_seen(fs: RealFileSystem, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    write_small(fs, path, b"payload")
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        assert small(fs, path) is None, f"cut to {size} bytes"
    path.write_bytes(whole + b"\0")
    assert small(fs, path) is None
    for position in [*range(4), *range(6, len(whole))]:
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        path.write_bytes(damaged)
        assert small(fs, path) is None, f"byte {position} changed"


def test_a_small_file_of_a_later_version_is_refused(fs: RealFileSystem, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    write_small(fs, path, b"payload")
    content = bytearray(path.read_bytes())
    content[5] += 1
    path.write_bytes(content)
    with pytest.raises(FormatTooNew):
        small(fs, path)


def test_a_small_file_has_a_limit(fs: RealFileSystem, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="more than"):
        write_small(fs, tmp_path / "big", memoryview(bytes(jobs.SMALL_FILE_BYTES_MAX + 1)))  # type: ignore[arg-type]
    path = tmp_path / "damaged"
    with path.open("wb") as file:
        file.truncate(jobs.SMALL_FILE_BYTES_MAX * 2)
    assert small(fs, path) is None


FAULTS: list[tuple[str, type[Exception]]] = [
    ("pwritev", AppendFailed),
    ("fdatasync", SyncFailed),
    ("rename", OSError),
]


@pytest.mark.parametrize("call,expected", FAULTS)
def test_a_failed_replacement_leaves_the_old_small_file(
    fs: RealFileSystem,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    expected: type[Exception],
) -> None:
    path = tmp_path / "checkpoint"
    write_small(fs, path, b"old")

    def fail(*_arguments: object) -> None:
        raise OSError(errno.EIO, "injected")

    with monkeypatch.context() as patch:
        if call == "fdatasync":
            patch.setattr("trio_broker.host.files._sync_data", fail)
        else:
            patch.setattr(f"os.{call}", fail)
        with pytest.raises(expected):
            write_small(fs, path, b"new")
    assert small(fs, path) == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"]
    assert fs.open_files() == []


def test_directories_are_made_with_their_parents(fs: RealFileSystem, tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c"
    jobs.run_inline(jobs.make_directories(fs, str(path)))
    jobs.run_inline(jobs.make_directories(fs, str(path)))
    assert path.is_dir()
    assert path.stat().st_mode & 0o777 == 0o700
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_mount_in_a_place_that_is_read_only_is_as_good_as_any(
    fs: RealFileSystem, tmp_path: Path
) -> None:
    require_tmpfs("a directory to write to, below one that is read-only")
    path = tmp_path / "read-only" / "volume"
    with ExitStack() as mounted:
        for place in (path.parent, path):
            place.mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(place)], check=True)
            mounted.callback(subprocess.run, ["umount", str(place)], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", str(path.parent)], check=True)
        jobs.run_inline(jobs.make_directories(fs, str(path)))
        jobs.run_inline(jobs.make_directories(fs, str(path / "logs")))
        with pytest.raises(OSError, match="Read-only"):
            jobs.run_inline(jobs.make_directories(fs, str(path.parent / "other")))


def test_a_file_in_the_way_of_a_directory_is_an_error(fs: RealFileSystem, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(FileExistsError):
        jobs.run_inline(jobs.make_directories(fs, str(tmp_path / "a")))
    with pytest.raises(NotADirectoryError):
        jobs.run_inline(jobs.make_directories(fs, str(tmp_path / "a" / "b")))


def test_a_tree_is_removed_and_links_are_not_followed(fs: RealFileSystem, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"")
    tree = tmp_path / "tree"
    (tree / "inner").mkdir(parents=True)
    (tree / "inner" / "one").write_bytes(b"")
    (tree / "two").write_bytes(b"")
    (tree / "link").symlink_to(outside)
    assert jobs.run_inline(jobs.remove_tree(fs, str(tree))) == 3
    assert not tree.exists()
    assert (outside / "precious").exists()
    assert jobs.run_inline(jobs.remove_tree(fs, str(tree))) == 0


def test_a_job_may_handle_the_errors_of_its_calls() -> None:
    def fail() -> None:
        raise OSError(errno.EIO, "injected")

    def job() -> jobs.Job[str]:
        try:
            yield fail, ()
        except OSError:
            return (yield str.upper, ("handled",))
        return "not reached"

    assert jobs.run_inline(job()) == "HANDLED"


def test_run_inline_lets_errors_out() -> None:
    def boom() -> None:
        raise LookupError("out")

    with pytest.raises(LookupError):
        jobs.run_inline(jobs.single_call(boom, ()))


def test_abandoning_a_job_between_calls_closes_its_file(fs: RealFileSystem, tmp_path: Path) -> None:
    job = jobs.write_small_file(fs, str(tmp_path / "x"), "test", b"payload")
    result: Any = None
    for _ in range(2):  # open, first write
        function, arguments = job.send(result)
        result = function(*arguments)
    assert len(fs.open_files()) == 1
    job.close()
    assert fs.open_files() == []


def test_owner_and_path_are_in_the_ledger(fs: RealFileSystem, tmp_path: Path) -> None:
    read_only: Callable[..., Any] = jobs.open_file
    path = str(tmp_path / "a")
    file = jobs.run_inline(read_only(fs, path, "replica/x-0", create=True))
    (row,) = fs.open_files()
    assert (row.path, row.owner) == (path, "replica/x-0")
    file.close()
