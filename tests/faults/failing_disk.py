"""Disks that fail under load in every way: ``python -m tests.faults.failing_disk --rounds 100``.

Each round lets the disk fail (`FAULTS`), lets the server go on, or starts it again beside the page
cache that the fault has left, and then cuts the power: what a flush had not covered is gone, block
by block. After a few rounds all that was acknowledged is looked for: records, committed offsets,
topics made and deleted, configurations.

Needs root, FUSE and loop devices: the disk is `tests.support.faulty_disk`, the filesystem on it a
real one (`--filesystem`).
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs

from tests.faults.ledger import Ledger, running_ledger
from tests.faults.load import Load, create_topics, read_everything, running_load
from tests.faults.rounds import Site, kept_or_temporary
from tests.support.checker import Report, check
from tests.support.disks import FILESYSTEMS, FLUSH_ALL, FLUSH_LOG, NO_LOG_FLUSH, LoopDisk
from tests.support.faulty_disk import FaultyDisk, faulty_disk
from tests.support.requirements import missing_for_faulty_disks
from tests.support.server import SERVE, SERVE_WITHOUT_FSYNC, Server
from tests.support.waiting import WaitedTooLong, pause, wait_until

DISK_BYTES = 512 << 20
ROUNDS_PER_DISK = 5
LOAD_MIN = 60
#: How long to wait for a server that may come back by itself, or may not.
BACK_SECONDS = 3.0


@attrs.define
class Rig:
    """A server on a filesystem on a disk, and what one round does to them.

    Attributes:
        drive: the disk.
        disk: the filesystem on it.
        site: where the server lives.
        server: the one that runs, or ran last.
        chance: decides.
        command: the program.
    """

    drive: FaultyDisk
    disk: LoopDisk
    site: Site
    server: Server
    chance: random.Random
    command: Sequence[str] = SERVE

    def some_time(self) -> None:
        """Let what has begun go on for a while."""
        pause(self.chance.choice((0.02, 0.1, 0.4, 1.0)))

    def start(self) -> None:
        self.server = self.site.start(self.command)

    def is_usable(self) -> bool:
        """Whether the filesystem takes a file and an fsync."""
        path = self.disk.mount_point / "probe"
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
            try:
                os.write(descriptor, b"x" * 4096)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            path.unlink()
        except OSError:
            return False
        return True

    def lose_power(self) -> None:
        """Take the power from the disk and the server, and give it back to the disk."""
        self.drive.lose_power(self.chance.choice((1.0, 1.0, 0.5)))
        self.server.kill()
        self.disk.unmount()
        self.drive.heal()
        self.disk.mount()


def calls_fail(*calls: str, rate: float = 1.0) -> Callable[[Rig], None]:
    """Return a fault: for a while the drive fails these calls."""

    def strike(rig: Rig) -> None:
        for call in calls:
            rig.drive.fail(call, rate)
        rig.some_time()
        rig.drive.heal()

    return strike


def hang(rig: Rig) -> None:
    """For a while the drive says nothing."""
    rig.drive.hang()
    rig.some_time()
    rig.drive.heal()


def hang_until_killed(rig: Rig) -> None:
    """The drive says nothing until the server is killed, and then that it has failed."""
    rig.drive.hang()
    rig.some_time()
    kill_soon(rig)
    rig.drive.fail("write")
    rig.drive.go_on()
    rig.server.kill()
    rig.some_time()
    rig.drive.heal()


def freeze_until_killed(rig: Rig) -> None:
    """The filesystem is frozen until the server is killed."""
    with rig.disk.frozen():
        rig.some_time()
        kill_soon(rig)
    rig.server.kill()


def kill_soon(rig: Rig) -> None:
    """Kill a server that cannot end before the disk lets go of it."""
    os.kill(rig.server.pid, 9)


def kill(rig: Rig) -> None:
    """Nothing is wrong with the disk."""
    rig.server.kill()


def shut_down(how: int) -> Callable[[Rig], None]:
    """Return a fault: the filesystem ends while the server runs."""

    def strike(rig: Rig) -> None:
        rig.disk.cut_power(how)
        rig.some_time()

    return strike


def drive_vanishes(rig: Rig) -> None:
    """The drive is gone, with its cache, while the server runs."""
    rig.drive.lose_power(rig.chance.choice((1.0, 0.5)))
    rig.some_time()


FAULTS: dict[str, Callable[[Rig], None]] = {
    "writes fail": calls_fail("write"),
    "some writes fail": calls_fail("write", rate=0.3),
    "nothing new fits": calls_fail("new"),
    "flushes fail": calls_fail("flush"),
    "some flushes fail": calls_fail("flush", rate=0.3),
    "reads and writes fail": calls_fail("read", "write"),
    "everything fails": calls_fail("read", "write", "flush"),
    "hangs": hang,
    "hangs until killed": hang_until_killed,
    "freezes until killed": freeze_until_killed,
    "is killed": kill,
    "vanishes": drive_vanishes,
    "shuts down": shut_down(FLUSH_ALL),
    "shuts down with log": shut_down(FLUSH_LOG),
    "shuts down without log": shut_down(NO_LOG_FLUSH),
    "loses power": lambda rig: None,
}
#: Btrfs has no such call.
_NOT_BTRFS = frozenset(name for name in FAULTS if name.startswith("shuts down"))
_AFTERMATHS = ("goes on", "stops", "is killed")


def go_through(rig: Rig, load: Load, fault: str) -> str:
    """Let one round pass; return what has happened.

    The fault may name what comes after it, as in ``writes fail, is killed``.
    """
    fault, _, how = fault.partition(", ")
    load.wait_for_acknowledged(LOAD_MIN)
    pause(rig.chance.uniform(0.0, 0.2))
    rig.server.check_alive()
    FAULTS[fault](rig)
    story = fault
    if fault != "vanishes" and rig.is_usable():
        story += ", " + live_on(rig, load, how or rig.chance.choice(_AFTERMATHS))
    if rig.server.is_running:
        rig.server.halt()
    rig.lose_power()
    rig.start()
    return story


def live_on(rig: Rig, load: Load, how: str) -> str:
    """Use the filesystem on which something has failed."""
    if rig.server.is_running:
        if how == "goes on":
            return how + (" well" if come_back(load) else " badly")
        if how == "stops":
            rig.server.stop()
        else:
            rig.server.kill()
    rig.start()
    return f"{how}, starts again" + (" well" if come_back(load) else " badly")


def come_back(load: Load) -> bool:
    """Wait for acknowledgements, which may or may not come."""
    goal = load.acknowledged + LOAD_MIN
    try:
        wait_until(
            lambda: load.acknowledged >= goal or load.errors, seconds=BACK_SECONDS, what="a return"
        )
    except WaitedTooLong:
        return False
    return True


@attrs.define
class Result:
    """What a run showed."""

    rounds: Counter[str] = attrs.field(factory=Counter)
    acknowledged: int = 0
    changes: int = 0

    def __str__(self) -> str:
        total = self.rounds.total()
        acknowledged = f"{self.acknowledged} records and {self.changes} changes acknowledged"
        lines = [f"{total} rounds, {acknowledged}; nothing lost"]
        lines += [f"  {count:4d} {story}" for story, count in sorted(self.rounds.items())]
        return "\n".join(lines)


@contextmanager
def rig_in(
    directory: Path, filesystem: str, chance: random.Random, command: Sequence[str]
) -> Iterator[Rig]:
    """Make the disk and start a server on it."""
    mount_point = directory / "disk"
    mount_point.mkdir()
    with faulty_disk(directory, size_bytes=DISK_BYTES) as drive:
        disk = LoopDisk(drive.image, mount_point, FILESYSTEMS[filesystem])
        disk.make()
        disk.mount()
        try:
            settings = {
                "log_dirs": mount_point / "logs",
                "topic.segment_bytes": chance.choice((1 << 15, 1 << 20)),
                "storage.recovery_point_bytes": 1 << 20,
                "storage.operation_seconds_max": chance.choice((0.3, 30)),
                "shutdown.ready_grace_seconds": 0,
                "shutdown.deadline_seconds": 3,
            }
            data_dir = chance.choice((mount_point, directory)) / "data"
            site = Site(data_dir, directory / "server.log", settings)
            rig = Rig(drive, disk, site, site.start(command), chance, command)
            try:
                yield rig
            finally:
                drive.heal()
                rig.server.kill()
        finally:
            drive.heal()
            disk.unmount()


def run_on_one_disk(
    directory: Path,
    filesystem: str,
    faults: Sequence[str],
    *,
    seed: int,
    result: Result,
    command: Sequence[str] = SERVE,
    say: Callable[[str], None] = print,
) -> Report:
    """Run some rounds on one disk, and judge what was acknowledged."""
    chance = random.Random(seed)
    with rig_in(directory, filesystem, chance, command) as rig:
        bootstrap = rig.site.bootstrap
        partitions = create_topics(bootstrap, ["alpha", "beta"], 3)
        ledger = Ledger(bootstrap, partitions)
        # What is read while the power is on may be gone after it: `fsync` shows only what stays.
        load = Load(bootstrap, partitions, producers=3)
        with running_ledger(ledger):
            with running_load(load):
                for fault in faults:
                    story = go_through(rig, load, fault)
                    say(f"  {story}")
                    result.rounds[story] += 1
                load.wait_for_acknowledged(LOAD_MIN)
        load.check_errors()
        report = check(load.history, read_everything(bootstrap, partitions))
        faults_found = ledger.faults()
        code = rig.server.stop()
    result.acknowledged += report.acknowledged
    result.changes += ledger.acknowledged
    assert not faults_found, faults_found
    assert code == 0, f"exit code {code} after the last round"
    return report


def faults_for(filesystem: str, only: str = "") -> list[str]:
    """Return what can happen to such a filesystem."""
    names = [name for name in FAULTS if filesystem != "btrfs" or name not in _NOT_BTRFS]
    return [name for name in names if only in name]


def main() -> None:
    """Run as a command; the exit code is 1 if anything acknowledged is gone."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.failing_disk",
                                     description=__doc__)  # fmt: skip
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--filesystem", choices=sorted(FILESYSTEMS), default="ext4")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--only", default="", help="faults whose name has this in it")
    parser.add_argument("--keep", type=Path, help="work in this directory and leave logs behind")
    parser.add_argument("--without-fsync", action="store_true", help="a build that must be caught")
    options = parser.parse_args()
    if missing := missing_for_faulty_disks(options.filesystem):
        sys.exit(f"NOT TESTED: FAILING DISKS. MISSING: {', '.join(missing)}")
    logging.disable()  # clients of servers that die
    print(f"seed {options.seed}", flush=True)
    chance = random.Random(options.seed)
    names = faults_for(options.filesystem, options.only)
    result = Result()
    command = SERVE_WITHOUT_FSYNC if options.without_fsync else SERVE
    with kept_or_temporary(options.keep) as directory:
        while (left := options.rounds - result.rounds.total()) > 0:
            faults = [chance.choice(names) for _ in range(min(left, ROUNDS_PER_DISK))]
            place = Path(tempfile.mkdtemp(dir=directory))
            print(f"{options.filesystem} in {place}", flush=True)
            report = run_on_one_disk(
                place, options.filesystem, faults,
                seed=chance.randrange(2**32), result=result, command=command,
            )  # fmt: skip
            report.require_clean()
    print(result)


if __name__ == "__main__":
    main()
