"""How long ready tasks have to wait for their turn, seen from a task that wakes up regularly.

A stall between two wake-ups that is over before the second is not seen, so this shows what is usual
and what is bad, not every hiccup. There is nothing to see under a simulated clock, which stands
still while tasks run.
"""

from __future__ import annotations

from collections import deque

import trio

INTERVAL_SECONDS = 0.5
#: Wake-ups remembered: a quarter of a minute.
_TICKS = 30


class LoopLag:
    """The lags of the last wake-ups."""

    __slots__ = ("_lags",)

    def __init__(self) -> None:
        self._lags: deque[float] = deque(maxlen=_TICKS)

    def __repr__(self) -> str:
        return f"<LoopLag at most {self.max_seconds * 1000:.1f} ms>"

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            due = trio.current_time() + INTERVAL_SECONDS
            await trio.sleep_until(due)
            self.take(trio.current_time() - due)

    def take(self, late_seconds: float) -> None:
        """Take note that a wake-up came so late; a clock may round it to less than nothing."""
        self._lags.append(max(0.0, late_seconds))

    @property
    def max_seconds(self) -> float:
        """The longest of the last lags; 0.0 before the first."""
        return max(self._lags, default=0.0)
