"""A commit that is prepared in pieces writes, and counts, what one in a single piece does."""

from __future__ import annotations

from uuid import UUID

import pytest

from tests.group.harness import WALL_AT_START_MS, Harness, prepared_commit
from trio_broker.errors import ErrorCode
from trio_broker.group import prepared_commit as module
from trio_broker.group.commands import CommitOffsets
from trio_broker.group.offsets import OffsetToCommit
from trio_broker.group.prepared_commit import preparing_commit
from trio_broker.group.schemas import (
    OffsetCommitValue,
    encode_offset_commit_key,
    encode_offset_commit_value,
)
from trio_broker.names import TopicName
from trio_broker.records.build import Record, build_batch, wrap_records

E = ErrorCode
ORDERS, CLICKS = TopicName("orders"), TopicName("clicks")
TOPIC_ID = UUID(int=7)
NOW_MS = 1_700_000_000_000


def request(*offsets: OffsetToCommit, retention_ms: int = -1) -> CommitOffsets:
    return CommitOffsets(group_id="readers", offsets=offsets, retention_ms=retention_ms)


@pytest.mark.parametrize("retention_ms", [-1, 5])
@pytest.mark.parametrize("count", [1, 2, 3, 7, 200])
def test_its_batch_is_that_of_all_records_at_once(
    monkeypatch: pytest.MonkeyPatch, count: int, retention_ms: int
) -> None:
    monkeypatch.setattr(module, "OFFSETS_PER_PIECE", 2)
    offsets = [
        OffsetToCommit(
            ORDERS if index % 3 else CLICKS,
            index,
            index**5,
            index % 2 - 1,
            "x" * 30 if index % 5 == 4 else None,
            TOPIC_ID,
        )
        for index in range(count)
    ]
    preparing = preparing_commit(
        request(*offsets, retention_ms=retention_ms), now_ms=NOW_MS, metadata_bytes_max=20
    )
    pieces = 1
    while True:
        try:
            next(preparing)
            pieces += 1
        except StopIteration as stop:
            commit = stop.value
            break
    assert pieces == (count + 1) // 2
    assert commit.codes == tuple(
        E.OFFSET_METADATA_TOO_LARGE if offset.metadata else E.NONE for offset in offsets
    )
    records = [
        Record(
            key=encode_offset_commit_key("readers", offset.topic, offset.partition),
            value=encode_offset_commit_value(
                OffsetCommitValue(
                    offset.offset,
                    offset.leader_epoch,
                    "",
                    NOW_MS,
                    -1 if retention_ms < 0 else NOW_MS + retention_ms,
                    TOPIC_ID,
                )
            ),
            timestamp_ms=NOW_MS,
        )
        for offset in offsets
        if not offset.metadata
    ]
    assert [tuple(record) for record in commit.records] == [(r.key, r.value) for r in records]
    batch = wrap_records(
        commit.section, len(records), base_timestamp_ms=NOW_MS, max_timestamp_ms=NOW_MS
    )
    assert batch == build_batch(records)


def test_what_is_refused_when_it_is_decided_is_not_in_the_batch() -> None:
    offsets = [OffsetToCommit(ORDERS, index, index, -1, "", TOPIC_ID) for index in range(4)]
    commit = prepared_commit(request(*offsets), now_ms=NOW_MS, metadata_bytes_max=20)
    refused = E.INVALID_COMMIT_OFFSET_SIZE
    left = commit.only_where((E.NONE, refused, E.NONE, refused))
    alone = prepared_commit(request(offsets[0], offsets[2]), now_ms=NOW_MS, metadata_bytes_max=20)
    assert left.codes == (E.NONE, refused, E.NONE, refused)
    assert (left.records, left.section, left.values, left.places, left.size_bytes_max) == (
        alone.records,
        alone.section,
        alone.values,
        alone.places,
        alone.size_bytes_max,
    )


def test_a_partition_that_is_named_twice_gets_its_last_offset_and_counts_once() -> None:
    world = Harness()
    offsets = [
        OffsetToCommit(ORDERS, 0, 1, metadata="x" * 9),
        OffsetToCommit(ORDERS, 0, 2, metadata="y"),
    ]
    commit = prepared_commit(request(*offsets), now_ms=WALL_AT_START_MS, metadata_bytes_max=20)
    world.command(1, lambda: world.machine.commit(1, commit, world.now))
    assert world.codes(1) == (E.NONE, E.NONE)
    assert world.machine.fetch("readers", ORDERS, 0).offset == 2
    counted = world.machine._groups.tally.offsets_bytes
    world.restart()
    assert world.machine._groups.tally.offsets_bytes == counted
    assert world.machine.fetch("readers", ORDERS, 0).offset == 2


@pytest.mark.parametrize("first_is_stored", [True, False])
def test_what_two_commits_have_under_way_is_counted_for_each(first_is_stored: bool) -> None:
    world = Harness(stores_at_once=False)
    world.commit({("t", 0): 1, ("t", 1): 1})
    world.commit({("t", 1): 2, ("t", 2): 2})
    group = world.machine._groups.get("g")
    assert group.changes_under_way == 4
    assert dict(group.offsets_under_way) == {("t", 0): 1, ("t", 1): 2, ("t", 2): 1}
    if first_is_stored:
        world.store()
    else:
        world.refuse()
    assert group.changes_under_way == 2
    assert dict(group.offsets_under_way) == {("t", 1): 1, ("t", 2): 1}
    world.store()
    assert group.changes_under_way == 0
    assert not group.offsets_under_way
    assert [world.offset("t", index) for index in range(3)] == [
        1 if first_is_stored else None,
        2,
        2,
    ]


def test_topics_that_are_gone_when_it_is_decided_are_refused_alone() -> None:
    for version, unknown in ((9, E.UNKNOWN_TOPIC_OR_PARTITION), (10, E.UNKNOWN_TOPIC_ID)):
        world = Harness()
        commit = prepared_commit(
            CommitOffsets(
                group_id="readers",
                api_version=version,
                offsets=(
                    OffsetToCommit(ORDERS, 0, 1),
                    OffsetToCommit(CLICKS, 0, 1),
                    OffsetToCommit(ORDERS, 1, 1, metadata="x" * 50),
                ),
            ),
            now_ms=WALL_AT_START_MS,
            metadata_bytes_max=20,
        )
        decision = world.machine.commit(1, commit, world.now, gone={ORDERS})
        world.carry_out(decision)
        assert world.codes(1) == (unknown, E.NONE, E.OFFSET_METADATA_TOO_LARGE)
        assert len(decision.records) == 1
        everything = world.machine.commit(2, commit, world.now, gone={ORDERS, CLICKS})
        assert not everything.records
        world.carry_out(everything)
        assert world.codes(2) == (unknown, unknown, E.OFFSET_METADATA_TOO_LARGE)


def test_it_is_as_a_whole_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other offsets of it may be small: a commit is there as a whole or not at all."""
    monkeypatch.setattr(module, "OFFSETS_PER_PIECE", 2)
    offsets = [OffsetToCommit(ORDERS, index, index) for index in range(6)]
    commit = prepared_commit(request(*offsets), now_ms=NOW_MS, metadata_bytes_max=20)
    size_bytes = len(commit.section)
    for limit_bytes, code in ((size_bytes, E.NONE), (size_bytes - 1, E.INVALID_COMMIT_OFFSET_SIZE)):
        monkeypatch.setattr(module, "COMMIT_BYTES_MAX", limit_bytes)
        commit = prepared_commit(request(*offsets), now_ms=NOW_MS, metadata_bytes_max=20)
        assert commit.codes == (code,) * 6
        assert bool(commit.records) == bool(commit.section) == (code is E.NONE)
