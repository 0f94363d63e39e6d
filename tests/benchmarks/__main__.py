"""``python -m tests.benchmarks [--quick]``: measure, print tables, write JSON and Markdown."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks import footprint
from tests.benchmarks.cells import (
    CELLS,
    ONE_AT_A_TIME,
    Cell,
    Contender,
    Row,
    contenders,
    run_cell,
    run_one_at_a_time,
    run_twin,
)
from tests.benchmarks.report import limits, markdown, summarise, write

_QUICK_SHARE = 0.2
#: What librdkafka's requests come to if no contender ran before the twin to tell.
_FRAME_BYTES = 1_000_000


def measure(
    cells: list[Cell], who: list[Contender], *, rounds: int, directory: Path | None
) -> list[Row]:
    """Run all rounds, every system in turn within each, so that a slow minute hits all alike."""
    rows: list[Row] = []
    for number in range(1, rounds + 1):
        for cell in cells:
            frame_bytes = _FRAME_BYTES
            for contender in who:
                _say(f"round {number}/{rounds}: {cell.name}, {contender.system}", contender)
                run = run_one_at_a_time if cell.name == ONE_AT_A_TIME.name else run_cell
                measured = list(run(cell, contender, number=number, directory=directory))
                frame_bytes = measured[0].frame_bytes
                rows += measured
            if cell.name != ONE_AT_A_TIME.name:
                for syncs in (False, True):
                    rows += run_twin(
                        cell,
                        frame_bytes=frame_bytes,
                        number=number,
                        directory=directory,
                        syncs=syncs,
                    )
    return rows


def _say(text: str, contender: Contender) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text} ({contender.durability})", file=sys.stderr)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a fifth of the load, one round")
    parser.add_argument("--rounds", type=int, default=None, help="default 3, with --quick 1")
    parser.add_argument("--only", default="", help="cells whose name contains this text")
    parser.add_argument("--without-footprint", action="store_true", help="throughput only")
    parser.add_argument("--directory", type=Path, help="where data goes; decides the disk")
    parser.add_argument("--kafka-jars", type=Path, help="also measure the Apache Kafka in there")
    parser.add_argument("--output", type=Path, default=Path("benchmark-results"))
    options = parser.parse_args()
    if (os.cpu_count() or 1) < 2 or not hasattr(os, "sched_setaffinity"):
        sys.exit("needs Linux and two CPUs: one for the server, one for its clients")
    share = _QUICK_SHARE if options.quick else 1.0
    cells = [cell.scaled(share) for cell in (*CELLS, ONE_AT_A_TIME) if options.only in cell.name]
    rows = measure(
        cells,
        contenders(options.kafka_jars),
        rounds=options.rounds or (1 if options.quick else 3),
        directory=options.directory,
    )
    summaries = summarise(rows)
    facts = limits(summaries)
    if not options.without_footprint:
        with tempfile.TemporaryDirectory(dir=options.directory) as directory:
            facts += footprint.facts(Path(directory), quick=options.quick)
    write(options.output, rows, summaries, facts)
    print(markdown(summaries, facts))
    print(f"every measurement: {options.output / 'results.json'}")


if __name__ == "__main__":
    main()
