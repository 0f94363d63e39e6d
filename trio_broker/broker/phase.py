"""The phases of a broker's life, in order. `BrokerState.phase` says which one it is in."""

from __future__ import annotations

from enum import Enum


class Phase(Enum):
    """Where a broker is in its life. It never goes back."""

    STARTING = "starting"  # metadata and log dirs are being opened
    RECOVERING = "recovering"  # logs are being opened, and repaired where the last stop was none
    SERVING = "serving"
    DRAINING = "draining"  # a stop was asked for: readiness says no, requests under way go on
    STOPPING = "stopping"  # no clients any more; logs are flushed and closed
    STOPPED = "stopped"
