"""Housekeeping: what must happen without any writes, one timer per shard.

Retention by age and size, sealing of idle segments, unlinking of deleted segments and of deleted
topics' directories. A shard's timer sleeps until the next of these is due in any of its logs, so
age is enforced to the millisecond and ten thousand idle replicas cost nothing. A replica that is
written to is looked at about once a second. Each shard has a timer of its own, so that a log dir
that hangs keeps nobody else's disk from being cleaned. ``__consumer_offsets`` has one more, which
shortens its logs.

What is due is a matter of civil time, which jumps: the timer compares the two clocks at least once
a minute, and looks at everything again where they have parted.
"""

from __future__ import annotations

import math
from functools import partial
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

import trio

from trio_broker.broker.replica import ReplicaState

if TYPE_CHECKING:
    from trio_broker.broker.replica import Replica
    from trio_broker.broker.shard_upkeep import ShardUpkeep
    from trio_broker.broker.state import BrokerState
    from trio_broker.host.interface import WallClock
    from trio_broker.names import TopicPartition

#: A replica that was written to is looked at within this time.
TOUCHED_SECONDS = 1.0
#: The clocks are compared this often.
CLOCK_LOOK_SECONDS = 60.0
#: They have parted if they disagree by more than this about how much time has passed.
CLOCK_JUMP_MS = 1_000
#: What was due and could not be done is tried again after this long.
RETRY_MS = 1_000
#: Logs of ``__consumer_offsets`` are looked at this often.
OFFSETS_INTERVAL_SECONDS = 30.0
#: Replicas looked at before others get a turn.
_REPLICAS_PER_TURN = 64
#: Entries of the timetable that are out of date are tolerated up to this number.
_STALE_ENTRIES = 256


class Housekeeper:
    """Looks after the replicas of one shard.

    Its timetable has one entry per replica that has anything to expect, never later than its time.
    """

    def __init__(self, shard: ShardUpkeep, wall: WallClock) -> None:
        self._shard = shard
        self._wall = wall
        self._touched: dict[TopicPartition, None] = {}
        self._due_ms: dict[TopicPartition, int] = {}
        self._timetable: list[tuple[int, TopicPartition]] = []
        self._wake_at = math.inf
        self._sleep = trio.CancelScope()
        self._clocks: tuple[int, float] | None = None

    def __repr__(self) -> str:
        return f"<Housekeeper of {self._shard!r} touched={len(self._touched)}>"

    def touch(self, replica: Replica) -> None:
        """Take note that a replica was written to; it is looked at within a second."""
        if not self._touched:
            self._wake_by(trio.current_time() + TOUCHED_SECONDS)
        self._touched[replica.topic_partition] = None

    def look_at(self, replica: Replica) -> None:
        """Look at a replica at once: it has come online, or its topic's configuration changed."""
        self._touched[replica.topic_partition] = None
        self._wake_by(-math.inf)

    def _wake_by(self, at: float) -> None:
        self._wake_at = min(self._wake_at, at)
        self._sleep.deadline = min(self._sleep.deadline, at)

    async def run(self) -> None:
        """Look after the replicas until cancelled."""
        while True:
            with trio.CancelScope(deadline=self._next_wake()) as self._sleep:
                await trio.sleep_forever()
            await self.take_turn()

    def _next_wake(self) -> float:
        now = trio.current_time()
        wake_at = min(self._wake_at, now + CLOCK_LOOK_SECONDS)
        if self._timetable:
            wait_ms = self._timetable[0][0] - self._wall.now_ms()
            wake_at = min(wake_at, now + max(0, wait_ms) / 1000)
        return wake_at

    async def take_turn(self) -> None:
        """Do what is due, and find out what is due next."""
        self._compare_clocks()
        touched, self._touched, self._wake_at = self._touched, {}, math.inf
        due = self._take_due(self._wall.now_ms())
        for number, topic_partition in enumerate({**due, **touched}):
            if number % _REPLICAS_PER_TURN == _REPLICAS_PER_TURN - 1:
                await trio.lowlevel.checkpoint()
            replica = self._shard.replicas.get(topic_partition)
            if replica is not None and replica.state is ReplicaState.ONLINE:
                look = partial(self._look_after, is_due=topic_partition in due)
                await replica.shard.attempt(replica, look)
        log_dir = self._shard.log_dir
        if self._shard is log_dir.shards[0]:
            log_dir.deleted.tell()

    async def _look_after(self, replica: Replica, *, is_due: bool) -> None:
        now_ms = self._wall.now_ms()
        due_ms = replica.log.upkeep_due_ms(now_ms, upper_offset=replica.high_watermark)
        if is_due or (due_ms is not None and due_ms <= now_ms):
            await self._shard.apply_retention(replica)
            if replica.state is not ReplicaState.ONLINE:
                return
            now_ms = self._wall.now_ms()
            due_ms = replica.log.upkeep_due_ms(now_ms, upper_offset=replica.high_watermark)
            if due_ms is not None and due_ms <= now_ms:
                due_ms = now_ms + RETRY_MS  # the disk has refused
        if due_ms is not None:
            self._expect(replica.topic_partition, due_ms)

    def _expect(self, topic_partition: TopicPartition, due_ms: int) -> None:
        """Enter a replica into the timetable, if it is not there at that time or before."""
        known_ms = self._due_ms.get(topic_partition)
        if known_ms is not None and known_ms <= due_ms:
            return
        self._due_ms[topic_partition] = due_ms
        heappush(self._timetable, (due_ms, topic_partition))
        if len(self._timetable) > 2 * len(self._shard.replicas) + _STALE_ENTRIES:
            self._due_ms = {
                each: when for each, when in self._due_ms.items() if each in self._shard.replicas
            }
            self._timetable = [(when, each) for each, when in self._due_ms.items()]
            heapify(self._timetable)

    def _take_due(self, now_ms: int) -> dict[TopicPartition, None]:
        """Take out of the timetable what is due."""
        due: dict[TopicPartition, None] = {}
        while self._timetable and self._timetable[0][0] <= now_ms:
            due_ms, topic_partition = heappop(self._timetable)
            if self._due_ms.get(topic_partition) == due_ms:
                del self._due_ms[topic_partition]
                due[topic_partition] = None
        return due

    def _compare_clocks(self) -> None:
        """Look at every replica again if civil time has not gone the way of Trio's."""
        now_ms, now = self._wall.now_ms(), trio.current_time()
        if self._clocks is not None:
            before_ms, before = self._clocks
            if abs((now_ms - before_ms) - (now - before) * 1000) > CLOCK_JUMP_MS:
                self._touched |= dict.fromkeys(self._shard.replicas)
                self._timetable.clear()
                self._due_ms.clear()
        self._clocks = now_ms, now


async def shorten_offsets_logs(state: BrokerState) -> None:
    """Keep ``__consumer_offsets`` short, again and again, until cancelled."""
    while True:
        await state.coordinator.shorten_logs()
        await trio.sleep(OFFSETS_INTERVAL_SECONDS)
