"""Waiting for a condition in another process, with a deadline that fails loudly."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_POLL_SECONDS = 0.02
_never = threading.Event()


class WaitedTooLong(AssertionError):
    """A condition did not come true in time."""


def wait_until(condition: Callable[[], T], *, seconds: float, what: str) -> T:
    """Call `condition` until it returns something true, and return that.

    Raises:
        WaitedTooLong: it did not within `seconds`.
    """
    deadline = time.perf_counter() + seconds
    while True:
        if value := condition():
            return value
        if time.perf_counter() > deadline:
            raise WaitedTooLong(f"waited {seconds:g} s for: {what}")
        pause(_POLL_SECONDS)


def pause(seconds: float) -> None:
    """Let time pass where the passing of time is the point (a fault's schedule, a load)."""
    _never.wait(seconds)
