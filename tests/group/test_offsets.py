"""Committed offsets against a dictionary, with every record going through bytes."""

from __future__ import annotations

from uuid import UUID

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from trio_broker.group.offsets import CommittedOffsets
from trio_broker.group.schemas import (
    CoordinatorRecord,
    OffsetCommitKey,
    OffsetCommitValue,
    decode_key,
    decode_offset_commit_value,
    encode_offset_commit_key,
    encode_offset_commit_value,
)
from trio_broker.names import ZERO_TOPIC_ID, TopicName

ORDERS, PRICES = TopicName("orders"), TopicName("prices")


def value_of(
    offset: int, *, epoch: int = -1, metadata: str = "", topic_id: UUID = ZERO_TOPIC_ID
) -> OffsetCommitValue:
    return OffsetCommitValue(offset, epoch, metadata, 1000, -1, topic_id)


def test_what_is_committed_can_be_fetched() -> None:
    state = CommittedOffsets()
    value = value_of(42, epoch=3, metadata="here")
    state.apply(OffsetCommitKey("g", ORDERS, 0), value)
    assert state.fetch("g", ORDERS, 0) == value
    assert state.fetch("g", ORDERS, 1) is None
    assert state.fetch("g", PRICES, 0) is None
    assert state.fetch("h", ORDERS, 0) is None
    assert state.fetch_all("g") == {ORDERS: {0: value}}
    assert state.fetch_all("h") == {}
    assert repr(state) == "<CommittedOffsets of 1 groups>"
    state.apply(OffsetCommitKey("g", ORDERS, 0), value_of(2))  # the newest, also if it goes back
    assert state.fetch_all("g") == {ORDERS: {0: value_of(2)}}


def test_an_offset_of_an_earlier_incarnation_does_not_count() -> None:
    state = CommittedOffsets()
    first, second = UUID(int=1), UUID(int=2)
    state.apply(OffsetCommitKey("g", ORDERS, 0), value_of(7, topic_id=first))
    assert state.fetch("g", ORDERS, 0, first) is not None
    assert state.fetch("g", ORDERS, 0, second) is None
    assert state.fetch("g", ORDERS, 0) is not None


GROUPS = st.sampled_from(["", "a", "b"])
TOPICS = st.sampled_from([ORDERS, PRICES])
PARTITIONS = st.integers(0, 2)


class OffsetsAgainstDictionary(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.state = CommittedOffsets()
        self.model: dict[tuple[str, str, int], OffsetCommitValue] = {}
        self.log: list[CoordinatorRecord] = []

    def store(self, key: OffsetCommitKey, value: OffsetCommitValue | None) -> None:
        encoded = None if value is None else encode_offset_commit_value(value)
        self.log.append(CoordinatorRecord(encode_offset_commit_key(*key), encoded))
        self.replay(self.log[-1])

    def replay(self, record: CoordinatorRecord) -> None:
        key = decode_key(record.key)
        assert isinstance(key, OffsetCommitKey)
        value = None if record.value is None else decode_offset_commit_value(record.value)
        self.state.apply(key, value)

    @rule(
        group_id=GROUPS,
        topic=TOPICS,
        partition=PARTITIONS,
        offset=st.integers(0, 99),
        metadata=st.text(max_size=3),
        topic_id=st.sampled_from([ZERO_TOPIC_ID, UUID(int=5)]),
    )
    def commit(
        self,
        group_id: str,
        topic: TopicName,
        partition: int,
        offset: int,
        metadata: str,
        topic_id: UUID,
    ) -> None:
        value = value_of(offset, metadata=metadata, topic_id=topic_id)
        self.store(OffsetCommitKey(group_id, topic, partition), value)
        self.model[group_id, topic, partition] = value

    @rule(group_id=GROUPS, topic=TOPICS, partition=PARTITIONS)
    def forget(self, group_id: str, topic: TopicName, partition: int) -> None:
        """Also what was never there: tombstones of a shortened log."""
        self.store(OffsetCommitKey(group_id, topic, partition), None)
        self.model.pop((group_id, topic, partition), None)

    @rule(compacted=st.booleans())
    def restart(self, compacted: bool) -> None:
        if compacted:
            self.log = list(self.state.live_records())
            assert len(self.log) == len(self.model)
        self.state = CommittedOffsets()
        for record in self.log:
            self.replay(record)

    @invariant()
    def both_hold_the_same(self) -> None:
        held = {
            (group_id, topic, partition): value
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
