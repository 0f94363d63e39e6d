"""The controller: decides about metadata, commits the decision, and makes it real.

Decisions are pure (`metadata.decisions`). The task that asks decides and commits itself, under one
lock, so that a bug met on a request stays with that request; what must happen after a commit
(starting and stopping replicas) runs in the controller's nursery and goes on if whoever asked is
cancelled. So a topic in the metadata always gets its replicas, and a caller that waits is answered
when they run, or when they are gone.

The image is replaced, never changed, and only here: what was committed is what is seen.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeAlias, TypeVar
from uuid import UUID

import trio

from trio_broker.broker.made_replicas import MadeReplicas
from trio_broker.broker.replica_work import Failure, Reconciler, ReplicaWork, Work
from trio_broker.broker.topic_news import TopicNews
from trio_broker.cluster.store import MetadataStore, OutcomeUnknown, StoreUnavailable
from trio_broker.errors import (
    BrokerClosed,
    CorruptMetadata,
    ErrorCode,
    RequestError,
)
from trio_broker.metadata.decisions import (
    AlterTopicResult,
    CreatePartitionsResult,
    CreateTopicResult,
    CreationRules,
    Decision,
    DeleteTopicResult,
    MorePartitions,
    NewTopic,
    ProducerIdBlock,
    StartedDirectory,
    TopicAlteration,
    TopicReference,
    advertise_endpoints,
    allocate_producer_ids,
    alter_topics,
    create_cluster,
    create_partitions,
    create_topics,
    delete_topics,
    forget_creations,
    forget_deletions,
    start_broker,
)
from trio_broker.metadata.image import image_from_snapshot
from trio_broker.metadata.transaction import Conflict
from trio_broker.names import INTERNAL_TOPIC_NAMES, BrokerId, TopicId

if TYPE_CHECKING:
    from trio_broker.broker.supervise import Supervisor
    from trio_broker.config import BrokerConfig
    from trio_broker.metadata.image import (
        MetadataImage,
        PartitionState,
        PendingCreation,
        PendingDeletion,
    )
    from trio_broker.metadata.records import EndpointRecord
    from trio_broker.metadata.transaction import Transaction

logger = logging.getLogger("trio_broker.controller")

#: How often a decision is made again because somebody else changed what it rests on.
DECISIONS_MAX = 5
PRODUCER_EPOCH_FIRST = 0


_NOT_BEGUN = Failure(
    ErrorCode.REQUEST_TIMED_OUT, "Other changes took longer than the request allows to wait."
)
_OUTDATED = Failure(ErrorCode.NOT_CONTROLLER, "The metadata keeps changing, try again.")

R = TypeVar("R", CreateTopicResult, DeleteTopicResult, CreatePartitionsResult, AlterTopicResult)

#: Begins what the commit of some topics asks for, given the image before it and their ids.
_Begin: TypeAlias = "Callable[[MetadataImage, Sequence[TopicId]], Work]"


class Controller:
    """Changes metadata for this broker. Opened by `open_controller`.

    Attributes:
        image: the newest metadata committed.
        news: tells of topics that come and go.
    """

    def __init__(
        self,
        store: MetadataStore,
        image: MetadataImage,
        *,
        config: BrokerConfig,
        supervisor: Supervisor,
        nursery: trio.Nursery,
        new_topic_id: Callable[[], UUID],
        excluded_directories: Callable[[bool], Collection[UUID]],
    ) -> None:
        self.image = image
        self.news = TopicNews()
        self._store = store
        self._config = config
        self._work = ReplicaWork(supervisor, nursery)
        self._made = MadeReplicas(
            supervisor,
            nursery,
            self._forget_creations,
            is_in_trouble=lambda: bool(excluded_directories(False)),
        )
        self._new_topic_id = new_topic_id
        self._excluded_directories = excluded_directories
        self._deciding = trio.Lock()
        self._image_may_be_old = False
        self._closed = False
        self._producer_ids = range(0)

    def __repr__(self) -> str:
        return (
            f"<Controller revision={self.image.revision} topics={len(self.image.topics_by_name)}"
            f" partitions={self.image.partition_count}>"
        )

    @property
    def reconciler(self) -> Reconciler | None:
        """Starts and stops replicas; set before the first topic changes."""
        return self._work.reconciler

    @reconciler.setter
    def reconciler(self, reconciler: Reconciler) -> None:
        self._work.reconciler = reconciler

    @property
    def broker_id(self) -> BrokerId:
        """Id of this broker."""
        return BrokerId(self._config.node_id)

    # -------------------------------------------------------------------------------- topics

    async def create_topics(
        self,
        requests: Sequence[NewTopic],
        *,
        validate_only: bool = False,
        timeout_seconds: float = math.inf,
    ) -> list[CreateTopicResult]:
        """Create topics; when this returns, their partitions can be written and read.

        Returns one answer per name, see `metadata.topic_creation.create_topics`. What is not done
        within the timeout is answered with REQUEST_TIMED_OUT, and goes on.

        Cancellation: a topic that is not committed yet is not created, one that is gets its
        replicas all the same.

        Raises:
            BrokerClosed: the broker is stopping.
        """

        def decide(image: MetadataImage) -> Decision[CreateTopicResult]:
            return create_topics(
                image,
                requests,
                rules=self._creation_rules(requests),
                new_topic_id=self._new_topic_id,
                validate_only=validate_only,
            )

        return await self._carry_out(decide, self._begin_start, timeout_seconds)

    async def create_partitions(
        self,
        requests: Sequence[MorePartitions],
        *,
        validate_only: bool = False,
        timeout_seconds: float = math.inf,
    ) -> list[CreatePartitionsResult]:
        """Add partitions to topics; when this returns, they can be written and read.

        Returns one answer per name, see `metadata.partition_creation.create_partitions`. Timeout
        and cancellation are as for `create_topics`.

        Raises:
            BrokerClosed: the broker is stopping.
        """

        def decide(image: MetadataImage) -> Decision[CreatePartitionsResult]:
            rules = self._creation_rules(())
            return create_partitions(image, requests, rules=rules, validate_only=validate_only)

        return await self._carry_out(decide, self._begin_start, timeout_seconds)

    async def alter_topics(
        self, alterations: Sequence[TopicAlteration], *, validate_only: bool = False
    ) -> list[AlterTopicResult]:
        """Alter configurations of topics; when this returns, requests and open logs follow them.

        Returns one answer per alteration, see `metadata.config_alteration.alter_topics`.

        Cancellation: what is not committed yet is not altered, what is takes effect all the same.

        Raises:
            BrokerClosed: the broker is stopping.
        """

        def decide(image: MetadataImage) -> Decision[AlterTopicResult]:
            return alter_topics(image, alterations, validate_only=validate_only)

        return await self._carry_out(decide, self._begin_configure)

    async def delete_topics(
        self, references: Sequence[TopicReference], *, timeout_seconds: float = math.inf
    ) -> list[DeleteTopicResult]:
        """Delete topics; when this returns, no task and no open file of them is left.

        Returns one answer per topic, see `metadata.topic_deletion.delete_topics`. Where files
        could not be moved out of the way the topic is deleted all the same, and the answer is
        KAFKA_STORAGE_ERROR; `image.deletions` remembers them until they could. What is not done
        within the timeout is answered with REQUEST_TIMED_OUT, and goes on; the log says what is
        waited for.

        Cancellation: a deletion that is not committed yet does not happen, one that is goes on.

        Raises:
            BrokerClosed: the broker is stopping.
        """

        def decide(image: MetadataImage) -> Decision[DeleteTopicResult]:
            return delete_topics(image, references)

        return await self._carry_out(decide, self._begin_stop, timeout_seconds)

    async def create_topic(
        self, name: str, partitions: int | None = None, configs: Mapping[str, str] | None = None
    ) -> CreateTopicResult:
        """Create one topic, see `create_topics`; `partitions` None: the broker's default."""
        request = NewTopic(
            name=name,
            partitions=-1 if partitions is None else partitions,
            configs=tuple((configs or {}).items()),
        )
        return (await self.create_topics([request]))[0]

    async def delete_topic(self, name: str) -> DeleteTopicResult:
        """Delete one topic by name, see `delete_topics`."""
        return (await self.delete_topics([TopicReference(name=name)]))[0]

    # ------------------------------------------------------------------- producers, this broker

    async def allocate_producer_id(self) -> tuple[int, int]:
        """Return a producer id that nobody ever had, and its first epoch.

        Cancellation: at most an id is skipped.

        Raises:
            RequestError: COORDINATOR_NOT_AVAILABLE, the store could not be written.
            BrokerClosed: the broker is stopping.
        """
        self._check_open()
        while not self._producer_ids:
            try:
                await self._take_producer_ids()
            except StoreUnavailable as error:
                raise RequestError(ErrorCode.COORDINATOR_NOT_AVAILABLE, str(error)) from error
        producer_id = self._producer_ids[0]
        self._producer_ids = self._producer_ids[1:]
        return producer_id, PRODUCER_EPOCH_FIRST

    async def broker_started(self, directories: Sequence[StartedDirectory]) -> None:
        """Take note of the log dirs this broker has opened, before any replica in them starts.

        Raises the leader epochs of partitions in log dirs that are not clean, and registers the
        broker; see `metadata.decisions.start_broker`. Start replicas from the image that is there
        afterwards.

        Raises:
            StoreUnavailable: not all of it is committed; the broker cannot start.
        """
        await self._commit_all(
            lambda image: [
                step.transaction for step in start_broker(image, self.broker_id, directories)
            ]
        )

    async def begin_cluster(self, cluster_id: str) -> None:
        """Make an empty store the metadata of a new cluster.

        Raises:
            StoreUnavailable: it may still be empty.
        """
        await self._commit_all(lambda _: [create_cluster(cluster_id)])

    async def advertise(self, endpoints: Sequence[EndpointRecord]) -> None:
        """Tell the cluster where this broker is reached, once its listeners are bound.

        Raises:
            StoreUnavailable: it may not be known.
        """
        await self._commit_all(
            lambda image: [advertise_endpoints(image, self.broker_id, endpoints)]
        )

    async def forget_deletions(self, topic_ids: Collection[TopicId]) -> None:
        """Take note that no files of these deleted topics are in their places any more.

        If that cannot be committed, the next start finds out again.
        """
        try:
            await self._commit_all(lambda image: [forget_deletions(image, topic_ids)])
        except StoreUnavailable as error:
            logger.warning("finished deletions are remembered until the next start: %s", error)

    def note_made(self, creations: Collection[PendingCreation]) -> None:
        """Take note, soon, that the directories of these new partitions are there, durably."""
        self._made.note(creations)

    async def _forget_creations(self, creations: Collection[PendingCreation]) -> None:
        try:
            await self._commit_all(lambda image: [forget_creations(image, creations)])
        except StoreUnavailable as error:
            logger.warning("new partitions count as new until the next start: %s", error)

    def go_on_deleting(self, deletion: PendingDeletion) -> None:
        """Move away, as soon as a disk lets them go, the files of a topic deleted before."""
        self._work.begin_moving_away(deletion, self.forget_deletions)

    async def wait_for_work(self) -> None:
        """Wait until no replicas are being changed. Cancellation: they go on changing."""
        async with self._deciding:
            pass  # who was deciding when the intake was closed has begun its work by now
        await self._work.wait()

    def work_under_way(self) -> list[str]:
        """Name the topics whose replicas are being changed."""
        return [work.title for work in self._work.under_way]

    def close_intake(self) -> None:
        """Refuse every later call with `BrokerClosed`."""
        self._closed = True

    def close(self) -> None:
        """Change no replicas any more; what is committed from now on is seen by the next start."""
        self.close_intake()
        self._work.close()

    # ------------------------------------------------------------------------------ committing

    async def _carry_out(
        self,
        decide: Callable[[MetadataImage], Decision[R]],
        begin: _Begin,
        timeout_seconds: float = math.inf,
    ) -> list[R]:
        """Decide, commit step by step, begin what each committed step asks for, wait for that.

        Returns the decision's results, with the reason in the place of each that did not come
        true, or not in time.
        """
        self._check_open()
        assert self.reconciler is not None, "topics change only once replicas can be started"
        deadline = trio.current_time() + timeout_seconds
        if not await self._await_turn(deadline):
            return [
                result if result.code else result.failed(*_NOT_BEGUN)
                for result in decide(self.image).results
            ]
        try:
            results, works, is_outdated = await self._attempt(decide, begin)
            for _ in range(DECISIONS_MAX - 1):
                if not is_outdated:
                    break
                results, works, is_outdated = await self._attempt(decide, begin)
        finally:
            self._deciding.release()
        for index, work in works.items():
            if not work.done.is_set():
                with trio.move_on_at(deadline):
                    await work.done.wait()
            if (failure := work.failure()) is not None:
                results[index] = results[index].failed(*failure)
        return results

    async def _await_turn(self, deadline: float) -> bool:
        """Take the lock of decisions; False if others had it until the deadline.

        What is decided in time is committed even if that takes until after the deadline: the
        store has deadlines of its own, and half a commit could not be told apart from none.
        """
        try:
            self._deciding.acquire_nowait()
        except trio.WouldBlock:
            with trio.move_on_at(deadline) as scope:
                await self._deciding.acquire()
            return not scope.cancelled_caught
        return True

    async def _attempt(
        self, decide: Callable[[MetadataImage], Decision[R]], begin: _Begin
    ) -> tuple[list[R], dict[int, Work], bool]:
        """Decide and commit; also say whether nothing happened because the image was old."""
        before = await self._newest_image()
        decision = decide(before)
        results = list(decision.results)
        works: dict[int, Work] = {}
        is_outdated = False
        for step in decision.steps:
            failure = await self._commit(step.transaction)
            if failure is None:
                work = begin(before, [results[index].topic_id for index in step.result_indexes])
                works |= dict.fromkeys(step.result_indexes, work)
            else:
                is_outdated = is_outdated or failure is _OUTDATED
                for index in step.result_indexes:
                    results[index] = results[index].failed(*failure)
        return results, works, is_outdated and not works

    async def _commit_all(self, decide: Callable[[MetadataImage], Iterable[Transaction]]) -> None:
        """Commit everything that is decided, deciding again where the image was old."""
        failed: list[Failure] = []
        async with self._deciding:
            for _ in range(DECISIONS_MAX):
                failures = [
                    await self._commit(transaction)
                    for transaction in decide(await self._newest_image())
                ]
                failed = [failure for failure in failures if failure is not None]
                if not failed:
                    return
                if any(failure is not _OUTDATED for failure in failed):
                    break
        raise StoreUnavailable(failed[0].message)

    async def _commit(self, transaction: Transaction) -> Failure | None:
        """Commit one transaction and show it in the image; None: done."""
        if not transaction.operations:
            return None
        try:
            outcome = await self._store.commit(transaction)
        except StoreUnavailable as error:
            return Failure(ErrorCode.KAFKA_STORAGE_ERROR, str(error))
        except OutcomeUnknown as error:
            self._image_may_be_old = True
            return Failure(ErrorCode.REQUEST_TIMED_OUT, str(error))
        if isinstance(outcome, Conflict):
            self._image_may_be_old = True
            return _OUTDATED
        if outcome.revision.operations:
            self.image = self.image.apply(outcome.revision)
        return None

    async def _newest_image(self) -> MetadataImage:
        """Return the image to decide on; guards catch it if even this one is old."""
        if self._image_may_be_old:
            try:
                snapshot = await self._store.snapshot()
            except StoreUnavailable as error:
                logger.warning("deciding on metadata that may be old: %s", error)
            else:
                before = self.image
                self.image = image_from_snapshot(
                    snapshot.entries, snapshot.revision, before.defaults
                )
                self._image_may_be_old = False
                self._begin_difference(before)
        return self.image

    async def _take_producer_ids(self) -> None:
        block = ProducerIdBlock(0, 0)

        def decide(image: MetadataImage) -> Iterable[Transaction]:
            nonlocal block
            if self._producer_ids:
                return ()  # somebody else took some while this task waited for its turn
            transaction, block = allocate_producer_ids(image)
            return (transaction,)

        await self._commit_all(decide)
        if block.size:
            self._producer_ids = range(block.first, block.first + block.size)

    # ---------------------------------------------------------------------------- making it real

    def _begin_start(self, before: MetadataImage, topic_ids: Sequence[TopicId]) -> Work:
        """Start the replicas of committed partitions that were not there before."""
        image = self.image
        partitions: list[PartitionState] = []
        for topic_id in topic_ids:
            known = before.topics_by_id.get(topic_id)
            first = 0 if known is None else len(known.partitions)
            partitions += image.topics_by_id[topic_id].partitions[first:]
        self.news.tell_of_new_partitions(before, image, topic_ids)
        return self._work.begin_start(image, partitions)

    def _begin_configure(self, _: MetadataImage, topic_ids: Sequence[TopicId]) -> Work:
        """Let topics follow the configuration that is committed."""
        topics = self.image.topics_by_id
        return self._work.begin_configure([topics[topic_id] for topic_id in topic_ids])

    def _begin_stop(self, before: MetadataImage, topic_ids: Sequence[TopicId]) -> Work:
        """Stop the replicas of topics whose deletion is committed."""
        topics = [before.topics_by_id[topic_id] for topic_id in topic_ids]
        partitions = [state for topic in topics for state in topic.partitions]
        self.news.tell_of_deletions(before, topic_ids)
        return self._work.begin_stop(partitions, self.forget_deletions)

    def _begin_difference(self, before: MetadataImage) -> None:
        """Begin what others committed, or this controller without hearing of it."""
        if self.reconciler is None:
            return  # all of it is started from the image once there is one
        old, new = before.topics_by_id, self.image.topics_by_id
        deleted = [topic_id for topic_id in old if topic_id not in new]
        grown = [
            topic_id
            for topic_id, topic in new.items()
            if topic_id not in old or len(topic.partitions) > len(old[topic_id].partitions)
        ]
        altered = [id_ for id_ in new if id_ in old and new[id_].config != old[id_].config]
        if deleted:
            self._begin_stop(before, deleted)
        if grown:
            self._begin_start(before, grown)
        if altered:
            self._begin_configure(before, altered)

    def _creation_rules(self, requests: Sequence[NewTopic]) -> CreationRules:
        # What the broker itself needs may use the room that is kept for it on a full disk.
        is_internal = bool(requests) and all(
            request.name in INTERNAL_TOPIC_NAMES for request in requests
        )
        return CreationRules(
            partitions_default=self._config.num_partitions,
            limits=self._config.limits,
            excluded_directories=self._excluded_directories(is_internal),
        )

    def _check_open(self) -> None:
        if self._closed:
            raise BrokerClosed("the broker is stopping")


@asynccontextmanager
async def run_controller(
    store: MetadataStore,
    *,
    cluster_id: str,
    config: BrokerConfig,
    supervisor: Supervisor,
    new_topic_id: Callable[[], UUID],
    excluded_directories: Callable[[bool], Collection[UUID]] = lambda _is_internal: (),
) -> AsyncIterator[Controller]:
    """Run a controller on an open store for the length of a block.

    On leaving, what it still does to replicas is cancelled and its waiters get `BrokerClosed`.

    Args:
        store: the truth.
        cluster_id: what an empty store becomes the metadata of.
        config: of this broker.
        supervisor: takes the faults of work on replicas.
        new_topic_id: returns a fresh random id with each call.
        excluded_directories: returns the log dirs that take no new replicas now; its argument
            says whether they would be of the broker's own topics.

    Raises:
        StoreUnavailable: the store could not be read, or a new one not begun.
        CorruptMetadata, FormatTooNew: what it holds is not for this version, or for nobody.
    """
    snapshot = await store.snapshot()
    image = image_from_snapshot(snapshot.entries, snapshot.revision, config.topic)
    if image.cluster_id and image.cluster_id != cluster_id:
        raise CorruptMetadata(
            f"the metadata says it is of cluster {image.cluster_id!r}, not {cluster_id!r}"
        )
    async with trio.open_nursery() as nursery:
        controller = Controller(
            store,
            image,
            config=config,
            supervisor=supervisor,
            nursery=nursery,
            new_topic_id=new_topic_id,
            excluded_directories=excluded_directories,
        )
        if not image.cluster_id:
            await controller.begin_cluster(cluster_id)
        try:
            yield controller
        finally:
            controller.close()
            nursery.cancel_scope.cancel()
