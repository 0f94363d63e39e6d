"""Civil time of this machine."""

from __future__ import annotations

import time


class RealWallClock:
    """The system's clock; the terms are those of `interface.WallClock`."""

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch; may jump in both directions."""
        return time.time_ns() // 1_000_000
