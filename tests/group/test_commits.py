"""OffsetCommit, OffsetDelete, DeleteGroups, deleted topics and expiry: one test for each rule."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest

from tests.group.harness import Harness, frozen_state, prepared_commit
from trio_broker.config import DAY_MS, INT64_MAX
from trio_broker.errors import ErrorCode
from trio_broker.group.commands import CodesReply, CommitOffsets
from trio_broker.group.consumer_protocol import Subscription, encode_subscription
from trio_broker.group.offsets import OffsetToCommit
from trio_broker.names import TopicName

E = ErrorCode
T, U = TopicName("t"), TopicName("u")
WEEK_MS = 7 * DAY_MS


def consumers_of(*topics: str) -> dict[str, Any]:
    """Arguments of members of a group of consumers."""
    subscription = Subscription(topics=tuple(TopicName(topic) for topic in topics))
    return {
        "protocol_type": "consumer",
        "protocols": {"range": encode_subscription(subscription)},
        "session_ms": 1_800_000,
    }


def keep_alive(world: Harness, members: list[str], generation: int, ms: int) -> None:
    """Let time pass with heartbeats."""
    for _ in range(ms // 1_700_000):
        world.pass_time(1_700_000)
        for member_id in members:
            assert world.heartbeat(member_id, generation) is E.NONE


def expire(world: Harness, **arguments: int) -> int:
    """Look for expired offsets; return how many records that took."""
    decision = world.machine.expire_offsets(world.now, **arguments)
    world.carry_out(decision)
    return len(decision.records)


# --- OffsetCommit ------------------------------------------------------------------------------
def test_anybody_may_commit_for_a_group_without_members() -> None:
    world = Harness()
    assert world.codes(world.commit({("t", 0): 5, ("u", 1): 7})) == (E.NONE, E.NONE)
    assert (world.offset("t"), world.offset("u", 1), world.offset("u")) == (5, 7, None)
    assert world.state() == "Empty"
    assert world.codes(world.commit({("t", 0): 3}, member_id="somebody")) == (E.NONE,)
    assert world.offset("t") == 3
    assert world.codes(world.commit({("t", 0): 1}, group_id="")) == (E.NONE,)
    assert world.codes(world.commit({})) == ()


def test_a_commit_counts_when_it_is_durable() -> None:
    world = Harness(stores_at_once=False)
    token = world.commit({("t", 0): 5})
    assert token not in world.replies
    assert world.offset("t") is None
    world.store()
    assert world.codes(token) == (E.NONE,)
    assert world.offset("t") == 5


@pytest.mark.parametrize(
    "failure, code",
    [
        (E.KAFKA_STORAGE_ERROR, E.NOT_COORDINATOR),
        (E.NOT_ENOUGH_REPLICAS, E.COORDINATOR_NOT_AVAILABLE),
        (E.MESSAGE_TOO_LARGE, E.INVALID_COMMIT_OFFSET_SIZE),
        (E.UNKNOWN_SERVER_ERROR, E.UNKNOWN_SERVER_ERROR),
    ],
)
def test_a_commit_that_is_not_stored_leaves_nothing(failure: ErrorCode, code: ErrorCode) -> None:
    world = Harness(stores_at_once=False)
    before = frozen_state(world.machine)
    token = world.commit({("t", 0): 5})
    world.refuse(failure)
    assert world.codes(token) == (code,)
    assert frozen_state(world.machine) == before


def test_metadata_that_is_too_long_fails_alone() -> None:
    world = Harness(offset_metadata_bytes_max=4)
    assert world.codes(world.commit({("t", 0): 1}, metadata="\u00e9\u00e9")) == (E.NONE,)
    token = world.commit({("t", 0): 2}, metadata="\u00e9\u00e9x")
    assert world.codes(token) == (E.OFFSET_METADATA_TOO_LARGE,)
    assert world.offset("t") == 1
    world.commit({("t", 0): 3}, metadata="")
    assert world.codes(world.commit({("t", 0): 1}, group_id="g" * 40_000)) == (E.INVALID_GROUP_ID,)


def test_the_format_s_own_limit_holds_where_the_configured_one_is_larger() -> None:
    world = Harness(offset_metadata_bytes_max=1_048_576)
    token = world.commit({("t", 0): 1}, metadata="x" * 32_768)
    assert world.codes(token) == (E.OFFSET_METADATA_TOO_LARGE,)
    assert world.codes(world.commit({("t", 0): 1}, metadata="x" * 32_767)) == (E.NONE,)
    assert world.codes(world.commit({("t", 0): 1}, group_id="g" * 32_767)) == (E.NONE,)


@pytest.mark.parametrize("version, code", [(8, E.ILLEGAL_GENERATION), (9, E.GROUP_ID_NOT_FOUND)])
def test_a_generation_needs_a_group(version: int, code: ErrorCode) -> None:
    world = Harness()
    token = world.commit({("t", 0): 1, ("t", 1): 1}, "somebody", 3, api_version=version)
    assert world.codes(token) == (code, code)
    assert world.machine.group_count == 0


def test_what_is_wrong_with_a_commit_changes_nothing() -> None:
    world = Harness()
    (leader, _), generation = world.stable()
    before = frozen_state(world.machine)
    commit = {("t", 0): 1}
    for token, code in (
        (world.commit(commit), E.UNKNOWN_MEMBER_ID),
        (world.commit(commit, leader), E.ILLEGAL_GENERATION),
        (world.commit(commit, leader, generation - 1), E.ILLEGAL_GENERATION),
        (world.commit(commit, leader, generation + 1), E.ILLEGAL_GENERATION),
        (world.commit(commit, "nobody", generation), E.UNKNOWN_MEMBER_ID),
        (world.commit(commit, "", generation), E.UNKNOWN_MEMBER_ID),
        (world.commit(commit, leader, generation, group_instance_id="i"), E.UNKNOWN_MEMBER_ID),
    ):
        assert world.codes(token) == (code,)
    assert frozen_state(world.machine) == before


def test_members_commit_by_state() -> None:
    world = Harness()
    (leader, follower), generation = world.generation()
    committed = world.commit({("t", 0): 1}, leader, generation)
    assert world.codes(committed) == (E.REBALANCE_IN_PROGRESS,)  # CompletingRebalance
    world.sync(leader, generation)
    world.sync(follower, generation)
    assert world.codes(world.commit({("t", 0): 1}, leader, generation)) == (E.NONE,)  # Stable
    world.join(leader)
    last = world.commit({("t", 1): 2}, follower, generation)
    assert world.codes(last) == (E.NONE,)  # PreparingRebalance: of the last generation
    world.join(follower)
    late = world.commit({("t", 1): 3}, follower, generation)
    assert world.codes(late) == (E.ILLEGAL_GENERATION,)
    assert (world.offset("t"), world.offset("t", 1)) == (1, 2)


def test_a_commit_shows_that_a_member_lives() -> None:
    world = Harness()
    (leader,), generation = world.stable(1)
    for position in range(5):
        world.pass_time(9_999)
        assert world.codes(world.commit({("t", 0): position}, leader, generation)) == (E.NONE,)
    assert world.state() == "Stable"


def test_offsets_of_an_earlier_topic_do_not_count() -> None:
    world = Harness()
    world.commit({("t", 0): 1})
    assert world.machine.fetch("g", T, 0, UUID(int=1)) is not None
    assert dict(world.machine.fetch_all("g")) == {T: {0: world.machine.fetch("g", T, 0)}}


# --- OffsetDelete ------------------------------------------------------------------------------
def test_offsets_are_deleted_of_topics_that_nobody_reads() -> None:
    world = Harness()
    world.commit({("t", 0): 1, ("t", 1): 1, ("u", 0): 1})
    (leader,), _ = world.stable(1, **consumers_of("t"))

    def delete(*partitions: tuple[TopicName, int]) -> CodesReply:
        token = next(world.tokens)
        decision = world.machine.delete_offsets(token, "g", partitions, world.now)
        world.carry_out(decision)
        reply = world.replies[token]
        assert isinstance(reply, CodesReply)
        return reply

    subscribed = E.GROUP_SUBSCRIBED_TO_TOPIC
    reply = delete((T, 0), (U, 0), (U, 9), (T, 1))
    assert reply == CodesReply(E.NONE, (subscribed, E.NONE, E.NONE, subscribed))
    assert (world.offset("t"), world.offset("u")) == (1, None)
    world.leave(leader)
    assert delete((T, 0)) == CodesReply(E.NONE, (E.NONE,))
    assert (world.offset("t"), world.offset("t", 1)) == (None, 1)
    world.stores_at_once = False
    decision = world.machine.delete_offsets(-1, "g", [(T, 1)], world.now)
    world.carry_out(decision)
    world.refuse()
    assert world.replies[-1] == CodesReply(E.NONE, (E.NOT_COORDINATOR,))
    assert world.offset("t", 1) == 1


def test_offsets_of_other_protocols_are_deleted_only_without_members() -> None:
    world = Harness()
    world.stable()
    for group_id, code in (("g", E.NON_EMPTY_GROUP), ("h", E.GROUP_ID_NOT_FOUND)):
        decision = world.machine.delete_offsets(-1, group_id, [(T, 0)], world.now)
        assert [reply.response for reply in decision.replies] == [CodesReply(code)]
        assert not decision.records


def test_consumers_with_bytes_of_their_own_are_taken_to_read_everything() -> None:
    world = Harness()
    world.commit({("t", 0): 1})
    world.stable(1, protocol_type="consumer", protocols={"own": b"\x00"})
    decision = world.machine.delete_offsets(-1, "g", [(T, 0)], world.now)
    assert decision.replies[0].response == CodesReply(E.NONE, (E.GROUP_SUBSCRIBED_TO_TOPIC,))


# --- DeleteGroups, topics ----------------------------------------------------------------------
def delete_groups(world: Harness, *group_ids: str) -> tuple[ErrorCode, ...]:
    token = next(world.tokens)
    world.carry_out(world.machine.delete_groups(token, group_ids, world.now))
    return world.codes(token)


def test_only_groups_without_members_can_be_deleted() -> None:
    world = Harness()
    world.commit({("t", 0): 1}, group_id="offsets")
    world.stable(1, group_id="members")
    (member_id,), generation = world.stable(1, group_id="left")
    world.commit({("t", 0): 1}, member_id, generation, group_id="left")
    world.leave(member_id, group_id="left")
    codes = delete_groups(world, "offsets", "members", "left", "none", "left")
    assert codes == (E.NONE, E.NON_EMPTY_GROUP, E.NONE, E.GROUP_ID_NOT_FOUND, E.NONE)
    assert world.machine.group_count == 1
    world.restart()
    assert [group.group_id for group in world.machine.list_groups()] == ["members"]
    assert next(world.machine.live_records()).key == b"\x00\x02\x00\x07members"
    assert len(list(world.machine.live_records())) == 1


def test_a_commit_on_its_way_is_deleted_with_its_group() -> None:
    world = Harness(stores_at_once=False)
    world.commit({("t", 0): 1})
    decision = world.machine.delete_groups(-1, ["g"], world.now)
    world.carry_out(decision)
    world.store()
    world.store()
    assert world.codes(-1) == (E.NONE,)
    assert world.machine.group_count == 0
    world.restart()
    assert world.machine.group_count == 0


def test_a_commit_after_the_deletion_makes_the_group_again() -> None:
    world = Harness(stores_at_once=False)
    world.commit({("t", 0): 1})
    world.carry_out(world.machine.delete_groups(-1, ["g"], world.now))
    world.commit({("t", 1): 2})
    for _ in range(3):
        world.store()
    assert (world.offset("t"), world.offset("t", 1)) == (None, 2)


def test_a_group_that_somebody_joins_while_it_is_deleted_lives_on() -> None:
    world = Harness()
    (member_id,), generation = world.stable(1)
    world.leave(member_id)
    world.stores_at_once = False
    world.carry_out(world.machine.delete_groups(-1, ["g"], world.now))
    _, token = world.join_new()
    world.store()
    assert world.codes(-1) == (E.NONE,)
    assert world.joined(token).generation == generation + 2
    world.sync(world.joined(token).member_id, generation + 2)
    world.store()
    world.restart()
    assert world.state() == "Stable"


def test_a_deletion_that_is_not_stored_deletes_nothing() -> None:
    world = Harness()
    world.commit({("t", 0): 1})
    world.stores_at_once = False
    world.carry_out(world.machine.delete_groups(-1, ["g", "none"], world.now))
    world.refuse()
    assert world.codes(-1) == (E.NOT_COORDINATOR, E.GROUP_ID_NOT_FOUND)
    assert world.offset("t") == 1


def test_a_topic_takes_its_offsets_with_it_also_those_on_their_way() -> None:
    world = Harness()
    world.commit({("t", 0): 1, ("u", 0): 1}, group_id="a")
    world.commit({("t", 0): 1}, group_id="b")
    world.stores_at_once = False
    world.commit({("t", 7): 1}, group_id="c")
    world.carry_out(world.machine.delete_topics(-1, {T: None, TopicName("other"): None}, world.now))
    assert -1 not in world.replies
    world.store()
    world.store()
    assert world.replies[-1] == CodesReply(E.NONE)
    assert [group.group_id for group in world.machine.list_groups()] == ["a"]
    assert world.offset("u", group_id="a") == 1
    world.carry_out(world.machine.delete_topics(-2, {T: None}, world.now))
    assert world.replies[-2] == CodesReply(E.NONE)
    world.carry_out(world.machine.delete_topics(-3, {U: None}, world.now))
    world.refuse()
    assert world.replies[-3] == CodesReply(E.NOT_COORDINATOR)


def test_offsets_of_many_partitions_are_forgotten_some_at_a_time() -> None:
    world = Harness()
    world.commit({("t", partition): 1 for partition in range(5)}, group_id="a")
    world.commit({("t", partition): 1 for partition in range(2)}, group_id="b")
    world.commit({("u", 0): 1}, group_id="b")
    counts = []
    for token in range(-3, 0):
        decision = world.machine.delete_topics(token, {T: None}, world.now, records_max=3)
        counts.append(len(decision.records))
        world.carry_out(decision)
    assert counts == [3, 3, 1]
    assert [group.group_id for group in world.machine.list_groups()] == ["b"]
    assert world.offset("u", group_id="b") == 1


def test_offsets_of_a_topic_that_was_created_again_are_left_alone() -> None:
    old_id, new_id = UUID(int=1), UUID(int=2)
    world = Harness(stores_at_once=False)

    def commit(topic_id: UUID, *partitions: int) -> None:
        offsets = tuple(OffsetToCommit(T, index, 1, topic_id=topic_id) for index in partitions)
        request = CommitOffsets(group_id="g", offsets=offsets)
        prepared = prepared_commit(request, now_ms=world.now.wall_ms, metadata_bytes_max=9)
        token = next(world.tokens)
        world.command(token, lambda: world.machine.commit(token, prepared, world.now))

    commit(old_id, 0, 1, 2)
    commit(new_id, 0)
    world.store()
    world.store()
    commit(new_id, 1)  # on its way: what is written now would come after it
    world.carry_out(world.machine.delete_topics(-1, {T: new_id}, world.now))
    world.store()
    world.store()
    assert world.replies[-1] == CodesReply(E.NONE)
    found = world.machine.fetch_all("g")[T]
    assert {index: value.topic_id for index, value in found.items()} == {0: new_id, 1: new_id}


# --- expiry ------------------------------------------------------------------------------------
def test_offsets_without_a_group_expire_a_week_after_their_commit() -> None:
    world = Harness()
    world.commit({("t", 0): 1})
    world.pass_time(WEEK_MS - 1)
    world.commit({("u", 0): 1})
    assert expire(world) == 0
    world.pass_time(1)
    assert expire(world) == 1
    assert (world.offset("t"), world.offset("u")) == (None, 1)
    world.pass_time(WEEK_MS)
    assert expire(world) == 1
    assert world.machine.group_count == 0


def test_offsets_of_a_group_expire_a_week_after_its_last_member_left() -> None:
    world = Harness()
    (member_id,), generation = world.stable(1, **consumers_of("t"))
    world.commit({("t", 0): 1}, member_id, generation)
    keep_alive(world, [member_id], generation, 2 * WEEK_MS)
    assert expire(world) == 0
    world.leave(member_id)
    world.pass_time(WEEK_MS - 1)
    assert expire(world) == 0
    world.restart()
    assert expire(world) == 0
    world.pass_time(1)
    assert expire(world) == 2  # the offset and the group
    assert world.machine.group_count == 0
    world.restart()
    assert world.machine.group_count == 0


def test_what_an_operator_sets_for_a_group_that_was_empty_for_long_stays_a_week() -> None:
    world = Harness()
    (member_id,), _ = world.stable(1)
    world.commit({("t", 0): 1}, member_id, 1)
    world.leave(member_id)
    world.pass_time(2 * WEEK_MS)
    world.commit({("t", 0): 5})
    assert expire(world) == 0
    world.pass_time(WEEK_MS)
    assert expire(world) == 2


def test_a_stable_group_of_consumers_keeps_what_it_reads() -> None:
    world = Harness()
    (member_id,), generation = world.stable(1, **consumers_of("t"))
    world.commit({("t", 0): 1, ("u", 0): 1}, member_id, generation)
    keep_alive(world, [member_id], generation, 2 * WEEK_MS)
    assert expire(world) == 1
    assert (world.offset("t"), world.offset("u")) == (1, None)


def test_other_groups_with_members_keep_everything() -> None:
    world = Harness()
    (member_id,), generation = world.stable(1, session_ms=1_800_000)
    world.commit({("t", 0): 1}, member_id, generation)
    keep_alive(world, [member_id], generation, 2 * WEEK_MS)
    assert expire(world) == 0


def test_old_clients_set_an_expiry_of_their_own() -> None:
    world = Harness()
    world.commit({("t", 0): 1}, retention_ms=1000)
    world.commit({("u", 0): 1}, retention_ms=INT64_MAX)
    world.pass_time(999)
    assert expire(world) == 0
    world.pass_time(1)
    assert expire(world) == 1
    world.pass_time(100 * WEEK_MS)
    assert expire(world) == 0


def test_expiry_leaves_alone_what_is_being_committed_or_joined() -> None:
    world = Harness()
    world.commit({("t", 0): 1, ("t", 1): 1})
    world.pass_time(WEEK_MS)
    world.stores_at_once = False
    world.commit({("t", 0): 2})
    decision = world.machine.expire_offsets(world.now)
    assert len(decision.records) == 1
    world.carry_out(decision)
    world.store()
    world.store()
    assert (world.offset("t"), world.offset("t", 1)) == (2, None)


def test_an_empty_group_without_offsets_is_forgotten_unless_somebody_is_about_to_join() -> None:
    world = Harness()
    (member_id,), _ = world.stable(1)
    world.leave(member_id)
    world.member_id()
    assert expire(world) == 0
    world.pass_time(10_000)
    assert expire(world) == 1
    assert world.machine.group_count == 0


def test_expiry_does_so_much_at_once() -> None:
    world = Harness()
    world.commit({("t", partition): 1 for partition in range(5)})
    world.commit({("t", 0): 1}, group_id="h")
    world.pass_time(WEEK_MS)
    assert [expire(world, records_max=4) for _ in range(3)] == [4, 2, 0]


@pytest.mark.parametrize("first", ["commit", "join"])
def test_a_group_of_offsets_can_get_members(first: str) -> None:
    world = Harness()
    if first == "commit":
        world.commit({("t", 0): 1})
    (member_id,), generation = world.stable(1)
    assert generation == 1
    world.commit({("t", 0): 2}, member_id, generation)
    world.restart()
    assert world.state() == "Stable"
    assert world.offset("t") == 2


def test_many_topics_that_go_are_not_gone_through_for_each_group() -> None:
    """500 topics and 10,000 groups held up the event loop for a second."""

    told: list[TopicName] = []

    class Names(UserDict[TopicName, UUID | None]):
        def __iter__(self) -> Iterator[TopicName]:
            for name in self.data:
                told.append(name)
                yield name

    world = Harness()
    for number in range(50):
        world.commit({("t", 0): 1, ("u", 0): 1}, group_id=f"g{number}")
    names = Names({TopicName(f"gone{number}"): None for number in range(100)} | {T: None})
    told.clear()
    world.carry_out(world.machine.delete_topics(-1, names, world.now))
    assert len(told) <= len(names)
    assert {world.offset("t", 0, f"g{number}") for number in range(50)} == {None}
    assert {world.offset("u", 0, f"g{number}") for number in range(50)} == {1}
