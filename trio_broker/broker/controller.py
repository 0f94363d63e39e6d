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
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias, TypeVar
from uuid import UUID

import trio
from attrs import define, field

from trio_broker.cluster.embedded import open_embedded_store
from trio_broker.cluster.store import MetadataStore, OutcomeUnknown, StoreUnavailable
from trio_broker.errors import (
    BrokerClosed,
    CorruptMetadata,
    ErrorCode,
    RequestError,
    StorageError,
)
from trio_broker.metadata.decisions import (
    CreateTopicResult,
    CreationRules,
    Decision,
    DeleteTopicResult,
    NewTopic,
    ProducerIdBlock,
    StartedDirectory,
    TopicReference,
    advertise_endpoints,
    allocate_producer_ids,
    create_cluster,
    create_topics,
    delete_topics,
    forget_deletions,
    start_broker,
)
from trio_broker.metadata.image import image_from_snapshot
from trio_broker.metadata.transaction import Conflict
from trio_broker.names import INTERNAL_TOPIC_NAMES, BrokerId, TopicId

if TYPE_CHECKING:
    from trio_broker.broker.state import BrokerState
    from trio_broker.broker.supervise import Supervisor
    from trio_broker.config import BrokerConfig
    from trio_broker.metadata.image import MetadataImage, PartitionState, TopicState
    from trio_broker.metadata.records import EndpointRecord
    from trio_broker.metadata.transaction import Transaction

logger = logging.getLogger("trio_broker.controller")

#: How often a decision is made again because somebody else changed what it rests on.
DECISIONS_MAX = 5
PRODUCER_EPOCH_FIRST = 0


class Reconciler(Protocol):
    """Makes this broker's replicas equal to what the metadata says."""

    async def start_partitions(
        self, image: MetadataImage, partitions: Sequence[PartitionState]
    ) -> None:
        """Start the replicas that these new partitions have on this broker.

        When it returns they serve, or are offline under supervision.
        """

    async def stop_partitions(self, partitions: Sequence[PartitionState]) -> None:
        """Stop the replicas of these deleted partitions; when it returns no file of them is open.

        Raises:
            StorageError, OSError: their files are still in their places.
        """


class _Failure(NamedTuple):
    """A commit that did not succeed, as an answer."""

    code: ErrorCode
    message: str


_OUTDATED = _Failure(ErrorCode.NOT_CONTROLLER, "The metadata keeps changing, try again.")

R = TypeVar("R", CreateTopicResult, DeleteTopicResult)

#: Begins what the commit of some topics asks for, given the image before it and their ids.
_Begin: TypeAlias = "Callable[[MetadataImage, Sequence[TopicId]], _Work]"


@define(eq=False)
class _Work:
    """Replicas being started or stopped, for those who wait for it.

    Attributes:
        title: what it is, for people.
        done: set when it is over, one way or the other.
        fault: why it failed; None once it has succeeded.
    """

    title: str
    done: trio.Event = field(factory=trio.Event)
    fault: Exception | None = field(
        factory=lambda: BrokerClosed("the broker stopped before the replicas had changed")
    )


class Controller:
    """Changes metadata for this broker. Opened by `open_controller`.

    Attributes:
        image: the newest metadata committed.
        reconciler: starts and stops replicas; set before the first topic is created or deleted.
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
        self.reconciler: Reconciler | None = None
        self._store = store
        self._config = config
        self._supervisor = supervisor
        self._nursery = nursery
        self._new_topic_id = new_topic_id
        self._excluded_directories = excluded_directories
        self._deciding = trio.Lock()
        self._image_may_be_old = False
        self._closed = False
        self._starting: dict[TopicId, _Work] = {}
        self._under_way: dict[_Work, None] = {}
        self._producer_ids = range(0)

    def __repr__(self) -> str:
        return (
            f"<Controller revision={self.image.revision} topics={len(self.image.topics_by_name)}"
            f" partitions={self.image.partition_count}>"
        )

    @property
    def broker_id(self) -> BrokerId:
        """Id of this broker."""
        return BrokerId(self._config.node_id)

    # -------------------------------------------------------------------------------- topics

    async def create_topics(
        self, requests: Sequence[NewTopic], *, validate_only: bool = False
    ) -> list[CreateTopicResult]:
        """Create topics; when this returns, their partitions can be written and read.

        Returns one answer per name, see `metadata.topic_creation.create_topics`.

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

        return await self._carry_out(decide, self._begin_start)

    async def delete_topics(self, references: Sequence[TopicReference]) -> list[DeleteTopicResult]:
        """Delete topics; when this returns, no task and no open file of them is left.

        Returns one answer per topic, see `metadata.topic_deletion.delete_topics`. Where files
        could not be moved out of the way the topic is deleted all the same; `image.deletions`
        remembers them for the next start.

        Cancellation: a deletion that is not committed yet does not happen, one that is goes on.

        Raises:
            BrokerClosed: the broker is stopping.
        """

        def decide(image: MetadataImage) -> Decision[DeleteTopicResult]:
            return delete_topics(image, references)

        return await self._carry_out(decide, self._begin_stop)

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

    async def wait_for_work(self) -> None:
        """Wait until replicas are neither being started nor stopped. Cancellation: they go on."""
        for work in list(self._under_way):
            await work.done.wait()

    def work_under_way(self) -> list[str]:
        """Name the topics whose replicas are being started or stopped."""
        return [work.title for work in self._under_way]

    def close_intake(self) -> None:
        """Refuse every later call with `BrokerClosed`."""
        self._closed = True

    # ------------------------------------------------------------------------------ committing

    async def _carry_out(
        self, decide: Callable[[MetadataImage], Decision[R]], begin: _Begin
    ) -> list[R]:
        """Decide, commit step by step, begin what each committed step asks for, wait for that.

        Returns the decision's results, with the reason in the place of each that did not come
        true.
        """
        self._check_open()
        assert self.reconciler is not None, "topics change only once replicas can be started"
        async with self._deciding:
            results, works, is_outdated = await self._attempt(decide, begin)
            for _ in range(DECISIONS_MAX - 1):
                if not is_outdated:
                    break
                results, works, is_outdated = await self._attempt(decide, begin)
        for index, work in works.items():
            await work.done.wait()
            if isinstance(work.fault, BrokerClosed):
                raise work.fault
            if work.fault is not None:
                results[index] = results[index].failed(
                    ErrorCode.UNKNOWN_SERVER_ERROR, "The broker failed to change its replicas."
                )
        return results

    async def _attempt(
        self, decide: Callable[[MetadataImage], Decision[R]], begin: _Begin
    ) -> tuple[list[R], dict[int, _Work], bool]:
        """Decide and commit; also say whether nothing happened because the image was old."""
        before = await self._newest_image()
        decision = decide(before)
        results = list(decision.results)
        works: dict[int, _Work] = {}
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
        failed: list[_Failure] = []
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

    async def _commit(self, transaction: Transaction) -> _Failure | None:
        """Commit one transaction and show it in the image; None: done."""
        if not transaction.operations:
            return None
        try:
            outcome = await self._store.commit(transaction)
        except StoreUnavailable as error:
            return _Failure(ErrorCode.KAFKA_STORAGE_ERROR, str(error))
        except OutcomeUnknown as error:
            self._image_may_be_old = True
            return _Failure(ErrorCode.REQUEST_TIMED_OUT, str(error))
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

    def _new_work(self, verb: str, topics: Sequence[TopicState]) -> _Work:
        names = ", ".join(topic.name for topic in topics[:3]) + (", ..." if topics[3:] else "")
        work = _Work(f"{verb} {names}")
        self._under_way[work] = None
        return work

    def _begin_start(self, _: MetadataImage, topic_ids: Sequence[TopicId]) -> _Work:
        """Start the replicas of committed topics, whatever becomes of who asked for them."""
        image = self.image
        topics = [image.topics_by_id[topic_id] for topic_id in topic_ids]
        work = self._new_work("creating", topics)
        self._starting |= dict.fromkeys(topic_ids, work)
        partitions = [state for topic in topics for state in topic.partitions]

        async def start() -> None:
            assert self.reconciler is not None
            await self.reconciler.start_partitions(image, partitions)

        async def run() -> None:
            try:
                work.fault = await self._supervisor.absorb("controller", start)
            finally:
                for topic_id in topic_ids:
                    del self._starting[topic_id]
                work.done.set()
                del self._under_way[work]

        self._nursery.start_soon(run)
        return work

    def _begin_stop(self, before: MetadataImage, topic_ids: Sequence[TopicId]) -> _Work:
        """Stop the replicas of topics whose deletion is committed."""
        topics = [before.topics_by_id[topic_id] for topic_id in topic_ids]
        work = self._new_work("deleting", topics)
        partitions = [state for topic in topics for state in topic.partitions]
        starting = {id_: self._starting[id_] for id_ in topic_ids if id_ in self._starting}
        are_gone = False

        async def stop() -> None:
            nonlocal are_gone
            assert self.reconciler is not None
            for started in starting.values():
                await started.done.wait()
            try:
                await self.reconciler.stop_partitions(partitions)
            except (StorageError, OSError):
                # Deleted for every client; the files are remembered in `image.deletions`.
                logger.exception("files of deleted topics stay until the next start")
            else:
                are_gone = True

        async def run() -> None:
            try:
                work.fault = await self._supervisor.absorb("controller", stop)
                work.done.set()
                if are_gone:
                    await self.forget_deletions(topic_ids)
            finally:
                work.done.set()
                del self._under_way[work]

        self._nursery.start_soon(run)
        return work

    def _begin_difference(self, before: MetadataImage) -> None:
        """Begin what others committed, or this controller without hearing of it."""
        if self.reconciler is None:
            return  # all of it is started from the image once there is one
        old, new = before.topics_by_id, self.image.topics_by_id
        created = [topic_id for topic_id in new if topic_id not in old]
        deleted = [topic_id for topic_id in old if topic_id not in new]
        if deleted:
            self._begin_stop(before, deleted)
        if created:
            self._begin_start(before, created)

    def _creation_rules(self, requests: Sequence[NewTopic]) -> CreationRules:
        # What the broker itself needs may use the room that is kept for it on a full disk.
        is_internal = all(request.name in INTERNAL_TOPIC_NAMES for request in requests)
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
            controller.close_intake()
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_controller(state: BrokerState) -> AsyncIterator[Controller]:
    """Open this broker's own metadata store, with its lane, and run a controller on it.

    Raises:
        ConfigError: the folder belongs to another node or cluster.
        LogDirInUse: another broker runs on it.
        StorageError, OSError: it cannot be opened.
    """
    config, host = state.config, state.host
    lane = host.open_lane("metadata", config.storage.operation_seconds_max)
    async with trio.open_nursery() as lanes:
        await lanes.start(lane.serve)
        try:
            async with (
                open_embedded_store(
                    host,
                    lane,
                    f"{config.data_dir}/metadata",
                    node_id=config.node_id,
                    cluster_id=config.cluster_id,
                ) as store,
                run_controller(
                    store,
                    cluster_id=store.identity.cluster_id,
                    config=config,
                    supervisor=state.supervisor,
                    new_topic_id=host.entropy.uuid,
                    excluded_directories=lambda is_internal: {
                        log_dir.directory_id
                        for log_dir in state.log_dirs
                        if not log_dir.takes_replicas(is_internal=is_internal)
                    },
                ) as controller,
            ):
                yield controller
        finally:
            lanes.cancel_scope.cancel()
