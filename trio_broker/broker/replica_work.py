"""What follows a commit of metadata: replicas started, stopped or reconfigured.

Each piece of work is a task of the controller's nursery, so that it goes on whatever becomes of
who asked for it; `Work` is what those who wait for it hold. Pieces that concern one topic do not
overtake each other where that matters: a topic is stopped only after what was being started.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol

import trio
from attrs import define, field

from trio_broker.errors import BrokerClosed, StorageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_broker.broker.supervise import Supervisor
    from trio_broker.metadata.image import MetadataImage, PartitionState, TopicState
    from trio_broker.names import TopicId, TopicName

logger = logging.getLogger("trio_broker.controller")


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

    async def configure_topics(self, topic_ids: Sequence[TopicId]) -> None:
        """Let topics follow the configuration that the newest image has for them.

        When it returns, requests and open logs do. Topics that are gone are passed over.
        """


@define(eq=False)
class Work:
    """Replicas being changed, for those who wait for it.

    Attributes:
        title: what it is, for people.
        topic_ids: whose replicas.
        done: set when it is over, one way or the other.
        fault: why it failed; None once it has succeeded.
    """

    title: str
    topic_ids: frozenset[TopicId]
    done: trio.Event = field(factory=trio.Event)
    fault: Exception | None = field(
        factory=lambda: BrokerClosed("the broker stopped before the replicas had changed")
    )


class ReplicaWork:
    """All work on replicas that is under way.

    Args:
        supervisor: takes the faults.
        nursery: of the controller.

    Attributes:
        reconciler: does it; set before the first topic changes.
        under_way: in the order in which it began.
    """

    def __init__(self, supervisor: Supervisor, nursery: trio.Nursery) -> None:
        self.reconciler: Reconciler | None = None
        self.under_way: dict[Work, None] = {}
        self._supervisor = supervisor
        self._nursery = nursery
        self._is_closed = False

    def close(self) -> None:
        """Begin no more: who asks for work from now on is told that the broker has stopped."""
        self._is_closed = True

    def begin_start(self, image: MetadataImage, partitions: Sequence[PartitionState]) -> Work:
        """Start the replicas of new partitions."""

        async def start() -> None:
            assert self.reconciler is not None
            await self.reconciler.start_partitions(image, partitions)

        return self._begin("creating", _topics_of(partitions), start)

    def begin_configure(self, topics: Sequence[TopicState]) -> Work:
        """Let topics follow a new configuration, as soon as it is their turn."""

        async def configure() -> None:
            assert self.reconciler is not None
            await self.reconciler.configure_topics([topic.topic_id for topic in topics])

        return self._begin(
            "configuring", {topic.topic_id: topic.name for topic in topics}, configure
        )

    def begin_stop(
        self,
        partitions: Sequence[PartitionState],
        forget: Callable[[Sequence[TopicId]], Awaitable[None]],
    ) -> Work:
        """Stop the replicas of deleted partitions.

        Args:
            partitions: all those of some topics.
            forget: called with the topics whose files are out of the way, after waiters have
                been told.
        """
        topics = _topics_of(partitions)
        topic_ids = list(topics)
        earlier = [work for work in self.under_way if not work.topic_ids.isdisjoint(topic_ids)]
        are_gone = False

        async def stop() -> None:
            nonlocal are_gone
            assert self.reconciler is not None
            for work in earlier:
                await work.done.wait()
            try:
                await self.reconciler.stop_partitions(partitions)
            except (StorageError, OSError):
                # Deleted for every client; the files are remembered in `image.deletions`.
                logger.exception("files of deleted topics stay until the next start")
            else:
                are_gone = True

        async def forget_gone() -> None:
            if are_gone:
                await forget(topic_ids)

        return self._begin("deleting", topics, stop, forget_gone)

    async def wait(self) -> None:
        """Wait until no work that has begun is under way. Cancellation: it goes on."""
        for work in list(self.under_way):
            await work.done.wait()

    def _begin(
        self,
        verb: str,
        topics: Mapping[TopicId, TopicName],
        act: Callable[[], Awaitable[None]],
        afterwards: Callable[[], Awaitable[None]] | None = None,
    ) -> Work:
        names = list(topics.values())
        title = f"{verb} {', '.join(names[:3])}" + (", ..." if names[3:] else "")
        work = Work(title, frozenset(topics))
        if self._is_closed:
            work.done.set()
            return work
        self.under_way[work] = None
        self._nursery.start_soon(partial(self._run, work, act, afterwards))
        return work

    async def _run(
        self,
        work: Work,
        act: Callable[[], Awaitable[None]],
        afterwards: Callable[[], Awaitable[None]] | None,
    ) -> None:
        try:
            work.fault = await self._supervisor.absorb("controller", act)
            work.done.set()
            if afterwards is not None:
                await afterwards()
        finally:
            work.done.set()
            del self.under_way[work]


def _topics_of(partitions: Sequence[PartitionState]) -> dict[TopicId, TopicName]:
    return {partition.topic_id: partition.topic_name for partition in partitions}
