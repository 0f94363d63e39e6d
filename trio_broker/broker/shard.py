"""A shard: the replicas of one log dir that share one writer and one I/O lane.

The writer is the only task that appends. It takes everything queued, lets each log plan its part
in pure code, runs *one* lane job for all of them (one vectored write per replica, then fdatasync
where the mode asks for it), and only on success publishes; on failure the files have been cut back
and exactly the slots of that replica are refused. No state to roll back.

Whoever else changes a log (retention, deletion, flushing at shutdown) holds `Shard.changes`
meanwhile, which the writer holds during a commit.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING

import trio

from trio_broker.broker.replica import Replica, ReplicaState
from trio_broker.broker.shard_jobs import PlannedCommit, commit_job, never_over, why_refused
from trio_broker.broker.shard_replicas import ShardReplicas
from trio_broker.broker.supervise import Backoff
from trio_broker.config import INT32_MAX, Durability
from trio_broker.errors import AppendFailed, ErrorCode, StorageError, StuckIO, SyncFailed
from trio_broker.storage.disk_state import GONE
from trio_broker.storage.log import Accepted, BatchToAppend, Duplicate, Refused

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_broker.broker.append_slot import AppendSlot
    from trio_broker.broker.log_dir import LogDir
    from trio_broker.broker.response_flusher import ResponseFlusher
    from trio_broker.broker.shard_jobs import IsOver
    from trio_broker.config import StorageConfig
    from trio_broker.host.interface import Host, Lane


class Shard(ShardReplicas):
    """One writer, one lane, and the replicas they serve.

    Attributes:
        queued_bytes: batches waiting for the writer.
        commits: group commits done; `committed_batches` and `committed_bytes` in them.
    """

    def __init__(
        self,
        *,
        name: str,
        log_dir: LogDir,
        lane: Lane,
        host: Host,
        config: StorageConfig,
        flusher: ResponseFlusher,
    ) -> None:
        super().__init__(name=name, log_dir=log_dir, lane=lane, host=host, config=config)
        self.queued_bytes = 0
        self.commits = 0
        self.committed_batches = 0
        self.committed_bytes = 0
        self._flusher = flusher
        self._queue: deque[AppendSlot] = deque()
        self._room = trio.lowlevel.ParkingLot()
        self._parked_writer: trio.lowlevel.Task | None = None
        self._checkpoints_due: dict[Replica, None] = {}
        self._housekeeping = trio.CancelScope()

    def __repr__(self) -> str:
        return f"<Shard {self.name} replicas={len(self.replicas)} queued={self.queued_bytes} B>"

    @property
    def boundary(self) -> str:
        """Name of the boundary at which its faults stop."""
        return f"shard {self.name}"

    # Intake: synchronous, called by connections, the embedded API and coordinators.

    def enqueue(self, slot: AppendSlot) -> None:
        """Queue a batch for the next commit."""
        slot.size_bytes = len(slot.buffer)
        self._queue.append(slot)
        self.queued_bytes += slot.size_bytes
        self._unpark_writer()

    def _unpark_writer(self) -> None:
        if self._parked_writer is not None:
            task, self._parked_writer = self._parked_writer, None
            trio.lowlevel.reschedule(task)

    @property
    def has_room(self) -> bool:
        """Whether more may be queued; a connection that finds none waits in `wait_for_room`."""
        return self.queued_bytes < self._config.write_queue_bytes_max

    def has_queued(self, replica: Replica, producer_id: int) -> bool:
        """Whether a batch of an idempotent producer waits for the writer."""
        return producer_id >= 0 and any(
            slot.replica is replica
            and slot.header is not None
            and slot.header.producer_id == producer_id
            for slot in self._queue
        )

    async def wait_for_room(self) -> None:
        """Wait until the queue is below its bound. Cancellation has no other effect."""
        while not self.has_room:
            await self._room.park()

    def refuse_queued(self, replica: Replica, code: ErrorCode, message: str | None) -> None:
        """Answer the batches of one replica that no commit has taken yet."""
        mine = [slot for slot in self._queue if slot.replica is replica]
        if not mine:
            return
        self._queue = deque(slot for slot in self._queue if slot.replica is not replica)
        for slot in mine:
            self._forget_queued(slot.size_bytes)
            replica.refuse(slot, code, message)
        self._flusher.flush()

    def refuse_all_queued(self, code: ErrorCode, message: str | None) -> None:
        """Answer all batches that no commit has taken yet, before all replicas stop serving.

        Replica by replica thousands of them would look through a queue of tens of thousands.
        """
        slots, self._queue = self._queue, deque()
        for slot in slots:
            self._forget_queued(slot.size_bytes)
            assert slot.replica is not None
            slot.replica.refuse(slot, code, message)
        self._flusher.flush()

    def _forget_queued(self, size_bytes: int) -> None:
        self.queued_bytes -= size_bytes
        if self._room and self.has_room:
            self._room.unpark_all()

    # The task.

    async def serve(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Run until cancelled; after a fault, run again, ever more slowly.

        Between two runs the replicas of this shard are offline, and no others are concerned.
        """
        backoff = Backoff()
        while True:
            await self.log_dir.supervisor.absorb(
                self.boundary, partial(self._run, task_status=task_status)
            )
            task_status = trio.TASK_STATUS_IGNORED
            await trio.sleep(backoff.next_seconds(trio.current_time()))

    async def _run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Run the writer, the housekeeping and the replicas' tasks."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                for replica in list(self.replicas.values()):  # of an earlier run
                    if replica.is_closing:
                        del self.replicas[replica.topic_partition]
                        continue
                    replica.prepare_restart()
                    await nursery.start(self._live, replica)
                    nursery.start_soon(self._reopen, replica)
                nursery.start_soon(self._keep_house)
                task_status.started()
                await self._write_forever()
            finally:
                self._nursery = None  # it takes nobody in any more once its tasks have ended
                self.refuse_all_queued(ErrorCode.KAFKA_STORAGE_ERROR, "its shard has stopped")

    async def _write_forever(self) -> None:
        has_waited = False  # for the lane, so that others have had their turn
        while True:
            if not (has_waited and self._queue):
                await self._wait_for_work()
            await self.log_dir.keeper.wait_for_room()
            try:
                self.changes.acquire_nowait()  # to wait for a free lock is a turn of the event loop
            except trio.WouldBlock:
                await self.changes.acquire()
            try:
                has_waited = await self._do_work()
            finally:
                self.changes.release()

    async def _do_work(self) -> bool:
        """Do what is due; the caller holds `changes`.

        Returns:
            Whether a commit has waited for the lane.
        """
        has_waited = False
        if self._flush_is_due():
            for replica in list(self._unflushed):
                await self.attempt(replica, self._flush)
        if self._queue:
            has_waited = await self._commit(self._take())
        while self._checkpoints_due:
            replica, _ = self._checkpoints_due.popitem()
            await self.attempt(replica, self._checkpoint)
        return has_waited

    async def follow_topic(self, replica: Replica) -> None:
        """Do as the base does; what could not be flushed now is flushed when it is due."""
        await super().follow_topic(replica)
        if self._unflushed:
            self._unpark_writer()

    async def _wait_for_work(self) -> None:
        """Park until a batch is queued or a flush is due."""
        if self._queue:
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        if self._unflushed:
            with trio.move_on_at(self._flush_deadline()):
                await self._park()
        else:
            await self._park()

    async def _park(self) -> None:
        self._parked_writer = trio.lowlevel.current_task()

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            self._parked_writer = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    def _take(self) -> list[AppendSlot]:
        """Take what the next commit carries: all that is queued, up to its bound."""
        taken: list[AppendSlot] = []
        room = self.log_dir.keeper.commit_bytes_max
        queue = self._queue
        while queue and (not taken or room > 0):
            slot = queue[0]
            if slot.resolved and taken:
                break  # what becomes of those before it decides whether it leaves a gap
            del queue[0]
            room -= slot.size_bytes
            self._forget_queued(slot.size_bytes)
            if not slot.resolved:
                taken.append(slot)
            elif slot.code and slot.replica is not None and slot.header is not None:
                slot.replica.refuse_sequence(slot.header)  # its client has given it up
        return taken

    # A commit.

    async def _commit(self, slots: list[AppendSlot], is_over: IsOver = never_over) -> bool:
        """Store batches and resolve their slots, whatever happens.

        Returns:
            Whether there was anything to store, and so a wait for the lane.
        """
        commits: list[PlannedCommit] = []
        results: list[Exception | None] = []
        cause: str | None = None
        try:
            commits = self._plan(slots)
            self._flusher.flush()  # what planning has answered does not wait for the disk
            if commits:
                results = await self.lane.run(commit_job(commits, is_over))
        except StuckIO as error:
            cause = str(error)
            self.log_dir.fail(error)
        finally:
            for commit, result in zip(commits, results, strict=False):
                self._attempt_now(commit.replica, commit.slots, self._settle, commit, result)
            for commit in commits[len(results) :]:
                commit.log.abandon(commit.plan)
            for slot in slots:
                # Only a cancelled or stuck commit leaves any: no one may wait for ever.
                slot.refuse(ErrorCode.KAFKA_STORAGE_ERROR, cause)
            self._flusher.flush()
        return bool(commits)

    def _plan(self, slots: list[AppendSlot]) -> list[PlannedCommit]:
        by_replica: dict[Replica, list[AppendSlot]] = {}
        for slot in slots:
            assert slot.replica is not None
            by_replica.setdefault(slot.replica, []).append(slot)
        commits: list[PlannedCommit] = []
        for replica, mine in by_replica.items():
            self._attempt_now(replica, mine, self._plan_part, replica, mine, commits)
        self._choose_syncs(commits)
        return commits

    def _plan_part(
        self, replica: Replica, slots: list[AppendSlot], commits: list[PlannedCommit]
    ) -> None:
        """Add one replica's part to the commit, or refuse it."""
        keeper = self.log_dir.keeper
        if replica.state is not ReplicaState.ONLINE:
            for slot in slots:
                replica.refuse(slot, replica.refusal, replica.cause or None)
            return
        # Their first copies were still on the way when they came.
        slots = [slot for slot in slots if not replica.answer_duplicate(slot)]
        if not slots:
            return
        if not replica.topic.is_internal and (refusal := self.log_dir.refusal) is not None:
            for slot in slots:  # queued before it was refused
                replica.refuse(slot, *refusal)
            return
        batches = [BatchToAppend(slot.buffer, slot.header) for slot in slots if slot.header]
        assert len(batches) == len(slots), "only checked batches are queued"
        plan = replica.log.plan_append(
            batches,
            now_ms=self.now_ms(),
            leader_epoch=replica.leader_epoch,
            segment_bytes_max=keeper.segment_bytes_max if replica.topic.rolls_early else INT32_MAX,
            reserve_bytes=keeper.reserve_bytes,
        )
        commits.append(PlannedCommit(replica, slots, plan))

    def _choose_syncs(self, commits: Sequence[PlannedCommit]) -> None:
        """Decide which parts are synced with the write.

        So it is in interval mode where a flush by bytes would else come right behind it, and for
        the most part for the sake of this log. For the sake of others the writer flushes them all.
        """
        in_interval: list[PlannedCommit] = []
        for commit in commits:
            durability = commit.replica.topic.durability
            commit.sync = durability is Durability.FSYNC
            if durability is Durability.INTERVAL:
                in_interval.append(commit)
        if not in_interval:
            return
        limit_bytes = self._config.flush_interval_bytes
        unflushed_bytes = self._unflushed_bytes()
        for commit in in_interval:
            unflushed_bytes += commit.size_bytes
            own_bytes = commit.log.unflushed_bytes + commit.size_bytes
            if unflushed_bytes >= limit_bytes and 2 * own_bytes >= limit_bytes:
                commit.sync = True
                unflushed_bytes -= own_bytes

    def _settle(self, commit: PlannedCommit, result: Exception | None) -> None:
        """Publish one replica's part, or take it back."""
        replica, log, plan = commit.replica, commit.log, commit.plan
        if result is not None:
            log.abandon(plan)
            self._refuse_commit(commit, result)
            return
        if not (replica.has_log and replica.log is log):
            log.abandon(plan)  # the next opening finds what was stored
            return
        before = log.log_end_offset
        log.publish(plan, synced=commit.sync, now_seconds=trio.current_time())
        replica.topic.traffic.produced(
            plan.size_bytes, plan.batch_count, log.log_end_offset - before
        )
        self.housekeeper.touch(replica)
        self.log_dir.keeper.appended(plan.size_bytes)
        if log.checkpoint_due:
            self._checkpoints_due[replica] = None
        if plan.is_synced:
            self._unflushed.pop(replica, None)
        elif replica.topic.durability is Durability.INTERVAL:
            self._unflushed.setdefault(replica, trio.current_time())
        start = log.log_start_offset
        for slot, outcome in zip(commit.slots, plan.outcomes, strict=True):
            match outcome:
                case Accepted():
                    slot.accept(outcome.base_offset, outcome.log_append_time_ms, start)
                case Duplicate():
                    slot.accept(outcome.base_offset, outcome.log_append_time_ms, start)
                case Refused():
                    slot.refuse(outcome.code, outcome.message)
        self.commits += 1
        self.committed_batches += len(commit.slots)
        self.committed_bytes += commit.size_bytes
        replica.published(plan.size_bytes)

    def _refuse_commit(self, commit: PlannedCommit, error: Exception) -> None:
        """Answer the slots of a part that could not be stored, and judge the damage."""
        replica = commit.replica
        name = f"{replica.topic.name}-{replica.partition}"
        message = f"{name}: {error}"
        if isinstance(error, AppendFailed):
            space = self.log_dir.health.space
            message = f"{name}: {why_refused(error, commit.size_bytes, space)}"
        for slot in commit.slots:
            slot.refuse(ErrorCode.KAFKA_STORAGE_ERROR, message)
        if isinstance(error, SyncFailed):
            self.log_dir.fail(error)
        elif isinstance(error, AppendFailed) and (error.cut_back or error.errno in GONE):
            self.log_dir.write_failed(error, replica.topic_partition)
        elif isinstance(error, StorageError | OSError):
            self.take_offline(replica, message)
        else:
            raise error  # a bug; the boundary of the replica stops it

    def stop_housekeeping(self) -> None:
        """End the housekeeping task; what it does at this moment is finished or was not begun.

        And open no replica again: one that is being opened is given up before its next call.
        """
        self.is_stopping = True
        self._housekeeping.cancel()

    async def _keep_house(self) -> None:
        if not self._housekeeping.cancel_called:
            self._housekeeping = trio.CancelScope()  # an earlier run has used the last one up
        with self._housekeeping:
            supervisor = self.log_dir.supervisor
            await supervisor.keep_running(f"{self.boundary} housekeeping", self.housekeeper.run)

    async def flush_all(self, is_over: IsOver) -> list[Exception]:
        """Store what is queued, take no more, and make every log durable.

        What the logs then say of themselves is in `summaries`, for the clean marker.

        Args:
            is_over: tells when to give up.

        Returns:
            Why some logs could not be flushed; they are not in `summaries`.

        Raises:
            StorageError: not all of it was done in time, or a call hangs.
        """
        self._is_flushing = True
        while True:
            async with self.changes:
                if self._queue:
                    await self._commit(self._take(), is_over)
                    continue
                # No commit is under way, so those that are online now are in order.
                replicas = [each for each in self.replicas.values() if not each.is_closing]
                served = {each for each in replicas if each.state is ReplicaState.ONLINE}
                for replica in self.replicas.values():
                    replica.close_intake(ErrorCode.NOT_LEADER_OR_FOLLOWER)
                return await self._flush_logs(replicas, served, is_over)
