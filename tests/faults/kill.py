"""kill -9 under load, again and again: ``python -m tests.faults.kill --rounds 100``.

Proves what a crash of the process may not do in any durability mode. It proves nothing about
fsync, because the page cache outlives the process: that is what `tests.faults.power` is for.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from tests.faults.rounds import Outcome, Site, kept_or_temporary, run_rounds
from tests.support.server import Server


def run_kills(directory: Path, *, rounds: int, seed: int, durability: str = "fsync") -> Outcome:
    """Kill the server `rounds` times under load and judge what is left."""
    settings = {
        "storage.durability": durability,
        # Small segments, so that rolls and snapshots are among the moments that are hit.
        "topic.segment_bytes": 1 << 20,
    }
    site = Site(directory / "data", directory / "server.log", settings)
    return run_rounds(site, Server.kill, rounds=rounds, seed=seed)


def main() -> None:
    """Run as a command; the exit code is 1 if the history shows an anomaly."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.kill", description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--durability", choices=["fsync", "interval", "os"], default="fsync")
    parser.add_argument("--keep", type=Path, help="work in this directory and leave it behind")
    options = parser.parse_args()
    print(f"seed {options.seed}")
    with kept_or_temporary(options.keep) as directory:
        outcome = run_kills(
            directory,
            rounds=options.rounds,
            seed=options.seed,
            durability=options.durability,
        )
    print(outcome)
    outcome.report.require_clean()


if __name__ == "__main__":
    main()
