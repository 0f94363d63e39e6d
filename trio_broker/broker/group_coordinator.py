"""Coordinates consumer groups: finds the machine of each group, and lets time pass for all.

This broker coordinates every group. Their state is on ``__consumer_offsets``, which is created
when it is first needed; each of its partitions has a machine of its own (`groups_partition`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

from trio_broker.broker.groups_partition import GroupsPartition
from trio_broker.errors import ErrorCode
from trio_broker.group.classic_group import Tally
from trio_broker.group.commands import CodesReply, CommitOffsets, GroupDecision, GroupListing, Now
from trio_broker.group.machine import GroupMachine
from trio_broker.group.partitioning import offsets_partition
from trio_broker.group.prepared_commit import preparing_commit
from trio_broker.metadata.decisions import NewTopic
from trio_broker.names import OFFSETS_TOPIC_NAME, TopicName

if TYPE_CHECKING:
    from trio_broker.broker.state import BrokerState
    from trio_broker.broker.topics import RoutedTopic
    from trio_broker.group.commands import GroupDescription
    from trio_broker.group.prepared_commit import PreparedCommit
    from trio_broker.group.schemas import OffsetCommitValue
    from trio_broker.names import TopicId

logger = logging.getLogger("trio_broker.groups")

#: A commit that is not durable by then is answered with REQUEST_TIMED_OUT (Kafka:
#: offsets.commit.timeout.ms); it may still come true.
COMMIT_SECONDS_MAX = 5.0
#: As many offsets expire in one batch of each partition, and the next ones after that long.
_EXPIRED_MAX = 1000
_EXPIRY_SECONDS = 1.0
#: As many offsets of deleted topics are forgotten in one batch: two milliseconds.
_FORGOTTEN_MAX = 300
_FIRST = itemgetter(0)


class GroupSummary(NamedTuple):
    """A group, for statistics.

    Attributes:
        group_id: its name.
        members: how many consumers are in it.
        offsets: what it has committed.
    """

    group_id: str
    members: int
    offsets: Mapping[TopicName, Mapping[int, OffsetCommitValue]]


class GroupCoordinator:
    """All groups of this broker."""

    def __init__(self, state: BrokerState) -> None:
        self._state = state
        self._partitions: list[GroupsPartition] = []
        self._total = Tally()
        self._creating = trio.Lock()
        self._loading: set[GroupsPartition] = set()
        self._closed = False
        self._earlier = trio.Event()
        self._sleeping_until = -math.inf

    async def load(self) -> None:
        """Rebuild the state from the log; called once, before clients are served.

        A partition that is offline or cannot be read now is loaded when somebody asks for it.
        """
        routed = self._state.router.by_name.get(OFFSETS_TOPIC_NAME)
        if routed is not None:
            await self._take_over(routed)

    async def run(self) -> None:
        """Let time pass until cancelled: sessions, rebalances, expiry of offsets."""
        async with trio.open_nursery() as nursery:
            await self._let_time_pass(nursery)

    async def _let_time_pass(self, nursery: trio.Nursery) -> None:
        config = self._state.config.group
        interval_seconds = config.offsets_retention_check_interval_ms / 1000
        offsets_due = trio.current_time() + interval_seconds
        while True:
            deadline = min(offsets_due, self._next_wake())
            self._earlier = trio.Event()
            self._sleeping_until = deadline
            with trio.move_on_at(deadline + 0.001):  # never a moment too early
                await self._earlier.wait()
            now_ms = int(trio.current_time() * 1000)
            for partition in self._partitions:
                if not partition.is_loaded:
                    if partition not in self._loading:
                        self._loading.add(partition)
                        nursery.start_soon(self._load_again, partition)
                elif partition.wake_at_ms is not None and partition.wake_at_ms <= now_ms:
                    partition.let_expire()
            if trio.current_time() >= offsets_due:
                pause = _EXPIRY_SECONDS if self._expire_offsets() else interval_seconds
                offsets_due = trio.current_time() + pause

    async def _load_again(self, partition: GroupsPartition) -> None:
        """Load a partition beside others, for which time passes even if its disk hangs.

        Also if a client's request is loading it, which is given up when the client is.
        """
        try:
            await partition.load()
        finally:
            self._loading.remove(partition)

    def _expire_offsets(self) -> bool:
        """Forget offsets that nobody used for long, one batch; return whether more are due."""
        have_more = [partition.expire_offsets(_EXPIRED_MAX) for partition in self._partitions]
        return any(have_more)

    def _next_wake(self) -> float:
        return min((partition.next_wake() for partition in self._partitions), default=math.inf)

    def _woken(self) -> None:
        """Some machine may want to be asked earlier than `run` sleeps."""
        if self._next_wake() < self._sleeping_until:
            self._earlier.set()

    def close(self) -> None:
        """Answer every request that waits, and refuse further ones: the broker is draining."""
        self._closed = True
        for partition in self._partitions:
            if partition.is_loaded:
                partition.close()

    # Commands.

    async def ask(
        self, group_id: str, command: Callable[[GroupMachine, object, Now], GroupDecision]
    ) -> Any:
        """Give a command to the machine of a group and return its response.

        Returns:
            The response, or an `ErrorCode` if there is no machine for the group now.

        Cancellation: unknown.
        """
        partition = await self._partition_for(group_id)
        if isinstance(partition, ErrorCode):
            return partition
        return await partition.ask(lambda token, now: command(partition.machine, token, now))

    async def machine_for(self, group_id: str) -> GroupMachine | ErrorCode:
        """Return the machine of a group, to be asked things that it answers at once."""
        partition = await self._partition_for(group_id)
        return partition if isinstance(partition, ErrorCode) else partition.machine

    async def commit(self, request: CommitOffsets) -> Sequence[ErrorCode]:
        """Commit offsets; return a code for each, once they are durable.

        Many are prepared in pieces, and then decided at once; a turn of `large_answers` that the
        caller has is given up.

        Cancellation: unknown; while they are prepared, none of them is committed.
        """
        preparing = preparing_commit(
            request,
            now_ms=self._state.host.wall.now_ms(),
            metadata_bytes_max=self._state.config.limits.offset_metadata_bytes_max,
        )
        try:
            commit = await self._state.large_answers.make(preparing)
        finally:
            self._state.large_answers.done()
        response: CodesReply | ErrorCode = ErrorCode.REQUEST_TIMED_OUT
        with trio.move_on_after(COMMIT_SECONDS_MAX):
            response = await self.ask(
                request.group_id,
                lambda machine, token, now: machine.commit(
                    token, commit, now, gone=self._gone(commit)
                ),
            )
        if isinstance(response, ErrorCode):
            return [response] * len(request.offsets)
        return response.codes if not response.code else [response.code] * len(request.offsets)

    def _gone(self, commit: PreparedCommit) -> frozenset[TopicName]:
        """Return topics that were deleted since somebody looked for them.

        What was committed for these was forgotten then, and must not come afterwards.
        """
        known = self._state.router.by_id
        return frozenset(
            name for name, topic_id in commit.topics if topic_id.int and topic_id not in known
        )

    async def forget_topics(self, names: Sequence[TopicName]) -> None:
        """Forget what was committed for topics that are gone, as Kafka does; some at a time."""
        for partition in self._partitions:
            has_more = True
            while has_more and partition.is_loaded:
                has_more = await self._forget_some(partition, names)

    def _living_id(self, name: TopicName) -> TopicId | None:
        """Return the id of the topic that has a name now: it may have been created again."""
        routed = self._state.router.by_name.get(name)
        return None if routed is None else routed.topic_id

    async def _forget_some(self, partition: GroupsPartition, names: Sequence[TopicName]) -> bool:
        """Forget some offsets of topics that are gone; return whether there may be more."""
        count = 0

        def forget(token: object, now: Now) -> GroupDecision:
            nonlocal count
            machine = partition.machine
            topics = {name: self._living_id(name) for name in names}
            decision = machine.delete_topics(token, topics, now, records_max=_FORGOTTEN_MAX)
            count = len(decision.records)
            return decision

        reply: CodesReply | ErrorCode = ErrorCode.REQUEST_TIMED_OUT
        with trio.move_on_after(COMMIT_SECONDS_MAX):
            reply = await partition.ask(forget)
        code = reply if isinstance(reply, ErrorCode) else reply.code
        if code:
            # Harmless: offsets carry the topic's id, so a new topic does not see them.
            logger.warning("offsets of deleted topics stay for now: %s", code.name)
        return not code and count >= _FORGOTTEN_MAX

    # Looking.

    async def load_group(self, group_id: str) -> ErrorCode:
        """Make sure that what a group has committed is known; else return what to tell it."""
        if not self._partitions:
            return ErrorCode.NONE  # nobody has committed anything
        partition = self._partition_of(group_id)
        await partition.load()
        return ErrorCode.NONE if partition.is_loaded else ErrorCode.COORDINATOR_LOAD_IN_PROGRESS

    def committed(self, group_id: str) -> GroupMachine | None:
        """Return the machine that knows what a group committed, or None if nobody ever did.

        Complete only after a successful `load_group`.
        """
        return self._partition_of(group_id).machine if self._partitions else None

    def list_groups(self, states: Sequence[str], types: Sequence[str]) -> list[GroupListing]:
        """Return all groups, or those in one of the states and of one of the types."""
        return [
            listing
            for partition in self._partitions
            for listing in partition.machine.list_groups(states, types)
        ]

    def listing_fault(self) -> ErrorCode:
        """Return why `list_groups` may not be complete now; NONE if it is."""
        if all(partition.is_loaded for partition in self._partitions):
            return ErrorCode.NONE
        return ErrorCode.COORDINATOR_LOAD_IN_PROGRESS

    def describe(self, group_id: str) -> GroupDescription | None:
        """Return a group with its members, or None if there is no such group."""
        return self._partition_of(group_id).machine.describe(group_id) if self._partitions else None

    def summaries(self) -> Iterator[GroupSummary]:
        """Yield every group that is known now, by name, for statistics.

        Others may run in between; groups that are gone when it is their turn are left out.
        """
        known = [
            (group_id, partition)
            for partition in self._partitions
            for group_id in partition.machine.group_ids
        ]
        for group_id, partition in sorted(known, key=_FIRST):
            machine = partition.machine
            members = machine.member_count_of(group_id)
            if members is not None:
                yield GroupSummary(group_id, members, machine.fetch_all(group_id))

    async def shorten_logs(self) -> None:
        """Keep ``__consumer_offsets`` within about two segments for each partition."""
        for partition in self._partitions:
            await partition.shorten_log()

    # Partitions.

    def _is_closed(self) -> bool:
        return self._closed  # may change at every await

    async def _partition_for(self, group_id: str) -> GroupsPartition | ErrorCode:
        if self._is_closed():
            return ErrorCode.NOT_COORDINATOR
        if not self._partitions:
            await self._create()
        if not self._partitions:
            return ErrorCode.COORDINATOR_NOT_AVAILABLE
        partition = self._partition_of(group_id)
        await partition.load()
        if self._is_closed():
            return ErrorCode.NOT_COORDINATOR  # meanwhile: nobody would end what it asks for
        return partition if partition.is_loaded else ErrorCode.COORDINATOR_LOAD_IN_PROGRESS

    def _partition_of(self, group_id: str) -> GroupsPartition:
        return self._partitions[offsets_partition(group_id, len(self._partitions))]

    async def _create(self) -> None:
        """Create ``__consumer_offsets``, which is not needed before somebody commits."""
        group = self._state.config.group
        async with self._creating:
            if self._partitions:
                return
            wanted = NewTopic(
                name=OFFSETS_TOPIC_NAME,
                partitions=group.offsets_topic_partitions,
                configs=(
                    ("durability", "fsync"),
                    ("retention.ms", "-1"),
                    ("retention.bytes", "-1"),
                    ("segment.bytes", str(group.offsets_topic_segment_bytes)),
                ),
            )
            [result] = await self._state.controller.create_topics([wanted])
            routed = self._state.router.by_name.get(OFFSETS_TOPIC_NAME)
            if routed is None:
                what = f"cannot create {OFFSETS_TOPIC_NAME}: {result.message}"
                self._state.paced(logger).log(logging.ERROR, "create", what)
            elif routed.is_made:  # else whoever asks next
                await self._take_over(routed)

    async def _take_over(self, routed: RoutedTopic) -> None:
        partitions = [
            GroupsPartition(self._state, index, replica, self._total, self._woken)
            for index, replica in enumerate(routed.replicas)
        ]
        for partition in partitions:
            await partition.load()
        self._partitions = partitions
        self._earlier.set()
