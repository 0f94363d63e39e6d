"""What groups have committed, as the log of one partition of ``__consumer_offsets`` says it.

Holds the state and decides nothing: `commits` decides, and `registry` lets in what is stored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from trio_broker.group.schemas import (
    CoordinatorRecord,
    OffsetCommitKey,
    OffsetCommitValue,
    encode_offset_commit_key,
    encode_offset_commit_value,
)
from trio_broker.names import ZERO_TOPIC_ID, TopicName

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from uuid import UUID


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


#: About what one committed offset takes besides its metadata, names being shared by many.
_OFFSET_BYTES = 400


def size_bytes_with(metadata: str) -> int:
    """Return about how much memory an offset takes that is committed with these words."""
    return _OFFSET_BYTES + len(metadata)


def offset_size_bytes(value: OffsetCommitValue | None) -> int:
    """Return about how much memory a committed offset takes; None: there is none."""
    return 0 if value is None else size_bytes_with(value.metadata)


class CommittedOffsets:
    """All committed offsets of one partition of ``__consumer_offsets``."""

    def __init__(self) -> None:
        self._groups: dict[str, dict[TopicName, dict[int, OffsetCommitValue]]] = {}

    def __repr__(self) -> str:
        return f"<CommittedOffsets of {len(self._groups)} groups>"

    @property
    def group_ids(self) -> tuple[str, ...]:
        """Groups with at least one committed offset."""
        return tuple(self._groups)

    def apply(self, key: OffsetCommitKey, committed: OffsetCommitValue | None) -> int:
        """Take in a record that is in the log and already decoded; None forgets the offset.

        Returns:
            How many bytes more are taken.
        """
        group_id, topic, partition = key
        before = self._groups.get(group_id, {}).get(topic, {}).get(partition)
        grown_bytes = offset_size_bytes(committed) - offset_size_bytes(before)
        if committed is not None:
            group = self._groups.setdefault(group_id, {})
            group.setdefault(topic, {})[partition] = committed
            return grown_bytes
        partitions = self._groups.get(group_id, {}).get(topic, {})
        partitions.pop(partition, None)
        if not partitions and group_id in self._groups:
            self._groups[group_id].pop(topic, None)
            if not self._groups[group_id]:
                del self._groups[group_id]
        return grown_bytes

    def apply_commit(
        self, group_id: str, values: Mapping[TopicName, Mapping[int, OffsetCommitValue]]
    ) -> int:
        """Take in all offsets of a commit that is in the log; there is at least one.

        Returns:
            How many bytes more are taken.
        """
        group = self._groups.setdefault(group_id, {})
        grown_bytes = 0
        for topic, new in values.items():
            known = group.setdefault(topic, {})
            for partition, value in new.items():
                before = known.get(partition)
                if before is None:
                    grown_bytes += _OFFSET_BYTES + len(value.metadata)
                else:
                    grown_bytes += len(value.metadata) - len(before.metadata)
            known.update(new)
        return grown_bytes

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

        Not to be interleaved with `apply`.
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
