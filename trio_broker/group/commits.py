"""Decides what is committed and forgotten: OffsetCommit, OffsetDelete, DeleteGroups, expiry.

After Apache Kafka's OffsetMetadataManager and ClassicGroup.validateOffsetCommit. Offsets change
only when the records are stored. What is still on its way into the log counts where something is
deleted, so that it does not come back, and is left alone where something would expire.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from trio_broker.errors import ErrorCode
from trio_broker.group.classic_group import ClassicGroup, GroupState
from trio_broker.group.commands import CodesReply, CommitOffsets
from trio_broker.group.offsets import offset_size_bytes, size_bytes_with
from trio_broker.group.schemas import (
    SCHEMA_STRING_BYTES_MAX,
    GroupMetadataKey,
    OffsetCommitKey,
    OffsetCommitValue,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from collections.abc import Set as AbstractSet
    from uuid import UUID

    from trio_broker.group.membership import Membership
    from trio_broker.group.prepared_commit import PreparedCommit
    from trio_broker.group.registry import Groups
    from trio_broker.group.turn import Turn
    from trio_broker.names import TopicName

#: What a client is told when its offsets could not be stored, as Kafka translates it.
_TRANSLATED = {
    ErrorCode.UNKNOWN_TOPIC_OR_PARTITION: ErrorCode.COORDINATOR_NOT_AVAILABLE,
    ErrorCode.LEADER_NOT_AVAILABLE: ErrorCode.COORDINATOR_NOT_AVAILABLE,
    ErrorCode.NOT_ENOUGH_REPLICAS: ErrorCode.COORDINATOR_NOT_AVAILABLE,
    ErrorCode.NOT_LEADER_OR_FOLLOWER: ErrorCode.NOT_COORDINATOR,
    ErrorCode.KAFKA_STORAGE_ERROR: ErrorCode.NOT_COORDINATOR,
    ErrorCode.MESSAGE_TOO_LARGE: ErrorCode.INVALID_COMMIT_OFFSET_SIZE,
    ErrorCode.RECORD_LIST_TOO_LARGE: ErrorCode.INVALID_COMMIT_OFFSET_SIZE,
}


def commit_code(append_code: ErrorCode) -> ErrorCode:
    """Translate why an append failed for somebody who commits."""
    return _TRANSLATED.get(append_code, append_code)


class Commits:
    """Committed offsets of all groups, and the end of groups.

    Args:
        groups: all of the coordinator.
        membership: who is in them.
        offsets_bytes_max: what offsets of all groups may take.
        retention_ms: how long offsets are kept that nobody uses.
    """

    def __init__(
        self,
        groups: Groups,
        membership: Membership,
        *,
        offsets_bytes_max: int,
        retention_ms: int,
    ) -> None:
        self._groups = groups
        self._membership = membership
        self._offsets_bytes_max = offsets_bytes_max
        self._retention_ms = retention_ms

    # --- OffsetCommit ---------------------------------------------------------------------------
    def commit(
        self, turn: Turn, token: object, commit: PreparedCommit, gone: AbstractSet[TopicName]
    ) -> None:
        """Decide an OffsetCommit request."""
        request = commit.request
        group = self._groups.get(request.group_id)
        fault = self._commit_fault(request, group)
        if fault is not ErrorCode.NONE:
            turn.answer(token, CodesReply(ErrorCode.NONE, (fault,) * len(request.offsets)))
            return
        if group is not None and group.state in (
            GroupState.STABLE,
            GroupState.PREPARING_REBALANCE,
        ):
            self._membership.keep_alive(group, request.member_id, turn.now)
        taken_bytes = self._groups.tally.total.offsets_bytes
        if gone or taken_bytes + commit.size_bytes_max > self._offsets_bytes_max:
            codes = self._commit_codes(commit, gone)
            if codes != commit.codes:
                commit = commit.only_where(codes)
        if commit.records:
            turn.commit = commit
        turn.answer_when_stored(
            token, CodesReply(ErrorCode.NONE, commit.codes), _codes_otherwise(commit.codes)
        )

    def _commit_codes(
        self, commit: PreparedCommit, gone: AbstractSet[TopicName]
    ) -> tuple[ErrorCode, ...]:
        """Look at each offset, where topics are gone or what offsets may take is nearly taken."""
        request = commit.request
        taken_bytes = self._groups.tally.total.offsets_bytes
        codes: list[ErrorCode] = []
        for offset, code in zip(request.offsets, commit.codes, strict=True):
            if code is not ErrorCode.NONE:
                codes.append(code)
                continue
            if offset.topic in gone:
                codes.append(request.unknown_topic_code)
                continue
            before = self._groups.offsets.fetch(request.group_id, offset.topic, offset.partition)
            grown_bytes = size_bytes_with(offset.metadata or "") - offset_size_bytes(before)
            if grown_bytes > 0 and taken_bytes + grown_bytes > self._offsets_bytes_max:
                codes.append(ErrorCode.INVALID_COMMIT_OFFSET_SIZE)
                continue
            taken_bytes += grown_bytes
            codes.append(ErrorCode.NONE)
        return tuple(codes)

    def _commit_fault(self, request: CommitOffsets, group: ClassicGroup | None) -> ErrorCode:
        if group is None:
            if request.generation >= 0:
                return request.unknown_group_code
            if len(request.group_id.encode()) > SCHEMA_STRING_BYTES_MAX:
                return ErrorCode.INVALID_GROUP_ID
            return ErrorCode.POLICY_VIOLATION if self._groups.is_full else ErrorCode.NONE
        if request.generation < 0 and group.is_empty:
            # Nobody is a member: somebody assigns partitions by hand, or moves offsets.
            return ErrorCode.NONE
        code = group.check_member(request.member_id, request.group_instance_id)
        if code is not ErrorCode.NONE:
            return code
        if request.generation != group.generation:
            return ErrorCode.ILLEGAL_GENERATION
        if group.state is GroupState.COMPLETING_REBALANCE:
            # The partitions may be another member's by now; the client finishes joining first.
            return ErrorCode.REBALANCE_IN_PROGRESS
        return ErrorCode.NONE

    # --- OffsetDelete, DeleteGroups -------------------------------------------------------------
    def delete_offsets(
        self,
        turn: Turn,
        token: object,
        group_id: str,
        partitions: Sequence[tuple[TopicName, int]],
    ) -> None:
        """Decide an OffsetDelete request."""
        group = self._groups.get(group_id)
        if group is None:
            turn.answer(token, CodesReply(ErrorCode.GROUP_ID_NOT_FOUND))
            return
        if not group.is_empty and not group.is_of_consumers:
            # What such members use cannot be told from their metadata.
            turn.answer(token, CodesReply(ErrorCode.NON_EMPTY_GROUP))
            return
        codes = [
            ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC if group.is_subscribed(topic) else ErrorCode.NONE
            for topic, _ in partitions
        ]
        wanted = {
            place for place, code in zip(partitions, codes, strict=True) if code is ErrorCode.NONE
        }
        for topic, partition in self._places(group):
            if (topic, partition) in wanted:
                turn.write(OffsetCommitKey(group_id, topic, partition), None)
        turn.answer_when_stored(
            token, CodesReply(ErrorCode.NONE, tuple(codes)), _codes_otherwise(codes)
        )

    def delete_groups(self, turn: Turn, token: object, group_ids: Sequence[str]) -> None:
        """Decide a DeleteGroups request."""
        codes: list[ErrorCode] = []
        seen: set[str] = set()
        for group_id in group_ids:
            group = self._groups.get(group_id)
            if group is None:
                codes.append(ErrorCode.GROUP_ID_NOT_FOUND)
            elif not group.is_empty:
                codes.append(ErrorCode.NON_EMPTY_GROUP)
            else:
                codes.append(ErrorCode.NONE)
                if group_id not in seen:
                    seen.add(group_id)
                    self._forget_offsets(turn, group, self._places(group))
                    turn.write(GroupMetadataKey(group_id), None)
                    turn.note(group_id, "deleted")
        turn.answer_when_stored(
            token, CodesReply(ErrorCode.NONE, tuple(codes)), _codes_otherwise(codes)
        )

    def delete_topics(
        self,
        turn: Turn,
        token: object,
        topics: Mapping[TopicName, UUID | None],
        records_max: int,
    ) -> None:
        """Forget what was committed for topics that are gone, as Kafka does."""
        for group in self._groups:
            room = records_max - len(turn.changes)
            self._forget_offsets(turn, group, islice(self._places_of_gone(group, topics), room))
        turn.answer_when_stored(
            token, CodesReply(ErrorCode.NONE), lambda code: CodesReply(commit_code(code))
        )

    # --- expiry ---------------------------------------------------------------------------------
    def expire(self, turn: Turn, *, records_max: int) -> None:
        """Forget offsets that nobody has used for too long, and empty groups without any."""
        for group in self._groups:
            if len(turn.changes) >= records_max:
                return
            self._expire_group(turn, group, records_max)

    def _expire_group(self, turn: Turn, group: ClassicGroup, records_max: int) -> None:
        base_ms = self._idle_since(group)
        if base_ms is None:
            return
        now_ms = turn.now.wall_ms
        remaining_count = 0
        for topic, partitions in self._groups.offsets.fetch_all(group.group_id).items():
            is_used = not group.is_empty and group.is_subscribed(topic)
            for partition, value in partitions.items():
                expires_at_ms = value.expire_timestamp_ms
                if expires_at_ms < 0:
                    expires_at_ms = base_ms(value) + self._retention_ms
                if (
                    is_used
                    or expires_at_ms > now_ms
                    or (topic, partition) in group.offsets_under_way
                    or len(turn.changes) >= records_max
                ):
                    remaining_count += 1
                else:
                    turn.write(OffsetCommitKey(group.group_id, topic, partition), None)
        if (
            not remaining_count
            and group.is_empty
            and not group.pending_members
            and not group.changes_under_way
            and group.stored is not None
        ):
            turn.write(GroupMetadataKey(group.group_id), None)
            turn.note(group.group_id, "forgotten: it has no members and no offsets")

    def _idle_since(self, group: ClassicGroup) -> Callable[[OffsetCommitValue], int] | None:
        """Return since when an offset of a group is not used; None: the group uses all."""
        if group.protocol_type is None:
            return _commit_time
        if group.is_empty:
            # Kafka takes the time of becoming empty alone, and so forgets at once what an
            # operator has just set for a group that was empty for long.
            return lambda value: max(value.commit_timestamp_ms, group.changed_at_ms)
        if group.is_of_consumers and group.subscribed is not None:
            return _commit_time if group.state is GroupState.STABLE else None
        return None

    # --- common ---------------------------------------------------------------------------------
    def _places(self, group: ClassicGroup) -> Iterator[tuple[TopicName, int]]:
        """Yield each (topic, partition) with an offset, stored or on its way into the log."""
        committed = self._groups.offsets.fetch_all(group.group_id)
        for topic, partitions in committed.items():
            for partition in partitions:
                yield topic, partition
        for topic, partition in group.offsets_under_way:
            if partition not in committed.get(topic, {}):
                yield topic, partition

    def _places_of_gone(
        self, group: ClassicGroup, topics: Mapping[TopicName, UUID | None]
    ) -> Iterator[tuple[TopicName, int]]:
        """Yield those of `_places` that are of topics which are gone; see `delete_topics`."""
        committed = self._groups.offsets.fetch_all(group.group_id)
        under_way = group.offsets_under_way
        fewer, more = (committed, topics) if len(committed) < len(topics) else (topics, committed)
        for topic in fewer:
            if topic not in more:
                continue
            living_id = topics[topic]
            for partition, value in committed[topic].items():
                if living_id is None or (
                    value.topic_id != living_id and (topic, partition) not in under_way
                ):
                    yield topic, partition
        for topic, partition in under_way:
            is_gone = topic in topics and topics[topic] is None
            if is_gone and partition not in committed.get(topic, {}):
                yield topic, partition

    def _forget_offsets(
        self, turn: Turn, group: ClassicGroup, places: Iterator[tuple[TopicName, int]]
    ) -> None:
        for topic, partition in places:
            turn.write(OffsetCommitKey(group.group_id, topic, partition), None)


def _commit_time(value: OffsetCommitValue) -> int:
    return value.commit_timestamp_ms


def _codes_otherwise(codes: Sequence[ErrorCode]) -> Callable[[ErrorCode], CodesReply]:
    """Return what to answer if the records are not stored: refusals stay what they were."""
    kept = tuple(codes)
    return lambda append_code: CodesReply(
        ErrorCode.NONE, tuple(code or commit_code(append_code) for code in kept)
    )
