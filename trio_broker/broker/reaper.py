"""One timer for every deadline of every connection, instead of a cancel scope per request."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

import trio
import trio_util

if TYPE_CHECKING:
    from trio_broker.broker.state import BrokerState

REAP_INTERVAL_SECONDS = 0.5


async def reap_forever(state: BrokerState) -> None:
    """Close clients that keep the broker waiting and answer produces that are late."""
    async with aclosing(trio_util.periodic(REAP_INTERVAL_SECONDS)) as ticks:
        async for _, since_last_seconds in ticks:
            if since_last_seconds is not None:
                state.loop_lag.tick(since_last_seconds, REAP_INTERVAL_SECONDS)
            now = trio.current_time()
            for connection in list(state.clients):
                connection.reap(now)
