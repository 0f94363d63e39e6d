"""Loops of other tests are left out of account here."""

from __future__ import annotations

import pytest

from tests.support.loops import only_own_loops_count


@pytest.fixture(autouse=True)
def _only_own_loops_count(monkeypatch: pytest.MonkeyPatch) -> None:
    only_own_loops_count(monkeypatch)
