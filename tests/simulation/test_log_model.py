"""A log keeps its promises whatever happens at any of its disk operations.

Every few operations here; ``python -m tests.simulation.sweep`` goes through all of them.
"""

from __future__ import annotations

from itertools import chain, islice
from pathlib import Path

import pytest

from tests.simulation import log_mutants, sweep
from tests.simulation.log_model import Violation
from tests.simulation.log_world import OPERATIONS_MAX, World, plan_scenario
from trio_broker.config import Durability

REGRESSIONS = Path(__file__).with_name("regressions.txt")
#: One in so many operations is tried, another one each run.
EVERY = 12
#: Cases within which a planted mistake must be found.
MUTANT_CASES_MAX = 1500


def regressions() -> list[object]:
    """Read the cases that failed once; those marked "open" still do."""
    cases: list[object] = []
    for line in REGRESSIONS.read_text().splitlines():
        if line.startswith("open "):
            mark = pytest.mark.xfail(raises=Violation, reason="not repaired yet")
            cases.append(pytest.param(line.removeprefix("open "), marks=mark))
        elif line and not line.startswith("#"):
            cases.append(line)
    return cases


@pytest.mark.parametrize("durability", Durability)
def test_a_log_keeps_its_promises(durability: Durability, seed: int) -> None:
    scenario_seed = 1 + seed % 1000
    for case in sweep.cases(
        range(scenario_seed, scenario_seed + 1), (durability,), every=EVERY, first=seed % EVERY
    ):
        sweep.run_case(case)


@pytest.mark.parametrize("case", regressions())
def test_what_once_failed(case: str) -> None:
    sweep.run_case(sweep.parse_case(case))


@pytest.mark.parametrize("mutant", log_mutants.MUTANTS)
def test_every_planted_mistake_is_found(mutant: str) -> None:
    # The hint goes out of date when scenarios or storage/ change: then this takes some seconds.
    # Another one is found with `python -m tests.simulation.sweep --mutant`.
    hint = sweep.parse_case(log_mutants.MUTANTS[mutant].hint)
    search = sweep.cases(range(1, 1000), tuple(Durability), every=20)
    for case in chain([hint], islice(search, MUTANT_CASES_MAX)):
        if sweep.mutant_error(mutant, case) is not None:
            sweep.run_case(case)  # which succeeds without the mistake
            return
    pytest.fail(f"not found in {MUTANT_CASES_MAX} cases")


def test_scenarios_repeat_and_stay_small() -> None:
    for durability in Durability:
        scenario = plan_scenario(5, durability)
        assert scenario == plan_scenario(5, durability)
        operations = World(scenario).run_to_end()
        assert operations == World(scenario).run_to_end()
        assert 50 < operations <= OPERATIONS_MAX


def test_cases_are_written_and_read_alike() -> None:
    case = sweep.Case(7, Durability.OS, "EIO then crash", 12)
    assert str(case) == "7 os EIO-then-crash 12"
    assert sweep.parse_case(str(case)) == case
    with pytest.raises(ValueError, match="unknown kind"):
        sweep.lives_of(case._replace(kind="earthquake"))
