"""Faults of one directory: everything in it meets them, and nothing beside it."""

from __future__ import annotations

import errno
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from trio_broker.errors import StuckIO
from trio_broker.testing.sim import NodeDead, PathFaults, SimMachine, Simulation, simulate
from trio_broker.testing.sim.disk import SimFileSystem
from trio_broker.testing.sim.inodes import BLOCK_BYTES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_broker.host.interface import Lane
    from trio_broker.testing.sim.handles import SimFile

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "simulation.md"
DEADLINE_SECONDS = 1.0


def disk(seed: int = 1) -> tuple[SimFileSystem, SimFile, SimFile]:
    """Return a disk with two directories, and an open file in each of them."""
    fs = SimFileSystem(seed)
    files = []
    for path in ("/data/bad", "/data/badly"):  # the second one's name begins with the first one's
        fs.prepare_directory(path)
        files.append(fs.open(f"{path}/file", "test", create=True))
        files[-1].write_at(0, [b"content"])
        files[-1].sync()
        fs.sync_directory(path)
    return fs, files[0], files[1]


READ, WRITE, SYNC = (
    PathFaults(**{f"{call}_error_rate": 1.0}) for call in ("read", "write", "sync")
)
NAMES = PathFaults(name_error_rate=1.0, error_number=errno.EACCES)


@pytest.mark.parametrize(
    "faults,call",
    [
        (READ, lambda fs, file: file.read_at(0, 1)),
        (WRITE, lambda fs, file: file.write_at(0, [b"x"])),
        (WRITE, lambda fs, file: file.truncate(1)),
        (SYNC, lambda fs, file: file.sync()),
        (SYNC, lambda fs, file: fs.sync_directory(file.path.removesuffix("/file"))),
        (NAMES, lambda fs, file: fs.open(file.path, "test")),
        (NAMES, lambda fs, file: fs.stat(file.path)),
        (NAMES, lambda fs, file: fs.unlink(file.path)),
        (NAMES, lambda fs, file: fs.rename(file.path, "/data/away")),
        (NAMES, lambda fs, file: fs.rename("/data/other", file.path)),
    ],
)
def test_calls_fail_in_the_directory_and_nowhere_else(
    faults: PathFaults, call: Callable[[SimFileSystem, SimFile], object]
) -> None:
    fs, bad, good = disk()
    fs.open("/data/other", "test", create=True).close()
    with fs.failing_below("/data/bad", faults):
        with pytest.raises(OSError, match=r"error|denied") as caught:
            call(fs, bad)
        assert caught.value.errno == faults.error_number
        call(fs, good)
    fs, bad, good = disk()
    fs.open("/data/other", "test", create=True).close()
    with fs.failing_below("/data/bad", faults):
        pass
    call(fs, bad)


def test_a_failed_fsync_loses_what_is_in_the_directory() -> None:
    kept = set()
    for seed in range(20):
        fs, bad, good = disk(seed)
        for file in (bad, good):
            file.write_at(0, [b"CONTENT"])
        with fs.failing_below("/data/bad", SYNC), pytest.raises(OSError, match="Input/output"):
            bad.sync()
        good.sync()
        after = fs.crash()
        assert after.content("/data/badly/file") == b"CONTENT"
        kept.add(after.content("/data/bad/file"))
    assert b"content" in kept


def test_a_full_directory_is_full_and_the_disk_is_not() -> None:
    fs, bad, good = disk()
    fs.set_faults_below("/data/bad/", PathFaults(is_full=True))
    assert bad.write_at(5, [b"longer"]) == 2
    for grow in (lambda: bad.write_at(7, [b"x"]), lambda: fs.make_directory("/data/bad/more")):
        with pytest.raises(OSError, match="No space left"):
            grow()
    assert fs.space("/data/bad").free_bytes == 0
    assert good.write_at(5, [b"longer"]) == 6
    fs.make_directory("/data/badly/more")
    assert fs.space("/data").free_bytes > BLOCK_BYTES
    fs.set_faults_below("/data/bad", None)
    assert bad.write_at(7, [b"x"]) == 1
    assert fs.space("/data/bad").free_bytes > BLOCK_BYTES


def test_enospc_by_rate_is_a_short_write_first() -> None:
    fs, bad, good = disk()
    with fs.failing_below("/data", PathFaults(write_error_rate=1.0, error_number=errno.ENOSPC)):
        assert bad.write_at(0, [b"x" * 100]) < 100
        with pytest.raises(OSError, match="No space left"):
            bad.write_at(0, [b"x" * 100])
    with fs.failing_below("/data/bad", PathFaults(short_write_rate=1.0)):
        assert min(bad.write_at(0, [b"x" * 100]) for _ in range(10)) < 100
        assert good.write_at(0, [b"x" * 100]) == 100


def test_of_several_faults_each_counts() -> None:
    fs, bad, good = disk()
    with fs.failing_below("/", READ), fs.failing_below("/data/bad", WRITE):
        for fails in (partial(bad.read_at, 0, 1), partial(bad.write_at, 0, [b"x"])):
            with pytest.raises(OSError, match="Input/output"):
                fails()
        with pytest.raises(OSError, match="Input/output"):
            good.read_at(0, 1)
        good.write_at(0, [b"x"])


def test_a_broken_directory_stays_broken_when_the_power_is_back() -> None:
    fs, _, _ = disk()
    fs.set_faults_below("/data/bad", READ)
    for after in (fs.crash(), fs.restart()):
        with pytest.raises(OSError, match="Input/output"):
            after.open("/data/bad/file", "test").read_at(0, 1)
        assert after.open("/data/badly/file", "test").read_at(0, 7) == b"content"


def test_paths_are_absolute() -> None:
    fs, _, _ = disk()
    with pytest.raises(ValueError, match="absolute"):
        fs.set_faults_below("data", READ)


# ------------------------------------------------------------------------------------ taking time


def run(program: Callable[[SimMachine, Lane, Lane], Awaitable[Any]]) -> Any:
    """Run a program with a machine and two lanes."""

    async def main(sim: Simulation) -> Any:
        machine = sim.machine("laptop")
        for path in ("/bad", "/good"):
            machine.fs.prepare_directory(path)
        async with trio.open_nursery() as nursery:
            lanes = [machine.host.open_lane(name, DEADLINE_SECONDS) for name in ("bad", "good")]
            for lane in lanes:
                await nursery.start(lane.serve)
            value = await program(machine, *lanes)
            nursery.cancel_scope.cancel()
            return value

    return simulate(main, 1).unwrap()


async def seconds_of(lane: Lane, machine: SimMachine, path: str) -> float:
    began_at = trio.current_time()
    await lane.call(machine.fs.stat, path)
    return trio.current_time() - began_at


def test_a_directory_is_slow() -> None:
    async def program(machine: SimMachine, bad: Lane, good: Lane) -> list[float]:
        slow = PathFaults(latency_seconds=(0.5, 0.5))
        with machine.fs.failing_below("/bad", slow):
            spent = [
                await seconds_of(bad, machine, "/bad"),
                await seconds_of(good, machine, "/good"),
            ]
        return [*spent, await seconds_of(bad, machine, "/bad")]

    slow, beside, afterwards = run(program)
    assert slow == 0.5
    assert max(beside, afterwards) < 0.1


def test_a_directory_hangs_until_its_fault_is_taken_back() -> None:
    async def program(machine: SimMachine, bad: Lane, good: Lane) -> None:
        with machine.fs.failing_below("/bad", PathFaults(is_frozen=True)):
            with pytest.raises(StuckIO, match="did not return within 1 s"):
                await bad.call(machine.fs.stat, "/bad/file")
            assert await seconds_of(good, machine, "/good") < 0.1
            assert bad.stuck_seconds >= DEADLINE_SECONDS
        await trio.sleep(0.1)
        assert bad.stuck_seconds == 0.0
        await bad.call(machine.fs.stat, "/bad/file")

    run(program)


def test_what_hangs_ends_with_the_power() -> None:
    async def main(sim: Simulation) -> None:
        machine = sim.machine("laptop")
        machine.fs.set_faults_below("/bad", PathFaults(is_frozen=True))

        async def program(host: Any) -> None:
            lane = host.open_lane("bad", 3600.0)
            async with trio.open_nursery() as nursery:
                await nursery.start(lane.serve)
                try:
                    await lane.call(host.fs.stat, "/bad")
                except NodeDead:
                    seen.append(trio.current_time())
                    raise

        seen: list[float] = []
        began_at = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(machine.run, program)
            await trio.sleep(5)
            machine.power_off()
        assert seen == [began_at + 5]

    simulate(main, 1).unwrap()


def test_the_page_on_faults_below_a_path() -> None:
    page = PAGE.read_text("utf-8")
    (code,) = re.findall(r"^(async def store_somewhere.*?)^```", page, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {
        "trio": trio,
        "partial": partial,
        "pytest": pytest,
        "Host": object,
        "PathFaults": PathFaults,
    }
    exec(code, names)
    for seed in range(20):
        simulate(names["test_a_broken_stick_is_not_the_end"], seed).unwrap()
    fields = set(
        re.findall(r"`(\w+)`", page[page.index("| `PathFaults` |") :].partition("\n\n")[0])
    )
    assert fields - {"PathFaults", "DiskFaults"} == set(PathFaults.__slots__) - {"__weakref__"}
