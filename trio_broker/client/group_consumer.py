"""The consumer that shares topics with the other members of its group.

    async with client.open_group_consumer("billing", ["orders"]) as consumer:
        async for batch in consumer:
            for record in batch:
                ...

Three tasks beside those that fetch: one joins and rebalances, one sends heartbeats, one commits.

A rebalance takes partitions away only while the program waits for the next batch (or record), never
while it works on one: what it was given is processed then, and, with `auto_commit_seconds`,
committed. A program that works on one batch for longer than `rebalance_timeout_seconds` loses its
partitions, since the group goes on without it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from trio_broker.client.consumer import Offsets, begin, no_position, to_commit
from trio_broker.client.errors import request_error
from trio_broker.client.group_protocol import (
    NO_GENERATION,
    GroupConversation,
    Joined,
    MembershipLost,
    RebalanceNeeded,
)
from trio_broker.client.offsets import commit_offsets, fetch_committed
from trio_broker.client.reader import Reader
from trio_broker.client.remedies import CONNECTION_FAILURES
from trio_broker.client.types import CommittedOffset, TopicPartition
from trio_broker.errors import ErrorCode, RequestError, TrioBrokerError
from trio_broker.names import TopicName

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from trio_broker.client.cluster import Cluster
    from trio_broker.client.consumer_state import ConsumedBatch
    from trio_broker.client.options import ConsumerOptions, GroupOptions
    from trio_broker.client.reader import ConsumedRecord, OpenedBatch
    from trio_broker.client.scope import Task, TaskScope
    from trio_broker.group.consumer_protocol import AssignedPartition

    Callback = Callable[[frozenset[TopicPartition]], Awaitable[None]]

logger = logging.getLogger("trio_broker.client")

#: A commit refused with these came too late: the partitions are, or will be, somebody else's.
_TOO_LATE = frozenset(
    {
        ErrorCode.REBALANCE_IN_PROGRESS,
        ErrorCode.ILLEGAL_GENERATION,
        ErrorCode.UNKNOWN_MEMBER_ID,
        ErrorCode.FENCED_INSTANCE_ID,
    }
)
#: How long the last commit and the good-bye may take together.
_FAREWELL_SECONDS_MAX = 4.0


class GroupConsumer(Reader):
    """A member of a group; `Client.open_group_consumer` makes it.

    One task reads; the other methods may be called by any.
    """

    def __init__(
        self,
        cluster: Cluster,
        group: str,
        topics: Sequence[str],
        options: ConsumerOptions,
        group_options: GroupOptions,
        scope: TaskScope,
        purpose: str,
        *,
        on_assigned: Callback | None,
        on_revoked: Callback | None,
        on_lost: Callback | None,
    ) -> None:
        if not topics or isinstance(topics, str):
            raise ValueError("topics is a list of at least one name")
        super().__init__(cluster, options, scope, purpose)
        self._group = group
        self._topics = tuple(dict.fromkeys(topics))
        self._group_options = group_options
        self._talk = GroupConversation(
            cluster, group, self._topics, group_options, f"{purpose} group"
        )
        self._group_purpose = f"{purpose} group"
        self._on_assigned = on_assigned
        self._on_revoked = on_revoked
        self._on_lost = on_lost
        self._failure: Exception | None = None
        self._changed = trio.lowlevel.ParkingLot()
        self._idle = trio.lowlevel.ParkingLot()
        self._busy_since: float | None = None
        self._is_held = True
        self._is_joined = False
        self._must_join = False
        self._is_lost = False
        self._member_task: Task | None = None
        self._partition_counts: dict[TopicName, int] = {}
        self._committed: dict[TopicPartition, int] = {}
        # One commit at a time: one that is tried again must not come after a later one.
        self._committing = trio.Lock()
        self._commit_task: Task | None = None

    @property
    def group(self) -> str:
        """Id of the group."""
        return self._group

    @property
    def topics(self) -> tuple[str, ...]:
        """What is subscribed to."""
        return self._topics

    @property
    def member_id(self) -> str:
        """What the coordinator calls this member; empty while it is none."""
        return self._talk.member_id

    @property
    def generation(self) -> int:
        """Of the group, as this member knows it; -1 while it is none."""
        return self._talk.generation

    # ---------------------------------------------------------------------------------------- reads

    async def next_batch(self) -> ConsumedBatch:
        """See `Reader.next_batch`; raises also what ends the membership.

        Raises:
            RequestError: also INCONSISTENT_GROUP_PROTOCOL, FENCED_INSTANCE_ID,
                GROUP_MAX_SIZE_REACHED, GROUP_AUTHORIZATION_FAILED and so on: this is no member of
                the group any more, and will not be one again.
            CorruptRecords, CodecUnavailable, ClientClosed: see `Reader.next_batch`.

        Cancellation: nothing is lost; the next call returns what this one would have. A rebalance
            under way goes on.
        """
        self._set_busy(None)
        batch = await super().next_batch()
        self._set_busy(trio.current_time())
        return batch

    async def next_record(self) -> ConsumedRecord:
        """See `Reader.next_record`; raises as `next_batch`."""
        self._set_busy(None)
        record = await super().next_record()
        self._set_busy(trio.current_time())
        return record

    def _set_busy(self, since: float | None) -> None:
        """Take note that the program works on something, or (None) that it waits."""
        self._busy_since = since
        if since is None and self._idle:
            self._idle.unpark_all()

    def _current_opened(self) -> OpenedBatch | None:
        return None if self._is_held else super()._current_opened()

    def _take(self) -> ConsumedBatch | None:
        if self._failure is not None:
            raise self._failure.with_traceback(None)
        return None if self._is_held else super()._take()

    # ------------------------------------------------------------------------------------- commits

    async def commit(self, offsets: Offsets | None = None) -> None:
        """Commit offsets for the group; they are durable when this returns.

        Args:
            offsets: of the next record to process, by partition; None: of everything that was
                handed out, including the last batch or record.

        Raises:
            RequestError: ILLEGAL_GENERATION, UNKNOWN_MEMBER_ID, REBALANCE_IN_PROGRESS: the
                partitions may be somebody else's by now, who will process the records again.
            RequestTimedOut: the coordinator does not answer.

        Cancellation: unknown whether they were committed; doing it again does no harm.
        """
        await trio.lowlevel.checkpoint()
        wanted = to_commit(self._handed if offsets is None else offsets)
        membership = self._talk.membership  # whose they are, also if it changes meanwhile
        if wanted and membership.generation == NO_GENERATION:
            # A group without members would take it, from a stranger, whatever it has by then.
            what = f"a commit without being a member of group {self._group!r}"
            raise request_error(ErrorCode.UNKNOWN_MEMBER_ID, what)
        async with self._committing:
            await commit_offsets(self._cluster, self._group, wanted, membership=membership)
            self._note_committed(wanted)

    async def committed(
        self, places: Iterable[tuple[str, int]]
    ) -> dict[TopicPartition, CommittedOffset]:
        """Return what the group has committed, an entry for each partition for which it has.

        Raises:
            RequestError: the coordinator refuses.
            RequestTimedOut: it does not answer.
        """
        return await fetch_committed(self._cluster, self._group, places)

    async def _commit_forever(self) -> None:
        """Commit what was processed, from time to time; a task."""
        pause_seconds = self._group_options.auto_commit_seconds
        assert pause_seconds is not None
        while True:
            await trio.sleep(pause_seconds)
            if self._is_joined:
                await self._commit_processed()

    async def _commit_processed(self) -> None:
        """Commit what was processed and is not committed; a failure is logged, and tried again."""
        async with self._committing:
            if not self._owns_assignment:
                return  # not any more
            wanted = {
                place: CommittedOffset(offset)
                for place, offset in self._processed.items()
                if place in self._state.partitions and self._committed.get(place) != offset
            }
            try:
                await commit_offsets(
                    self._cluster,
                    self._group,
                    wanted,
                    membership=self._talk.membership,
                    timeout_seconds=self._cluster.options.request_timeout_seconds,
                )
            except TrioBrokerError as error:
                is_late = isinstance(error, RequestError) and error.code in _TOO_LATE
                level = logging.INFO if is_late else logging.WARNING
                logger.log(level, "group %s: commit failed: %s", self._group, error)
            else:
                self._note_committed(wanted)

    def _note_committed(self, offsets: Mapping[TopicPartition, CommittedOffset]) -> None:
        for place, committed in offsets.items():
            if place in self._state.partitions:
                self._committed[place] = committed.offset

    # ---------------------------------------------------------------------------------- membership

    async def _be_member(self) -> None:
        """Join, rebalance, and join again; a task."""
        self._cluster.watch(self._metadata_changed)
        try:
            while True:
                await self._rebalance()
                await self._wait_for_change()
        except TrioBrokerError as error:
            # Final: told to the program where it reads.
            self._is_joined = False
            self._failure = error
            self._fetcher.arrived.unpark_all()
        finally:
            self._cluster.unwatch(self._metadata_changed)

    async def _wait_for_change(self) -> None:
        """Wait until the group must be joined again, and get ready for it."""
        slow_seconds = self._group_options.rebalance_timeout_seconds
        while not (self._must_join or self._is_lost):
            busy_since = self._busy_since
            now = trio.current_time()
            # What the program begins with later cannot take too long before that.
            slow_at = slow_seconds + (now if busy_since is None else busy_since)
            if now >= slow_at:
                await self._leave_for_slowness()
                return
            with trio.move_on_at(slow_at):
                await self._changed.park()

    async def _leave_for_slowness(self) -> None:
        """Let the others go on while the program works on one batch for too long."""
        logger.warning(
            "group %s: a batch takes longer than rebalance_timeout_seconds, leaving", self._group
        )
        self._is_joined = False
        await self._talk.leave("a batch takes longer than rebalance_timeout_seconds")
        self._is_lost = True
        await self._lose()
        while self._busy_since is not None:
            await self._idle.park()

    async def _rebalance(self) -> None:
        """Become a member of the next generation, with the partitions it gives."""
        if self._is_lost or not self._talk.member_id:
            await self._lose()
        elif not self._talk.is_cooperative:
            await self._give_up(self.assignment)
        self._is_joined = False
        self._must_join = False
        self._is_lost = False
        try:
            joined = await self._talk.join(self.assignment)
            assigned = await self._talk.sync(joined, await self._assign(joined))
        except RebalanceNeeded:
            self._must_join = True
            return
        except MembershipLost:
            self._is_lost = True
            return
        self._is_joined = True
        self._changed.unpark_all()  # the task that sends heartbeats
        await self._take_over(assigned)

    async def _assign(self, joined: Joined) -> dict[str, list[AssignedPartition]]:
        """Assign everybody's partitions, if this member leads."""
        self._partition_counts = {}
        if not joined.is_leader:
            return {}
        topics = {name for member in joined.members.values() for name in member.subscription.topics}
        for topic in topics:
            self._cluster.use_topic(topic)
        while any(not self._is_known(topic) for topic in topics):
            try:
                await self._cluster.refresh()
            except CONNECTION_FAILURES:
                await self._cluster.retries(float("inf")).sleep()
        self._partition_counts = self._count_partitions(topics)
        return joined.assignor.assign(self._partition_counts, joined.members)

    def _is_known(self, topic: str) -> bool:
        """Whether it is known if a topic exists."""
        view = self._cluster.view
        return topic in view.topics or topic in view.failures

    def _count_partitions(self, topics: Iterable[TopicName]) -> dict[TopicName, int]:
        view = self._cluster.view
        return {
            topic: len(view.topics[topic].partitions) if topic in view.topics else 0
            for topic in topics
        }

    def _metadata_changed(self) -> None:
        """Let the leader assign again when a topic has come, gone, or grown."""
        for topic in (*self._topics, *self._partition_counts):
            self._cluster.use_topic(topic)
        counts = self._partition_counts
        if self._is_joined and counts and self._count_partitions(counts) != counts:
            self._must_join = True
            self._changed.unpark_all()

    async def _take_over(self, assigned: frozenset[TopicPartition]) -> None:
        """Give up what was taken away, and begin to read what was given."""
        revoked = self.assignment - assigned
        if revoked:
            await self._give_up(revoked)
            # Only now it is free for its next owner (KIP-429).
            self._must_join = True
        added = assigned - self.assignment
        if added:
            committed = await self._positions(added)
            if committed is None:
                return
            self._state.assign([*self._state.partitions, *sorted(added)])
            for place in added:
                found = committed.get(place)
                state = self._state.partitions[place]
                if found is not None:
                    self._committed[place] = found.offset
                    begin(state, found.offset)
                elif self._options.auto_offset_reset is None:
                    state.fail(no_position(place))
                else:
                    begin(state, self._options.auto_offset_reset)
            if self._on_assigned is not None:
                await self._on_assigned(added)
        self._is_held = False
        self._fetcher.arrived.unpark_all()
        self._fetcher.interrupt()

    async def _positions(
        self, added: frozenset[TopicPartition]
    ) -> dict[TopicPartition, CommittedOffset] | None:
        """Return what was committed; None if the group has moved on before that was known."""
        while not (self._is_lost or (self._must_join and not self._talk.is_cooperative)):
            try:
                return await fetch_committed(self._cluster, self._group, added, require_stable=True)
            except CONNECTION_FAILURES as error:
                logger.warning("group %s: %s", self._group, error)
        return None

    async def _give_up(self, revoked: frozenset[TopicPartition]) -> None:
        """Stop reading some partitions, once the program is done with what it was given."""
        if not revoked:
            return
        self._is_held = True
        with trio.move_on_after(self._group_options.rebalance_timeout_seconds):
            while self._busy_since is not None:
                await self._idle.park()
        if self._has_lost_partitions():
            await self._lose(revoked)
            return
        if self._group_options.auto_commit_seconds is not None:
            self._all_processed()
            await self._commit_processed()
        if self._on_revoked is not None:
            await self._on_revoked(revoked)
        self._drop(revoked)

    def _has_lost_partitions(self) -> bool:
        """Whether it is too late to give partitions up in order."""
        return self._is_lost or self._busy_since is not None

    async def _lose(self, lost: frozenset[TopicPartition] | None = None) -> None:
        """Stop reading partitions that belong to others already."""
        if lost is None:
            lost = self.assignment
        self._is_held = True
        self._drop(lost)
        if lost and self._on_lost is not None:
            await self._on_lost(lost)

    def _drop(self, places: frozenset[TopicPartition]) -> None:
        self._state.assign([place for place in self._state.partitions if place not in places])
        for place in places:
            self._forget(place)
            self._committed.pop(place, None)

    @property
    def _owns_assignment(self) -> bool:
        """Whether what it reads is its own, also what it keeps while it joins (KIP-429)."""
        is_member = self._talk.generation != NO_GENERATION and self._failure is None
        return is_member and not self._is_lost

    def _is_in(self, generation: int) -> bool:
        """Whether this is a member of that generation still, and not joining the next."""
        return self._is_joined and self._talk.generation == generation

    async def _send_heartbeats(self) -> None:
        """Say that this member is alive, except while it joins; a task."""
        while True:
            while not self._is_joined:
                await self._changed.park()
            generation = self._talk.generation
            await trio.sleep(self._group_options.heartbeat_seconds)
            if not self._is_in(generation):
                continue
            try:
                await self._talk.heartbeat()
            except RebalanceNeeded:
                # Else it was about a generation that is being left already.
                self._must_join |= self._is_in(generation)
            except MembershipLost:
                self._is_lost |= self._is_joined  # who joins is told by the answer to that
                self._is_joined = False
            except RequestError as error:
                if error.code == ErrorCode.FENCED_INSTANCE_ID:
                    self._is_joined = False
                    self._failure = error
                    self._fetcher.arrived.unpark_all()
                logger.warning("group %s: heartbeat: %s", self._group, error)
            except CONNECTION_FAILURES as error:
                logger.warning("group %s: heartbeat: %s", self._group, error)
            self._changed.unpark_all()

    # ------------------------------------------------------------------------------------ beginning

    def start(self) -> None:
        """Start the tasks; called by `Client.open_group_consumer`."""
        for topic in self._topics:
            self._cluster.use_topic(topic)
        self._scope.start("group consumer", self._fetch_forever)
        self._member_task = self._scope.start("group consumer/member", self._be_member)
        self._scope.start("group consumer/heartbeats", self._send_heartbeats)
        if self._group_options.auto_commit_seconds is not None:
            name = "group consumer/commits"
            self._commit_task = self._scope.start(name, self._commit_forever)

    async def finish(self) -> None:
        """Give everything up in order; called where the block is left without an error."""
        for task in (self._member_task, self._commit_task):
            if task is not None:
                task.cancel()
                await task.wait()
        self._is_held = True
        self._all_processed()
        if self._owns_assignment:
            if self._group_options.auto_commit_seconds is not None:
                await self._commit_processed()
            if self.assignment and self._on_revoked is not None:
                await self._on_revoked(self.assignment)
        else:
            await self._lose()

    async def close(self) -> None:
        """End the tasks, commit what was processed, and leave the group.

        Called by `Client.open_group_consumer`, under a deadline of its own.
        """
        is_owner = self._owns_assignment
        try:
            await self._scope.end()
            with trio.move_on_after(_FAREWELL_SECONDS_MAX):
                if is_owner and self._group_options.auto_commit_seconds is not None:
                    await self._commit_processed()
                await self._talk.leave("the consumer is closed")
            await self._close()
        finally:  # also where a task does not end in time
            self._end_tasks()
            self._cluster.close_purpose(self._purpose)
            self._cluster.close_purpose(self._group_purpose)
