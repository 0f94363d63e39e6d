"""A group coordinator keeps its promises whatever operation on its log is the last one.

Some operations here; ``python -m tests.simulation.group_sweep`` goes through all of them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.simulation import group_sweep
from tests.simulation.group_book import Assigned, Book, Generation, Violation
from tests.simulation.group_world import Case, parse_case

#: One in so many operations is tried, another one each run.
EVERY = 60
#: Cases within which a planted mistake must be found.
MUTANT_CASES_MAX = 100
READ_ALL = frozenset({0, 1})


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """A machine that dies has much to say."""
    logger = logging.getLogger("trio_broker")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)


def test_what_was_answered_is_there_after_a_crash(seed: int) -> None:
    for case in group_sweep.cases(range(1, 2), every=EVERY, first=seed % EVERY):
        group_sweep.run_case(case)


@pytest.mark.parametrize("mutant", group_sweep.MUTANTS)
def test_every_planted_mistake_is_found(mutant: str) -> None:
    # The hint goes out of date when the story changes: then this takes longer. Another one is
    # found with `python -m tests.simulation.group_sweep --mutant`.
    tried = 0
    for case in (group_sweep.hint_of(mutant), *group_sweep.cases(range(1, 2), every=15)):
        if group_sweep.mutant_error(mutant, case) is not None:
            group_sweep.run_case(case)  # which succeeds without the mistake
            return
        tried += 1
        if tried > MUTANT_CASES_MAX:
            break
    pytest.fail(f"not found in {tried} cases")


def test_cases_are_written_and_read_alike() -> None:
    case = Case(7, "power twice", 12)
    assert str(case) == "7 power-twice 12"
    assert parse_case(str(case)) == case


def test_what_the_book_takes_for_a_broken_promise() -> None:
    book = Book()
    place = ("g", "orders", 0)
    book.asked(place, 5)
    book.check_offsets(lambda _: None)  # it was never answered
    book.asked(place, 6)
    book.answered(place, 6)
    with pytest.raises(Violation, match="promised"):
        book.check_offsets(lambda _: 5)
    book.given("g", 3, Assigned("one", "one-1", READ_ALL))
    with pytest.raises(Violation, match="is read by"):
        book.given("g", 3, Assigned("two", "two-1", frozenset({1})))
    for stored in (None, Generation(2, {})):
        with pytest.raises(Violation, match="was given out"):
            book.check_generation("g", stored)
    with pytest.raises(Violation, match="is now"):
        book.check_generation("g", Generation(3, {"one-1": frozenset({0})}))
    with pytest.raises(Violation, match="is not in"):
        book.check_generation("g", Generation(3, {}))
    book.check_generation("g", Generation(3, {"one-2": READ_ALL}))  # a new id of a static member
    book.check_generation("g", Generation(4, {}))
