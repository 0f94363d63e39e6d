"""Committed offsets of groups, as a state machine over one partition of ``__consumer_offsets``.

See `decision` for how it is driven. Task code in `broker/` owns one `CommittedOffsets` per
partition of the topic that this broker leads. Groups here have no members yet: their clients
assign partitions by hand and commit with generation -1 and no member id, which Kafka calls a
simple group (ClassicGroup.validateOffsetCommit, OffsetMetadataManager).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from trio_broker.errors import ErrorCode
from trio_broker.group.decision import CoordinatorRecord, Decision
from trio_broker.group.schemas import (
    SCHEMA_STRING_BYTES_MAX,
    OffsetCommitKey,
    OffsetCommitValue,
    decode_key,
    decode_offset_commit_value,
    encode_offset_commit_key,
    encode_offset_commit_value,
)
from trio_broker.names import ZERO_TOPIC_ID, TopicName

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from uuid import UUID

#: Kafka's "no generation": the client is not a member of the group.
NO_GENERATION = -1


class OffsetToCommit(NamedTuple):
    """One partition of an OffsetCommit request; the caller has checked that it exists.

    Attributes:
        topic: name.
        partition: index.
        offset: of the next record to read.
        leader_epoch: of the last record read, or -1.
        metadata: the client's own words; None is the same as none.
        topic_id: of the topic's present incarnation; zero if the caller keeps none.
    """

    topic: TopicName
    partition: int
    offset: int
    leader_epoch: int = -1
    metadata: str | None = None
    topic_id: UUID = ZERO_TOPIC_ID


class CommittedOffsets:
    """All committed offsets of one partition of ``__consumer_offsets``.

    Args:
        groups_max: most groups that may have offsets here.
        metadata_bytes_max: longest metadata of one offset, in bytes of UTF-8.
    """

    def __init__(self, *, groups_max: int, metadata_bytes_max: int) -> None:
        self._groups_max = groups_max
        self._metadata_bytes_max = min(metadata_bytes_max, SCHEMA_STRING_BYTES_MAX)
        self._groups: dict[str, dict[TopicName, dict[int, OffsetCommitValue]]] = {}

    def __repr__(self) -> str:
        return f"<CommittedOffsets of {len(self._groups)} groups>"

    @property
    def group_ids(self) -> tuple[str, ...]:
        """Groups with at least one committed offset."""
        return tuple(self._groups)

    def handle_commit(
        self,
        *,
        group_id: str,
        offsets: Sequence[OffsetToCommit],
        now_ms: int,
        generation: int = NO_GENERATION,
        retention_ms: int = -1,
    ) -> Decision[list[ErrorCode]]:
        """Decide about an OffsetCommit request.

        Args:
            group_id: may be empty, as Kafka allows for old clients.
            offsets: what to commit.
            now_ms: wall clock.
            generation: of the group that the client says it is a member of.
            retention_ms: keep these offsets this long (only versions 2 to 4 can say so); -1: as
                long as the broker keeps offsets.

        Returns:
            An error code for each of `offsets`; those with NONE are in the records.
        """
        refusal = self._refusal(group_id, generation)
        if refusal is not ErrorCode.NONE:
            return Decision((), [refusal] * len(offsets))
        expire_timestamp_ms = -1 if retention_ms < 0 else now_ms + retention_ms
        records: list[CoordinatorRecord] = []
        codes: list[ErrorCode] = []
        for commit in offsets:
            metadata = commit.metadata or ""
            if len(metadata.encode()) > self._metadata_bytes_max:
                codes.append(ErrorCode.OFFSET_METADATA_TOO_LARGE)
                continue
            codes.append(ErrorCode.NONE)
            value = OffsetCommitValue(
                commit.offset,
                commit.leader_epoch,
                metadata,
                now_ms,
                expire_timestamp_ms,
                commit.topic_id,
            )
            records.append(
                CoordinatorRecord(
                    encode_offset_commit_key(group_id, commit.topic, commit.partition),
                    encode_offset_commit_value(value),
                )
            )
        return Decision(tuple(records), codes)

    def handle_topics_deleted(self, topics: Sequence[TopicName]) -> Decision[int]:
        """Decide what to forget because topics are gone, as Kafka does; reply: how many offsets."""
        records = [
            _tombstone(group_id, topic, partition)
            for group_id, group in self._groups.items()
            for topic in topics
            for partition in group.get(topic, ())
        ]
        return Decision(tuple(records), len(records))

    def handle_group_deleted(self, group_id: str) -> Decision[ErrorCode]:
        """Decide about one group of a DeleteGroups request."""
        group = self._groups.get(group_id)
        if group is None:
            return Decision((), ErrorCode.GROUP_ID_NOT_FOUND)
        records = [
            _tombstone(group_id, topic, partition)
            for topic, partitions in group.items()
            for partition in partitions
        ]
        return Decision(tuple(records), ErrorCode.NONE)

    def handle_expiry(
        self, *, now_ms: int, retention_ms: int, records_max: int = 1000
    ) -> Decision[int]:
        """Decide which offsets have not been committed again for too long.

        Args:
            now_ms: wall clock.
            retention_ms: how long offsets are kept (Kafka: offsets.retention.minutes).
            records_max: forget at most this many now; ask again if the reply is as large.

        Returns:
            Tombstones; the reply is how many.
        """
        records: list[CoordinatorRecord] = []
        for key, value in self._all():
            expire_timestamp_ms = value.expire_timestamp_ms
            if expire_timestamp_ms < 0:
                expire_timestamp_ms = value.commit_timestamp_ms + retention_ms
            if expire_timestamp_ms <= now_ms:
                records.append(_tombstone(*key))
                if len(records) == records_max:
                    break
        return Decision(tuple(records), len(records))

    def replay(self, key: bytes, value: bytes | None) -> None:
        """Take in a record that is in the log; also, in order, all of them after a restart.

        Raises:
            CorruptRecords: these are not the bytes of a key and value; nothing was changed.
        """
        decoded_key = decode_key(key)
        if isinstance(decoded_key, OffsetCommitKey):
            self.apply(decoded_key, None if value is None else decode_offset_commit_value(value))

    def apply(self, key: OffsetCommitKey, committed: OffsetCommitValue | None) -> None:
        """Take in a record that is in the log and already decoded; None forgets the offset."""
        group_id, topic, partition = key
        if committed is not None:
            group = self._groups.setdefault(group_id, {})
            group.setdefault(topic, {})[partition] = committed
            return
        partitions = self._groups.get(group_id, {}).get(topic, {})
        partitions.pop(partition, None)
        if not partitions and group_id in self._groups:
            self._groups[group_id].pop(topic, None)
            if not self._groups[group_id]:
                del self._groups[group_id]

    def fetch(
        self, group_id: str, topic: TopicName, partition: int, topic_id: UUID = ZERO_TOPIC_ID
    ) -> OffsetCommitValue | None:
        """Return what a group committed for a partition, or None.

        Args:
            group_id: the group.
            topic: name of the topic.
            partition: index.
            topic_id: the topic's present incarnation; what was committed for another one under
                the same name does not count. Zero: do not compare.
        """
        committed = self._groups.get(group_id, {}).get(topic, {}).get(partition)
        if committed is None or not committed.is_for(topic_id):
            return None
        return committed

    def fetch_all(self, group_id: str) -> Mapping[TopicName, Mapping[int, OffsetCommitValue]]:
        """Return all that a group committed, by topic and partition; not to be changed."""
        return self._groups.get(group_id, {})

    def live_records(self) -> Iterator[CoordinatorRecord]:
        """Yield one record for each committed offset: what a compacted log would hold.

        Not to be interleaved with `replay`.
        """
        for key, value in self._all():
            yield CoordinatorRecord(
                encode_offset_commit_key(*key), encode_offset_commit_value(value)
            )

    def _all(self) -> Iterator[tuple[OffsetCommitKey, OffsetCommitValue]]:
        for group_id, group in self._groups.items():
            for topic, partitions in group.items():
                for partition, value in partitions.items():
                    yield OffsetCommitKey(group_id, topic, partition), value

    def _refusal(self, group_id: str, generation: int) -> ErrorCode:
        """Say why the client may not commit for this group; NONE if it may."""
        if group_id in self._groups:
            # Nobody can be a member of a group that has none; without a generation it is welcome.
            return ErrorCode.UNKNOWN_MEMBER_ID if generation >= 0 else ErrorCode.NONE
        if generation >= 0:
            return ErrorCode.ILLEGAL_GENERATION
        if len(group_id.encode()) > SCHEMA_STRING_BYTES_MAX:
            return ErrorCode.INVALID_GROUP_ID
        if len(self._groups) >= self._groups_max:
            return ErrorCode.POLICY_VIOLATION
        return ErrorCode.NONE


def _tombstone(group_id: str, topic: TopicName, partition: int) -> CoordinatorRecord:
    return CoordinatorRecord(encode_offset_commit_key(group_id, topic, partition), None)
