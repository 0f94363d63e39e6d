"""Makes what runs equal to what the metadata says: starts and closes replicas, keeps the routes.

Called by the controller between "decided" and "answered", and once at the start of the broker. It
is the only writer of `TopicRouter`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING
from uuid import UUID

import trio

from trio_broker.broker.replica import Replica
from trio_broker.broker.shard_jobs import GivenUp
from trio_broker.broker.topics import RoutedTopic
from trio_broker.config import Durability
from trio_broker.errors import StorageError
from trio_broker.names import BrokerId, TopicId, TopicPartition
from trio_broker.storage import paths

if TYPE_CHECKING:
    from trio_broker.broker.log_dir import LogDir
    from trio_broker.broker.shard import Shard
    from trio_broker.broker.state import BrokerState
    from trio_broker.host.interface import OpenFile
    from trio_broker.metadata.image import (
        MetadataImage,
        PartitionState,
        PendingCreation,
        PendingDeletion,
        TopicState,
    )

logger = logging.getLogger("trio_broker.reconciler")

#: While files of a deleted topic are still open, which takes a system call that hangs, the ledger
#: is looked at first after, and then at least every so many seconds.
FIRST_LOOK_SECONDS = 0.01
LAST_LOOK_SECONDS = 1.0
#: Logs opened with one job of the lane: each job costs two turns of the event loop, and keeps the
#: shard's commits waiting.
OPENED_TOGETHER = 32
#: A system call that takes longer is worth mentioning.
STUCK_SECONDS = 1.0


class Reconciler:
    """Starts and closes the replicas of this broker."""

    def __init__(self, state: BrokerState) -> None:
        self._state = state
        self._broker_id = BrokerId(state.config.node_id)

    async def start_all(self, image: MetadataImage) -> None:
        """Start every replica that the image puts on this broker, shard by shard in parallel."""
        for topic in image.topics_by_name.values():
            self._route(topic)
        everything = [
            partition for topic in image.topics_by_name.values() for partition in topic.partitions
        ]
        await self._start(everything, fresh=False)
        self._note_made(image.creations)

    async def finish_deletions(self) -> None:
        """Go on with deletions that the last stop interrupted; called once, at the start.

        What a disk refuses now is tried again later, beside everything else.
        """
        controller = self._state.controller
        image = controller.image
        tidied = {
            log_dir.directory_id for log_dir in self._state.log_dirs if await log_dir.tidy(image)
        }
        known = {log_dir.directory_id for log_dir in self._state.log_dirs}
        finished: list[TopicId] = []
        for topic_id, deletion in image.deletions.items():
            directory_ids = {replica.directory_id for row in deletion.partitions for replica in row}
            if directory_ids <= tidied:
                finished.append(topic_id)
            elif directory_ids <= known:  # else a disk is not there now
                controller.go_on_deleting(deletion)
        if finished:
            await controller.forget_deletions(finished)

    async def start_partitions(
        self, image: MetadataImage, partitions: Sequence[PartitionState]
    ) -> None:
        """Start the replicas of new partitions; when this returns they can be written and read.

        A replica that cannot be opened is offline and answers KAFKA_STORAGE_ERROR.
        """
        topic_ids = dict.fromkeys(partition.topic_id for partition in partitions)
        for topic_id in topic_ids:
            self._route(image.topics_by_id[topic_id])
        await self._start(partitions, fresh=True)
        self._note_made(topic_ids)

    def _note_made(self, topic_ids: Iterable[TopicId]) -> None:
        """Let the metadata know which new partitions of these topics have directories by now.

        Where one could not be made, which is tried on and on, it still says so until another start.
        """
        creations = self._state.controller.image.creations
        pending = [creation for id_ in topic_ids for creation in creations.get(id_, ())]
        self._state.controller.note_made([each for each in pending if self._is_made(each)])

    def _is_made(self, creation: PendingCreation) -> bool:
        routed = self._state.router.by_id.get(creation.topic_id)
        if routed is None:
            return False  # deleted meanwhile
        return not any(
            replica is None or replica.may_be_made
            for replica in map(routed.replica, creation.partitions)
        )

    async def stop_partitions(self, partitions: Sequence[PartitionState]) -> None:
        """Close the replicas of deleted partitions and move their directories out of the way.

        When this returns, their tasks have ended, the handle ledger shows no file of them, and a
        restart will not find them. A file whose system call hangs is waited for.

        Raises:
            StorageError, OSError: a directory could not be moved; everything is closed. See
                `move_away`.
        """
        unrouted = self._unroute(partitions)
        by_shard: dict[Shard, list[Replica]] = {}
        for partition in partitions:
            shard = self._shard_of(partition)
            replica = shard.replicas.get(partition.topic_partition) if shard else None
            if shard is not None and replica is not None:
                by_shard.setdefault(shard, []).append(replica)
        failures: list[StorageError | OSError] = []

        async def close(shard: Shard, replicas: list[Replica]) -> None:
            try:
                await shard.delete_replicas(replicas)
            except (StorageError, OSError) as error:
                failures.append(error)

        async with trio.open_nursery() as nursery:
            for shard, replicas in by_shard.items():
                nursery.start_soon(close, shard, replicas)
        for routed in unrouted:
            routed.replicas.clear()  # they refer to each other, and would wait for the collector
        pause_seconds = FIRST_LOOK_SECONDS
        while self._held_files(partitions):
            await trio.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, LAST_LOOK_SECONDS)
        if failures:
            raise failures[0]

    async def move_away(self, partitions: Sequence[PartitionState]) -> None:
        """Move what is left of partitions that were stopped out of the way. May be repeated.

        Raises:
            StorageError, OSError: some of it is still in its place.
        """
        await self._move_away(
            (partition.topic_partition, assignment.directory_id)
            for partition in partitions
            if (assignment := partition.replica_on(self._broker_id)) is not None
        )

    async def move_away_left_over(self, deletion: PendingDeletion) -> None:
        """Do the same for a topic that was deleted before this broker was started.

        Raises:
            StorageError, OSError: some of it is still in its place.
        """
        await self._move_away(
            (TopicPartition(deletion.topic_id, index), replica.directory_id)
            for index, row in enumerate(deletion.partitions)
            for replica in row
            if replica.broker_id == self._broker_id
        )

    async def _move_away(self, places: Iterable[tuple[TopicPartition, UUID]]) -> None:
        by_directory: dict[UUID, list[TopicPartition]] = {}
        for topic_partition, directory_id in places:
            by_directory.setdefault(directory_id, []).append(topic_partition)
        failure: StorageError | OSError | None = None
        for log_dir in self._state.log_dirs:
            if not (mine := by_directory.get(log_dir.directory_id)):
                continue
            try:
                await log_dir.deleted.move_away(log_dir.lane, mine)
            except (StorageError, OSError) as error:
                failure = failure or error
        if failure is not None:
            raise failure

    def still_held(self, partitions: Sequence[PartitionState]) -> list[str]:
        """Say what of partitions that are being stopped is still there: tasks, files, calls."""
        found = []
        for shard in dict.fromkeys(self._shard_of(partition) for partition in partitions):
            if shard is not None and shard.lane.stuck_seconds >= STUCK_SECONDS:
                seconds = shard.lane.stuck_seconds
                found.append(f"{shard!r} has been in one system call for {seconds:.1f} s")
        for partition in partitions:
            shard = self._shard_of(partition)
            replica = shard.replicas.get(partition.topic_partition) if shard else None
            if replica is not None:
                found.append(repr(replica))
        return found + [f"{file.path} of {file.owner}" for file in self._held_files(partitions)]

    def _held_files(self, partitions: Sequence[PartitionState]) -> list[OpenFile]:
        owners = {paths.owner_name(partition.topic_partition) for partition in partitions}
        log_dirs = self._state.log_dirs  # their ledger is one
        return log_dirs[0].held_files(owners) if log_dirs else []

    async def configure_topics(self, topic_ids: Sequence[TopicId]) -> None:
        """Let topics follow the configuration that the newest image has for them.

        Routes and open logs follow at once. When this returns, what acknowledgements promise from
        now on holds too; retention looks at the configuration with its next turn.
        """
        for topic_id in topic_ids:
            topic = self._state.controller.image.topics_by_id.get(topic_id)
            routed = self._state.router.by_id.get(topic_id)
            if topic is None or routed is None:
                continue  # deleted meanwhile
            self._route(topic)
            for replica in routed.replicas:
                if replica is not None:
                    await replica.shard.follow_topic(replica)

    def _route(self, topic: TopicState) -> RoutedTopic:
        router = self._state.router
        routed = router.by_id.get(topic.topic_id)
        durability = topic.config.durability or self._state.config.storage.durability
        if topic.is_internal:  # what clients were told is committed has to be there again
            durability = Durability.FSYNC
        if routed is None:
            routed = RoutedTopic(
                name=topic.name,
                topic_id=topic.topic_id,
                config=topic.config,
                durability=durability,
                is_internal=topic.is_internal,
                replicas=[None] * len(topic.partitions),
            )
            router.add(routed)
        else:
            routed.configure(topic.config, durability)
        routed.keep_promises(topic.configs)
        return routed

    def _unroute(self, partitions: Sequence[PartitionState]) -> list[RoutedTopic]:
        unrouted = []
        for topic_id in dict.fromkeys(partition.topic_id for partition in partitions):
            routed = self._state.router.by_id.get(topic_id)
            if routed is not None:
                self._state.router.remove(routed)
                unrouted.append(routed)
        return unrouted

    async def _start(self, partitions: Sequence[PartitionState], *, fresh: bool) -> None:
        """Start replicas. Requests find all of them at once, and are told to wait until then."""
        by_shard: dict[Shard, list[Replica]] = {}
        for partition in partitions:
            shard = self._shard_of(partition)
            if shard is None:
                logger.error(
                    "partition %s-%d is in a log dir that is not configured",
                    partition.topic_name,
                    partition.partition,
                )
                continue
            routed = self._state.router.by_id.get(partition.topic_id)
            if routed is None or partition.topic_partition in shard.replicas:
                continue
            replica = Replica(
                shard=shard,
                topic=routed,
                topic_partition=partition.topic_partition,
                leader_epoch=partition.leader_epoch,
            )
            log_dir = shard.log_dir
            replica.may_be_made = fresh or partition.topic_partition in log_dir.unmade
            routed.place(partition.partition, replica)
            by_shard.setdefault(shard, []).append(replica)
        async with trio.open_nursery() as nursery:
            for shard, mine in by_shard.items():
                nursery.start_soon(partial(self._start_in_turn, shard, mine, fresh=fresh))

    async def _start_in_turn(
        self, shard: Shard, replicas: Sequence[Replica], *, fresh: bool
    ) -> None:
        opening = shard.log_dir.opening
        if fresh:
            opening = shard.log_dir.creating
            wanted = [replica.topic_partition for replica in replicas]
            try:
                await shard.log_dir.make_directories(shard.lane, wanted, shard.has_begun_to_flush)
            except GivenUp:
                pass  # and so is what follows; the next start does both
            except (StorageError, OSError) as error:
                shard.log_dir.write_failed(error)
                opening = shard.log_dir.recovering  # makes what is missing, or says why not
        for first in range(0, len(replicas), OPENED_TOGETHER):
            await shard.start_replicas(replicas[first : first + OPENED_TOGETHER], opening)

    def _shard_of(self, partition: PartitionState) -> Shard | None:
        assignment = partition.replica_on(self._broker_id)
        if assignment is None:
            return None
        log_dir = self._log_dir(assignment.directory_id)
        if log_dir is None:
            return None
        return log_dir.shards[assignment.shard_index % len(log_dir.shards)]

    def _log_dir(self, directory_id: UUID) -> LogDir | None:
        for log_dir in self._state.log_dirs:
            if log_dir.directory_id == directory_id:
                return log_dir
        return None
