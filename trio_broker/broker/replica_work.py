"""What follows a commit of metadata: replicas started, stopped or reconfigured.

Each piece of work is a task of the controller's nursery, so that it goes on whatever becomes of
who asked for it; `Work` is what those who wait for it hold. Pieces that concern one topic do not
overtake each other where that matters: a topic is stopped only after what was being started.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol

import trio
from attrs import define, field

from trio_broker.broker.supervise import Backoff
from trio_broker.errors import BrokerClosed, ErrorCode, StorageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_broker.broker.supervise import Supervisor
    from trio_broker.metadata.image import (
        MetadataImage,
        PartitionState,
        PendingDeletion,
        TopicState,
    )
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
        """Stop the replicas of these deleted partitions, and move their directories away.

        When it returns no file of them is open, and a restart will not find them.

        Raises:
            StorageError, OSError: some are still in their places; all else is done.
        """

    async def move_away(self, partitions: Sequence[PartitionState]) -> None:
        """Try once more to move the directories of partitions that were stopped out of the way.

        Raises:
            StorageError, OSError: some are still in their places.
        """

    async def move_away_left_over(self, deletion: PendingDeletion) -> None:
        """Try once more to do that for a topic that was deleted before the broker was started.

        Raises:
            StorageError, OSError: some are still in their places.
        """

    def still_held(self, partitions: Sequence[PartitionState]) -> list[str]:
        """Say what of partitions that are being stopped is still there."""

    async def configure_topics(self, topic_ids: Sequence[TopicId]) -> None:
        """Let topics follow the configuration that the newest image has for them.

        When it returns, requests and open logs do. Topics that are gone are passed over.
        """


class Failure(NamedTuple):
    """What did not succeed, as an answer."""

    code: ErrorCode
    message: str


_TIMED_OUT = Failure(
    ErrorCode.REQUEST_TIMED_OUT, "It takes longer than the request allows, and goes on."
)
_BUG = Failure(ErrorCode.UNKNOWN_SERVER_ERROR, "The broker failed to change its replicas.")
_FILES_STAY = (
    "The topic is deleted, but files of it could not be moved out of the way. That is tried again "
    "until it succeeds, also after a restart."
)
#: Of what a deletion waits for, this many are named.
_HELD_SHOWN = 5


@define(eq=False)
class Work:
    """Replicas being changed, for those who wait for it.

    Attributes:
        title: what it is, for people.
        topic_ids: whose replicas.
        done: set when it is over, one way or the other.
        fault: why it failed; None once it has succeeded.
        still_held: says what it waits for.
    """

    title: str
    topic_ids: frozenset[TopicId]
    still_held: Callable[[], Sequence[str]] = field(default=tuple)
    done: trio.Event = field(factory=trio.Event)
    fault: Exception | None = field(
        factory=lambda: BrokerClosed("the broker stopped before the replicas had changed")
    )

    def failure(self) -> Failure | None:
        """Return what those are told whose time is up, or for whom it has ended; None: it is done.

        Raises:
            BrokerClosed: the broker stopped before.
        """
        if not self.done.is_set():
            self._tell_overdue()
            return _TIMED_OUT
        if isinstance(self.fault, BrokerClosed):
            raise self.fault
        if isinstance(self.fault, StorageError | OSError):
            return Failure(ErrorCode.KAFKA_STORAGE_ERROR, f"{_FILES_STAY} The cause: {self.fault}")
        return None if self.fault is None else _BUG

    def _tell_overdue(self) -> None:
        held = self.still_held()
        more = f" and {len(held) - _HELD_SHOWN} more" if len(held) > _HELD_SHOWN else ""
        logger.warning(
            "%s takes longer than the request allows, and goes on%s%s%s",
            self.title,
            "; still held: " if held else "",
            "; ".join(held[:_HELD_SHOWN]),
            more,
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

        async def start() -> Exception | None:
            assert self.reconciler is not None
            await self.reconciler.start_partitions(image, partitions)
            return None

        return self._begin("creating", _topics_of(partitions), start)

    def begin_configure(self, topics: Sequence[TopicState]) -> Work:
        """Let topics follow a new configuration, as soon as it is their turn."""

        async def configure() -> Exception | None:
            assert self.reconciler is not None
            await self.reconciler.configure_topics([topic.topic_id for topic in topics])
            return None

        return self._begin(
            "configuring", {topic.topic_id: topic.name for topic in topics}, configure
        )

    def begin_stop(
        self,
        partitions: Sequence[PartitionState],
        forget: Callable[[Sequence[TopicId]], Awaitable[None]],
    ) -> Work:
        """Stop the replicas of deleted partitions.

        Its fault is a `StorageError` or `OSError` if their directories could not be moved out of
        the way. Then that is tried again, ever more slowly, until it succeeds or the broker stops;
        the next start goes on with it.

        Args:
            partitions: all those of some topics.
            forget: called with the topics whose files are out of the way, after waiters have
                been told.
        """
        topics = _topics_of(partitions)
        topic_ids = list(topics)
        earlier = [work for work in self.under_way if not work.topic_ids.isdisjoint(topic_ids)]
        fault: StorageError | OSError | None = None

        async def stop() -> Exception | None:
            nonlocal fault
            assert self.reconciler is not None
            for work in earlier:
                await work.done.wait()
            try:
                await self.reconciler.stop_partitions(partitions)
            except (StorageError, OSError) as error:
                fault = error
                names = ", ".join(topics.values())
                logger.error("%s: deleted, but files are still in their places: %s", names, error)
            return fault

        async def forget_gone() -> None:
            assert self.reconciler is not None
            if fault is not None:
                await _at_last(partial(self.reconciler.move_away, partitions))
            await forget(topic_ids)

        work = self._begin("deleting", topics, stop, forget_gone)
        work.still_held = partial(self._still_held, partitions)
        return work

    def begin_moving_away(
        self, deletion: PendingDeletion, forget: Callable[[Sequence[TopicId]], Awaitable[None]]
    ) -> Work:
        """Go on with a deletion from before the start, whose files a disk would not let go.

        Args:
            deletion: which.
            forget: called when they are out of the way.
        """

        async def nothing() -> None:
            """Nobody waits for it."""

        async def move_away() -> None:
            assert self.reconciler is not None
            await _at_last(partial(self.reconciler.move_away_left_over, deletion))
            await forget([deletion.topic_id])

        return self._begin("deleting", {deletion.topic_id: deletion.name}, nothing, move_away)

    def _still_held(self, partitions: Sequence[PartitionState]) -> Sequence[str]:
        return self.reconciler.still_held(partitions) if self.reconciler is not None else ()

    async def wait(self) -> None:
        """Wait until no work that has begun is under way. Cancellation: it goes on."""
        for work in list(self.under_way):
            await work.done.wait()

    def _begin(
        self,
        verb: str,
        topics: Mapping[TopicId, TopicName],
        act: Callable[[], Awaitable[Exception | None]],
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
        act: Callable[[], Awaitable[Exception | None]],
        afterwards: Callable[[], Awaitable[None]] | None,
    ) -> None:
        expected: Exception | None = None

        async def note() -> None:
            nonlocal expected
            expected = await act()

        try:
            bug = await self._supervisor.absorb("controller", note)
            work.fault = bug or expected
            work.done.set()
            if afterwards is not None and bug is None:
                await self._supervisor.absorb("controller", afterwards)
        finally:
            work.done.set()
            del self.under_way[work]


async def _at_last(move_away: Callable[[], Awaitable[None]]) -> None:
    """Try until it succeeds, ever more slowly; the log dir tells what is wrong with its disk."""
    backoff = Backoff()
    while True:
        await trio.sleep(backoff.next_seconds(trio.current_time()))
        try:
            await move_away()
        except (StorageError, OSError):
            continue
        return


def _topics_of(partitions: Sequence[PartitionState]) -> dict[TopicId, TopicName]:
    return {partition.topic_id: partition.topic_name for partition in partitions}
