"""A shard: the replicas of one log dir that share one writer and one I/O lane.

Nobody but the writer appends. A commit takes everything queued, lets each log plan its part in pure
code, runs *one* lane job for all of them (one vectored write per replica, then fdatasync where the
mode asks for it), and only on success publishes; on failure the files have been cut back and
exactly the slots of that replica are refused. No state to roll back.

The writer's task sleeps while commits follow one another in a series (`host/series.py`). What
becomes of them is its business all the same: it is woken for errors, and for all else that is due.

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
    from trio_broker.broker.append_slot import AppendSlot
    from trio_broker.broker.log_dir import LogDir
    from trio_broker.broker.response_flusher import ResponseFlusher
    from trio_broker.broker.shard_jobs import IsOver
    from trio_broker.config import StorageConfig
    from trio_broker.host.interface import Host, Job, Lane


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
        self._taken: list[AppendSlot] = []  # by the commit that is under way
        self._planned: list[PlannedCommit] = []  # its parts
        self._unflushed_then = -1  # bytes, once it is stored; negative: nobody has counted
        self._is_crowded = False  # it, or the latest, has batches of several clients
        self._series = lane.series(self._next_in_series, self._settle_in_series)
        self._holds_changes = False  # the series does, for the commit that is under way
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
        """Queue a batch for the next commit.

        Whoever has queued the last one calls `begin_commit`, or the flusher, which does.
        """
        slot.size_bytes = len(slot.buffer)
        self._queue.append(slot)
        self.queued_bytes += slot.size_bytes
        if self._series.is_resting:
            self._flusher.add_shard(self)
        else:
            self._unpark_writer()

    def _unpark_writer(self) -> None:
        if self._parked_writer is not None:
            task, self._parked_writer = self._parked_writer, None
            trio.lowlevel.reschedule(task)

    def begin_commit(self) -> None:
        """Let the next commit begin if none is under way."""
        self._series.stir()

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
            has_waited = await self._commit()
        while self._checkpoints_due:
            replica, _ = self._checkpoints_due.popitem()
            await self.attempt(replica, self._checkpoint)
        return has_waited

    async def follow_topic(self, replica: Replica) -> None:
        """Do as the base does; what could not be flushed now is flushed when it is due."""
        await super().follow_topic(replica)
        if self._unflushed:
            self._series.end()
            self._unpark_writer()

    async def _wait_for_work(self) -> None:
        """Wait until there is something to do that the series of commits does not do."""
        if self._queue:
            await trio.lowlevel.cancel_shielded_checkpoint()
        elif self._unflushed:
            with trio.move_on_at(self._flush_deadline()):
                await self._park()
        elif self._is_crowded:
            await self._park()
        else:
            await self._commit_in_series()

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

    # Commits in a series. Where nothing else is to be done they begin in the task that has queued
    # batches, and are settled where the lane delivers what has come of them: the writer sleeps.
    # Not where several clients are at work: a turn of the loop later more of them have queued
    # theirs, and a commit for many costs less than many for one.

    async def _commit_in_series(self) -> None:
        """Let commits follow one another until the writer has something else to do."""
        cause: str | None = None
        try:
            await self._series.run()
        except StuckIO as error:
            cause = str(error)
            self.log_dir.fail(error)
        finally:
            if self._holds_changes:  # else what is under way is the commit of whoever holds them
                self._end_commit(cause)
                self._let_go()

    def _next_in_series(self) -> Job[list[Exception | None]] | None:
        job = None
        if self._queue and self._has_changes():
            job = self._plan_commit(never_over)
        if job is None:
            self._let_go()
            if self._queue:
                self._series.end()  # the writer can wait, and it gives others a turn
        return job

    def _has_changes(self) -> bool:
        """Hold `changes`, unless one has to wait for it or for room."""
        if not self._holds_changes:
            if self.is_changing or self.log_dir.keeper.is_making_room:
                return False
            self.changes.acquire_nowait()
            self._holds_changes = True
        return True

    def _settle_in_series(self, results: list[Exception | None]) -> None:
        self._settle(results)
        if (
            self._is_crowded
            or self._checkpoints_due
            or self._unflushed
            or self.log_dir.keeper.is_making_room
            or self.changes.statistics().tasks_waiting
        ):
            self._series.end()

    def _let_go(self) -> None:
        if self._holds_changes:
            self._holds_changes = False
            self.changes.release()

    # A commit.

    async def _commit(self, is_over: IsOver = never_over) -> bool:
        """Store what is queued and resolve the slots, whatever happens; the caller holds `changes`.

        Returns:
            Whether there was anything to store, and so a wait for the lane.
        """
        cause: str | None = None
        job: Job[list[Exception | None]] | None = None
        try:
            job = self._plan_commit(is_over)
            if job is not None:
                self._settle(await self.lane.run(job))
        except StuckIO as error:
            cause = str(error)
            self.log_dir.fail(error)
        finally:
            self._end_commit(cause)
        return job is not None

    def _plan_commit(self, is_over: IsOver) -> Job[list[Exception | None]] | None:
        """Take what is queued, and make the job that stores it; None if nothing is to be stored."""
        self._taken = taken = self._take()
        self._is_crowded = len(taken) > 1 and taken[0].owner.source is not taken[-1].owner.source
        self._planned = self._plan(taken)
        if not self._planned:
            self._taken = []  # all are answered
        self._flusher.flush()  # what planning has answered does not wait for the disk
        return commit_job(self._planned, is_over) if self._planned else None

    def _settle(self, results: list[Exception | None]) -> None:
        """Publish what a commit has stored, and refuse what it has not."""
        commits = self._planned
        self._planned = commits[len(results) :]  # not begun, because all was over
        for commit, result in zip(commits, results, strict=False):
            self._attempt_now(commit.replica, commit.slots, self._settle_part, commit, result)
        self._end_commit()

    def _end_commit(self, cause: str | None = None) -> None:
        """Leave nothing of a commit behind, and nobody waiting for ever."""
        for commit in self._planned:
            commit.log.abandon(commit.plan)
        for slot in self._taken:
            # Only a commit that was cancelled, stuck or not wanted any more leaves any.
            slot.refuse(ErrorCode.KAFKA_STORAGE_ERROR, cause)
        self._planned, self._taken = [], []
        self._flusher.flush()

    def _plan(self, slots: list[AppendSlot]) -> list[PlannedCommit]:
        by_replica: dict[Replica, list[AppendSlot]] = {}
        for slot in slots:
            assert slot.replica is not None
            by_replica.setdefault(slot.replica, []).append(slot)
        commits: list[PlannedCommit] = []
        self._unflushed_then = -1
        for replica, mine in by_replica.items():
            self._attempt_now(replica, mine, self._plan_part, replica, mine, commits)
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
        if keeper.refusal is not None and not replica.topic.is_internal:
            for slot in slots:  # queued before it was refused
                replica.refuse(slot, ErrorCode.POLICY_VIOLATION, keeper.refusal)
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
        commit = PlannedCommit(replica, slots, plan)
        commit.sync = self._syncs(commit)
        commits.append(commit)

    def _syncs(self, commit: PlannedCommit) -> bool:
        """Whether a part is synced with the write.

        So it is in interval mode where a flush by bytes would else come right behind it, and for
        the most part for the sake of this log. For the sake of others the writer flushes them all.
        """
        durability = commit.replica.topic.durability
        if durability is not Durability.INTERVAL:
            return durability is Durability.FSYNC
        if self._unflushed_then < 0:
            self._unflushed_then = self._unflushed_bytes()
        own_bytes = commit.log.unflushed_bytes + commit.size_bytes
        self._unflushed_then += commit.size_bytes
        limit_bytes = self._config.flush_interval_bytes
        if self._unflushed_then < limit_bytes or 2 * own_bytes < limit_bytes:
            return False
        self._unflushed_then -= own_bytes
        return True

    def _settle_part(self, commit: PlannedCommit, result: Exception | None) -> None:
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
                    await self._commit(is_over)
                    continue
                # No commit is under way, so those that are online now are in order.
                replicas = [each for each in self.replicas.values() if not each.is_closing]
                served = {each for each in replicas if each.state is ReplicaState.ONLINE}
                for replica in self.replicas.values():
                    replica.close_intake(ErrorCode.NOT_LEADER_OR_FOLLOWER)
                return await self._flush_logs(replicas, served, is_over)
