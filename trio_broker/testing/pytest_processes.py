"""Explored tests, run by pytest in processes of their own, for the command line."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

import trio

from trio_broker.testing.sim.fuzz import Found, Fuzzed, WorkerFailed, for_some_time

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

#: pytest's exit codes for "passed" and "tests failed"; all others mean that nothing was tested.
_PASSED, _FAILED = 0, 1
#: And for "no test was left"; others that the simulator would not run are left out.
_NO_TEST = 5
_USAGE = 2
#: Seeds of the first process that a job starts, and of any.
_SEEDS_MIN, _SEEDS_MAX = 20, 10_000
#: Real seconds after which a process has paid for its start.
_SECONDS_WANTED = 20.0


def _command(node: str, options: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "pytest", node, "-m", "explore", *options]


def run_test(node: str, options: Sequence[str]) -> int:
    """Run one test with its output passed through; return 0, 1 if it failed, else 2.

    Raises:
        WorkerFailed: it is not an explored one.
    """
    code = subprocess.run(_command(node, options), check=False).returncode  # noqa: S603
    if code == _NO_TEST:
        raise WorkerFailed(_no_test(node))
    return code if code in (_PASSED, _FAILED) else _USAGE


def _no_test(node: str) -> str:
    return f"{node} is no test with the mark explore: an ordinary one has no seeds to run"


def run_timed(work: Callable[[], Awaitable[Fuzzed]]) -> tuple[Fuzzed, float]:
    """Run an async function; return what it returned, and how many real seconds it took."""

    async def main() -> tuple[Fuzzed, float]:
        began = trio.current_time()
        fuzzed = await work()
        return fuzzed, max(trio.current_time() - began, 0.001)

    return trio.run(main)


async def fuzz_test(
    node: str,
    *,
    seconds: float,
    jobs: int,
    first_seed: int,
    kinds_max: int | None,
    on_found: Callable[[Found], object],
    on_progress: Callable[[Fuzzed], object],
) -> Fuzzed:
    """Run fresh seeds of an explored test until the time is over; see `sim.fuzz.fuzz`.

    Each process runs a range of seeds and ends with the first that fails, so the next one begins
    behind that. Failures of one text count as one kind.

    Raises:
        WorkerFailed: pytest could not run the test.
    """
    fuzzed = Fuzzed()
    scope = trio.CancelScope()
    next_seed = first_seed

    async def work(_: int) -> None:
        nonlocal next_seed
        count = _SEEDS_MIN
        while True:
            begin, next_seed = next_seed, next_seed + count
            took, output = await _run_seeds(node, range(begin, begin + count))
            failed = re.search(r"^seed (\d+) fails: (.*)$", output, re.MULTILINE)
            if failed is None:
                fuzzed.runs += count
            else:
                fuzzed.runs += int(failed[1]) - begin + 1
                known = fuzzed.found.get(failed[2])
                if known is None:
                    found = Found(int(failed[1]), output, None)
                    fuzzed.found[failed[2]] = found
                    on_found(found)
                    if len(fuzzed.found) == kinds_max:
                        scope.cancel(reason="enough kinds of failure were found")
                else:
                    known.count += 1
            on_progress(fuzzed)
            if took < _SECONDS_WANTED:
                count = min(count * 2, _SEEDS_MAX)

    await for_some_time(scope, seconds, jobs, work)
    return fuzzed


async def _run_seeds(node: str, seeds: range) -> tuple[float, str]:
    """Run some seeds of a test; return how long it took, and the output if it failed."""
    options = [f"--sim-seeds={seeds[0]}-{seeds[-1]}", "-q", "-p", "no:cacheprovider"]
    began = trio.current_time()
    run = await trio.run_process(
        _command(node, options),
        stdin=subprocess.DEVNULL,
        capture_stdout=True,
        check=False,
    )
    output = run.stdout.decode(errors="replace")
    if run.returncode == _NO_TEST:
        raise WorkerFailed(_no_test(node))
    if run.returncode not in (_PASSED, _FAILED):
        raise WorkerFailed(f"pytest ended with {run.returncode}:\n{output}")
    if run.returncode == _FAILED and "fails: " not in output:
        raise WorkerFailed(f"the test fails otherwise than by a seed:\n{output}")
    return trio.current_time() - began, output if run.returncode == _FAILED else ""
