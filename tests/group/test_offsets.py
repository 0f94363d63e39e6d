"""Committed offsets against a dictionary, with every record going through bytes."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from trio_broker.errors import CorruptRecords, ErrorCode
from trio_broker.group.decision import CoordinatorRecord, Decision
from trio_broker.group.offsets import CommittedOffsets, OffsetToCommit
from trio_broker.group.schemas import encode_offset_commit_key
from trio_broker.names import TopicName

ORDERS, PRICES = TopicName("orders"), TopicName("prices")


def new_state(groups_max: int = 100, metadata_bytes_max: int = 4096) -> CommittedOffsets:
    return CommittedOffsets(groups_max=groups_max, metadata_bytes_max=metadata_bytes_max)


def replay(state: CommittedOffsets, decision: Decision[Any]) -> None:
    for key, value in decision.records:
        state.replay(key, value)


def commit(
    state: CommittedOffsets, group_id: str, *offsets: OffsetToCommit, **arguments: Any
) -> list[ErrorCode]:
    arguments = {"now_ms": 1000, **arguments}
    decision = state.handle_commit(group_id=group_id, offsets=offsets, **arguments)
    replay(state, decision)
    return decision.reply


def test_a_commit_is_there_once_its_records_are_replayed() -> None:
    state = new_state()
    offset = OffsetToCommit(ORDERS, 0, 42, leader_epoch=3, metadata="here")
    decision = state.handle_commit(group_id="g", offsets=[offset], now_ms=1000)
    assert decision.reply == [ErrorCode.NONE]
    assert decision.wake_at_ms is None
    assert state.fetch("g", ORDERS, 0) is None
    replay(state, decision)
    committed = state.fetch("g", ORDERS, 0)
    assert committed is not None
    assert committed[:4] == (42, 3, "here", 1000)
    assert state.fetch("g", ORDERS, 1) is None
    assert state.fetch("g", PRICES, 0) is None
    assert state.fetch("h", ORDERS, 0) is None
    assert state.fetch_all("g") == {ORDERS: {0: committed}}
    assert state.fetch_all("h") == {}
    assert repr(state) == "<CommittedOffsets of 1 groups>"


def test_the_newest_commit_counts_even_if_it_goes_back() -> None:
    state = new_state()
    for position in (5, 9, 2):
        commit(state, "g", OffsetToCommit(ORDERS, 0, position))
    committed = state.fetch("g", ORDERS, 0)
    assert committed is not None
    assert committed.offset == 2


def test_metadata_that_is_too_long_fails_alone() -> None:
    state = new_state(metadata_bytes_max=4)
    codes = commit(
        state,
        "g",
        OffsetToCommit(ORDERS, 0, 1, metadata="\u00e9\u00e9"),
        OffsetToCommit(ORDERS, 1, 2, metadata="\u00e9\u00e9x"),
        OffsetToCommit(ORDERS, 2, 3, metadata=None),
    )
    assert codes == [ErrorCode.NONE, ErrorCode.OFFSET_METADATA_TOO_LARGE, ErrorCode.NONE]
    assert set(state.fetch_all("g")[ORDERS]) == {0, 2}


def test_the_formats_own_limit_holds_where_the_configured_one_is_larger() -> None:
    state = new_state(metadata_bytes_max=2**31 - 1)
    assert commit(state, "g", OffsetToCommit(ORDERS, 0, 1, metadata="x" * 32768)) == [
        ErrorCode.OFFSET_METADATA_TOO_LARGE
    ]
    assert commit(state, "g", OffsetToCommit(ORDERS, 0, 1, metadata="x" * 32767)) == [
        ErrorCode.NONE
    ]
    assert commit(state, "g" * 32768, OffsetToCommit(ORDERS, 0, 1)) == [ErrorCode.INVALID_GROUP_ID]


def test_a_generation_needs_a_group_that_has_members() -> None:
    state = new_state()
    offsets = [OffsetToCommit(ORDERS, 0, 1), OffsetToCommit(ORDERS, 1, 1)]
    assert commit(state, "g", *offsets, generation=3) == [ErrorCode.ILLEGAL_GENERATION] * 2
    commit(state, "g", offsets[0])
    assert commit(state, "g", *offsets, generation=3) == [ErrorCode.UNKNOWN_MEMBER_ID] * 2
    assert set(state.fetch_all("g")[ORDERS]) == {0}


def test_groups_are_bounded() -> None:
    state = new_state(groups_max=2)
    offset = OffsetToCommit(ORDERS, 0, 1)
    assert commit(state, "a", offset) == commit(state, "", offset) == [ErrorCode.NONE]
    assert commit(state, "c", offset) == [ErrorCode.POLICY_VIOLATION]
    assert commit(state, "a", offset) == [ErrorCode.NONE]
    replay(state, state.handle_group_deleted("a"))
    assert commit(state, "c", offset) == [ErrorCode.NONE]
    assert set(state.group_ids) == {"", "c"}


def test_a_topic_takes_its_offsets_with_it() -> None:
    state = new_state()
    for group_id in ("a", "b"):
        commit(state, group_id, OffsetToCommit(ORDERS, 0, 1), OffsetToCommit(ORDERS, 1, 1))
    commit(state, "b", OffsetToCommit(PRICES, 0, 1))
    decision = state.handle_topics_deleted([ORDERS, TopicName("other")])
    assert decision.reply == 4
    replay(state, decision)
    assert state.group_ids == ("b",)
    assert list(state.fetch_all("b")) == [PRICES]


def test_an_offset_of_an_earlier_incarnation_does_not_count() -> None:
    state = new_state()
    first, second = UUID(int=1), UUID(int=2)
    commit(state, "g", OffsetToCommit(ORDERS, 0, 7, topic_id=first))
    assert state.fetch("g", ORDERS, 0, first) is not None
    assert state.fetch("g", ORDERS, 0, second) is None
    assert state.fetch("g", ORDERS, 0) is not None


def test_deleting_an_unknown_group_is_an_error() -> None:
    assert new_state().handle_group_deleted("g").reply is ErrorCode.GROUP_ID_NOT_FOUND


def test_offsets_expire_by_the_brokers_time_or_their_own() -> None:
    state = new_state()
    commit(state, "g", OffsetToCommit(ORDERS, 0, 1), now_ms=1000)
    commit(state, "g", OffsetToCommit(ORDERS, 1, 1), now_ms=1000, retention_ms=10)
    commit(state, "g", OffsetToCommit(ORDERS, 2, 1), now_ms=1001, retention_ms=500)

    def expire(now_ms: int, records_max: int = 1000) -> int:
        decision = state.handle_expiry(now_ms=now_ms, retention_ms=100, records_max=records_max)
        replay(state, decision)
        return decision.reply

    assert expire(1009) == 0
    assert expire(1010) == 1
    assert set(state.fetch_all("g")[ORDERS]) == {0, 2}
    assert expire(1100) == 1
    assert expire(5000) == 1
    assert state.group_ids == ()
    commit(state, "g", OffsetToCommit(ORDERS, 0, 1), now_ms=9000, retention_ms=0)
    assert expire(9000) == 1
    for partition in range(5):
        commit(state, "g", OffsetToCommit(ORDERS, partition, 1))
    assert [expire(9000, records_max=2) for _ in range(3)] == [2, 2, 1]


def test_records_of_other_kinds_are_skipped_and_damaged_ones_change_nothing() -> None:
    state = new_state()
    state.replay(b"\x00\x02\x00\x01g", b"whatever")
    assert state.group_ids == ()
    with pytest.raises(CorruptRecords):
        state.replay(encode_offset_commit_key("g", "t", 0), b"\x00\x03")
    with pytest.raises(CorruptRecords):
        state.replay(b"\x00", None)
    assert state.group_ids == ()
    state.replay(encode_offset_commit_key("g", "t", 0), None)  # of something never seen
    assert state.group_ids == ()


GROUPS = st.sampled_from(["", "a", "b"])
TOPICS = st.sampled_from([ORDERS, PRICES])
PARTITIONS = st.integers(0, 2)


class OffsetsAgainstDictionary(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.state = new_state()
        self.model: dict[tuple[str, str, int], tuple[int, str]] = {}
        self.log: list[CoordinatorRecord] = []

    def carry_out(self, decision: Decision[Any]) -> None:
        replay(self.state, decision)
        self.log.extend(decision.records)

    @rule(
        group_id=GROUPS,
        offsets=st.lists(st.tuples(TOPICS, PARTITIONS, st.integers(0, 99), st.text(max_size=3))),
    )
    def commit(self, group_id: str, offsets: list[tuple[TopicName, int, int, str]]) -> None:
        self.carry_out(
            self.state.handle_commit(
                group_id=group_id,
                offsets=[OffsetToCommit(t, p, o, metadata=m) for t, p, o, m in offsets],
                now_ms=0,
            )
        )
        for topic, partition, offset, metadata in offsets:
            self.model[group_id, topic, partition] = (offset, metadata)

    @rule(topic=TOPICS)
    def delete_topic(self, topic: TopicName) -> None:
        self.carry_out(self.state.handle_topics_deleted([topic]))
        self.model = {key: value for key, value in self.model.items() if key[1] != topic}

    @rule(group_id=GROUPS)
    def delete_group(self, group_id: str) -> None:
        self.carry_out(self.state.handle_group_deleted(group_id))
        self.model = {key: value for key, value in self.model.items() if key[0] != group_id}

    @rule(compacted=st.booleans())
    def restart(self, compacted: bool) -> None:
        if compacted:
            self.log = list(self.state.live_records())
            assert len(self.log) == len(self.model)
        self.state = new_state()
        for key, value in self.log:
            self.state.replay(key, value)

    @invariant()
    def both_hold_the_same(self) -> None:
        held = {
            (group_id, topic, partition): (value.offset, value.metadata)
            for group_id in self.state.group_ids
            for topic, partitions in self.state.fetch_all(group_id).items()
            for partition, value in partitions.items()
        }
        assert held == self.model
        assert set(self.state.group_ids) == {key[0] for key in self.model}


def test_random_commits_deletions_and_restarts() -> None:
    run_state_machine_as_test(
        OffsetsAgainstDictionary, settings=settings(max_examples=40, stateful_step_count=15)
    )
