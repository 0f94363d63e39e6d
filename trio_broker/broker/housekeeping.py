"""Housekeeping: what must happen without any writes, one timer per shard.

Retention by age and size, unlinking of deleted segments and of deleted topics' directories. Each
shard has a timer of its own, so that a log dir that hangs keeps nobody else's disk from being
cleaned. ``__consumer_offsets`` has one more, which shortens its logs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
import trio_util

if TYPE_CHECKING:
    from trio_broker.broker.shard import Shard
    from trio_broker.broker.state import BrokerState

HOUSEKEEPING_INTERVAL_SECONDS = 30.0
#: Replicas looked at before others get a turn.
_REPLICAS_PER_TURN = 64


async def keep_house(shard: Shard) -> None:
    """Look after the replicas of a shard, again and again, until cancelled."""
    async for _ in trio_util.periodic(HOUSEKEEPING_INTERVAL_SECONDS):
        await keep_house_once(shard)


async def keep_house_once(shard: Shard) -> None:
    """Look after every replica of a shard once."""
    for number, replica in enumerate(list(shard.replicas.values())):
        if number % _REPLICAS_PER_TURN == 0:
            await trio.lowlevel.checkpoint()
        await shard.apply_retention(replica)
    if shard is shard.log_dir.shards[0]:
        await shard.log_dir.unlink_deleted()


async def shorten_offsets_logs(state: BrokerState) -> None:
    """Keep ``__consumer_offsets`` short, again and again, until cancelled."""
    async for _ in trio_util.periodic(HOUSEKEEPING_INTERVAL_SECONDS):
        await state.coordinator.shorten_logs()
