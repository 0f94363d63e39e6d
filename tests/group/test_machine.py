"""The life of a machine: loading, restarts, closing, and what can be looked at."""

from __future__ import annotations

import pytest

from tests.group.harness import Harness, frozen_state, prepared_commit
from trio_broker.config import GroupConfig, LimitsConfig
from trio_broker.errors import CorruptRecords, ErrorCode
from trio_broker.group.commands import (
    CodesReply,
    CommitOffsets,
    GroupListing,
    JoinGroup,
    JoinReply,
    LeaveReply,
    MemberDescription,
    Now,
    Protocol,
    SyncGroup,
    SyncReply,
)
from trio_broker.group.machine import GroupMachine
from trio_broker.group.offsets import OffsetToCommit
from trio_broker.names import TopicName

E = ErrorCode
NOW = Now(1000, 0)
T = TopicName("t")


def every_command(machine: GroupMachine) -> list[object]:
    """Give each command once; return the responses."""
    join = JoinGroup(
        group_id="g",
        member_id="m",
        protocol_type="t",
        protocols=(Protocol("p", b""),),
        session_timeout_ms=10_000,
        unique_text="u",
        api_version=9,
    )
    commit = prepared_commit(
        CommitOffsets(group_id="g", offsets=(OffsetToCommit(T, 0, 1),)),
        now_ms=NOW.wall_ms,
        metadata_bytes_max=100,
    )
    decisions = [
        machine.join(1, join, NOW),
        machine.sync(2, SyncGroup(group_id="g", generation=1, member_id="m"), NOW),
        machine.leave(3, "g", [], NOW),
        machine.commit(4, commit, NOW),
        machine.delete_offsets(5, "g", [(T, 0)], NOW),
        machine.delete_groups(6, ["g"], NOW),
        machine.delete_topics(7, {T: None}, NOW),
        machine.expire_offsets(NOW),
        machine.expire(NOW),
    ]
    assert not any(decision.records for decision in decisions)
    return [reply.response for decision in decisions for reply in decision.replies]


def refusals(code: ErrorCode) -> list[object]:
    return [
        JoinReply(code, "m"),
        SyncReply(code),
        LeaveReply(code),
        CodesReply(E.NONE, (code,)),
        CodesReply(code),
        CodesReply(E.NONE, (code,)),
        CodesReply(code),
    ]


def test_while_loading_no_command_is_taken() -> None:
    machine = GroupMachine(GroupConfig(), LimitsConfig())
    before = frozen_state(machine)
    assert machine.refusal is E.COORDINATOR_LOAD_IN_PROGRESS
    assert every_command(machine) == refusals(E.COORDINATOR_LOAD_IN_PROGRESS)
    assert machine.heartbeat("g", 1, "m", None, NOW) is E.NONE
    assert frozen_state(machine) == before
    machine.loaded(NOW)
    assert machine.refusal is E.NONE


def test_closing_answers_everybody() -> None:
    world = Harness()
    (leader, follower), generation = world.generation()
    parked_sync = world.sync(follower, generation)
    world.stable(group_id="h")
    _, parked_join = world.join_new(group_id="h")
    world.stores_at_once = False
    committed = world.commit({("t", 0): 1}, group_id="i")
    parked_leader = world.sync(leader, generation)
    world.carry_out(world.machine.close(world.now))
    assert world.code(parked_sync) is world.code(parked_leader) is E.NOT_COORDINATOR
    assert world.code(parked_join) is E.NOT_COORDINATOR
    assert world.wake_at_ms is None
    world.store()
    world.refuse()
    assert world.codes(committed) == (E.NONE,)
    assert every_command(world.machine) == refusals(E.NOT_COORDINATOR)
    assert world.machine.heartbeat("g", 1, "m", None, NOW) is E.NOT_COORDINATOR
    assert world.state() == "Dead"


def test_members_have_their_session_timeout_after_a_restart() -> None:
    world = Harness()
    (leader, follower), generation = world.stable()
    world.pass_time(9_999)
    world.restart()
    assert world.state() == "Stable"
    world.pass_time(9_999)
    assert world.heartbeat(leader, generation) is E.NONE
    world.pass_time(1)
    assert world.heartbeat(leader, generation) is E.REBALANCE_IN_PROGRESS
    assert world.heartbeat(follower, generation) is E.UNKNOWN_MEMBER_ID


def test_a_group_comes_back_as_it_was() -> None:
    world = Harness()
    (leader, follower), generation = world.stable(protocols={"p": b"m", "q": b"n"})
    described = world.machine.describe("g")
    world.restart()
    assert world.machine.describe("g") == described
    synced = world.sync(follower, generation)
    assert world.replies[synced] == SyncReply(E.NONE, "test", "p", f"for {follower}".encode())
    assert world.joined(world.join(follower)).generation == generation  # same metadata
    assert world.codes(world.commit({("t", 0): 1}, leader, generation)) == (E.NONE,)
    world.join(leader)
    assert world.state() == "PreparingRebalance"


def test_a_rebalance_that_a_crash_ends_leaves_the_last_stable_generation() -> None:
    world = Harness()
    (leader, follower), generation = world.stable()
    world.join(leader)
    world.join(follower)
    world.stores_at_once = False
    world.sync(leader, generation + 1, {leader: b"lost"})
    world.restart()
    assert world.state() == "Stable"
    assert world.heartbeat(leader, generation + 1) is E.ILLEGAL_GENERATION
    synced = world.sync(leader, generation)
    assert world.replies[synced] == SyncReply(E.NONE, "test", "p", f"for {leader}".encode())


def test_live_records_rebuild_what_is_durable() -> None:
    world = Harness()
    (leader, _), generation = world.stable()
    world.commit({("t", 0): 1}, leader, generation)
    world.commit({("t", 0): 2}, leader, generation)
    world.commit({("u", 3): 4}, group_id="h")
    (last,), _ = world.stable(1, group_id="i")
    world.leave(last, group_id="i")
    described = [world.machine.describe(group_id) for group_id in "ghi"]
    world.join_new()  # what is not durable is not there
    records = list(world.machine.live_records())
    assert len(records) == 4 < len(world.log)
    world.log = [(key, value) for key, value in records]
    world.restart()
    assert [world.machine.describe(group_id) for group_id in "ghi"] == described
    assert (world.offset("t"), world.offset("u", 3, "h")) == (2, 4)
    assert sorted(world.machine.live_records()) == sorted(records)


def test_damaged_records_change_nothing_and_unknown_ones_are_skipped() -> None:
    machine = GroupMachine(GroupConfig(), LimitsConfig())
    before = frozen_state(machine)
    for key, value in (
        (b"", None),
        (b"\x00\x02\x00\x01", None),
        (b"\x00\x02\x00\x01g", b""),
        (b"\x00\x02\x00\x01g", b"\x00\x05"),
        (b"\x00\x01\x00\x01g\x00\x01t\x00\x00\x00\x00", b"\x00\x03"),
    ):
        with pytest.raises(CorruptRecords):
            machine.replay(key, value)
    machine.replay(b"\x00\x03\x00\x01g", b"\x00\x00")
    machine.replay(b"\x00\x02\x00\x01g", None)
    assert frozen_state(machine) == before


def test_groups_are_listed_by_state_and_type() -> None:
    world = Harness()
    world.stable(group_id="a", protocol_type="consumer")
    world.commit({("t", 0): 1}, group_id="b")
    world.generation(group_id="c")
    assert world.machine.list_groups() == [
        GroupListing("a", "consumer", "Stable", "classic"),
        GroupListing("b", "", "Empty", "classic"),
        GroupListing("c", "test", "CompletingRebalance", "classic"),
    ]

    def ids(states: list[str], types: list[str]) -> list[str]:
        return [group.group_id for group in world.machine.list_groups(states, types)]

    assert ids(["stable", " EMPTY"], []) == ["a", "b"]
    assert ids(["Dead"], []) == ids([], ["consumer"]) == ids(["what"], []) == []
    assert ids(["Stable"], ["Classic", "consumer"]) == ["a"]
    assert repr(world.machine) == "<GroupMachine of 3 groups>"
    assert world.machine.member_count == 4


def test_groups_are_described() -> None:
    world = Harness()
    (leader, follower), _ = world.generation(client_id="shop")
    described = world.machine.describe("g")
    assert described is not None
    assert (described.state, described.protocol_type) == ("CompletingRebalance", "test")
    assert described.protocol_name == ""
    world.sync(leader, 2, {leader: b"1", follower: b"2"})
    described = world.machine.describe("g")
    assert described is not None
    assert (described.state, described.protocol_name) == ("Stable", "p")
    assert set(described.members) == {
        MemberDescription(leader, None, "shop", "/127.0.0.1", b"m", b"1"),
        MemberDescription(follower, None, "shop", "/127.0.0.1", b"m", b"2"),
    }
    assert world.machine.describe("h") is None


def test_the_notes_tell_why() -> None:
    world = Harness()
    (leader, _), _ = world.stable()
    world.join(leader, reason="new partitions")
    assert f"member {leader!r} joins again (its reason: 'new partitions')" in world.notes[-1]


def test_many_deadlines_at_once_are_taken_in_portions() -> None:
    world = Harness()
    for number in range(600):
        world.stable(1, group_id=f"g{number}")
    world.clock_ms += 10_000
    decision = world.machine.expire(world.now)
    assert len(decision.records) == 500
    assert decision.wake_at_ms == world.clock_ms
    world.carry_out(decision)
    world.pass_time(0)
    assert {group.state for group in world.machine.list_groups()} == {"Empty"}


def test_three_hundred_members_join() -> None:
    world = Harness(delay_ms=3_000)
    tokens = [world.join_new()[1] for _ in range(300)]
    world.pass_time(6_000)
    assert {world.joined(token).generation for token in tokens} == {1}
