"""Crash and fail a log at every single operation of a scenario; also a command.

``python -m tests.storage.sweep --seeds 5`` walks through all operations of five scenarios; the
tests take every n-th.
"""

from __future__ import annotations

import argparse
import errno
import logging
import sys
from typing import TYPE_CHECKING

from tests.storage.model import LogRun
from trio_broker.config import Durability
from trio_broker.testing.sim.faults import DiskFaults

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Short, so that a scenario has fewer than 400 operations.
STEPS = 10

FAULTS: dict[str, Callable[[int], DiskFaults]] = {
    "power cut": lambda number: DiskFaults(crash_at=number),
    "power cut, names in any order": lambda number: DiskFaults(
        crash_at=number, names_lost="subset"
    ),
    "power cut, writes in order": lambda number: DiskFaults(crash_at=number, writes_lost="ordered"),
    "EIO once": lambda number: DiskFaults(fail_at=(number, errno.EIO)),
    "ENOSPC once": lambda number: DiskFaults(fail_at=(number, errno.ENOSPC)),
    "EIO for good": lambda number: DiskFaults(fail_from=(number, errno.EIO)),
}


def scenario_length(seed: int, durability: Durability) -> int:
    """Return how many operations a scenario takes until its last phase, without faults."""
    run = LogRun(seed, durability=durability, steps=STEPS, sudden=False)
    run.open()
    for _ in range(STEPS):
        run.step()
    return max([*run.operation_counts, run.fs.operation_count])


def points(
    seed: int, *, every: int = 1, durability: Durability = Durability.FSYNC
) -> Iterator[tuple[str, int]]:
    """Yield (kind of fault, number of the operation) for a sweep."""
    length = scenario_length(seed, durability)
    for at, kind in enumerate(FAULTS):
        for number in range(1 + at % every, length + 1, every):
            yield kind, number


def run_point(
    seed: int, kind: str, number: int, durability: Durability = Durability.FSYNC
) -> LogRun:
    """Run a scenario with one fault."""
    run = LogRun(
        seed, durability=durability, faults=FAULTS[kind](number), steps=STEPS, sudden=False
    )
    run.run()
    return run


def main() -> int:
    """Sweep, and say where it failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    failed = done = 0
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for durability in Durability:
            for kind, number in points(seed, durability=durability):
                done += 1
                try:
                    run_point(seed, kind, number, durability)
                except Exception as error:  # noqa: BLE001 - a sweep reports and goes on
                    failed += 1
                    print(f"seed {seed} {durability} {kind} at {number}: {error!r}", flush=True)
    print(f"{done} runs, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
