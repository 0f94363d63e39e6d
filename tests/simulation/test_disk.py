"""What survives on the simulated disk: no more than a program may rely on, and no less."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from trio_broker.errors import AppendFailed, SyncFailed
from trio_broker.host import jobs
from trio_broker.host.jobs import run_inline
from trio_broker.testing.sim.disk import SimFileSystem
from trio_broker.testing.sim.faults import DiskFaults, NodeDead
from trio_broker.testing.sim.inodes import BLOCK_BYTES, SECTOR_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_broker.testing.sim.handles import SimFile

SEEDS = range(60)
OWNER = "test"


def disk(seed: int = 1, **faults: Any) -> SimFileSystem:
    fs = SimFileSystem(seed, faults=DiskFaults(**faults))
    fs.prepare_directory("/data")
    return fs


def new_file(fs: SimFileSystem, name: str = "file", content: bytes = b"") -> SimFile:
    """Make a file, with its content and its name durable."""
    file = fs.open(f"/data/{name}", OWNER, create=True)
    if content:
        file.write_at(0, [content])
    file.sync()
    fs.sync_directory("/data")
    return file


def survivors(change: Callable[[SimFileSystem], object], **faults: Any) -> set[object]:
    """Return every content that /data/file (None if gone) has after a power cut, over many seeds.

    The file begins as durable "old!old!".
    """
    found: set[object] = set()
    for seed in SEEDS:
        fs = disk(seed, **faults)
        new_file(fs, content=b"old!old!").close()
        change(fs)
        found.add(fs.crash().tree().get("/data/file"))
    return found


# ------------------------------------------------------------------------------------- power cuts


def test_what_was_synced_survives_always() -> None:
    def change(fs: SimFileSystem) -> None:
        file = fs.open("/data/file", OWNER)
        file.write_at(8, [b"synced"])
        file.truncate(12)
        file.sync()

    assert survivors(change) == {b"old!old!sync"}


def test_what_was_not_synced_may_survive_whole_in_part_or_not_at_all() -> None:
    found = survivors(lambda fs: fs.open("/data/file", OWNER).write_at(8, [b"new"]))
    assert {b"old!old!", b"old!old!new", b"old!old!n"} <= found
    assert b"old!old!\0\0\0" in found, "the length alone may survive"
    assert all(isinstance(content, bytes) and content[:8] == b"old!old!" for content in found)


def test_large_writes_tear_at_sectors() -> None:
    data = b"".join(bytes([number]) * SECTOR_BYTES for number in range(1, 9))
    found = survivors(lambda fs: fs.open("/data/file", OWNER).write_at(512, [data]))
    torn = [c for c in found if isinstance(c, bytes) and len(c) == 512 + len(data)]
    assert any(c[512 : 512 + 512] == bytes(512) and c[-1] == 8 for c in torn)
    for content in torn:
        for start in range(512, len(content), SECTOR_BYTES):
            assert len(set(content[start : start + SECTOR_BYTES])) == 1


def test_a_cut_that_was_not_synced_may_be_undone() -> None:
    assert survivors(lambda fs: fs.open("/data/file", OWNER).truncate(4)) == {b"old!", b"old!old!"}


def test_writes_survive_in_any_order_unless_they_are_ordered() -> None:
    def change(fs: SimFileSystem) -> None:
        file = fs.open("/data/file", OWNER)
        file.write_at(0, [b"1"])
        file.write_at(1, [b"2"])

    assert b"o2d!old!" in survivors(change)
    assert survivors(change, writes_lost="ordered") == {b"old!old!", b"1ld!old!", b"12d!old!"}


def test_a_name_needs_a_sync_of_its_directory() -> None:
    def change(fs: SimFileSystem, *, sync: bool) -> set[bool]:
        file = fs.open("/data/new", OWNER, create=True)
        file.write_at(0, [b"content"])
        file.sync()
        if sync:
            fs.sync_directory("/data")
        return {"/data/new" in fs.crash().tree()}

    without = set().union(*(change(disk(seed), sync=False) for seed in SEEDS))
    assert without == {True, False}, "syncing the file must not save its name"
    assert set().union(*(change(disk(seed), sync=True) for seed in SEEDS)) == {True}


def test_a_directory_is_lost_with_all_that_is_in_it() -> None:
    kept = set()
    for seed in SEEDS:
        fs = disk(seed)
        fs.make_directory("/data/sub")
        file = fs.open("/data/sub/file", OWNER, create=True)
        file.sync()
        fs.sync_directory("/data/sub")
        kept.add("/data/sub/file" in fs.crash().tree())
    assert kept == {True, False}


def test_a_rename_is_atomic_but_not_durable() -> None:
    def change(fs: SimFileSystem) -> None:
        file = fs.open("/data/file.tmp", OWNER, create=True)
        file.write_at(0, [b"new"])
        file.sync()
        fs.rename("/data/file.tmp", "/data/file")

    assert survivors(change) == {b"old!old!", b"new"}
    assert survivors(change, names_lost="subset") == {b"old!old!", b"new"}
    assert survivors(lambda fs: (change(fs), fs.sync_directory("/data"))) == {b"new"}


def test_a_rename_without_a_sync_of_the_file_may_leave_nothing() -> None:
    def change(fs: SimFileSystem) -> None:
        fs.open("/data/file.tmp", OWNER, create=True).write_at(0, [b"new"])
        fs.rename("/data/file.tmp", "/data/file")
        fs.sync_directory("/data")

    assert {b"", b"new"} <= survivors(change)


def test_a_rename_between_directories_is_one_change() -> None:
    for seed in SEEDS:
        fs = disk(seed, names_lost="subset" if seed % 2 else "prefix")
        new_file(fs, "file").close()
        fs.make_directory("/data/away")
        fs.sync_directory("/data")
        fs.rename("/data/file", "/data/away/file")
        if seed % 3 == 0:
            fs.sync_directory("/data/away")
        tree = fs.crash().tree()
        assert ("/data/file" in tree) + ("/data/away/file" in tree) == 1
        if seed % 3 == 0:
            assert "/data/away/file" in tree


def test_an_unlink_may_be_undone_and_a_synced_one_may_not() -> None:
    def unlink(fs: SimFileSystem) -> None:
        fs.unlink("/data/file")

    assert survivors(unlink) == {b"old!old!", None}
    assert survivors(lambda fs: (unlink(fs), fs.sync_directory("/data"))) == {None}


def test_name_changes_survive_in_order_unless_any_subset_may() -> None:
    def change(fs: SimFileSystem) -> frozenset[str]:
        for name in "abc":
            fs.open(f"/data/{name}", OWNER, create=True)
        return frozenset(path[6:] for path in fs.crash().tree() if path != "/data")

    ordered = {change(disk(seed)) for seed in SEEDS}
    assert ordered == {frozenset("abc"[:count]) for count in range(4)}
    anything = {change(disk(seed, names_lost="subset")) for seed in SEEDS}
    assert frozenset("c") in anything


def test_a_killed_process_loses_nothing_but_its_handles() -> None:
    fs = disk()
    file = fs.open("/data/new", OWNER, create=True)
    file.write_at(0, [b"not synced"])
    fs.unlink("/data/new")
    fs.open("/data/kept", OWNER, create=True).write_at(0, [b"not synced"])
    lock = fs.lock_directory("/data", "the old process")
    after = fs.restart()
    assert after.tree() == {
        "/data": None,
        "/data/.lock": b"the old process",
        "/data/kept": b"not synced",
    }
    assert after.open_files() == []
    after.lock_directory("/data", "the new process")
    with pytest.raises(NodeDead):
        file.read_at(0, 1)
    lock.release()


def test_after_a_crash_everything_is_durable() -> None:
    fs = disk(3)
    fs.open("/data/new", OWNER, create=True).write_at(0, [b"x" * 5000])
    once = fs.crash()
    assert once.crash().tree() == once.tree()


@given(st.integers(0, 1000), st.integers(1, 6))
def test_crash_at_stops_everything_at_that_operation(seed: int, crash_at: int) -> None:
    fs = disk(seed, crash_at=crash_at)
    with pytest.raises(NodeDead):
        for number in range(10):
            fs.open(f"/data/{number}", OWNER, create=True)
    assert not fs.alive
    assert fs.operation_count == crash_at
    made = sum(path != "/data" for path in fs.restart().tree())
    assert made in {crash_at - 1, crash_at}, "before or after the effect of that operation"
    with pytest.raises(NodeDead):
        fs.stat("/data")


def test_nothing_after_a_power_cut_reaches_the_disk() -> None:
    fs = disk()
    file = new_file(fs, content=b"old!old!")

    def job() -> Any:
        try:
            yield file.write_at, (0, [b"new"])
            fs.power_off()
            yield file.sync, ()
        finally:
            yield file.truncate, (0,)

    with pytest.raises(NodeDead):
        run_inline(job())
    assert fs.crash().tree()["/data/file"] != b""


# ------------------------------------------------------------------------------------- failed calls


def test_a_failed_sync_loses_pages_that_readers_still_see() -> None:
    found = set()
    for seed in SEEDS:
        fs = disk(seed)
        file = new_file(fs, content=b"old!old!")
        file.write_at(0, [b"new"])
        fs.faults = evolve(fs.faults, sync_error_rate=1.0)
        with pytest.raises(SyncFailed):
            run_inline(jobs.sync(file))
        fs.faults = evolve(fs.faults, sync_error_rate=0.0)
        with pytest.raises(OSError, match="Input/output error"):
            file.sync()
        with pytest.raises(OSError, match="Input/output error"):
            file.read_at(0, 3)
        again = fs.open("/data/file", OWNER)
        assert again.read_at(0, 8) == b"new!old!"
        again.sync()  # "succeeds": what a retry would take for durable
        found.add(fs.crash().content("/data/file"))
    assert found == {b"old!old!", b"new!old!"}


def test_a_failed_sync_of_a_directory_makes_nothing_durable() -> None:
    found = set()
    for seed in SEEDS:
        fs = disk(seed, sync_error_rate=1.0)
        fs.open("/data/new", OWNER, create=True)
        with pytest.raises(OSError, match="Input/output error"):
            fs.sync_directory("/data")
        fs.faults = evolve(fs.faults, sync_error_rate=0.0)
        if seed % 2:
            fs.sync_directory("/data")
        found.add((bool(seed % 2), "/data/new" in fs.crash().tree()))
    assert found == {(False, True), (False, False), (True, True)}


def test_a_failed_write_may_have_written_a_part() -> None:
    found = set()
    for seed in SEEDS:
        fs = disk(seed)
        file = new_file(fs)
        fs.faults = evolve(fs.faults, fail_at=(fs.operation_count + 1, errno.EIO))
        with pytest.raises(OSError, match="Input/output error"):
            file.write_at(0, [b"abc"])
        assert file.size == 0, "the handle counts only what was reported as written"
        found.add(fs.content("/data/file"))
    assert found == {b"", b"a", b"ab", b"abc"}


def test_no_space_comes_as_a_short_write_first() -> None:
    fs = disk()
    file = new_file(fs)
    fs.faults = evolve(fs.faults, fail_at=(fs.operation_count + 1, errno.ENOSPC))
    written = file.write_at(0, [b"x" * 100])
    assert 0 < written < 100
    with pytest.raises(OSError, match="No space left"):
        file.write_at(written, [b"x" * (100 - written)])
    assert file.write_at(written, [b"x"]) == 1


def test_append_all_cuts_back_whatever_fails() -> None:
    for number in (errno.EIO, errno.ENOSPC):
        for seed in SEEDS:
            fs = disk(seed)
            file = new_file(fs, content=b"kept")
            fs.faults = evolve(fs.faults, fail_at=(fs.operation_count + 1, number))
            with pytest.raises(AppendFailed) as caught:
                run_inline(jobs.append_all(file, 4, [b"lost", b"too"]))
            assert caught.value.cut_back
            assert (fs.content("/data/file"), file.size) == (b"kept", 4)


def test_a_dead_disk_fails_from_then_on() -> None:
    fs = disk()
    file = new_file(fs)
    fs.faults = evolve(fs.faults, fail_from=(fs.operation_count + 2, errno.EIO))
    assert file.write_at(0, [b"abc"]) == 3
    for call in (
        lambda: file.read_at(0, 3),
        lambda: fs.stat("/data"),
        lambda: fs.unlink("/data/x"),
    ):
        with pytest.raises(OSError, match="Input/output error"):
            call()


def test_rates_hit_their_kind_of_call_only() -> None:
    fs = disk(read_error_rate=1.0)
    file = new_file(fs, content=b"abc")
    with pytest.raises(OSError, match="Input/output error"):
        file.read_at(0, 3)
    fs.faults = DiskFaults(name_error_rate=1.0)
    file.read_at(0, 3)
    with pytest.raises(OSError, match="Input/output error"):
        fs.list_directory("/data")
    fs.faults = DiskFaults(short_write_rate=1.0)
    assert {file.write_at(0, [b"x" * 10]) for _ in range(100)} == set(range(1, 11))
    fs.faults = DiskFaults(cached_read_rate=1.0)
    assert file.read_cached(0, 3) == b"xxx"
    fs.faults = DiskFaults(cached_read_rate=0.0)
    assert file.read_cached(0, 3) is None


# ------------------------------------------------------------------------------------------ space


def test_a_full_disk_refuses_growth_and_nothing_else() -> None:
    fs = disk(capacity_bytes=4 * BLOCK_BYTES)  # one is the directory's
    file = new_file(fs, content=b"x" * BLOCK_BYTES)
    assert file.write_at(BLOCK_BYTES, [b"x" * 3 * BLOCK_BYTES]) == 2 * BLOCK_BYTES
    with pytest.raises(OSError, match="No space left"):
        file.write_at(3 * BLOCK_BYTES, [b"x"])
    with pytest.raises(OSError, match="No space left"):
        fs.make_directory("/data/sub")
    assert fs.space("/data").free_bytes == 0
    assert file.write_at(0, [b"overwritten"]) == 11
    file.sync()
    fs.rename("/data/file", "/data/renamed")
    fs.open("/data/empty", OWNER, create=True)
    file.truncate(BLOCK_BYTES)
    assert fs.space("/data").free_bytes == 2 * BLOCK_BYTES
    assert file.write_at(BLOCK_BYTES, [b"x"]) == 1


def test_a_quota_refuses_growth_of_what_is_under_it() -> None:
    fs = disk()
    small, free = new_file(fs, "small", b"x" * 10), new_file(fs, "free")
    fs.faults = DiskFaults(quota_reached=lambda path: "small" in path)
    with pytest.raises(OSError, match="No space left"):
        small.write_at(10, [b"x"])
    with pytest.raises(OSError, match="No space left"):
        small.allocate(11)
    with pytest.raises(OSError, match="No space left"):
        fs.make_directory("/data/smaller")
    assert small.write_at(8, [b"overwritten"]) == 2
    small.truncate(5)
    assert free.write_at(0, [b"x" * BLOCK_BYTES]) == BLOCK_BYTES
    assert fs.space("/data").free_bytes > BLOCK_BYTES
    fs.faults = DiskFaults()
    assert small.write_at(5, [b"x"]) == 1


def test_a_disk_whose_power_cannot_fail_keeps_nothing_for_a_power_cut() -> None:
    fs = SimFileSystem(1, power_may_fail=False)
    fs.prepare_directory("/data")
    file = new_file(fs, content=b"content")
    file.truncate(4)
    fs.make_directory("/data/sub")
    fs.unlink("/data/file")
    assert not file._inode.pending
    assert not file._inode.durable
    assert not fs._volume.journal._changes
    with pytest.raises(AssertionError, match="nothing was kept for a power cut"):
        fs.crash()
    new_file(fs, "other", b"kept").close()
    assert fs.restart().tree() == {"/data": None, "/data/other": b"kept", "/data/sub": None}


def test_an_unlinked_file_takes_space_until_it_is_closed() -> None:
    fs = disk(capacity_bytes=10 * BLOCK_BYTES)
    file = new_file(fs, content=b"x" * 3 * BLOCK_BYTES)
    fs.unlink("/data/file")
    assert fs.used_bytes == 4 * BLOCK_BYTES
    file.close()
    assert fs.used_bytes == BLOCK_BYTES
    replaced = new_file(fs, "old", b"x" * BLOCK_BYTES)
    replaced.close()
    new_file(fs, "new", b"x" * BLOCK_BYTES).close()
    fs.rename("/data/new", "/data/old")
    assert fs.used_bytes == 2 * BLOCK_BYTES


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["write", "cut", "unlink", "rename", "mkdir", "rmdir"]),
            st.sampled_from("abc"),
            st.integers(0, 20_000),
        ),
        max_size=30,
    ),
    st.integers(0, 50),
)
def test_space_is_what_files_and_directories_take(
    calls: list[tuple[str, str, int]], seed: int
) -> None:
    fs = disk(seed)
    for call, name, size in calls:
        path = f"/data/{name}"
        try:
            if call == "write":
                with_file = fs.open(path, OWNER, create=True)
                with_file.write_at(0, [bytes(size + 1)])
                with_file.close()
            elif call == "cut":
                with_file = fs.open(path, OWNER)
                with_file.truncate(size)
                with_file.close()
            elif call == "unlink":
                fs.unlink(path)
            elif call == "rename":
                fs.rename(path, f"/data/{'abc'[size % 3]}")
            elif call == "mkdir":
                fs.make_directory(path)
            else:
                fs.remove_directory(path)
        except OSError:
            pass
    for found in (fs, fs.crash()):
        blocks = sum(1 if c is None else -(-len(c) // BLOCK_BYTES) for c in found.tree().values())
        assert found.used_bytes == blocks * BLOCK_BYTES


def test_limits_on_files() -> None:
    fs = disk(open_files_max=2, inodes_max=4)  # one is the directory's
    files = [new_file(fs, name) for name in "ab"]
    with pytest.raises(OSError, match="Too many open files"):
        fs.open("/data/c", OWNER, create=True)
    files[0].close()
    new_file(fs, "c").close()
    with pytest.raises(OSError, match="No space left"):
        new_file(fs, "d")
    assert fs.space("/data").free_inodes == 0
    files[1].close()
    fs.unlink("/data/a")
    new_file(fs, "d").close()


def test_rot_and_damage_reach_the_platter() -> None:
    fs = disk()
    new_file(fs, content=bytes(1000)).close()
    fs.rot("/data/file", bits=3)
    rotten = fs.content("/data/file")
    assert sum(byte.bit_count() for byte in rotten) in {1, 3}
    fs.damage("/data/file", 10, b"damage")
    assert fs.crash().content("/data/file")[10:16] == b"damage"


def test_the_history_tells_what_was_done() -> None:
    fs = disk()
    new_file(fs, content=b"x").close()
    assert [(entry.number, entry.call) for entry in fs.history] == [
        (1, "open"),
        (2, "write_at"),
        (3, "sync"),
        (4, "sync_directory"),
    ]
    assert fs.count_calls()["sync"] == 1
    assert fs.operation_count == 4


def test_equal_seeds_lose_the_same() -> None:
    def run(seed: int) -> dict[str, bytes | None]:
        fs = disk(seed)
        for name in "abcdef":
            fs.open(f"/data/{name}", OWNER, create=True).write_at(0, [name.encode() * 3000])
        return fs.crash().tree()

    assert run(5) == run(5)
    assert len({repr(run(seed)) for seed in range(20)}) > 10


def test_paths_are_absolute() -> None:
    with pytest.raises(ValueError, match="absolute"):
        disk().stat("data")


async def test_the_event_loop_may_not_touch_the_disk() -> None:
    fs = disk()
    with pytest.raises(AssertionError, match="would block the event loop"):
        fs.stat("/data")
