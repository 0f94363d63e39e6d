"""Housekeeping: one timer for all replicas of a broker, for what must happen without any writes.

Retention by age and size, unlinking of deleted segments and of deleted topics' directories, and
shortening of ``__consumer_offsets``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
import trio_util

if TYPE_CHECKING:
    from trio_broker.broker.state import BrokerState

HOUSEKEEPING_INTERVAL_SECONDS = 30.0
#: Replicas looked at before others get a turn.
_REPLICAS_PER_TURN = 64


async def keep_house(state: BrokerState) -> None:
    """Look after every replica, again and again, until cancelled."""
    async for _ in trio_util.periodic(HOUSEKEEPING_INTERVAL_SECONDS):
        await keep_house_once(state)


async def keep_house_once(state: BrokerState) -> None:
    """Look after every replica once."""
    for number, replica in enumerate(list(state.router.replicas())):
        if number % _REPLICAS_PER_TURN == 0:
            await trio.lowlevel.checkpoint()
        await replica.shard.apply_retention(replica)
    for log_dir in state.log_dirs:
        await log_dir.unlink_deleted()
    await state.coordinator.shorten_logs()
