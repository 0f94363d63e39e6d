"""Faults of a broker that nothing stops: planted in the boundaries themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from trio_broker.broker.supervise import Supervisor

if TYPE_CHECKING:
    import pytest

#: Boundaries around background tasks of every broker.
BOUNDARIES = ("reaper", "offsets housekeeping")


class Crashes:
    """Up to two faults that happen at once, when a test wants it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *faults: BaseException) -> None:
        self._now = trio.Event()
        keep_running = Supervisor.keep_running
        planted = dict(zip(BOUNDARIES, faults, strict=False))

        async def fail(supervisor: Supervisor, boundary: str, function: Any) -> None:
            if boundary in planted:
                await self._now.wait()
                raise planted[boundary]
            await keep_running(supervisor, boundary, function)

        monkeypatch.setattr(Supervisor, "keep_running", fail)

    def happen(self) -> None:
        """Let them happen; to be called where the broker runs."""
        self._now.set()
