"""Static members (KIP-345): restarts that do not rebalance, fencing, and who is what after them."""

from __future__ import annotations

import pytest

from tests.group.harness import Harness, frozen_state
from trio_broker.errors import ErrorCode
from trio_broker.group.commands import JoinedMember, JoinReply, LeavingMember, SyncReply

E = ErrorCode


def test_a_static_member_needs_no_second_request() -> None:
    world = Harness()
    reply = world.joined(world.join(instance="shop-1"))
    assert reply.code is E.NONE
    assert reply.member_id == "shop-1-0001"
    assert reply.members == (JoinedMember("shop-1-0001", "shop-1", b"m"),)


@pytest.mark.parametrize("version", [5, 8, 9])
def test_a_restart_while_stable_keeps_generation_and_assignment(version: int) -> None:
    world = Harness()
    old = world.static("i")
    reply = world.joined(world.join(instance="i", version=version, client_id="new"))
    assert reply.code is E.NONE
    assert reply.member_id != old
    assert reply.generation == 1
    assert (reply.protocol_type, reply.protocol_name) == ("test", "p")
    if version == 9:
        assert reply.skip_assignment
        assert reply.leader_id == reply.member_id
        assert [m.member_id for m in reply.members] == [reply.member_id]
    else:
        assert not reply.skip_assignment
        assert reply.leader_id == old  # so that it does not assign
        assert reply.members == ()
    assert world.state() == "Stable"
    synced = world.sync(reply.member_id, 1, group_instance_id="i")
    assert world.replies[synced] == SyncReply(E.NONE, "test", "p", b"work")
    description = world.machine.describe("g")
    assert description is not None
    assert description.members[0].client_id == "new"


def test_a_follower_s_restart_does_not_make_it_the_leader() -> None:
    world = Harness()
    first = world.static("a")
    follower = world.join(instance="b")
    world.join(first, instance="a")
    world.sync(first, 2)
    reply = world.joined(world.join(instance="b"))
    assert (reply.leader_id, reply.skip_assignment, reply.members) == (first, False, ())
    assert reply.member_id != world.joined(follower).member_id
    assert world.state() == "Stable"


def test_the_former_self_is_fenced_everywhere() -> None:
    world = Harness()
    old = world.static("i")
    new = world.joined(world.join(instance="i")).member_id
    before = frozen_state(world.machine)
    assert world.heartbeat(old, 1, "i") is E.FENCED_INSTANCE_ID
    assert world.heartbeat(old, 1) is E.UNKNOWN_MEMBER_ID
    assert world.joined(world.join(old, instance="i")) == JoinReply(E.FENCED_INSTANCE_ID, old)
    assert world.code(world.sync(old, 1, group_instance_id="i")) is E.FENCED_INSTANCE_ID
    assert world.codes(world.leave(LeavingMember(old, "i"))) == (E.FENCED_INSTANCE_ID,)
    committed = world.commit({("t", 0): 1}, old, 1, group_instance_id="i")
    assert world.codes(committed) == (E.FENCED_INSTANCE_ID,)
    assert frozen_state(world.machine) == before
    assert world.heartbeat(new, 1, "i") is E.NONE


def test_the_new_id_is_durable_before_it_is_told() -> None:
    world = Harness()
    old = world.static("i")
    world.stores_at_once = False
    token = world.join(instance="i")
    assert token not in world.replies
    assert world.state() == "Stable"
    world.store()
    new = world.joined(token).member_id
    world.restart()
    assert world.heartbeat(new, 1, "i") is E.NONE
    assert world.heartbeat(old, 1, "i") is E.FENCED_INSTANCE_ID


def test_a_new_id_that_is_not_stored_is_not_told() -> None:
    world = Harness()
    world.static("i")
    world.stores_at_once = False
    token = world.join(instance="i")
    world.refuse(E.NOT_ENOUGH_REPLICAS)
    assert world.joined(token) == JoinReply(E.COORDINATOR_NOT_AVAILABLE)
    world.stores_at_once = True
    reply = world.joined(world.join(instance="i"))
    assert reply.generation == 1
    world.sync(reply.member_id, 1, group_instance_id="i")
    assert world.state() == "Stable"


@pytest.mark.parametrize("fails", [False, True])
def test_a_rebalance_that_comes_between_answers_the_restarted_member(fails: bool) -> None:
    world = Harness()
    world.static("i")
    world.stores_at_once = False
    token = world.join(instance="i")
    _, newcomer = world.join_new()
    assert world.joined(token).generation == world.joined(newcomer).generation == 2
    if fails:
        world.refuse()
    else:
        world.store()
    assert world.state() == "CompletingRebalance"
    assert world.heartbeat(world.joined(token).member_id, 2, "i") is E.NONE


def test_a_second_restart_before_the_first_is_durable() -> None:
    world = Harness()
    world.static("i")
    world.stores_at_once = False
    first, second = world.join(instance="i"), world.join(instance="i")
    assert world.joined(first).code is E.FENCED_INSTANCE_ID
    world.store()
    assert second not in world.replies
    world.store()
    assert world.joined(second).generation == 1
    world.restart()
    assert world.heartbeat(world.joined(second).member_id, 1, "i") is E.NONE


def test_a_restart_with_another_protocol_rebalances() -> None:
    world = Harness()
    world.static("i", protocols={"a": b"", "b": b""})
    reply = world.joined(world.join(instance="i", protocols={"b": b"", "a": b""}))
    assert reply.generation == 2
    assert reply.protocol_name == "b"


def test_a_restart_while_members_join_or_the_leader_assigns() -> None:
    world = Harness()
    reply = world.joined(world.join(instance="i"))
    old, parked = reply.member_id, world.join(instance="j")
    fenced = world.join(old, instance="i")
    assert world.joined(parked).generation == world.joined(fenced).generation == 2
    follower = world.joined(parked).member_id
    waiting = world.sync(follower, 2, group_instance_id="j")
    token = world.join(instance="j")  # CompletingRebalance: all have to join again
    assert world.replies[waiting] == SyncReply(E.FENCED_INSTANCE_ID)
    assert world.state() == "PreparingRebalance"
    again = world.join(instance="j")
    assert world.joined(token).code is E.FENCED_INSTANCE_ID
    world.join(old, instance="i")
    assert world.joined(again).generation == 3


def test_static_members_that_are_away_stay_through_a_rebalance() -> None:
    world = Harness()
    away = world.static("i", session_ms=600_000)
    _, newcomer = world.join_new()
    world.pass_time(60_000)
    reply = world.joined(newcomer)
    assert reply.generation == 2
    assert reply.leader_id == reply.member_id
    assert {m.member_id for m in reply.members} == {away, reply.member_id}
    world.sync(reply.member_id, 2, {away: b"kept"})
    back = world.joined(world.join(instance="i", session_ms=600_000))
    synced = world.sync(back.member_id, 2, group_instance_id="i")
    assert world.replies[synced] == SyncReply(E.NONE, "test", "p", b"kept")


def test_a_restarted_member_has_a_session_of_its_own() -> None:
    world = Harness()
    world.static("i")
    world.pass_time(9_000)
    world.join(instance="i")
    world.pass_time(9_999)
    assert world.state() == "Stable"
    world.pass_time(1)
    assert world.state() == "Empty"


def test_a_member_that_restarts_before_it_synced_still_has_to() -> None:
    world = Harness()
    leader = world.static("a", session_ms=600_000)
    world.join(instance="b", session_ms=600_000)
    world.join(leader, instance="a", session_ms=600_000)
    world.sync(leader, 2)
    first = world.joined(world.join(instance="b", session_ms=600_000)).member_id
    world.sync(first, 2, group_instance_id="b")
    world.pass_time(60_000)
    assert world.state() == "Stable"
    world.join(leader, instance="a", session_ms=600_000)
    world.join(first, instance="b", session_ms=600_000)
    world.sync(leader, 3)
    second = world.joined(world.join(instance="b", session_ms=600_000)).member_id
    world.pass_time(60_000)
    assert world.state() == "PreparingRebalance"
    assert world.heartbeat(second, 3, "b") is E.UNKNOWN_MEMBER_ID


def test_a_rebalance_waits_while_only_static_members_remain() -> None:
    world = Harness()
    away = world.static("i", session_ms=200_000)
    newcomer, _ = world.join_new()
    world.leave(newcomer)
    assert world.state() == "PreparingRebalance"
    world.pass_time(190_000)
    assert world.state() == "PreparingRebalance"
    world.pass_time(10_000)
    assert world.state() == "Empty"
    assert world.heartbeat(away, 1, "i") is E.UNKNOWN_MEMBER_ID


def test_an_operator_removes_a_static_member_by_its_instance_id() -> None:
    world = Harness()
    world.static("i")
    token = world.leave(LeavingMember("", "x"), LeavingMember("", "i"), LeavingMember("", "i"))
    assert world.codes(token) == (E.UNKNOWN_MEMBER_ID, E.NONE, E.UNKNOWN_MEMBER_ID)
    assert world.state() == "Empty"


def test_a_restarted_static_member_finds_room_in_a_full_group() -> None:
    world = Harness(group_size_max=1)
    world.static("i")
    assert world.joined(world.join(instance="i")).code is E.NONE
    assert world.joined(world.join(instance="j")).code is E.GROUP_MAX_SIZE_REACHED


def test_a_pending_id_with_an_instance_id_is_not_one_of_a_member() -> None:
    world = Harness()
    pending = world.member_id()
    assert world.joined(world.join(pending, instance="i")).code is E.UNKNOWN_MEMBER_ID
    assert world.joined(world.join(pending)).code is E.NONE
