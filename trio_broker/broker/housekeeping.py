"""Housekeeping: what must happen without any writes, one timer per shard.

Retention by age and size, unlinking of deleted segments and of deleted topics' directories. Each
shard has a timer of its own, so that a log dir that hangs keeps nobody else's disk from being
cleaned. ``__consumer_offsets`` has one more, which shortens its logs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from trio_broker.broker.shard import Shard
    from trio_broker.broker.state import BrokerState

HOUSEKEEPING_INTERVAL_SECONDS = 30.0
#: Replicas looked at before others get a turn.
_REPLICAS_PER_TURN = 64


async def keep_house(shard: Shard) -> None:
    """Look after the replicas of a shard, again and again, until cancelled."""
    while True:  # a generator would be left behind when this is cancelled between its turns
        await keep_house_once(shard)
        await trio.sleep(HOUSEKEEPING_INTERVAL_SECONDS)


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
    while True:
        await state.coordinator.shorten_logs()
        await trio.sleep(HOUSEKEEPING_INTERVAL_SECONDS)
