"""A log dir: one directory of logs, with its lock, its clean marker and its shards.

The boundary for disks: when one fails, the partitions of this log dir answer KAFKA_STORAGE_ERROR
and every other log dir goes on. Opening takes the lock and starts the shards; the clean marker is
removed once all log dirs are open, and before the first log is (`begin_all`). Leaving closes the
logs in order and writes the marker back, for those of which nothing was missed.
"""

from __future__ import annotations

import errno
import logging
import posixpath
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import trio

from trio_broker.broker.deleted_replicas import DeletedReplicas
from trio_broker.broker.disk_guard import DiskGuard
from trio_broker.broker.paced_log import DeletionLog, PacedLog
from trio_broker.broker.replica import ReplicaState
from trio_broker.broker.shard import Shard
from trio_broker.broker.shard_jobs import GivenUp, never_over, stoppable
from trio_broker.broker.space_keeper import SpaceKeeper
from trio_broker.errors import AppendFailed, ErrorCode, StorageError
from trio_broker.names import BrokerId
from trio_broker.replication.producer_state import ProducerStateTable
from trio_broker.storage import paths
from trio_broker.storage.disk_state import DiskHealth, DiskState, thresholds
from trio_broker.storage.handles import SegmentCache, open_files_of
from trio_broker.storage.log import LogSettings
from trio_broker.storage.log_dir import LogDirectory, open_log_directory_job
from trio_broker.storage.recovery import flush_closed_log_job, open_log_job

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence
    from uuid import UUID

    from trio_broker.broker.replica import Replica
    from trio_broker.broker.shard_jobs import IsOver
    from trio_broker.broker.state import BrokerState
    from trio_broker.broker.supervise import Supervisor
    from trio_broker.host.interface import Job, Lane, OpenFile
    from trio_broker.metadata.image import MetadataImage
    from trio_broker.names import TopicPartition
    from trio_broker.storage.checkpoint import LogSummary
    from trio_broker.storage.log import Log

logger = logging.getLogger("trio_broker.log_dir")

#: When the time of a stop's phase is up, a call that is under way may take so long, and no longer.
LAST_CALL_SECONDS = 0.1
#: Directories of new replicas made with one job of the lane: some milliseconds.
MADE_TOGETHER = 32


class LogDir:
    """A running log dir.

    Attributes:
        directory: what is on disk.
        shards: in the order of their indexes, which metadata refers to.
        health: the state of its disk, and why.
        disk_news: set, and replaced by a new one, when the disk's state changes.
        paced: writes lines about this disk and what is on it.
        keeper: keeps the logs within their budget.
        guard: watches the disk.
        deleted: what is left of deleted replicas.
        deletions: says what retention takes away.
        missing: replicas that had been here, and were gone when the broker was started.
        unmade: replicas that were still to be made then.
        write_failures: writes that were refused by the system (full disk, EIO) and cut back.
        doubtful: replicas of which an orderly stop has not said that all of it is there.
        closed_cleanly: the clean marker has been written, and nothing was missed.
    """

    def __init__(
        self, directory: LogDirectory, state: BrokerState, lanes: list[Lane], cache: SegmentCache
    ) -> None:
        self.directory = directory
        self.health = DiskHealth()
        self.disk_news = trio.Event()
        self.missing: set[TopicPartition] = set()
        self.unmade: set[TopicPartition] = set()
        self.doubtful: set[TopicPartition] = set()
        self.write_failures = 0
        self.paced = PacedLog(logger)
        self.closed_cleanly = False
        self.supervisor: Supervisor = state.supervisor
        self._state = state
        self._cache = cache
        self._settings = LogSettings.from_config(state.config.limits, state.config.storage)
        self.deleted = DeletedReplicas(self)
        self.keeper = SpaceKeeper(self, state)
        self.guard = DiskGuard(self, state.host, state.config.storage.ballast_bytes)
        self.deletions = DeletionLog(logger, directory.path)
        self.shards = [
            Shard(
                name=f"{directory.path}#{index}",
                log_dir=self,
                lane=lane,
                host=state.host,
                config=state.config.storage,
                flusher=state.flusher,
            )
            for index, lane in enumerate(lanes)
        ]

    def __repr__(self) -> str:
        return f"<LogDir {self.directory.path} {self.health.state.value} shards={self.shards}>"

    @property
    def boundary(self) -> str:
        """Name of the boundary at which its faults stop."""
        return f"log dir {self.directory.path}"

    @property
    def cause(self) -> str:
        """Why the disk is not OK."""
        return self.health.cause

    @property
    def lane(self) -> Lane:
        """The lane for what concerns the directory as a whole."""
        return self.shards[0].lane

    @property
    def directory_id(self) -> UUID:
        """Identity of this directory, whatever its path."""
        return self.directory.directory_id

    @property
    def is_failed(self) -> bool:
        """Whether nothing is written here any more."""
        return self.health.state is DiskState.FAILED

    @property
    def produce_refusal(self) -> str | None:
        """Why clients may not write to this disk, for their error message; None if they may."""
        health = self.health
        if not health.refuses_produce:
            return None
        text = f"log dir {self.directory.path} is {health.state.value}: {health.cause}"
        space = health.space
        if health.state is DiskState.DEGRADED and space is not None:
            needed_bytes = thresholds(space.total_bytes).degraded_bytes
            text += f"; {space.free_bytes} bytes are free, {needed_bytes} are needed"
        return text

    @property
    def refusal(self) -> tuple[ErrorCode, str] | None:
        """What clients are told who want to write; None if they may."""
        if (text := self.produce_refusal) is not None:
            return ErrorCode.KAFKA_STORAGE_ERROR, text
        if self.keeper.refusal is not None:
            return ErrorCode.POLICY_VIOLATION, self.keeper.refusal
        return None

    def takes_replicas(self, *, is_internal: bool) -> bool:
        """Whether new replicas may be put here now, of the broker's own topics or of others."""
        return not (self.is_failed if is_internal else self.health.refuses_produce)

    def fail(self, error: BaseException) -> None:
        """Take every replica of this log dir offline: what the disk holds is no longer known."""
        if self.is_failed:
            self._take_offline()  # also one that was being opened when it failed, and is online now
            return
        self.health.fail(str(error))
        self._after_change()
        self.supervisor.record(self.boundary, error)

    def write_failed(
        self, error: StorageError | OSError, replica: TopicPartition | None = None
    ) -> None:
        """Take note of a write that was refused; nothing that was acknowledged is lost.

        Args:
            error: why.
            replica: whose files it was about; None: those of the log dir.
        """
        self.write_failures += 1
        was_reading = isinstance(error, AppendFailed) and error.was_reading
        self._refused(
            error,
            self.health.read_refused if was_reading else self.health.write_refused,
            f"write refused ({self.write_failures} so far)",
            self.directory.path if replica is None else self.directory.replica_path(replica),
        )

    def removal_failed(self, error: StorageError | OSError) -> None:
        """Take note of files that nobody needs, and that could not be moved or removed."""
        what = "a removal was refused"
        self._refused(error, self.health.removal_refused, what, self.directory.path)

    def _refused(
        self,
        error: StorageError | OSError,
        take_in: Callable[[int, str, float, str], None],
        what: str,
        place: str,
    ) -> None:
        error_number = getattr(error, "errno", None) or errno.EIO
        before = self.health.state
        take_in(error_number, str(error), trio.current_time(), place)
        if self.health.state is not before:
            self._after_change()
        text = f"log dir {self.directory.path}: {what}: {error}"
        self.paced.log(logging.ERROR, take_in.__name__, text)

    def _after_change(self) -> None:
        """Make the log dir follow its disk's state, as far as that takes no disk work."""
        health = self.health
        self.disk_news.set()
        self.disk_news = trio.Event()
        if health.state in {DiskState.LOW, DiskState.DEGRADED}:
            self.keeper.press()
        if health.state is DiskState.FAILED:
            self._take_offline()

    def _take_offline(self) -> None:
        cause = self.produce_refusal or ""
        for shard in self.shards:
            shard.refuse_all_queued(ErrorCode.KAFKA_STORAGE_ERROR, cause)
            for replica in list(shard.replicas.values()):
                if replica.state is not ReplicaState.OFFLINE:
                    replica.go_offline(cause)
        self._state.flusher.flush()

    async def commits_ended(self) -> None:
        """Wait until what the shards are writing now has ended, one way or the other."""
        for shard in self.shards:
            async with shard.changes:
                pass

    async def disk_changed(self, before: DiskState) -> None:
        """Do what a change of the disk's state asks for; called by the disk guard."""
        health = self.health
        if health.state is before:
            return
        self._after_change()
        self.paced.log(
            logging.INFO if health.state is DiskState.OK else logging.WARNING,
            f"{before.value} {health.state.value}",
            f"log dir {self.directory.path}: disk was {before.value}, is {health.state.value} now"
            + (f": {health.cause}" if health.cause else ""),
        )
        if before is DiskState.FAILED:
            for shard in self.shards:
                await shard.bring_back()

    # Opening logs: called by shards, which run the jobs on their lanes.

    def find_missing(self, image: MetadataImage) -> None:
        """Find out which replicas had been here, and are not any more; once, before any is opened.

        One had been here if the last stop, an orderly one, has closed its log with something in it,
        or if the metadata does not say that it is still to be made.
        """
        found = set(self.directory.replicas)
        being_created = image.being_created()
        broker_id = BrokerId(self._state.config.node_id)
        for replica in image.replicas_in(broker_id, self.directory_id):
            summary = self.directory.summaries.get(replica)
            if replica in found:
                if summary is None:
                    self.doubtful.add(replica)
                continue
            was_here = replica not in being_created if summary is None else summary.end_offset > 0
            (self.missing if was_here else self.unmade).add(replica)
        self.doubtful |= self.missing

    async def put_marker_back(self) -> None:
        """Let the next start believe the clean marker after all: nothing has been opened."""
        if not self.directory.was_clean:
            return
        try:
            await self.lane.run(self.directory.mark_clean_job(self.directory.summaries))
        except (StorageError, OSError) as error:
            logger.warning("log dir %s will be recovered: %s", self.directory.path, error)

    def opening(self, replica: Replica) -> Job[Log]:
        """Open a log at the start: trusted if an orderly stop spoke of it, else recovered."""
        topic_partition = replica.topic_partition
        if topic_partition in self.missing:
            replica.may_be_made = topic_partition in self.directory.accepted
            return self._open_missing(replica)
        summary = self.directory.take_summary(topic_partition)
        if topic_partition in self.unmade:
            summary = None  # of a log without records, whose directory is gone
        replica.is_durable = summary is not None  # else a process may have been killed
        return self._open_job(replica, summary, is_durable=True)

    def _open_missing(self, replica: Replica) -> Job[Log]:
        """Make a log anew whose directory is gone, if an operator has accepted that."""
        log = yield from self._open_job(replica, None, is_durable=True)
        name = f"{replica.topic.name}-{replica.partition}"
        logger.warning("%s begins anew: an operator has accepted that its records are lost", name)
        try:
            yield from self.directory.forget_accepted_job(replica.topic_partition)
        except OSError as error:
            logger.warning("%s: %s, tried again at the next start", name, error)
        return log

    def creating(self, replica: Replica) -> Job[Log]:
        """Open the log of a new replica, whose directory `make_directories` has made."""
        return self._open_job(replica, None, is_durable=True)

    def recovering(self, replica: Replica) -> Job[Log]:
        """Open a log whose last use did not end well: look at what is there."""
        return self._open_job(replica, None, is_durable=False)

    def flushing(self, replica: Replica) -> Job[None]:
        """Make durable what is in the files of a replica that has no open log."""
        return flush_closed_log_job(
            self._state.host.fs,
            self.directory.replica_path(replica.topic_partition),
            replica.topic_partition,
            after_failed_sync=replica.after_failed_sync,
        )

    async def make_directories(
        self,
        lane: Lane,
        topic_partitions: Sequence[TopicPartition],
        is_over: IsOver = never_over,
    ) -> None:
        """Make the directories of new replicas, durably, with one fsync for all of them.

        Others get the lane in between.

        Cancellation: some have been made, and perhaps not durably; a start makes all names durable.

        Raises:
            GivenUp: `is_over` said so; the rest is as after a cancellation.
            StorageError, OSError: those that were made have been removed again, or the disk is in
                such trouble that they could not be.
        """
        made: list[str] = []
        try:
            for first in range(0, len(topic_partitions), MADE_TOGETHER):
                some = topic_partitions[first : first + MADE_TOGETHER]
                sync = first + MADE_TOGETHER >= len(topic_partitions)
                making = self.directory.make_replicas_job(some, sync=sync)
                made += await lane.run(stoppable(making, is_over))
        except GivenUp:
            raise
        except (StorageError, OSError) as error:
            failure = error
        else:
            return
        await lane.run(self.directory.remove_made_job(made))
        raise failure

    def _open_job(
        self, replica: Replica, summary: LogSummary | None, *, is_durable: bool
    ) -> Job[Log]:
        return open_log_job(
            self._state.host.fs,
            self.directory.replica_path(replica.topic_partition),
            topic_partition=replica.topic_partition,
            topic_name=replica.topic.name,
            config=replica.topic.config,
            durability=replica.topic.durability,
            settings=self._settings,
            cache=self._cache,
            summary=summary,
            now_ms=self._state.host.wall.now_ms(),
            after_failed_sync=replica.after_failed_sync,
            is_durable=is_durable,
            may_make=replica.may_be_made,
        )

    def new_producer_table(self) -> ProducerStateTable:
        """Return an empty table of producers with the limits of this broker."""
        settings = self._settings
        return ProducerStateTable(settings.producer_ids_max, settings.producer_id_expiration_ms)

    def take_offers(self) -> None:
        """Keep files that reads have opened, or close them where their segment is gone."""
        self._cache.take_offers()

    # What a crash, or another configuration, left behind.

    async def tidy(self, image: MetadataImage) -> bool:
        """Finish deletions that a stop interrupted, and move away logs that nobody knows.

        Returns:
            Whether no files of deleted topics are in their places any more.
        """
        strangers = [each for each in self.directory.replicas if image.partition(each) is None]
        deleted = [each for each in strangers if each.topic_id in image.deletions]
        done = True
        if deleted:
            try:
                await self.deleted.move_away(self.lane, deleted)
            except (StorageError, OSError):
                done = False
        for topic_partition in strangers:
            if topic_partition.topic_id in image.deletions:
                continue
            name = paths.replica_name(topic_partition)
            try:
                place = await self.lane.run(self.directory.quarantine_job(name))
            except (StorageError, OSError) as error:
                self.removal_failed(error)
            else:
                logger.warning("no topic is known for %s: moved to %s", name, place)
        return done

    def report_start(self) -> None:
        """Log what opening the logs took."""
        reports = [
            replica.log.recovery
            for shard in self.shards
            for replica in shard.replicas.values()
            if replica.has_log
        ]
        logger.info(
            "%s log dir %s replicas=%d scanned_bytes=%d truncated_bytes=%d",
            "opened" if self.directory.was_clean or not reports else "recovered",
            self.directory.path,
            len(reports),
            sum(report.bytes_scanned for report in reports),
            sum(report.bytes_truncated for report in reports),
        )

    def held_files(self, owners: Collection[str]) -> list[OpenFile]:
        """Return what the handle ledger shows open for some owners, once nothing is on its way."""
        self._cache.take_offers()
        return open_files_of(self._state.host.fs, *owners)

    # The end.

    def stop_housekeeping(self) -> None:
        """Start nothing more that is not asked for by a client."""
        self.keeper.stop()
        self.deleted.stop()
        for shard in self.shards:
            shard.stop_housekeeping()

    def laggards(self) -> list[str]:
        """Name the lanes that are in a system call now."""
        return [repr(shard.lane) for shard in self.shards if shard.lane.stuck_seconds > 0]

    def give_up_calls(self) -> None:
        """Wait no longer for the calls that this log dir's lanes are in."""
        for shard in self.shards:
            shard.lane.limit_calls(LAST_CALL_SECONDS)

    async def flush(self, is_over: IsOver) -> list[Exception]:
        """Store what is queued and make every log durable, shard by shard in parallel.

        Args:
            is_over: tells when to give up.

        Returns:
            Why some logs could not be flushed; the others have been.
        """

        def flush_all(shard: Shard) -> Awaitable[list[Exception]]:
            return shard.flush_all(is_over)

        return await self._in_every_shard(flush_all)

    async def close(self) -> list[Exception]:
        """Close every file and write the clean marker, which names what was closed in order.

        Not if a failure leaves all of it in doubt.

        Cancellation: no marker, so the next start recovers.

        Returns:
            Why some could not be closed.

        Raises:
            StorageError, OSError: there is no marker.
        """
        failures = await self._in_every_shard(Shard.close_all)
        if self.is_failed or failures or not all(shard.may_be_believed for shard in self.shards):
            return failures
        summaries: dict[TopicPartition, LogSummary] = {}
        for shard in self.shards:
            summaries |= shard.summaries
        await self.lane.run(self.directory.mark_clean_job(summaries))
        self.closed_cleanly = all(shard.is_flushed for shard in self.shards)
        return failures

    async def _in_every_shard(
        self, step: Callable[[Shard], Awaitable[list[Exception]]]
    ) -> list[Exception]:
        failures: list[Exception] = []

        async def take_step(shard: Shard) -> None:
            async def attempt() -> None:
                try:
                    failures.extend(await step(shard))
                except (StorageError, OSError) as error:
                    failures.append(error)

            bug = await self.supervisor.absorb(shard.boundary, attempt)
            failures.extend([bug] if bug is not None else [])

        async with trio.open_nursery() as nursery:
            for shard in self.shards:
                nursery.start_soon(take_step, shard)
        return failures


async def begin_all(log_dirs: Sequence[LogDir]) -> None:
    """Remove the clean markers of log dirs, right before the first of their logs is opened.

    Raises:
        StorageError, OSError: one could not be removed for certain. The others are where they were:
            what they speak of is as it was.
    """
    for number, log_dir in enumerate(log_dirs):
        try:
            await log_dir.lane.run(log_dir.directory.begin_job())
        except (StorageError, OSError) as error:
            failure = error
        else:
            continue
        for begun in log_dirs[:number]:
            await begun.put_marker_back()
        raise failure


@asynccontextmanager
async def open_log_dirs(state: BrokerState) -> AsyncIterator[list[LogDir]]:
    """Open every configured log dir, run its shards, and close all of it in order.

    Raises:
        LogDirInUse, FormatTooNew, ConfigError: a log dir is not ours to use.
        StorageError, OSError: a disk refused.
    """
    cache = state.segment_cache = SegmentCache(state.descriptors.files_max)
    async with AsyncExitStack() as stack:
        opened = [
            await stack.enter_async_context(_open_log_dir(state, path, cache))
            for path in state.config.log_directories
        ]
        yield opened


@asynccontextmanager
async def _open_log_dir(
    state: BrokerState, path: str, cache: SegmentCache
) -> AsyncIterator[LogDir]:
    storage = state.config.storage
    lanes = [
        state.host.open_lane(f"{posixpath.basename(path)}#{index}", storage.operation_seconds_max)
        for index in range(storage.shards_per_log_dir)
    ]
    state.disk_lanes += lanes
    cluster_id = state.controller.image.cluster_id
    assert cluster_id is not None
    async with trio.open_nursery() as lane_nursery:
        for lane in lanes:
            await lane_nursery.start(lane.serve)
        directory = await lanes[0].run(
            open_log_directory_job(
                state.host.fs,
                path,
                cluster_id=cluster_id,
                node_id=state.config.node_id,
                new_directory_id=state.host.entropy.uuid(),
                description=f"trio-broker node {state.config.node_id}",
            )
        )
        try:
            log_dir = LogDir(directory, state, lanes, cache)
            async with trio.open_nursery() as shards:
                for shard in log_dir.shards:
                    await shards.start(shard.serve)
                for work in (
                    log_dir.guard.run,
                    log_dir.deleted.remove_when_told,
                    log_dir.keeper.run,
                ):
                    shards.start_soon(state.supervisor.keep_running, log_dir.boundary, work)
                yield log_dir
                shards.cancel_scope.cancel()
        finally:
            # A lane that is stuck still works in the directory: the lock stays until it ends.
            directory.release()
            lane_nursery.cancel_scope.cancel()
