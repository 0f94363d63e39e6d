"""The workload notices mistakes: each one planted is caught, and only because it was planted."""

from __future__ import annotations

import logging

import pytest

from tests.simulation.broker import mutants


@pytest.fixture(autouse=True)
def _silence(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "trio_broker")


@pytest.mark.parametrize("name", mutants.MUTANTS)
def test_every_mistake_is_noticed(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = mutants.catch(name)
    assert found is not None, f"survived {mutants.TRIES_MAX} tries"
    with capsys.disabled():
        print(f"\n    {found}")
    without = mutants.try_number(mutants.MUTANTS[name], found.number)
    assert without.error is None, "it fails without the mistake too"
