"""Runs the workload with one seed after another: ``python -m tests.simulation.broker.fuzz``.

    --minutes N     go on for so long, on `--jobs` processes, from a random seed on
    --seeds A-B     or exactly these
    --seed N        one seed, with its last steps; what a failure prints to repeat it
    --replay TOKEN  the small run that a failure was shrunk to, with its last steps
    --mutant NAME   with a mistake planted, see `mutants`
    --shrink S      real seconds for making a failure small, 60 unless told otherwise; 0: never

Each failure prints one line that repeats it. The first of each kind (what was violated, and where
that was noticed) is shrunk as well: fewer surprises, fewer steps, and a token that repeats what is
left. At the end: seeds, steps, and both per time.
"""

from __future__ import annotations

import argparse
import gc
import logging
import random
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import trio

from tests.simulation.sweeping import seed_range
from trio_broker.testing.sim.exploration import DECISIONS_SHOWN, examine, kind_of, repeat
from trio_broker.testing.sim.run import Result, Simulation, simulate
from trio_broker.testing.swarm import draw_swarm, with_troubles
from trio_broker.testing.workload.sometimes import RARE
from trio_broker.testing.workload.world import Summary, run_workload

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from trio_broker.testing.sim.exploration import Failure

#: A producer that sends much again, ten times a second for as long as its partitions are offline,
#: has been seen to need 190,000; who never ends needs more than any number.
STEPS_MAX = 400_000
SECONDS_MAX = 4_000.0
#: For making one failure small.
SHRINK_SECONDS = 60.0
_STEPS_SLACK = 10


class Workload:
    """The program of a seed, and how it is run.

    Attributes:
        troubles: these instead of those that a seed draws; empty: those.
    """

    #: Of `run.simulate`.
    OPTIONS: ClassVar[dict[str, Any]] = {"max_steps": STEPS_MAX, "max_seconds": SECONDS_MAX}
    POLICY = "mix"

    def __init__(self, troubles: tuple[str, ...] = ()) -> None:
        self.troubles = troubles

    async def __call__(self, sim: Simulation) -> Summary:
        swarm = draw_swarm(sim.random("swarm"))
        if self.troubles:
            swarm = with_troubles(swarm, self.troubles)
        sim.show("swarm", str(swarm))
        return await run_workload(sim, swarm)

    def run(self, seed: int, *, keep_trace: bool = False) -> Result[Summary]:
        """Run one seed."""
        return simulate(self, seed, policy=self.POLICY, keep_trace=keep_trace, **self.OPTIONS)

    def shrink(self, found: Result[Summary], seconds: float) -> Failure:
        """Make a failing seed small: fewer decisions, and no more steps.

        The plainest run of all is a long one, since nothing cuts it short.
        """
        return examine(
            self,
            found,
            shrink_seconds=seconds,
            steps_max=found.steps + _STEPS_SLACK,
            policy=self.POLICY,
            **self.OPTIONS,
        )

    def replay(self, token: str) -> Result[Summary]:
        """Run what a token stands for."""
        return repeat(self, token, keep_trace=True, **self.OPTIONS)


def run_seed(
    seed: int, *, keep_trace: bool = False, troubles: tuple[str, ...] = ()
) -> Result[Summary]:
    """Run the workload with one seed.

    Args:
        seed: decides everything.
        keep_trace: for people to read.
        troubles: these instead of those that the seed draws.
    """
    return Workload(troubles).run(seed, keep_trace=keep_trace)


class Tally(NamedTuple):
    """What some seeds came to."""

    seeds: int = 0
    steps: int = 0
    seconds: float = 0.0
    acknowledged: int = 0
    lives: int = 0
    failures: int = 0
    seen: tuple[tuple[str, int], ...] = ()

    def __str__(self) -> str:
        rate = self.seeds / self.seconds * 60 if self.seconds else 0.0
        return (
            f"{self.seeds} seeds, {self.failures} failures, {self.steps} steps,"
            f" {self.steps / max(self.seconds, 1e-9):.0f} steps/s, {rate:.0f} seeds/min,"
            f" {self.acknowledged} records acknowledged, {self.lives} lives"
        )

    def add(self, result: Result[Summary], seconds: float) -> Tally:
        """Count one more seed."""
        summary = result.value
        return Tally(
            self.seeds + 1,
            self.steps + result.steps,
            self.seconds + seconds,
            self.acknowledged + (summary.acknowledged if summary else 0),
            self.lives + (summary.lives if summary else 0),
            self.failures + (result.error is not None),
            tuple((Counter(dict(self.seen)) + (summary.seen if summary else Counter())).items()),
        )

    @property
    def never_seen(self) -> list[str]:
        """What is rare and has not happened in any of these seeds."""
        return [what for what in RARE if what not in dict(self.seen)]


def replay_line(seed: int, mutant: str | None = None) -> str:
    """Return the command that repeats a seed."""
    return _command_line(f"--seed {seed}", mutant)


def _command_line(which: str, mutant: str | None) -> str:
    line = f"python -m tests.simulation.broker.fuzz {which}"
    return f"{line} --mutant '{mutant}'" if mutant else line


def run_seeds(
    seeds: Iterable[int],
    *,
    deadline: float = float("inf"),
    workload: Workload | None = None,
) -> Iterator[tuple[int, Result[Summary], float]]:
    """Run seeds one after another; yield each with its result and the seconds it took."""
    workload = workload or Workload()
    for number, seed in enumerate(seeds):
        began = perf_counter()
        if began > deadline:
            return
        result = workload.run(seed)
        yield seed, result, perf_counter() - began
        if number % 20 == 0:
            gc.collect()


def describe(error: BaseException) -> str:
    """Say what went wrong in one line."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def main(arguments: list[str]) -> int:
    """Run what the command line asks for; return 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.broker.fuzz")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seeds", type=seed_range, help="first and last seed, like 1-300")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--replay", metavar="TOKEN")
    parser.add_argument("--shrink", type=float, default=SHRINK_SECONDS, metavar="SECONDS")
    parser.add_argument("--steps", type=int, default=60, help="last steps to print with --seed")
    parser.add_argument("--log", action="store_true", help="with --seed: what the broker logs")
    parser.add_argument("--mutant")
    options = parser.parse_args(arguments)
    if options.log:
        logging.getLogger("trio_broker").setLevel(logging.INFO)
        logging.basicConfig(format="%(sim_seconds).6f %(levelname)s %(name)s %(message)s")
        logging.getLogger().handlers[0].addFilter(_add_virtual_time)
    else:
        logging.getLogger("trio_broker").setLevel(logging.CRITICAL)
    with ExitStack() as stack:
        workload = Workload()
        if options.mutant:
            from tests.simulation.broker.mutants import MUTANTS, planted

            stack.enter_context(planted(options.mutant))
            workload = Workload(MUTANTS[options.mutant].troubles)
        if options.seed is not None:
            return show(workload.run(options.seed, keep_trace=True), options.steps)
        if options.replay is not None:
            return show(workload.replay(options.replay), options.steps)
        teller = partial(run_and_tell, workload, options.shrink, options.mutant)
        if options.seeds:
            return teller(options.seeds)
        first_seed = random.SystemRandom().randrange(10**9)
        if options.jobs > 1:
            return run_in_processes(arguments, options.jobs)
        seeds = range(first_seed, first_seed + 10**9)
        return teller(seeds, deadline=perf_counter() + options.minutes * 60)


def _add_virtual_time(record: logging.LogRecord) -> bool:
    record.sim_seconds = trio.current_time() if trio.lowlevel.in_trio_run() else 0.0
    return True


def run_and_tell(
    workload: Workload,
    shrink_seconds: float,
    mutant: str | None,
    seeds: range,
    *,
    deadline: float = float("inf"),
) -> int:
    """Run seeds and print what failed and how many there were; return 1 if any did, or none ran."""
    tally = Tally()
    kinds: set[object] = set()
    print(f"seeds from {seeds.start} on", flush=True)
    for seed, result, seconds in run_seeds(seeds, deadline=deadline, workload=workload):
        tally = tally.add(result, seconds)
        if result.error is None:
            continue
        print(f"{describe(result.error)}\n    {replay_line(seed, mutant)}", flush=True)
        kind = kind_of(result.error)
        if shrink_seconds and not kind <= kinds:
            tell_shrunk(workload.shrink(result, shrink_seconds), mutant)
        kinds |= kind
    print(tally, flush=True)
    print("    " + ", ".join(f"{what}: {count}" for what, count in sorted(tally.seen)))
    print(f"    never seen: {', '.join(tally.never_seen) or 'nothing'}", flush=True)
    return 1 if tally.failures or not tally.seeds else 0


def tell_shrunk(failure: Failure, mutant: str | None) -> None:
    """Print what a failure was shrunk to, and the line that repeats that."""
    found, smallest = failure.result, failure.smallest
    if failure.shrunk is None:
        print("    it could not be shrunk: repeated in full it does not fail", flush=True)
        return
    decisions = smallest.decisions
    # What was drawn of the swarm is shown as a whole.
    telling = [each for each in decisions if each.stream != "swarm"]
    print(
        f"    shrunk in {failure.shrunk.runs} runs from {found.steps} steps to {smallest.steps},"
        f" from {len(found.decisions)} decisions to {len(decisions)}"
        f"{'' if failure.shrunk.is_minimal else ', when the time was over'}:"
        f" {describe(failure.error)}\n"
        f"      {smallest.drawn.get('swarm')}"
    )
    for decision in telling[:DECISIONS_SHOWN]:
        print(f"      {decision.text}")
    if len(telling) > DECISIONS_SHOWN:
        print(f"      and {len(telling) - DECISIONS_SHOWN} more")
    token = failure.shrunk.replay.token()
    print(f"    {_command_line(f'--replay {token}', mutant)}", flush=True)


def run_in_processes(arguments: list[str], jobs: int) -> int:
    """Do the same in several processes at once; each begins at a seed of its own."""
    command = [sys.executable, "-m", "tests.simulation.broker.fuzz", *arguments, "--jobs", "1"]
    processes = [subprocess.Popen(command) for _ in range(jobs)]
    return max([process.wait() for process in processes])


def show(result: Result[Summary], steps: int) -> int:
    """Print all there is to say about one run."""
    for entry in result.entries[-steps:] if steps else ():
        print(entry)
    print(f"seed {result.seed}: {result.steps} steps, trace {result.trace_hash}")
    if result.error is None:
        print(result.value and result.value.swarm, result.value)
        return 0
    result.unwrap()
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
