"""Keeps the logs of one log dir within their budget, and its disk from running full.

One task per log dir, so that a disk that hangs keeps nobody else's from being cleaned. It counts
bytes as they are written, looks about once a second while there are any, and at once when the
budget is passed or the disk runs low (`LogDir.disk_changed`). Who gives way, and how much, is
decided in `storage.pressure`. Meanwhile the writers of the log dir wait, briefly, so that what they
write cannot outrun what is deleted.

With `storage.bytes_max` all log dirs share one budget. Then each keeper decides about all of them
and carries out its own part, which comes to the same and leaves nobody waiting for another's disk.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

import trio

from trio_broker.broker.paced_log import PacedLog
from trio_broker.broker.replica import ReplicaState
from trio_broker.config import INT32_MAX
from trio_broker.storage import pressure
from trio_broker.storage.disk_state import DiskState
from trio_broker.storage.pressure import GivingWay, Holding, Wanted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_broker.broker.log_dir import LogDir
    from trio_broker.broker.replica import Replica
    from trio_broker.broker.state import BrokerState
    from trio_broker.host.interface import Space

logger = logging.getLogger("trio_broker.space")

#: While bytes are written, or something is wrong, there is a look this often.
LOOK_SECONDS = 1.0
#: While the disk is low on space, this often.
LOOK_SECONDS_PRESSED = 0.25
#: The bytes are counted anew this often while they change.
COUNT_SECONDS = 10.0
#: Writers wait no longer than this for room to be made.
WRITER_WAIT_SECONDS = 1.0


class SpaceKeeper:
    """The keeper of one log dir.

    Attributes:
        used_bytes: what the logs take, deleted segments included until they are gone; counted
            every few seconds, and never too low.
        limit_bytes: what they may take, together with those of all log dirs if that is one budget;
            None until the size of the disk is known.
        has_changed: the logs have grown or shrunk since their bytes were counted.
        refusal: why produce is refused, for the error message; None if it is not.
        segment_bytes_max: where segments roll that may have to give way.
        commit_bytes_max: how much one group commit may carry.
        reserve_bytes: how much room each log may have set aside for it; 0 while none is known of.
    """

    def __init__(self, log_dir: LogDir, state: BrokerState) -> None:
        storage = state.config.storage
        self.used_bytes = 0
        self.limit_bytes: int | None = None
        self.has_changed = True
        self.refusal: str | None = None
        self.segment_bytes_max = INT32_MAX
        self.commit_bytes_max = storage.commit_bytes_max
        self.reserve_bytes = 0
        self._log_dir = log_dir
        self._state = state
        self._configured_bytes = storage.bytes_max
        self._partitions = 0
        self._paced = PacedLog(logger)
        self._counted_at = -math.inf
        self._acted_on: Space | None = None
        self._was_of_use = True
        self._is_wanted = False
        self._earliest = -math.inf
        self._wake_at = math.inf
        self._room = trio.lowlevel.ParkingLot()
        self._sleep = trio.CancelScope()
        self._scope = trio.CancelScope()
        if self._configured_bytes >= 0:
            self._set_limit(self._configured_bytes)

    def __repr__(self) -> str:
        return f"<SpaceKeeper {self._log_dir.directory.path} {self.used_bytes}/{self.limit_bytes}>"

    # Called by the writers.

    def appended(self, size_bytes: int) -> None:
        """Count what was written; look at once if that is more than there is room for."""
        self.used_bytes += size_bytes
        if self.is_over:
            self._wake_by(self._earliest)
            self._is_wanted = self._is_wanted or self._earliest < 0
        if not self.has_changed:
            self.changed()

    def changed(self) -> None:
        """Take note that what the logs take is about to change, or that segments have gone."""
        if not self.has_changed:
            self.has_changed = True
            self._wake_by(trio.current_time() + LOOK_SECONDS)
            self._log_dir.guard.stir()

    async def wait_for_room(self) -> None:
        """Wait while room is being made, a second at most. Cancellation has no other effect."""
        if self._is_wanted and self.refusal is None and not self._scope.cancel_called:
            with trio.move_on_after(WRITER_WAIT_SECONDS):
                await self._room.park()

    # The budget.

    @property
    def is_over(self) -> bool:
        """Whether the logs take more than they may."""
        limit_bytes = self.limit_bytes
        if limit_bytes is None:
            return False
        if self._configured_bytes < 0:
            return self.used_bytes > limit_bytes
        return self.shared_bytes > limit_bytes

    @property
    def shared_bytes(self) -> int:
        """What all logs take that share the budget."""
        return sum(keeper.used_bytes for keeper in self._sharing())

    @property
    def scope(self) -> str:
        """Say which logs share the budget: logs "of this broker", or "in" a directory."""
        is_shared = self._configured_bytes >= 0
        return "of this broker" if is_shared else f"in {self._log_dir.directory.path}"

    def _sharing(self) -> Sequence[SpaceKeeper]:
        """Return the keepers of all log dirs that share the budget, this one included."""
        if self._configured_bytes < 0 or not self._state.log_dirs:
            return (self,)
        return [log_dir.keeper for log_dir in self._state.log_dirs]

    def measured(self, space: Space) -> None:
        """Take note of how large the disk is; it may have grown."""
        self.commit_bytes_max = min(
            self._state.config.storage.commit_bytes_max,
            pressure.commit_bytes(space.total_bytes, len(self._log_dir.shards)),
        )
        is_low = self._log_dir.health.state is not DiskState.OK
        logs = sum(len(shard.replicas) for shard in self._log_dir.shards)
        self.reserve_bytes = (
            0
            if is_low
            else pressure.reserve_bytes(space, logs, self._state.config.storage.reserve_bytes_max)
        )
        if self._configured_bytes < 0:
            limit_bytes = pressure.default_bytes_max(space.total_bytes)
            if limit_bytes != self.limit_bytes:
                self._set_limit(limit_bytes)

    def _set_limit(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.segment_bytes_max = pressure.piece_bytes(
            limit_bytes // len(self._sharing()), self._partitions
        )

    # The task.

    def press(self) -> None:
        """Look now, and let nothing be set aside any more: the disk runs low."""
        self.reserve_bytes = 0
        self._acted_on, self._was_of_use = None, True
        self._wake_by(-math.inf)

    def wake(self) -> None:
        """Look soon: another log dir with the same budget has found that it is passed."""
        self._wake_by(self._earliest)

    def stop(self) -> None:
        """End the task; what it does at this moment is finished or was not begun."""
        self._scope.cancel()

    async def run(self) -> None:
        """Keep the space until cancelled or stopped."""
        if not self._scope.cancel_called:
            self._scope = trio.CancelScope()  # an earlier run has used the last one up
        try:
            with self._scope:
                while True:
                    with trio.CancelScope(deadline=self._next_look()) as self._sleep:
                        await trio.sleep_forever()
                    self._wake_at = math.inf
                    await self._look()
                    self._is_wanted = False
                    self._room.unpark_all()
        finally:
            self._is_wanted = False
            self._room.unpark_all()

    def _wake_by(self, at: float) -> None:
        self._wake_at = min(self._wake_at, at)
        self._sleep.deadline = min(self._sleep.deadline, at)

    def _next_look(self) -> float:
        now = trio.current_time()
        if self._is_low and self._was_of_use:
            return min(self._wake_at, now + LOOK_SECONDS_PRESSED)
        if self._is_low or self.has_changed or self.refusal is not None or self.is_over:
            return min(self._wake_at, now + LOOK_SECONDS)
        return self._wake_at

    @property
    def _is_low(self) -> bool:
        return self._log_dir.health.state in {DiskState.LOW, DiskState.DEGRADED}

    async def _look(self) -> None:
        """Make the room that is wanted, and say if there is none to be made."""
        self._earliest = -math.inf
        if self._log_dir.health.state is DiskState.FAILED:
            return
        now = trio.current_time()
        is_counted = self.is_over or self._counted_at + COUNT_SECONDS <= now
        if is_counted:
            self.count()
        if self._is_low:
            await self._relieve_disk()
        if not self.is_over:
            self.has_changed = self.has_changed and not is_counted
            self._set_refusal(None)
            return
        for keeper in self._sharing():
            keeper.count()
        missing_bytes = await self._keep_budget()
        if self.is_over:
            self._earliest = now + LOOK_SECONDS
        self._set_refusal(self._refusal() if missing_bytes > 0 else None)

    def count(self) -> int:
        """Count anew what the logs take, and in how many pieces it can be given away."""
        used_bytes = partitions = 0
        for replica in self.replicas():
            if replica.has_log:
                used_bytes += replica.log.disk_bytes
                partitions += replica.topic.rolls_early
        self.used_bytes, self._partitions = used_bytes, partitions
        self._counted_at = trio.current_time()
        if self.limit_bytes is not None:
            self._set_limit(self.limit_bytes)
        return used_bytes

    def replicas(self) -> list[Replica]:
        """Return the replicas of this log dir."""
        return [replica for shard in self._log_dir.shards for replica in shard.replicas.values()]

    async def _relieve_disk(self) -> None:
        """Make room on a disk that is low on space, if it was measured since the last time."""
        space = self._log_dir.health.space
        if space is None or space is self._acted_on:
            return
        wanted = pressure.low_on_space(space)
        if not wanted:
            return
        used_bytes, deleted = self.count(), self._log_dir.deleted
        names = frozenset(deleted.names)
        freed_bytes = await self._give_deleted_back()
        await deleted.remove_all()
        # How much room those topics took shows in a measurement only: nothing else goes before.
        has_removed = not names.issubset(deleted.names)
        wanted = Wanted(max(0, wanted.size_bytes - freed_bytes), wanted.segments)
        if wanted and not has_removed:
            await self._make_room([self], wanted)
        self._was_of_use = has_removed or self.count() < used_bytes
        # What was freed shows in the next measurement only: one from meanwhile has seen a part.
        self._acted_on = self._log_dir.health.space if self._was_of_use else None

    async def _keep_budget(self) -> int:
        """Make the logs fit; return how many bytes of what is over the budget nobody can give."""
        assert self.limit_bytes is not None
        if await self._give_deleted_back():
            self.count()
        used_bytes = self.shared_bytes
        wanted = pressure.over_budget(used_bytes, self.limit_bytes)
        if not wanted:
            return 0
        given_bytes = await self._make_room(self._sharing(), wanted)
        for keeper in self._sharing():
            if keeper is not self:
                keeper.wake()
        self.count()
        return used_bytes - given_bytes - self.limit_bytes

    async def _give_deleted_back(self) -> int:
        """Unlink segments that were deleted before, delay or not; return how many bytes that is."""
        freed_bytes = 0
        for replica in self.replicas():
            if replica.has_log and (size_bytes := replica.log.deleted_bytes):
                await replica.shard.apply_retention(replica, at_once=True)
                freed_bytes += size_bytes
        return freed_bytes

    def giving_way(self, *, is_failing: bool) -> list[Replica]:
        """Return the replicas that may give way, with or without errors of writes of late."""
        failing = self._log_dir.health.failing_places(trio.current_time())
        return [
            replica
            for replica in self.replicas()
            if replica.topic.gives_way
            and replica.state is ReplicaState.ONLINE
            and (replica.log.directory in failing) is is_failing
        ]

    async def _make_room(self, keepers: Sequence[SpaceKeeper], wanted: Wanted) -> int:
        """Delete what gives way here; return how many bytes give way in all these log dirs.

        A log that cannot be written to may not give way either. It comes last and counts for
        nothing, or others would wait for it.
        """
        healthy = [each for keeper in keepers for each in keeper.giving_way(is_failing=False)]
        found = await self._give_way(healthy, wanted)
        if not found.is_enough:
            missing_segments = max(0, wanted.segments - sum(found.counts))
            wanted = Wanted(max(0, wanted.size_bytes - found.size_bytes), missing_segments)
            failing = [each for keeper in keepers for each in keeper.giving_way(is_failing=True)]
            await self._give_way(failing, wanted)
        return found.size_bytes

    async def _give_way(self, replicas: Sequence[Replica], wanted: Wanted) -> GivingWay:
        """Decide what gives way, and delete what of it is here."""
        holdings = [
            Holding(replica.log.segments, replica.log.sealed_count, replica.high_watermark)
            for replica in replicas
        ]
        found = pressure.choose(holdings, wanted, now_ms=self._state.host.wall.now_ms())
        mine = [
            (replica, replica.log.segments[count - 1].base_offset)
            for replica, count in zip(replicas, found.counts, strict=True)
            if count and replica.shard.log_dir is self._log_dir
        ]
        for replica, offset in mine:
            await replica.shard.apply_retention(replica, give_way_offset=offset, at_once=True)
        return found

    # The refusal.

    def _refusal(self) -> str:
        assert self.limit_bytes is not None
        return pressure.refusal(self.shared_bytes, self.limit_bytes, self.scope)

    def _set_refusal(self, refusal: str | None) -> None:
        before, self.refusal = self.refusal, refusal
        path = self._log_dir.directory.path
        if refusal is not None and before is None:
            self._paced.log(
                logging.WARNING, "refused", f"log dir {path}: produce is refused: {refusal}"
            )
        elif refusal is None and before is not None:
            self._paced.log(logging.INFO, "accepted", f"log dir {path}: produce is accepted again")
