from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trio_broker.group.assignors import (
    ASSIGNORS,
    CooperativeStickyAssignor,
    GroupMember,
    RangeAssignor,
)
from trio_broker.group.consumer_protocol import AssignedPartition, Subscription
from trio_broker.names import TopicName

#: Of 60,000 random groups 54 % settled at once, 45 % in two steps, 0.2 % in three.
STEPS_MAX = 4
RANGE, STICKY = RangeAssignor(), CooperativeStickyAssignor()


def member(topics: str, owned: str = "", instance: str | None = None, **more: Any) -> GroupMember:
    """Build a member: topics as letters, what it owns as ``a0 a1``."""
    return GroupMember(
        subscription=Subscription(
            topics=tuple(TopicName(topic) for topic in topics), owned=places(owned), **more
        ),
        group_instance_id=instance,
    )


def places(text: str) -> tuple[AssignedPartition, ...]:
    return tuple(AssignedPartition(TopicName(word[0]), int(word[1:])) for word in text.split())


def counts(**topics: int) -> dict[TopicName, int]:
    return {TopicName(topic): count for topic, count in topics.items()}


def shown(assigned: dict[str, list[AssignedPartition]]) -> dict[str, str]:
    return {
        member_id: " ".join(f"{topic}{partition}" for topic, partition in sorted(owned))
        for member_id, owned in assigned.items()
    }


# --- range -------------------------------------------------------------------------------------
def test_ranges_of_each_topic() -> None:
    members = {"y": member("ab"), "x": member("ab"), "z": member("b")}
    assert shown(RANGE.assign(counts(a=3, b=7), members)) == {
        "x": "a0 a1 b0 b1 b2",
        "y": "a2 b3 b4",
        "z": "b5 b6",
    }


def test_topics_that_are_not_there_and_members_too_many() -> None:
    members = {"x": member("an"), "y": member("a"), "z": member("")}
    assert shown(RANGE.assign(counts(a=1), members)) == {"x": "a0", "y": "", "z": ""}
    assert RANGE.assign(counts(a=1), {}) == {}


def test_static_members_keep_their_ranges_under_new_ids() -> None:
    before = {"z": member("a", instance="1"), "y": member("a", instance="2"), "x": member("a")}
    after = {"a": member("a", instance="1"), "b": member("a", instance="2"), "0": member("a")}
    assert shown(RANGE.assign(counts(a=3), before)) == {"z": "a0", "y": "a1", "x": "a2"}
    assert shown(RANGE.assign(counts(a=3), after)) == {"a": "a0", "b": "a1", "0": "a2"}


# --- cooperative-sticky ------------------------------------------------------------------------
def test_a_fresh_group_is_balanced() -> None:
    members = {"x": member("ab"), "y": member("ab")}
    assert shown(STICKY.assign(counts(a=2, b=3), members)) == {"x": "a0 b0 b2", "y": "a1 b1"}


def test_what_moves_is_free_for_one_generation() -> None:
    members = {"x": member("a", "a0 a1 a2 a3", generation=1), "y": member("a")}
    first = STICKY.assign(counts(a=4), members)
    assert shown(first) == {"x": "a0 a1", "y": ""}
    members = {"x": member("a", "a0 a1", generation=2), "y": member("a", generation=2)}
    assert shown(STICKY.assign(counts(a=4), members)) == {"x": "a0 a1", "y": "a2 a3"}


def test_the_newest_claim_counts_and_equal_claims_do_not() -> None:
    members = {"x": member("a", "a0", generation=4), "y": member("a", "a0 a1", generation=5)}
    assert shown(STICKY.assign(counts(a=2), members)) == {"x": "", "y": "a0"}  # a1 moves to x
    members = {"x": member("a", "a0", generation=5), "y": member("a", "a0 a1", generation=5)}
    assert shown(STICKY.assign(counts(a=2), members)) == {"x": "a0", "y": "a1"}


def test_the_generation_may_be_in_the_user_data() -> None:
    newer, older = STICKY.user_data(5), STICKY.user_data(4)
    assert newer == b"\x00\x00\x00\x05"
    members = {"x": member("a", "a0", user_data=older), "y": member("a", "a0", user_data=newer)}
    assert shown(STICKY.assign(counts(a=1), members)) == {"x": "", "y": "a0"}
    members = {"x": member("a", "a0", user_data=b"?"), "y": member("a", "a0", user_data=newer)}
    assert shown(STICKY.assign(counts(a=1), members)) == {"x": "", "y": "a0"}


def test_what_is_owned_but_not_wanted_or_not_there_is_given_up() -> None:
    members = {"x": member("a", "a0 a9 b0 n0", generation=1), "y": member("ab", generation=1)}
    assert shown(STICKY.assign(counts(a=2, b=1), members)) == {"x": "a0 a1", "y": ""}
    members = {"x": member("a", "a0 a1", generation=2), "y": member("ab", generation=2)}
    assert shown(STICKY.assign(counts(a=2, b=1), members)) == {"x": "a0 a1", "y": "b0"}


def test_members_with_less_choice_come_first() -> None:
    members = {"x": member("ab"), "y": member("b")}
    assert shown(STICKY.assign(counts(a=3, b=3), members)) == {"x": "a0 a1 a2", "y": "b0 b1 b2"}


def test_names_and_user_data() -> None:
    assert list(ASSIGNORS) == ["range", "cooperative-sticky"]
    assert RANGE.user_data(3) is None
    assert STICKY.is_cooperative
    assert not RANGE.is_cooperative


@st.composite
def groups(draw: st.DrawFn) -> tuple[dict[TopicName, int], dict[str, GroupMember]]:
    partition_counts = {TopicName(t): draw(st.integers(0, 8)) for t in "abc"}
    members = {}
    for name in draw(st.lists(st.sampled_from("uvwxyz"), min_size=1, unique=True)):
        topics = draw(st.sets(st.sampled_from("abcn"), min_size=1))
        owned = draw(
            st.lists(
                st.builds(AssignedPartition, st.sampled_from("abn"), st.integers(0, 9)),
                unique=True,
                max_size=6,
            )
        )
        members[name] = GroupMember(
            subscription=Subscription(
                topics=tuple(TopicName(t) for t in sorted(topics)),
                owned=tuple(owned),
                generation=draw(st.integers(-1, 2)),
            )
        )
    return partition_counts, members


@given(groups())
def test_range_assigns_all_once_to_subscribers(
    group: tuple[dict[TopicName, int], dict[str, GroupMember]],
) -> None:
    partition_counts, members = group
    assigned = RANGE.assign(partition_counts, members)
    everything = check_assigned(assigned, members)
    assert everything == wanted(partition_counts, members)


#: Made a third step necessary: b1, free in the second, went to another member than planned.
STALE_OWNER = (
    counts(a=0, b=3, c=6),
    {
        "u": member("a", "b1", generation=0),
        "v": member("b", generation=0),
        "w": member("c", generation=0),
        "x": member("abc", generation=0),
    },
)


@given(groups())
@example(STALE_OWNER)
def test_cooperative_sticky_settles_balanced(
    group: tuple[dict[TopicName, int], dict[str, GroupMember]],
) -> None:
    partition_counts, members = group
    assigned = STICKY.assign(partition_counts, dict(reversed(members.items())))
    assert assigned == STICKY.assign(partition_counts, members)
    check_assigned(assigned, members)
    for member_id, partitions in assigned.items():
        for place in partitions:
            claimants = {m for m in members if place in members[m].subscription.owned}
            assert not claimants or member_id in claimants, "it is still another member's"
    settled, steps = assigned, 1
    while check_assigned(settled, members) != wanted(partition_counts, members):
        assert steps < STEPS_MAX, "it does not settle"
        settled = STICKY.assign(partition_counts, having(members, settled, 2 + steps))
        steps += 1
    loads = {member_id: len(partitions) for member_id, partitions in settled.items()}
    for member_id, partitions in settled.items():
        for topic, _ in partitions:
            for other_id, other in members.items():
                if topic in other.subscription.topics:
                    assert loads[member_id] - loads[other_id] < 2, "not balanced"
    again = STICKY.assign(partition_counts, having(members, settled, 9))
    assert again == settled, "not sticky"


def having(
    members: dict[str, GroupMember], assigned: dict[str, list[AssignedPartition]], generation: int
) -> dict[str, GroupMember]:
    """Return the members as they join again after an assignment."""
    return {
        member_id: GroupMember(
            subscription=Subscription(
                topics=old.subscription.topics,
                owned=tuple(assigned[member_id]),
                generation=generation,
            )
        )
        for member_id, old in members.items()
    }


def wanted(
    partition_counts: dict[TopicName, int], members: dict[str, GroupMember]
) -> set[AssignedPartition]:
    topics = {topic for m in members.values() for topic in m.subscription.topics}
    return {
        AssignedPartition(topic, partition)
        for topic in topics
        for partition in range(partition_counts.get(topic, 0))
    }


def check_assigned(
    assigned: dict[str, list[AssignedPartition]], members: dict[str, GroupMember]
) -> set[AssignedPartition]:
    assert assigned.keys() == members.keys()
    for member_id, partitions in assigned.items():
        assert {topic for topic, _ in partitions} <= set(members[member_id].subscription.topics)
    everything = [place for partitions in assigned.values() for place in partitions]
    assert len(everything) == len(set(everything)), "a partition is assigned twice"
    return set(everything)


@pytest.mark.parametrize("left", [1, 2])
def test_few_partitions_move_when_members_leave(left: int) -> None:
    names = [f"m{number}" for number in range(5)]
    topics = counts(a=12, b=8)
    before = STICKY.assign(topics, {name: member("ab") for name in names})
    staying = {name: member("ab") for name in names[left:]}
    after = STICKY.assign(topics, having(staying, before, 1))
    assert {len(after[name]) for name in staying} <= {20 // len(staying), 20 // len(staying) + 1}
    for name in staying:
        assert set(before[name]) <= set(after[name])
