"""Is a seed all there is to a run? ``python -m tests.simulation.repeat --runs 1000``

Runs a short scenario (`chaos`: machines, disks, a network with faults, a power cut) with one seed
again and again, here and in processes with other PYTHONHASHSEEDs, and with many seeds; then
programs with planted nondeterminism. Prints a line for each; the exit code is 1 if one is wrong.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
import time
from time import perf_counter
from typing import TYPE_CHECKING, Any

import trio

from tests.simulation.chaos import chaos
from trio_broker.testing.sim import (
    NotRepeatable,
    RealClockInSimulation,
    RealThreadInSimulation,
    Simulation,
    explore,
    find_difference_elsewhere,
    simulate,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES = tuple(f"task {number}" for number in range(20))


async def from_a_set_of_texts(_: Simulation) -> None:
    """Start tasks in an order that PYTHONHASHSEED decides."""
    async with trio.open_nursery() as nursery:
        for name in set(NAMES):
            nursery.start_soon(trio.sleep, 1, name=name)


async def from_a_set_of_objects(_: Simulation) -> None:
    """Start tasks in an order that addresses in memory decide."""
    things = {object(): number for number in range(50)}
    async with trio.open_nursery() as nursery:
        for thing in set(things):
            nursery.start_soon(trio.sleep, 1, name=f"task {things[thing]}")


async def by_the_clock(_: Simulation) -> None:
    """Wait for as long as the real clock says."""
    await trio.sleep(time.time() % 1)  # noqa: TID251


async def in_a_thread(_: Simulation) -> None:
    """Let a thread do something."""
    threading.Thread(target=print).start()


def hashes_elsewhere(seeds: range, hash_seed: str) -> list[str]:
    """Return the trace hashes of some seeds, as a process with this PYTHONHASHSEED finds them."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.simulation.chaos", *map(str, seeds)],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    return run.stdout.split()


def first_error(program: Any) -> BaseException | None:
    """Return what is wrong with a program, as exploring it finds it."""
    failure = explore(program, 5).failure
    return failure.error if failure is not None else None


def checks(runs: int, seeds: int, processes: int) -> Iterator[tuple[bool, str]]:
    """Make all checks; yield for each whether it passed, and what it found."""
    began = perf_counter()
    found = {simulate(chaos, 1).trace_hash for _ in range(runs)}
    seconds = perf_counter() - began
    yield len(found) == 1, f"seed 1, {runs} runs, {len(found)} trace hash, {seconds:.1f} s"
    several = [simulate(chaos, seed).trace_hash for seed in range(seeds)]
    differ = len(set(several))
    yield differ == seeds, f"{seeds} seeds, {differ} trace hashes"
    for hash_seed in ("0", "12345", "4711", "random")[:processes]:
        agree = hashes_elsewhere(range(seeds), hash_seed) == several
        yield agree, f"PYTHONHASHSEED={hash_seed}: {seeds} seeds {'agree' if agree else 'DIFFER'}"
    difference = find_difference_elsewhere(f"{__spec__.name}:from_a_set_of_texts", 1)
    yield difference is not None, f"set of texts, in another process: {difference}"
    for program, kind in (
        (from_a_set_of_objects, NotRepeatable),
        (by_the_clock, RealClockInSimulation),
        (in_a_thread, RealThreadInSimulation),
    ):
        error = first_error(program)
        yield isinstance(error, kind), f"{program.__name__}: {error!r}"


def main(arguments: list[str]) -> int:
    """Make the checks that the command line asks for; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.repeat")
    parser.add_argument("--runs", type=int, default=1000, help="of one seed")
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--processes", type=int, default=4, help="with another PYTHONHASHSEED each")
    options = parser.parse_args(arguments)
    code = 0
    for passed, text in checks(options.runs, options.seeds, options.processes):
        print(f"{'ok    ' if passed else 'FAILED'} {text}", flush=True)
        code = code if passed else 1
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
