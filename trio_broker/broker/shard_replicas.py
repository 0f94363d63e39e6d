"""The lives of a shard's replicas: started, opened, offline after a fault, brought back, ended.

Between `ShardUpkeep` and `Shard`, which adds the writer; nobody else uses it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Concatenate, ParamSpec

import trio

from trio_broker.broker.replica import Replica, ReplicaState
from trio_broker.broker.shard_jobs import GivenUp, open_job
from trio_broker.broker.shard_upkeep import ShardUpkeep
from trio_broker.broker.supervise import described
from trio_broker.errors import CorruptLog, ErrorCode, LogMissing, StorageError, StuckIO, SyncFailed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from typing import TypeAlias

    from trio_broker.broker.append_slot import AppendSlot
    from trio_broker.broker.log_dir import LogDir
    from trio_broker.broker.shard_jobs import IsOver
    from trio_broker.config import StorageConfig
    from trio_broker.host.interface import Host, Job, Lane
    from trio_broker.storage.log import Log

    #: Makes the job that opens a replica's log.
    Opening: TypeAlias = Callable[[Replica], Job[Log]]

logger = logging.getLogger("trio_broker.shard")

P = ParamSpec("P")


class ShardReplicas(ShardUpkeep):
    """The replicas of a shard.

    Attributes:
        name: of the shard, for logs.
    """

    def __init__(
        self, *, name: str, log_dir: LogDir, lane: Lane, host: Host, config: StorageConfig
    ) -> None:
        super().__init__(log_dir=log_dir, lane=lane, host=host, config=config)
        self.name = name

    async def start_replicas(self, replicas: Sequence[Replica], opening: Opening) -> None:
        """Start the tasks of some replicas, and open their logs with one job of the lane.

        A log that cannot be opened leaves its replica offline, not the others or the shard. While
        the shard waits to run again after a fault, the replicas are offline until then. Once a stop
        has come to flushing, those that are not open stay so: the next start opens them.
        """
        for replica in replicas:
            self.replicas[replica.topic_partition] = replica
            self.log_dir.supervisor.expect(replica.boundary)
            if self._nursery is None:
                replica.go_offline(f"shard {self.name} is not running")
            else:
                self._nursery.start_soon(self._live, replica)
        await self._open(
            [each for each in replicas if each.state is ReplicaState.STARTING],
            opening,
            self.has_begun_to_flush,
        )

    async def _live(
        self, replica: Replica, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        task_status.started()
        try:
            await self.log_dir.supervisor.absorb(replica.boundary, replica.live)
        finally:
            if replica.state is ReplicaState.CLOSED:
                self.replicas.pop(replica.topic_partition, None)

    async def _open(self, replicas: Sequence[Replica], opening: Opening, is_over: IsOver) -> None:
        jobs: dict[Replica, Job[Log]] = {}
        for replica in replicas:
            self._attempt_now(replica, [], lambda each: jobs.update({each: opening(each)}), replica)
        results: list[Log | Exception] = []
        try:
            await self.lane.run(open_job(list(jobs.values()), results, is_over))
        except StuckIO as error:
            results += [error] * (len(jobs) - len(results))
        for replica, result in zip(jobs, results, strict=True):
            self._attempt_now(replica, [], self._settle_opening, replica, result)

    def _settle_opening(self, replica: Replica, result: Log | Exception) -> None:
        """Serve from a log that was opened, or judge why it was not."""
        if isinstance(result, CorruptLog):
            # Acknowledged data is damaged: opening again would find the same.
            logger.error("%s stays offline: %s", replica, result)
            replica.is_missing = isinstance(result, LogMissing)
            replica.go_offline(str(result))
        elif isinstance(result, GivenUp):
            replica.go_offline(str(result))
        elif isinstance(result, StorageError | OSError):
            if isinstance(result, SyncFailed):
                replica.after_failed_sync = True  # whether or not there is a note of that
            self.take_offline(replica, f"{replica.topic.name}-{replica.partition}: {result}")
        elif isinstance(result, Exception):
            raise result  # a bug; the boundary of the replica stops it
        elif replica.is_closing or self._nursery is None:
            result.close_files()  # deleted while it was being opened; or nobody would close it
        else:
            replica.go_online(result)
            self.housekeeper.look_at(replica)

    def _attempt_now(
        self,
        replica: Replica,
        slots: list[AppendSlot],
        step: Callable[P, None],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> None:
        """Do one replica's part of something; a fault stops here, and takes this replica offline.

        Batches of it that are not answered by then are refused.
        """
        fault = self.log_dir.supervisor.absorb_now(replica.boundary, step, *args, **kwargs)
        if fault is not None:
            self.replica_failed(replica, fault)
            for slot in slots:
                replica.refuse(slot, ErrorCode.KAFKA_STORAGE_ERROR, replica.cause)

    async def attempt(
        self,
        replica: Replica,
        step: Callable[Concatenate[Replica, P], Awaitable[object]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> None:
        """Do something for one replica; a fault stops here, and takes this replica offline."""
        supervisor = self.log_dir.supervisor
        fault = await supervisor.absorb(replica.boundary, step, replica, *args, **kwargs)
        if fault is not None:
            self.replica_failed(replica, fault)

    def replica_failed(self, replica: Replica, fault: Exception) -> None:
        """Take a replica offline after a fault that its boundary has stopped."""
        self.take_offline(replica, f"{replica.topic.name}-{replica.partition}: {described(fault)}")

    def take_offline(self, replica: Replica, cause: str) -> None:
        """Stop serving one replica and open it again after a while."""
        self.log_dir.paced.log(logging.ERROR, "offline", f"replica goes offline: {cause}")
        replica.go_offline(cause)
        if self._nursery is not None:
            self._nursery.start_soon(self._revive, replica)

    async def _revive(self, replica: Replica) -> None:
        """Try once more, later, to open an offline replica; a further failure comes back here."""
        with replica.helped():
            with trio.move_on_after(replica.next_try_seconds()):
                await replica.wait_told_to_end()
            await self._reopen(replica)

    async def _reopen(self, replica: Replica) -> None:
        async with self.changes:
            await self._bring_back(replica)

    async def _recover(self, replica: Replica) -> None:
        """Open a replica from what is on the disk; the caller holds `changes`.

        That may take long. A stop does not wait for it, but flushes what there is.
        """
        if not self.is_stopping:
            replica.release_log()
            await self._open([replica], self.log_dir.recovering, lambda: self.is_stopping)

    async def bring_back(self) -> None:
        """Put offline replicas back into service, now that their disk works again.

        Where an fsync had failed and acknowledgements wait for fsync, the log goes on at its
        durable offset: nothing above it was ever acknowledged. Where they do not wait, or did not
        before somebody altered the topic, what was acknowledged may be gone: the replica is offline
        until an operator who knows that starts the broker. All else is opened as after a crash.
        """
        for replica in list(self.replicas.values()):
            async with self.changes:
                await self._bring_back(replica)

    async def _bring_back(self, replica: Replica) -> None:
        """Do so for one of them; the caller holds `changes`."""
        is_wanted = not (self.log_dir.is_failed or self.is_stopping)
        if replica.state is not ReplicaState.OFFLINE or not is_wanted:
            return
        if not replica.has_log or not replica.log.has_failed_sync:
            await self._recover(replica)
        elif replica.log.is_durable:
            await self._seal(replica)
        else:
            replica.cause = "an fsync failed, and what was acknowledged may be lost"
            logger.error("%r stays offline until a restart: %s", replica, replica.cause)

    async def _seal(self, replica: Replica) -> None:
        log = replica.log
        try:
            await self.lane.run(log.seal_at_durable_job())
        except FileNotFoundError:
            # A deletion of segments that was given up has come true after all; or it is all gone.
            await self._recover(replica)
            return
        except CorruptLog as error:  # what was durable is gone: for an operator
            logger.error("%r stays offline: %s", replica, error)
            return
        except (StuckIO, SyncFailed) as error:
            self.log_dir.fail(error)
            return
        except (StorageError, OSError) as error:
            # Of its files, or a disk that is full: no reason to keep the others offline.
            self.log_dir.write_failed(error, replica.topic_partition)
            self.take_offline(replica, f"{replica.topic.name}-{replica.partition}: {error}")
            return
        log.apply_seal()
        if replica.is_closing:
            return  # deleted while it was being sealed: who closes it lets go of the log
        replica.go_online(log)
        self.housekeeper.look_at(replica)
        replica.wake_waiters()

    async def delete_replicas(self, replicas: Sequence[Replica]) -> None:
        """Close replicas for good, end their tasks, and move their directories out of the way.

        Raises:
            StorageError, OSError: some directories may still be in their places; all else is done.
        """
        for replica in replicas:
            replica.close_intake(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
        await self._close(replicas)
        for replica in replicas:
            self.log_dir.supervisor.forget(replica.boundary)
        # In the lane it comes after whatever was still reading, and may have opened files.
        wanted = [replica.topic_partition for replica in replicas]
        try:
            await self.log_dir.deleted.move_away(self.lane, wanted)
        finally:
            self.log_dir.take_offers()
