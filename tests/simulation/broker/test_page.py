"""The page about simulating the broker says what there is: troubles, invariants, strikes."""

from __future__ import annotations

import re
from pathlib import Path

from tests.simulation.broker import race
from trio_broker.testing import invariants
from trio_broker.testing.sim.run import simulate
from trio_broker.testing.swarm import TROUBLES

PAGE = (Path(__file__).parents[3] / "docs/how-to/simulate-the-broker.md").read_text("utf-8")


def listed(sentence: str) -> set[str]:
    """Return what a sentence of the page lists after its beginning."""
    [found] = re.findall(rf"{sentence}:? ([^.]*)\.", PAGE)
    return {word.strip() for word in found.split(",")}


def test_troubles_and_strikes_are_those_of_the_code() -> None:
    assert listed("Trouble is one of") == set(TROUBLES)
    assert listed("one of these strikes") == set(race.KINDS)


def test_invariants_are_those_of_the_code() -> None:
    numbers = re.compile(r"^\| (I\d+) \|", re.MULTILINE)
    assert invariants.__doc__ is not None
    assert numbers.findall(PAGE) == numbers.findall(invariants.__doc__)


def test_the_example_does_what_it_says() -> None:
    [code] = re.findall(r"(    from trio_broker.*?\.unwrap\(\)\n)", PAGE, re.DOTALL)
    lines = [line.removeprefix("    ") for line in code.splitlines()]
    exec(compile("\n".join(lines), "the page", "exec"), {"simulate": simulate})
