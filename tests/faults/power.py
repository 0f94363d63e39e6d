"""Power cuts under load on a disk of its own: ``python -m tests.faults.power --rounds 50``.

Needs root and loop devices. The disk is an ext4 filesystem that is shut down without writing its
journal (`tests.support.disks`): what was not synced is gone, as when the power goes.

The server is halted just before, because power takes the CPU along with the disk. Left running, it
is told lies: an fsync that is under way during the shutdown can find the aborted transaction gone
from the journal and return success (jbd2_complete_transaction), which the server would pass on.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import attrs

from tests.faults.load import Load, create_topics, read_everything, running_load
from tests.faults.rounds import LOAD_MIN, Outcome, Site, kept_or_temporary, run_rounds
from tests.support.checker import Report, check
from tests.support.disks import LoopDisk, loop_disk, sync_all
from tests.support.requirements import missing_for_loop_disks
from tests.support.server import SERVE, Server
from tests.support.waiting import pause

DISK_BYTES = 4 << 30


@attrs.frozen
class Loss:
    """What one power cut cost.

    Attributes:
        report: the judged history, of what was sent long before the cut and until it.
        lost_before_load: lost records that were on the disk before the load began.
        oldest_lost_seconds: how long before the cut the oldest lost record was acknowledged.
    """

    report: Report
    lost_before_load: int
    oldest_lost_seconds: float


def site_on(disk: LoopDisk, directory: Path, durability: str) -> Site:
    """Return a server's place on a disk, with its log elsewhere."""
    settings = {"storage.durability": durability, "topic.segment_bytes": 1 << 20}
    return Site(disk.mount_point / "data", directory / "server.log", settings)


def run_power_cuts(directory: Path, *, rounds: int, seed: int) -> Outcome:
    """Cut the power `rounds` times under load in ``fsync`` mode and judge what is left."""
    with loop_disk(directory, size_bytes=DISK_BYTES) as disk:

        def cut(server: Server) -> None:
            server.halt()
            disk.cut_power()
            server.kill()
            disk.remount()

        return run_rounds(site_on(disk, directory, "fsync"), cut, rounds=rounds, seed=seed)


def lose_power_once(
    directory: Path,
    *,
    durability: str,
    load_seconds: float = 0.5,
    command: Sequence[str] = SERVE,
) -> Loss:
    """Cut the power once under load, restart the real server and say what was lost.

    The topics are there and synced before, so that what is lost is what the load wrote.

    Args:
        directory: scratch space.
        durability: the server's mode.
        load_seconds: how long the load runs before the cut.
        command: the build under test; the server before and after is always the real one.
    """
    with loop_disk(directory, size_bytes=DISK_BYTES) as disk:
        site = site_on(disk, directory, durability)
        server = site.start()
        try:
            partitions = create_topics(site.bootstrap, ["alpha", "beta"], 2)
            # Nobody reads along: what was read may legally be lost in the weaker modes.
            before = Load(site.bootstrap, partitions, name="before", watched=False)
            with running_load(before):
                before.wait_for_acknowledged(LOAD_MIN)
            server.stop()
            sync_all()
            server = site.start(command)
            during = Load(
                site.bootstrap, partitions, name="during", watched=False, history=before.history
            )
            during.start()
            try:
                during.wait_for_acknowledged(LOAD_MIN)
                pause(load_seconds)
                server.check_alive()
                server.halt()
                cut_at = time.perf_counter()
                disk.cut_power()
            finally:
                during.give_up()
            server.kill()
            disk.remount()
            server = site.start()
            final = read_everything(site.bootstrap, partitions)
        finally:
            server.kill()
    report = check(during.history, final)
    lost_during = [place for place in report.lost if place[1].producer.startswith("during")]
    oldest = min((during.acknowledged_at(*place) for place in lost_during), default=cut_at)
    return Loss(report, len(report.lost) - len(lost_during), cut_at - oldest)


def main() -> None:
    """Run as a command; the exit code is 1 if the history shows an anomaly."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.power", description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--keep", type=Path, help="work in this directory and leave it behind")
    options = parser.parse_args()
    if missing := missing_for_loop_disks():
        sys.exit(f"NOT TESTED: POWER CUTS. MISSING: {', '.join(missing)}")
    print(f"seed {options.seed}")
    with kept_or_temporary(options.keep) as directory:
        outcome = run_power_cuts(directory, rounds=options.rounds, seed=options.seed)
    print(outcome)
    outcome.report.require_clean()


if __name__ == "__main__":
    main()
