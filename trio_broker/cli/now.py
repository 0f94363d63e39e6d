"""The time of day, for ages and for times that are given as "two hours ago"."""

from __future__ import annotations

from trio_broker.host.clock import RealWallClock


def now_ms() -> int:
    """Return milliseconds since 1970."""
    return RealWallClock().now_ms()
