"""All groups of one coordinator, and what of them is durable.

Two things are kept apart. What the log says (committed offsets, and the stored generation of each
group) changes only by `apply`, in the order of the log. Who is a member right now is in the
`ClassicGroup` objects, which the rules in `membership` and `rebalance` change at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_broker.group.classic_group import ClassicGroup, Tally
from trio_broker.group.group_metadata import GroupMetadata, encode_group_metadata
from trio_broker.group.offsets import CommittedOffsets
from trio_broker.group.schemas import (
    CoordinatorRecord,
    GroupMetadataKey,
    OffsetCommitKey,
    OffsetCommitValue,
    encode_group_metadata_key,
    encode_offset_commit_key,
    encode_offset_commit_value,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from trio_broker.group.prepared_commit import PreparedCommit
    from trio_broker.group.turn import Change


class Groups:
    """The groups by their ids.

    Args:
        groups_max: how many the broker may have.
        total: counts the groups of all partitions; None: this is the only one.

    Attributes:
        offsets: what is committed; changed only here.
        tally: counts these groups and their members.
    """

    def __init__(self, *, groups_max: int, total: Tally | None = None) -> None:
        self._groups_max = groups_max
        self._groups: dict[str, ClassicGroup] = {}
        self.offsets = CommittedOffsets()
        self.tally = Tally(total)

    def __len__(self) -> int:
        return len(self._groups)

    def __iter__(self) -> Iterator[ClassicGroup]:
        return iter(self._groups.values())

    @property
    def is_full(self) -> bool:
        """Whether no further group may be created."""
        return self.tally.total.groups >= self._groups_max

    def get(self, group_id: str) -> ClassicGroup | None:
        """Return a group, if there is such a group."""
        return self._groups.get(group_id)

    def get_or_create(self, group_id: str) -> ClassicGroup:
        """Return a group, a new and empty one if need be; limits are the caller's business."""
        group = self._groups.get(group_id)
        if group is None:
            group = self._groups[group_id] = ClassicGroup(group_id, self.tally)
            self.tally.add(groups=1)
        return group

    def forget_if_nothing(self, group: ClassicGroup) -> bool:
        """Drop a group that nothing is known of any more; return whether it was."""
        if (
            group.is_empty
            and not group.pending_members
            and group.stored is None
            and not group.changes_under_way
            and not self.offsets.fetch_all(group.group_id)
        ):
            if self._groups.pop(group.group_id, None) is not None:
                self.tally.add(groups=-1)
            return True
        return False

    def begin(self, changes: Iterable[Change]) -> None:
        """Remember what is on its way into the log."""
        for key, _ in changes:
            group = self.get_or_create(key.group_id)
            group.changes_under_way += 1
            if isinstance(key, OffsetCommitKey):
                group.offsets_under_way[key.topic, key.partition] += 1

    def end(self, changes: Iterable[Change], *, stored: bool) -> None:
        """Take in changes of `begin` that are in the log now, or know that they are not."""
        for key, value in changes:
            group = self._groups[key.group_id]
            group.changes_under_way -= 1
            if isinstance(key, OffsetCommitKey):
                place = (key.topic, key.partition)
                group.offsets_under_way[place] -= 1
                if not group.offsets_under_way[place]:
                    del group.offsets_under_way[place]
            if stored:
                self.apply(key, value)
            self.forget_if_nothing(group)

    def begin_commit(self, commit: PreparedCommit) -> None:
        """Remember offsets that are on their way into the log."""
        group = self.get_or_create(commit.request.group_id)
        group.changes_under_way += len(commit.places)
        group.offsets_under_way.update(commit.places)

    def end_commit(self, commit: PreparedCommit, *, stored: bool) -> None:
        """Take in offsets of `begin_commit` that are in the log now, or know that they are not."""
        group = self._groups[commit.request.group_id]
        group.changes_under_way -= len(commit.places)
        under_way = group.offsets_under_way
        if not group.changes_under_way:
            under_way.clear()  # which takes no time, unlike to count down each of thousands
        else:
            for place in commit.places:
                under_way[place] -= 1
                if not under_way[place]:
                    del under_way[place]
        if stored:
            grown_bytes = self.offsets.apply_commit(group.group_id, commit.values)
            self.tally.add(offsets_bytes=grown_bytes)
        self.forget_if_nothing(group)

    def apply(
        self,
        key: OffsetCommitKey | GroupMetadataKey,
        value: OffsetCommitValue | GroupMetadata | None,
    ) -> None:
        """Take in what the log says, without any effect on who is a member."""
        if isinstance(key, OffsetCommitKey):
            assert not isinstance(value, GroupMetadata)
            if value is not None:
                self.get_or_create(key.group_id)
            self.tally.add(offsets_bytes=self.offsets.apply(key, value))
            return
        assert not isinstance(value, OffsetCommitValue)
        if value is not None:
            self.get_or_create(key.group_id).stored = value
        elif key.group_id in self._groups:
            self._groups[key.group_id].stored = None

    def live_records(self) -> Iterator[CoordinatorRecord]:
        """Yield all that the log says, once: what a compacted log would hold."""
        for group in self._groups.values():
            if group.stored is not None:
                yield CoordinatorRecord(
                    encode_group_metadata_key(group.group_id), encode_group_metadata(group.stored)
                )
        yield from self.offsets.live_records()


def encode_change(change: Change) -> CoordinatorRecord:
    """Encode a change as a record."""
    key, value = change
    if isinstance(key, OffsetCommitKey):
        assert not isinstance(value, GroupMetadata)
        return CoordinatorRecord(
            encode_offset_commit_key(*key),
            None if value is None else encode_offset_commit_value(value),
        )
    assert not isinstance(value, OffsetCommitValue)
    return CoordinatorRecord(
        encode_group_metadata_key(key.group_id),
        None if value is None else encode_group_metadata(value),
    )
