"""Civil time of this machine, and whether Trio runs, and its clock goes as that does."""

from __future__ import annotations

import time

import trio


class RealWallClock:
    """The system's clock; the terms are those of `interface.WallClock`."""

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch; may jump in both directions."""
        return time.time_ns() // 1_000_000


def require_trio(what: str, instead: str = "call it under trio.run") -> None:
    """Say in plain words that something is for Trio programs only.

    Args:
        what: was called.
        instead: what to do.

    Raises:
        RuntimeError: this is no Trio task, but asyncio's, for example.
    """
    if not trio.lowlevel.in_trio_task():
        raise RuntimeError(f"{what} needs Trio, which does not run here: {instead}")


def has_real_time() -> bool:
    """Return whether Trio's clock is the machine's own, and no virtual one that waits or jumps."""
    return type(trio.lowlevel.current_clock()).__module__.startswith("trio._core")
