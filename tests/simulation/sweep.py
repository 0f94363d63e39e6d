"""Lets every disk operation of a scenario fail, or be the moment of a power cut.

``python -m tests.simulation.sweep --seeds 1-50`` goes through all points of all seeds in all
durability modes; the tests do the same for some of them. A failure prints the line that repeats it:
``python -m tests.simulation.sweep --case '<case>'``.
"""

from __future__ import annotations

import errno
import sys
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from tests.simulation import log_mutants
from tests.simulation.log_world import Scenario, World, plan_scenario
from tests.simulation.sweeping import run_sweep, sweep_parser
from trio_broker.config import Durability
from trio_broker.testing.sim.faults import DiskFaults, NodeDead
from trio_broker.testing.sim.inodes import BLOCK_BYTES
from trio_broker.testing.sim.streams import RandomStreams

if TYPE_CHECKING:
    from collections.abc import Iterator

#: What a sweep takes for a failure of the log: a broken promise, or anything it did not expect.
BUGS = (Exception, NodeDead)

KINDS = ("crash", "crash twice", "EIO", "ENOSPC", "EIO then crash", "dead disk", "full disk")


class Case(NamedTuple):
    """One run: a scenario, and what happens at which of its operations."""

    seed: int
    durability: Durability
    kind: str
    operation: int

    def __str__(self) -> str:
        return f"{self.seed} {self.durability} {self.kind.replace(' ', '-')} {self.operation}"


def parse_case(text: str) -> Case:
    """Read what `Case.__str__` wrote."""
    seed, durability, kind, operation = text.split()
    return Case(int(seed), Durability(durability), kind.replace("-", " "), int(operation))


@cache
def scenario_of(seed: int, durability: Durability) -> tuple[Scenario, int]:
    """Return a scenario and the number of its operations without faults."""
    scenario = plan_scenario(seed, durability)
    return scenario, World(scenario).run_to_end()


def lives_of(case: Case) -> list[DiskFaults]:
    """Return the faults of a case: until the first power cut, until the second."""
    draws = RandomStreams(case.seed).stream(str(case))
    common = DiskFaults(
        names_lost=draws.choice(("prefix", "prefix", "subset")),
        writes_lost=draws.choice(("any", "any", "ordered")),
    )
    operation = case.operation
    crash = DiskFaults(
        crash_at=operation, names_lost=common.names_lost, writes_lost=common.writes_lost
    )
    later = operation + draws.randint(1, 20)
    if case.kind == "crash":
        return [crash, common]
    if case.kind == "crash twice":
        return [crash, DiskFaults(crash_at=draws.randint(1, 25)), common]
    if case.kind == "EIO":
        return [DiskFaults(fail_at=(operation, errno.EIO)), common]
    if case.kind == "ENOSPC":
        return [DiskFaults(fail_at=(operation, errno.ENOSPC)), common]
    if case.kind == "EIO then crash":
        return [DiskFaults(fail_at=(operation, errno.EIO), crash_at=later), common]
    if case.kind == "dead disk":
        return [DiskFaults(fail_from=(operation, errno.EIO)), common]
    if case.kind == "full disk":
        return [DiskFaults(capacity_bytes=(10 + operation // 4) * BLOCK_BYTES), common]
    raise ValueError(f"unknown kind {case.kind!r}")


def run_case(case: Case) -> None:
    """Run one case.

    Raises:
        Violation: the log broke a promise.
    """
    scenario, _ = scenario_of(case.seed, case.durability)
    try:
        World(scenario, lives_of(case)).run_to_end()
    except BUGS as error:
        error.add_note(f"python -m tests.simulation.sweep --case '{case}'")
        raise


def cases(
    seeds: range, durabilities: tuple[Durability, ...], *, every: int = 1, first: int = 0
) -> Iterator[Case]:
    """Return the cases of some seeds: each kind at every `every`-th operation."""
    for seed in seeds:
        for durability in durabilities:
            _, operations = scenario_of(seed, durability)
            for number, kind in enumerate(KINDS):
                # Another phase per kind, so that sparse sweeps do not all hit the same operations.
                for operation in range(1 + (first + number * 5) % every, operations + 1, every):
                    yield Case(seed, durability, kind, operation)


def error_of(case: Case) -> BaseException | None:
    """Run one case and return what it failed with."""
    try:
        run_case(case)
    except BUGS as error:
        return error
    return None


def mutant_error(name: str, case: Case) -> BaseException | None:
    """Run one case with a mistake in place and return what it failed with."""
    scenario_of(case.seed, case.durability)  # as it is without the mistake
    with log_mutants.planted(name):
        return error_of(case)


def main(arguments: list[str]) -> int:
    """Run a sweep and report; return 1 if a promise was broken."""
    parser = sweep_parser("python -m tests.simulation.sweep", seeds="1-20")
    parser.add_argument("--durability", choices=list(Durability), action="append")
    options = parser.parse_args(arguments)
    durabilities = tuple(map(Durability, options.durability or Durability))
    return run_sweep(
        options,
        run_text=lambda text: run_case(parse_case(text)),
        cases=lambda: cases(options.seeds, durabilities, every=options.every),
        error_of=error_of,
        mutants=log_mutants.MUTANTS,
        mutant_error=mutant_error,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
