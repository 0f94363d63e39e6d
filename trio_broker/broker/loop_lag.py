"""How long ready tasks have to wait for their turn, seen from a task that wakes up regularly.

No timer of its own: the reaper, which has one, calls `tick`. A stall between two ticks that is over
before the second is not seen, so this shows what is usual and what is bad, not every hiccup.
"""

from __future__ import annotations

from collections import deque

#: Ticks remembered: a quarter of a minute at the reaper's interval.
_TICKS = 30


class LoopLag:
    """The lags of the last ticks."""

    __slots__ = ("_lags",)

    def __init__(self) -> None:
        self._lags: deque[float] = deque(maxlen=_TICKS)

    def __repr__(self) -> str:
        return f"<LoopLag at most {self.max_seconds * 1000:.1f} ms>"

    def tick(self, elapsed_seconds: float, period_seconds: float) -> None:
        """Take note that a wake-up due after `period_seconds` came after `elapsed_seconds`."""
        self._lags.append(max(0.0, elapsed_seconds - period_seconds))

    @property
    def max_seconds(self) -> float:
        """The longest of the last ticks; 0.0 before the first."""
        return max(self._lags, default=0.0)
