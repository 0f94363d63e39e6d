"""Whatever strikes in the middle of a busy moment, every request has one answer or none is due.

The tests go through every so many steps; ``python -m tests.simulation.broker.race`` through all.
"""

from __future__ import annotations

import logging

import pytest

from tests.simulation.broker import race

#: Of the moment's steps, every so many are struck at; which ones is drawn.
EVERY = 8
#: So many are under way when the moment begins.
REQUESTS = 14


@pytest.fixture(autouse=True)
def _silence(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "trio_broker")


@pytest.mark.parametrize("kind", race.KINDS)
def test_one_answer_whatever_strikes(
    kind: str, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = struck = answered = cut_off = 0
    for case in race.cases(seed, kinds=(kind,), every=EVERY):
        result = race.run(case)
        if result.error is not None:
            result.error.add_note(f"python -m tests.simulation.broker.race --case '{case}'")
            raise result.error
        assert result.value is not None
        runs += 1
        struck += result.value.has_struck
        answered += result.value.answered
        cut_off += result.value.cut_off
    assert struck >= runs - 1 > 80 // EVERY
    assert answered + cut_off >= REQUESTS * struck
    with capsys.disabled():
        print(f"\n    {kind}: {struck} strikes, {answered} answered, {cut_off} cut off")


def test_the_moment_is_short_and_busy(seed: int) -> None:
    assert 80 < race.steps_of(seed) <= race.STEPS_MAX
