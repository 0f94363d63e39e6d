"""Real files: positional, private, never reused under a running call."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys
import textwrap
import threading
from typing import TYPE_CHECKING

import pytest

from trio_broker.errors import LogDirInUse, StuckIO
from trio_broker.host import files, jobs

if TYPE_CHECKING:
    from pathlib import Path

    from tests.host.conftest import Hang
    from trio_broker.host.file_system import RealFileSystem
    from trio_broker.host.files import RealFile


@pytest.fixture
def file(fs: RealFileSystem, tmp_path: Path) -> RealFile:
    return fs.open(str(tmp_path / "data"), "test", create=True)


@pytest.fixture(autouse=True)
def _close(file: RealFile, hang: Hang) -> object:
    yield
    hang.go_on.set()
    file.close()


def start_in_call(hang: Hang, function: object, *arguments: object) -> threading.Thread:
    """Run a call on a thread and return once it hangs."""
    thread = threading.Thread(target=function, args=arguments)
    thread.start()
    assert hang.entered.wait(60)
    return thread


def test_reads_return_what_was_written(file: RealFile) -> None:
    assert file.write_at(0, [b"abc", bytearray(b"def"), memoryview(b"ghi")]) == 9
    assert file.size == 9
    assert file.read_at(2, 5) == b"cdefg"
    assert file.read_at(7, 100) == b"hi"
    assert file.read_at(9, 10) == b""
    file.truncate(4)
    assert file.size == 4
    assert file.read_at(0, 10) == b"abcd"
    file.sync()


def blocks_bytes(path: Path) -> int:
    return 512 * path.stat().st_blocks


def test_room_is_taken_from_the_disk_and_given_back(
    fs: RealFileSystem, tmp_path: Path, file: RealFile
) -> None:
    path = tmp_path / "data"
    file.write_at(0, [b"abc"])
    file.reserve(4_000_000)
    if blocks_bytes(path) < 4_000_000:
        pytest.skip("this filesystem sets no room aside")
    assert path.stat().st_size == 3
    again = fs.open(str(path), "test")  # as after a restart
    assert again.reserved_end >= 4_000_000
    again.truncate(3)
    assert blocks_bytes(path) < 100_000
    again.close()
    assert path.read_bytes() == b"abc"


def test_room_that_is_not_to_be_had_is_asked_for_once(
    file: RealFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def refuse(*arguments: int) -> int:
        asked.append(arguments[1:])
        return -1

    monkeypatch.setattr(files, "_load_fallocate", lambda: refuse)
    file.write_at(0, [b"abc"])
    file.reserve(4_000_000)
    assert asked == [(1, 3, 4_000_000 - 3)]
    assert (file.size, file.reserved_end) == (3, 4_000_000)
    assert blocks_bytes(tmp_path / "data") < 100_000
    monkeypatch.setattr(files, "_load_fallocate", lambda: None)  # a system without it
    file.reserve(5_000_000)
    assert file.write_at(3, [b"def"]) == 3


def test_one_call_reads_on_after_a_short_read(
    file: RealFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_at(0, [bytes(range(100))])
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, length, at: pread(fd, min(length, 7), at))
    assert file.read_at(0, 100) == bytes(range(100))
    assert file.read_at(50, 100) == bytes(range(50, 100))


def test_opening_again_finds_the_size_and_truncates_nothing(
    fs: RealFileSystem, file: RealFile
) -> None:
    file.write_at(0, [b"12345"])
    file.close()
    again = fs.open(file.path, "test", create=True)
    assert again.size == 5
    again.close()


def test_files_and_directories_are_private(
    fs: RealFileSystem, file: RealFile, tmp_path: Path
) -> None:
    fs.make_directory(str(tmp_path / "directory"))
    assert (tmp_path / "directory").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o600


def test_a_read_only_file_refuses_writes(fs: RealFileSystem, file: RealFile) -> None:
    reader = fs.open(file.path, "test", read_only=True)
    with pytest.raises(OSError, match="Bad file descriptor"):
        reader.write_at(0, [b"x"])
    reader.close()


def test_a_symbolic_link_is_refused(fs: RealFileSystem, file: RealFile, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(file.path)
    for create in (False, True):
        with pytest.raises(OSError, match="symbolic link") as caught:
            fs.open(str(link), "test", create=create)
        assert caught.value.errno == errno.ELOOP
    info = fs.stat(str(link))
    assert info is not None
    assert not info.is_directory


def test_only_regular_files_are_opened(fs: RealFileSystem, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="not a regular file"):
        fs.open(str(tmp_path), "test", read_only=True)
    with pytest.raises(FileNotFoundError):
        fs.open(str(tmp_path / "missing"), "test")


def test_names(fs: RealFileSystem, tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        fs.open(str(tmp_path / name), "test", create=True).close()
    fs.rename(str(tmp_path / "a"), str(tmp_path / "b"))
    fs.sync_directory(str(tmp_path))
    # "data" belongs to the fixture
    assert fs.list_directory(str(tmp_path)) == ["b", "c", "data"]
    fs.unlink(str(tmp_path / "c"))
    assert fs.stat(str(tmp_path / "c")) is None
    fs.make_directory(str(tmp_path / "d"))
    with pytest.raises(FileExistsError):
        fs.make_directory(str(tmp_path / "d"))
    fs.make_directory(str(tmp_path / "d"), exist_ok=True)
    with pytest.raises(FileExistsError):
        fs.make_directory(str(tmp_path / "b"), exist_ok=True)
    fs.remove_directory(str(tmp_path / "d"))


def test_stat_and_space(fs: RealFileSystem, file: RealFile, tmp_path: Path) -> None:
    file.write_at(0, [b"123"])
    info = fs.stat(file.path)
    assert info is not None
    assert (info.size_bytes, info.is_directory) == (3, False)
    assert info.modified_ms == os.stat(file.path).st_mtime_ns // 1_000_000
    directory = fs.stat(str(tmp_path))
    assert directory is not None
    assert directory.is_directory
    space = fs.space(str(tmp_path))
    assert 0 < space.free_bytes <= space.total_bytes
    assert space.free_inodes > 0


# Reading without waiting


def test_cached_pages_are_read_without_waiting(file: RealFile) -> None:
    content = os.urandom(100_000)
    file.write_at(0, [content])
    if file.read_cached(0, 1) is None:
        pytest.skip("this filesystem does not know RWF_NOWAIT")
    assert file.read_cached(0, 100_000) == content
    assert file.read_cached(99_990, 100) == content[-10:]
    assert file.read_cached(100_000, 100) == b""
    assert file.read_cached(10, 0) == b""
    file.close()
    assert file.read_cached(0, 10) is None


def test_large_reads_use_memory_again_but_not_what_somebody_looks_at(file: RealFile) -> None:
    content = os.urandom(400_000)
    file.write_at(0, [content])
    if file.read_cached(0, 1) is None:
        pytest.skip("this filesystem does not know RWF_NOWAIT")
    kept = [file.read_cached(position, 100_000) for position in range(0, 300_000, 50_000)]
    assert file.read_cached(350_000, 100_000) == content[350_000:]  # ends where the file does
    for turn, read in enumerate(kept):
        assert read == content[50_000 * turn :][:100_000]
    pool = file._ledger.read_buffers
    held = pool.kept_bytes
    del kept, read
    for position in range(0, 300_000, 50_000):
        assert file.read_cached(position, 100_000) == content[position:][:100_000]
    assert pool.kept_bytes == held > 0


def test_a_reader_sees_what_another_object_appended(fs: RealFileSystem, file: RealFile) -> None:
    reader = fs.open(file.path, "test", read_only=True)
    file.write_at(0, [b"appended"])
    assert reader.read_at(0, 100) == b"appended"
    cached = reader.read_cached(0, 100)
    assert cached is None or cached == b"appended"
    reader.close()


def test_pages_on_disk_only_are_left_to_the_lane(file: RealFile) -> None:
    file.write_at(0, [os.urandom(1 << 20)])
    if file.read_cached(0, 1) is None:
        pytest.skip("this filesystem does not know RWF_NOWAIT")
    file.sync()
    descriptor = os.open(file.path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)
    assert file.read_cached(0, 1 << 20) is None
    file.read_at(0, 1 << 20)
    assert file.read_cached(0, 1 << 20) is not None


def test_a_filesystem_that_cannot_is_asked_only_once(
    file: RealFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def refuse(*arguments: object) -> int:
        calls.append(arguments)
        raise OSError(errno.EOPNOTSUPP, "injected")

    monkeypatch.setattr(os, "preadv", refuse)
    assert file.read_cached(0, 10) is None
    assert file.read_cached(0, 10) is None
    assert len(calls) <= 1


# Faults


@pytest.mark.skipif(sys.platform != "linux", reason="NOT TESTED: LINUX'S FSYNC")
def test_a_sync_that_succeeded_on_a_failed_filesystem_is_a_failed_one(
    fs: RealFileSystem, file: RealFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse_with(number: int) -> None:
        def utime(*_arguments: object, **_keywords: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "utime", utime)

    file.write_at(0, [b"abc"])
    refuse_with(errno.EPERM)  # another user's file: no proof of anything
    file.sync()
    refuse_with(errno.EROFS)
    with pytest.raises(OSError, match="Read-only"):
        fs.sync_directory(str(tmp_path))
    with pytest.raises(OSError, match="Read-only"):
        file.sync()
    assert "tainted" in repr(file)


def test_a_sync_leaves_the_time_of_the_last_write(file: RealFile) -> None:
    file.write_at(0, [b"abc"])
    os.utime(file.path, (1_000, 2_000))
    file.sync()
    assert os.stat(file.path).st_mtime == 2_000


def test_a_failed_sync_taints_the_file(file: RealFile, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError(errno.EIO, "injected")

    file.write_at(0, [b"abc"])
    with monkeypatch.context() as patch:
        patch.setattr("trio_broker.host.files._sync_data", fail)
        with pytest.raises(OSError, match="injected"):
            file.sync()
    for call in (
        file.sync,
        lambda: file.write_at(3, [b"x"]),
        lambda: file.read_at(0, 3),
        lambda: file.truncate(0),
    ):
        with pytest.raises(OSError, match="fsync of this file has failed") as caught:
            call()
        assert caught.value.errno == errno.EIO
    assert file.read_cached(0, 3) is None
    assert "tainted" in repr(file)
    file.close()


def test_a_closed_file_refuses_everything(fs: RealFileSystem, file: RealFile) -> None:
    file.close()
    file.close()
    assert fs.open_files() == []
    with pytest.raises(OSError, match="file is closed"):
        file.read_at(0, 1)


def test_the_descriptor_of_a_hung_call_is_not_reused(
    fs: RealFileSystem,
    file: RealFile,
    hang: Hang,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "pwritev", hang.wrap(os.pwritev))
    thread = start_in_call(hang, file.write_at, 0, [b"late"])
    file.close()
    assert "closing" in repr(file)
    assert [row.path for row in fs.open_files()] == [file.path]
    with pytest.raises(OSError, match="file is closed"):
        file.truncate(0)
    others = [fs.open(str(tmp_path / f"other-{n}"), "test", create=True) for n in range(5)]
    hang.go_on.set()
    thread.join()
    assert [other.size for other in others] == [0] * 5
    assert [os.stat(other.path).st_size for other in others] == [0] * 5
    assert os.stat(file.path).st_size == 4
    assert file.path not in [row.path for row in fs.open_files()]
    for other in others:
        other.close()


def test_a_stuck_file_refuses_operations_until_the_call_returns(
    file: RealFile, hang: Hang, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.mark_stuck()  # no call: nothing to wait for
    assert file.read_at(0, 1) == b""
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", hang.wrap(os.pwritev))
        thread = start_in_call(hang, file.write_at, 0, [b"late"])
        file.mark_stuck()
        with pytest.raises(StuckIO):
            file.read_at(0, 1)
        assert file.read_cached(0, 1) is None
        hang.go_on.set()
        thread.join()
    assert file.read_at(0, 4) == b"late"


# Locks


def test_a_directory_is_locked_once(fs: RealFileSystem, tmp_path: Path) -> None:
    lock = fs.lock_directory(str(tmp_path), "node 7")
    with pytest.raises(LogDirInUse, match=rf"pid {os.getpid()} on .*: node 7"):
        fs.lock_directory(str(tmp_path), "node 8")
    lock.release()
    lock.release()
    fs.lock_directory(str(tmp_path), "node 8").release()
    assert (tmp_path / ".lock").stat().st_mode & 0o777 == 0o600


def test_another_process_is_kept_out(fs: RealFileSystem, tmp_path: Path) -> None:
    program = textwrap.dedent(
        """
        import sys
        from trio_broker.errors import LogDirInUse
        from trio_broker.host.file_system import RealFileSystem
        try:
            RealFileSystem().lock_directory(sys.argv[1], "other")
        except LogDirInUse as error:
            sys.exit(f"refused: {error}")
        """
    )
    lock = fs.lock_directory(str(tmp_path), "first")
    command = [sys.executable, "-c", program, str(tmp_path)]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "refused" in refused.stderr
    assert "first" in refused.stderr
    lock.release()
    assert subprocess.run(command, check=False).returncode == 0


def test_a_link_to_a_directory_is_not_locked(fs: RealFileSystem, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(OSError, match="symbolic link"):
        fs.lock_directory(str(tmp_path / "link"), "test")
    (tmp_path / "real" / ".lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic link"):
        fs.lock_directory(str(tmp_path / "real"), "test")
    assert not (tmp_path / "elsewhere").exists()


def test_a_directory_that_everybody_may_change_is_locked_with_a_warning(
    fs: RealFileSystem, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tmp_path.chmod(0o770)
    fs.lock_directory(str(tmp_path), "test").release()
    assert caplog.text == ""
    tmp_path.chmod(0o777)
    fs.lock_directory(str(tmp_path), "test").release()
    assert "every user" in caplog.text


def test_a_lock_is_held_until_the_last_call_has_returned(
    fs: RealFileSystem, hang: Hang, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "logs"
    directory.mkdir()
    neighbour = tmp_path / "logs-2"
    neighbour.mkdir()
    file = fs.open(str(directory / "segment"), "test", create=True)
    lock = fs.lock_directory(str(directory), "first")
    neighbour_lock = fs.lock_directory(str(neighbour), "first")
    monkeypatch.setattr(os, "pwritev", hang.wrap(os.pwritev))
    thread = start_in_call(hang, file.write_at, 0, [b"late"])
    file.close()
    neighbour_lock.release()
    lock.release()
    fs.lock_directory(str(neighbour), "second").release()
    with pytest.raises(LogDirInUse):
        fs.lock_directory(str(directory), "second")
    hang.go_on.set()
    thread.join()
    fs.lock_directory(str(directory), "second").release()


def test_a_lock_waits_for_calls_on_names_too(
    fs: RealFileSystem, hang: Hang, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = fs.lock_directory(str(tmp_path), "first")
    monkeypatch.setattr(os, "unlink", hang.wrap(lambda _path: None))
    thread = start_in_call(hang, fs.unlink, str(tmp_path / "segment"))
    lock.release()
    with pytest.raises(LogDirInUse):
        fs.lock_directory(str(tmp_path), "second")
    hang.go_on.set()
    thread.join()
    fs.lock_directory(str(tmp_path), "second").release()


# Full disks and few descriptors


TINY_DISK_PROGRAM = """
import sys
from trio_broker.errors import AppendFailed
from trio_broker.host import jobs
from trio_broker.host.file_system import RealFileSystem
import errno

fs = RealFileSystem()
directory = sys.argv[1]
lock = fs.lock_directory(directory, "tiny")
jobs.run_inline(jobs.write_small_file(fs, directory + "/checkpoint", "test", b"old"))
file = fs.open(directory + "/log", "test", create=True)
size = 0
while True:
    try:
        size += jobs.run_inline(jobs.append_all(file, size, [b"x" * 4096] * 50))
    except AppendFailed as error:
        assert error.errno == errno.ENOSPC, error
        assert error.cut_back
        break
assert file.size == size == fs.stat(file.path).size_bytes, (file.size, size)
# What the cut gave back is filled, so that not one page is left.
filler = fs.open(directory + "/filler", "test", create=True)
at = 0
while True:
    try:
        at += filler.write_at(at, [b"y" * 4096])
    except OSError as error:
        assert error.errno == errno.ENOSPC
        break
assert fs.space(directory).free_bytes == 0
try:
    jobs.run_inline(jobs.write_small_file(fs, directory + "/checkpoint", "test", b"new" * 9999))
except AppendFailed as error:
    assert error.errno == errno.ENOSPC
else:
    raise AssertionError("there was room")
small = jobs.run_inline(jobs.read_small_file(fs, directory + "/checkpoint", "test"))
assert small == b"old", small
assert "checkpoint.tmp" not in fs.list_directory(directory)
lock.release()
fs.lock_directory(directory, "again, with a text that is longer than before").release()
filler.close()
file.close()
print("survived")
"""


def test_a_full_disk_leaves_files_as_they_were(tmp_path: Path) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("NOT TESTED: a full disk needs unshare(1) to mount a small one")
    mount = f"mount -t tmpfs -o size=1m tiny {tmp_path}"
    probe = ["unshare", "-Urm", "sh", "-c", mount]
    if subprocess.run(probe, capture_output=True, check=False).returncode != 0:
        pytest.skip("NOT TESTED: a full disk needs the right to mount a small one")
    program = f'{mount} && exec "{sys.executable}" -c "$1" {tmp_path}'
    ran = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", program, "sh", TINY_DISK_PROGRAM],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stdout == "survived\n", ran.stderr


def test_no_descriptor_left_is_an_error_of_that_open_only(
    fs: RealFileSystem, tmp_path: Path
) -> None:
    path = str(tmp_path / "many")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/dev/fd")))
    files = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 8, hard))
    try:
        with pytest.raises(OSError, match="Too many open files") as caught:
            while True:
                files.append(fs.open(path, "test", create=True))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert caught.value.errno == errno.EMFILE
    assert files
    files[0].write_at(0, [b"works"])
    for file in files:
        file.close()


def test_jobs_run_on_real_files(fs: RealFileSystem, file: RealFile) -> None:
    buffers = [b"%04d" % n for n in range(3000)]
    assert jobs.run_inline(jobs.append_all(file, 0, buffers)) == 12_000
    jobs.run_inline(jobs.sync(file))
    assert file.read_at(0, 12_000) == b"".join(buffers)
