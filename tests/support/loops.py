"""Trio loops in threads, for tests of what refuses to run beside one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_broker.testing.sim import private

if TYPE_CHECKING:
    import pytest


def only_own_loops_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the loops that run already: brokers that live for the whole session."""
    look = private.threads_with_loops
    before = look()
    monkeypatch.setattr(
        private, "threads_with_loops", lambda: tuple(n for n in look() if n not in before)
    )
