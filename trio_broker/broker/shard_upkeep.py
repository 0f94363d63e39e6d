"""What a shard does for its logs besides appending: flush, checkpoint, retention, and their end.

The base of `ShardReplicas` and `Shard`, which add the lives of the replicas and the writer; nobody
else uses it. Whoever changes a log holds `changes` meanwhile, as the writer does during a commit.
"""

from __future__ import annotations

import logging
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, TypeVar

import trio

from trio_broker.broker.housekeeping import Housekeeper
from trio_broker.broker.replica import Replica, ReplicaState
from trio_broker.broker.shard_jobs import concerns_one_log, in_turn, named
from trio_broker.config import Durability
from trio_broker.errors import ErrorCode, StorageError, StuckIO, SyncFailed

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from trio_broker.broker.log_dir import LogDir
    from trio_broker.broker.shard_jobs import IsOver
    from trio_broker.config import StorageConfig
    from trio_broker.host.interface import Host, Job, Lane
    from trio_broker.names import TopicPartition
    from trio_broker.storage.checkpoint import LogSummary
    from trio_broker.storage.log import Log
    from trio_broker.storage.maintenance import DeletionPlan, Unlinked

R = TypeVar("R")

#: Replicas closed before others get a turn.
REPLICAS_PER_TURN = 64

#: What an acknowledgement promises, from the least to the most.
_PROMISES = (Durability.OS, Durability.INTERVAL, Durability.FSYNC)


class ShardUpkeep:
    """The state of a shard that its upkeep needs.

    Attributes:
        log_dir: whose shard it is.
        lane: does its disk work.
        changes: held by whoever changes a log of this shard.
        replicas: that it serves.
        housekeeper: knows when what is due.
        is_stopping: replicas that are offline stay so, since the broker stops.
        summaries: after `_flush_logs`, what the logs closed in order say of themselves.
        is_flushed: all that was acknowledged has been made durable by `_flush_logs`.
        may_be_believed: what is in `summaries` holds, whatever became of logs that are not.
    """

    def __init__(self, *, log_dir: LogDir, lane: Lane, host: Host, config: StorageConfig) -> None:
        self.log_dir = log_dir
        self.lane = lane
        self.changes = trio.Lock()
        self._host = host
        self._config = config
        self._unflushed: dict[Replica, float] = {}
        self.replicas: dict[TopicPartition, Replica] = {}
        self.housekeeper = Housekeeper(self, host.wall)
        self.is_stopping = False
        self._is_flushing = False
        self.summaries: dict[TopicPartition, LogSummary] = {}
        self.is_flushed = False
        self.may_be_believed = False
        self._nursery: trio.Nursery | None = None

    @property
    def is_running(self) -> bool:
        """Whether its tasks run: not between a fault and the next start."""
        return self._nursery is not None

    def has_begun_to_flush(self) -> bool:
        """Whether a stop has come so far that no new replica is started any more."""
        return self._is_flushing

    async def read(self, job: Job[R]) -> R:
        """Run a job that reads a log, and see at once to the files that it has opened.

        Most are kept for the next read. Where the segment is gone meanwhile (retention, deletion
        of the topic) they are closed, and nobody else might come by to do that.

        Raises:
            CorruptLog, StorageError, OSError: whatever the job raises.

        Cancellation: before the job has begun, it is not begun; later, it is finished first.
        """
        try:
            return await self.lane.run(job)
        finally:
            self.log_dir.take_offers()

    def now_ms(self) -> int:
        """Wall clock of the machine, milliseconds since 1970."""
        return self._host.wall.now_ms()

    # Flushing: only topics in interval mode are ever in `_unflushed`.

    def _flush_deadline(self) -> float:
        return min(self._unflushed.values()) + self._config.flush_interval_ms / 1000

    def _flush_is_due(self) -> bool:
        if not self._unflushed:
            return False
        return (
            self._unflushed_bytes() >= self._config.flush_interval_bytes
            or trio.current_time() >= self._flush_deadline()
        )

    def _unflushed_bytes(self) -> int:
        return sum(replica.log.unflushed_bytes for replica in self._unflushed if replica.has_log)

    async def _flush(self, replica: Replica) -> None:
        """Make what a replica has written durable; the caller holds `changes`."""
        self._unflushed.pop(replica, None)
        if replica.state is not ReplicaState.ONLINE:
            return
        log = replica.log
        end_offset = log.log_end_offset
        try:
            await self.lane.run(log.flush_job())
        except (StuckIO, SyncFailed) as error:
            log.mark_broken()
            self.log_dir.fail(error)
        except OSError as error:
            # A file could not be opened. Nothing is lost by that, and it is still to be done.
            self.log_dir.write_failed(error, replica.topic_partition)
            self._unflushed[replica] = trio.current_time()
        else:
            log.mark_flushed(end_offset)

    async def _checkpoint(self, replica: Replica) -> bool:
        """Write down where recovery may begin; the caller holds `changes`.

        Returns:
            Whether it is written down.
        """
        if replica.state is not ReplicaState.ONLINE:
            return False
        log = replica.log
        try:
            log.mark_checkpointed(await self.lane.run(log.checkpoint_job()))
        except (StuckIO, SyncFailed) as error:
            log.mark_broken()
            self.log_dir.fail(error)
        except (StorageError, OSError) as error:
            # The old checkpoint stands, and is still good.
            self.log_dir.write_failed(error, replica.topic_partition)
        else:
            return True
        return False

    async def follow_topic(self, replica: Replica) -> None:
        """Let an open log follow the configuration that its topic has now.

        Where acknowledgements have come to mean more, what was written before is made durable
        first: a hole of the older kind must not cut off what is acknowledged from now on.
        """
        if not replica.has_log:
            return  # it takes over the configuration when it goes online
        before = replica.log.durability
        replica.follow_topic()
        self.housekeeper.look_at(replica)
        if _PROMISES.index(replica.log.durability) > _PROMISES.index(before):
            async with self.changes:
                await self._flush(replica)

    # Retention: called by housekeeping, and by DeleteRecords.

    async def _flush_logs(
        self, replicas: Sequence[Replica], served: Collection[Replica], is_over: IsOver
    ) -> list[Exception]:
        """Make everything durable that these replicas have acknowledged; for the end of a stop.

        The caller holds `changes`, and has closed their intake.

        Args:
            replicas: those that have anything to lose.
            served: those that were online. Only these may be believed by the next start. Something
                is wrong with the others: they are flushed, and read again.
            is_over: tells when to give up.

        Returns:
            Why some of it may not be durable.

        Raises:
            StorageError: not all of it was done in time, or a call hangs.
        """
        failures: list[Exception] = []
        jobs: list[Job[None]] = []

        def add(replica: Replica, *, is_sound: bool) -> None:
            name = f"{replica.topic.name}-{replica.partition}"
            if replica.has_log:
                log = replica.log
                jobs.append(named(log.close_job() if is_sound else log.flush_unsound_job(), name))
            elif not replica.is_durable:
                jobs.append(named(self.log_dir.flushing(replica), name))

        supervisor = self.log_dir.supervisor
        for is_sound in (True, False):  # a call that hangs keeps those behind it from being flushed
            for replica in replicas:
                if (replica in served) is is_sound:
                    fault = supervisor.absorb_now(replica.boundary, add, replica, is_sound=is_sound)
                    failures += [fault] if fault is not None else []
        logs = [replica.log for replica in replicas if replica.has_log]
        try:
            await self.lane.run(in_turn(jobs, failures, is_over))
        finally:
            for log in logs:
                self.tell_unlinked(log.last_unlinked)
                if log.clean_summary is not None:
                    self.summaries[log.topic_partition] = log.clean_summary
        self.is_flushed = not failures
        self.may_be_believed = all(map(concerns_one_log, failures))
        return failures

    async def close_all(self) -> list[Exception]:
        """Close every file and wait for the replicas' tasks to end; nothing of that can fail."""
        replicas = list(self.replicas.values())
        for replica in replicas:
            replica.close_intake(ErrorCode.NOT_LEADER_OR_FOLLOWER)
        await self._close(replicas)
        return []

    async def _close(self, replicas: Sequence[Replica]) -> None:
        """Close the files of replicas, whose intake is closed, and wait for their tasks to end.

        Cancellation: tasks may still be ending, and close what is left.
        """
        async with self.changes:
            for number, replica in enumerate(replicas, start=1):
                self._unflushed.pop(replica, None)
                replica.release_log()
                replica.leave()
                if number % REPLICAS_PER_TURN == 0:
                    await trio.lowlevel.checkpoint()
        if self._nursery is not None:
            for replica in replicas:
                await replica.wait_ended()

    async def apply_retention(
        self, replica: Replica, *, give_way_offset: int = -1, at_once: bool = False
    ) -> None:
        """Delete the segments of one replica that are too old or too many, then their files.

        Args:
            replica: whose.
            give_way_offset: segments that begin at or below it go in any case.
            at_once: unlink files without waiting for `file.delete.delay.ms`.
        """
        if replica.state is not ReplicaState.ONLINE:
            return
        now_ms = self._host.wall.now_ms()
        async with self.changes:
            if replica.state is ReplicaState.ONLINE:
                log = replica.log
                plan = log.plan_deletion(
                    now_ms, upper_offset=replica.high_watermark, give_way_offset=give_way_offset
                )
                if plan is not None:
                    await self._delete_segments(replica, log, plan, now_ms)
                unlinking = log.unlink_deleted_job(now_ms, at_once=at_once)
                if unlinking is not None:
                    await self._unlink(replica, unlinking)
                    self.log_dir.keeper.changed()
                if log.seal_idle(now_ms):
                    await self._checkpoint(replica)
        if at_once:
            self.housekeeper.touch(replica)  # what could not be unlinked is tried again by its time

    async def advance_start_offset(self, replica: Replica, offset: int) -> bool:
        """Drop everything below `offset` and give its segments back.

        Returns:
            Whether a restart will know of it. If not, it holds until then all the same.

        Cancellation: as if it had returned False.
        """
        is_durable = False
        async with self.changes:
            # While this waited for its turn, a failed fsync may have cut the log back.
            if replica.state is ReplicaState.ONLINE and offset <= replica.high_watermark:
                replica.log.advance_start_offset(offset)
                is_durable = await self._checkpoint(replica)
        await self.apply_retention(replica)
        self.housekeeper.touch(replica)  # which unlinks the files, after `file.delete.delay.ms`
        return is_durable

    async def _delete_segments(
        self, replica: Replica, log: Log, plan: DeletionPlan, now_ms: int
    ) -> None:
        try:
            await self.lane.run(log.delete_segments_job(plan))
        except (StuckIO, SyncFailed) as error:
            log.mark_broken()
            self.log_dir.fail(error)
        except (StorageError, OSError) as error:
            # All segments are still there; tried again.
            self.log_dir.write_failed(error, replica.topic_partition)
        else:
            log.publish_deletion(plan, now_ms)
            name = f"{replica.topic.name}-{replica.partition}"
            for reason, segments in groupby(plan.reasons, itemgetter(0)):
                sizes = [size_bytes for _, size_bytes in segments]
                replica.topic.traffic.deleted(reason, len(sizes), sum(sizes))
                self.log_dir.deletions.deleted(reason, name, len(sizes), sum(sizes))

    async def _unlink(self, replica: Replica, job: Job[Unlinked]) -> None:
        """Remove files of deleted segments; what is left behind is removed by a later job."""
        try:
            self.tell_unlinked(await self.lane.run(job))
        except (StorageError, OSError) as error:
            self.log_dir.write_failed(error, replica.topic_partition)

    def tell_unlinked(self, unlinked: Unlinked) -> None:
        """Say if files could not be removed; for however many logs, a line in ten seconds."""
        if unlinked.refused:
            what = f"log dir {self.log_dir.directory.path}: {unlinked}"
            self.log_dir.paced.log(logging.WARNING, "unlink", what)
