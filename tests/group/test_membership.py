"""JoinGroup, SyncGroup, Heartbeat and LeaveGroup: one test for each rule."""

from __future__ import annotations

import pytest

from tests.group.harness import Harness, frozen_state
from trio_broker.errors import ErrorCode
from trio_broker.group.commands import JoinedMember, JoinReply, LeavingMember, Protocol, SyncReply
from trio_broker.group.membership import NEW_MEMBER_JOIN_TIMEOUT_MS

E = ErrorCode


# --- JoinGroup -------------------------------------------------------------------------------
def test_a_new_member_is_told_its_id_and_comes_again() -> None:
    world = Harness()
    reply = world.joined(world.join(client_id="shop"))
    assert reply == JoinReply(E.MEMBER_ID_REQUIRED, "shop-0001")
    assert world.state() == "Empty"
    reply = world.joined(world.join("shop-0001", client_id="shop"))
    assert reply == JoinReply(
        E.NONE,
        member_id="shop-0001",
        generation=1,
        protocol_type="test",
        protocol_name="p",
        leader_id="shop-0001",
        members=(JoinedMember("shop-0001", None, b"m"),),
    )
    assert world.state() == "CompletingRebalance"


def test_before_version_4_a_new_member_is_taken_at_once() -> None:
    world = Harness()
    assert world.joined(world.join(version=3)).code is E.NONE
    assert world.joined(world.join(version=4, group_id="h")).code is E.MEMBER_ID_REQUIRED


@pytest.mark.parametrize(
    "arguments, code",
    [
        ({"group_id": ""}, E.INVALID_GROUP_ID),
        ({"group_id": "g" * 32768}, E.INVALID_GROUP_ID),
        ({"session_ms": 5_999}, E.INVALID_SESSION_TIMEOUT),
        ({"session_ms": 1_800_001}, E.INVALID_SESSION_TIMEOUT),
        ({"session_ms": -1}, E.INVALID_SESSION_TIMEOUT),
        ({"member_id": "nobody"}, E.UNKNOWN_MEMBER_ID),
        ({"member_id": "nobody", "instance": "i"}, E.UNKNOWN_MEMBER_ID),
        ({"instance": ""}, E.INVALID_REQUEST),
        ({"instance": "i" * 250}, E.INVALID_REQUEST),
        ({"protocol_type": ""}, E.INCONSISTENT_GROUP_PROTOCOL),
        ({"protocols": {}}, E.INCONSISTENT_GROUP_PROTOCOL),
        ({"protocol_type": "t" * 32768}, E.INVALID_REQUEST),
        ({"protocols": {"p": b"x" * 65536}}, E.POLICY_VIOLATION),
        ({"protocols": tuple(Protocol("", b"") for _ in range(1100))}, E.POLICY_VIOLATION),
    ],
)
def test_what_is_wrong_with_a_join_leaves_no_group_behind(
    arguments: dict[str, object], code: ErrorCode
) -> None:
    world = Harness()
    before = frozen_state(world.machine)
    token = world.join(**arguments)  # type: ignore[arg-type]
    assert world.code(token) is code
    assert world.joined(token).member_id == arguments.get("member_id", "")
    assert frozen_state(world.machine) == before
    assert world.machine.group_count == 0


def test_session_timeouts_at_the_limits_are_fine() -> None:
    world = Harness()
    assert world.code(world.join(session_ms=6_000)) is E.MEMBER_ID_REQUIRED
    assert world.code(world.join(session_ms=1_800_000)) is E.MEMBER_ID_REQUIRED


def test_others_must_share_type_and_a_protocol() -> None:
    world = Harness()
    world.stable(protocols={"a": b"1", "b": b"2"})
    before = frozen_state(world.machine)
    assert world.code(world.join(protocol_type="other")) is E.INCONSISTENT_GROUP_PROTOCOL
    assert world.code(world.join(protocols={"c": b""})) is E.INCONSISTENT_GROUP_PROTOCOL
    assert frozen_state(world.machine) == before
    assert world.code(world.join(protocols={"c": b"", "b": b""})) is E.MEMBER_ID_REQUIRED


def test_protocols_of_many_members_are_compared_in_sets() -> None:
    """Each of 500 members may name 1,000: compared one by one that would take a quarter minute."""

    class Name(str):
        compared = 0
        __slots__ = ()
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            Name.compared += 1
            return str.__eq__(self, other)

    world = Harness(delay_ms=100)
    names = [f"{number}" for number in range(300)]
    for _ in range(20):
        world.join(version=3, protocols=dict.fromkeys(names, b""))
    world.join(version=3, protocols={"0": b""})
    unknown_to_the_last = dict.fromkeys(map(Name, names[1:]), b"")
    assert world.code(world.join(protocols=unknown_to_the_last)) is E.INCONSISTENT_GROUP_PROTOCOL
    assert Name.compared < 20 * 300 * 10


def test_the_protocol_with_most_votes_that_all_know_is_chosen() -> None:
    world = Harness(delay_ms=100)
    joins = [
        world.join(version=3, protocols=dict.fromkeys(names, b""))
        for names in ("cab", "ba", "ba", "bda")
    ]
    world.pass_time(200)
    assert {world.joined(token).protocol_name for token in joins} == {"b"}


def test_only_the_leader_is_told_who_is_there() -> None:
    world = Harness(delay_ms=100)
    first, second = (world.join_new(protocols={"p": data}) for data in (b"1", b"2"))
    world.pass_time(200)
    replies = [world.joined(token) for _, token in (first, second)]
    assert replies[0].leader_id == replies[1].leader_id == first[0]
    assert replies[0].members == (
        JoinedMember(first[0], None, b"1"),
        JoinedMember(second[0], None, b"2"),
    )
    assert replies[1].members == ()
    assert replies[0].generation == replies[1].generation == 1


def test_the_first_members_wait_for_others_as_long_as_others_come() -> None:
    world = Harness(delay_ms=3_000)
    _, first = world.join_new()
    for _ in range(3):
        world.pass_time(2_999)
        world.join_new()
    world.pass_time(3_002)
    assert first not in world.replies
    world.pass_time(1)
    assert world.joined(first).generation == 1
    assert len(world.joined(first).members) == 4


def test_the_first_members_wait_no_longer_than_a_rebalance_may_take() -> None:
    world = Harness(delay_ms=3_000)
    _, first = world.join_new(rebalance_ms=7_000)
    for _ in range(6):
        world.pass_time(1_000)
        world.join_new(rebalance_ms=7_000)
    assert first not in world.replies
    world.pass_time(1_000)
    assert len(world.joined(first).members) == 7


def test_the_first_member_waits_just_once_if_it_stays_alone() -> None:
    world = Harness(delay_ms=3_000)
    _, first = world.join_new()
    world.pass_time(2_999)
    assert first not in world.replies
    world.pass_time(1)
    assert world.joined(first).generation == 1


def test_a_newcomer_makes_all_join_again() -> None:
    world = Harness()
    (leader, follower), generation = world.stable()
    newcomer, joining = world.join_new()
    assert world.state() == "PreparingRebalance"
    assert world.heartbeat(leader, generation) is E.REBALANCE_IN_PROGRESS
    again = [world.join(leader), world.join(follower)]
    assert {world.joined(token).generation for token in (joining, *again)} == {generation + 1}
    assert {world.joined(token).leader_id for token in again} == {leader}
    assert newcomer in {m.member_id for m in world.joined(again[0]).members}


def test_who_does_not_join_again_in_time_is_out_and_another_leads() -> None:
    world = Harness()
    (leader, follower), generation = world.stable(session_ms=600_000)
    _, joining = world.join_new(rebalance_ms=1_000)
    again = world.join(follower)
    world.pass_time(59_999)
    assert joining not in world.replies
    world.pass_time(1)
    assert world.joined(again).generation == generation + 1
    assert world.joined(again).leader_id == follower
    assert world.heartbeat(leader, generation) is E.UNKNOWN_MEMBER_ID
    assert "did not join in time" in "".join(world.notes)


def test_an_id_given_out_holds_up_a_rebalance_until_it_expires() -> None:
    world = Harness()
    (leader, follower), generation = world.stable(session_ms=1_000_000)
    world.member_id()  # never used
    world.join(leader)
    again = world.join(follower)
    assert again not in world.replies
    world.pass_time(10_000)
    assert world.joined(again).generation == generation + 1


def test_a_group_of_which_only_an_id_was_given_out_is_forgotten() -> None:
    world = Harness()
    world.member_id()
    assert world.machine.group_count == 1
    world.pass_time(9_999)
    assert world.machine.group_count == 1
    world.pass_time(1)
    assert world.machine.group_count == 0
    assert world.wake_at_ms is None


@pytest.mark.parametrize("stays", ["same", "new metadata"])
def test_joining_again_while_the_leader_assigns(stays: str) -> None:
    world = Harness()
    (leader, follower), generation = world.generation()
    parked = world.sync(follower, generation)
    token = world.join(follower, protocols={"p": b"m" if stays == "same" else b"other"})
    if stays == "same":
        assert world.joined(token) == JoinReply(E.NONE, follower, generation, "test", "p", leader)
        assert world.joined(world.join(leader)).members != ()
        assert parked not in world.replies
    else:
        assert token not in world.replies
        assert world.replies[parked] == SyncReply(E.REBALANCE_IN_PROGRESS)
        assert world.state() == "PreparingRebalance"


def test_joining_again_while_stable() -> None:
    world = Harness()
    (leader, follower), generation = world.stable()
    assert world.joined(world.join(follower)) == JoinReply(
        E.NONE, follower, generation, "test", "p", leader
    )
    assert world.state() == "Stable"
    world.join(follower, protocols={"p": b"other"})
    assert world.state() == "PreparingRebalance"
    world.join(leader)
    assert world.state() == "CompletingRebalance"


def test_a_leader_that_joins_again_makes_a_rebalance() -> None:
    world = Harness()
    (leader, _), _ = world.stable()
    world.join(leader)
    assert world.state() == "PreparingRebalance"


def test_a_request_that_is_sent_again_sends_the_first_one_away() -> None:
    world = Harness()
    (leader, follower), generation = world.stable()
    first = world.join(leader)
    second = world.join(leader)
    assert world.joined(first) == JoinReply(E.REBALANCE_IN_PROGRESS, leader)
    world.join(follower)
    assert world.joined(second).generation == generation + 1
    first, second = (world.sync(follower, generation + 1) for _ in range(2))
    assert world.replies[first] == SyncReply(E.REBALANCE_IN_PROGRESS)
    assert second not in world.replies


def test_a_new_member_that_is_gone_is_given_up_in_the_end() -> None:
    world = Harness()
    (leader, _), generation = world.stable(session_ms=1_800_000, rebalance_ms=1_800_000)
    _, joining = world.join_new(session_ms=6_000)
    world.pass_time(NEW_MEMBER_JOIN_TIMEOUT_MS - 1)
    assert joining not in world.replies
    world.pass_time(1)
    assert world.joined(joining) == JoinReply(E.UNKNOWN_MEMBER_ID)
    assert world.heartbeat(leader, generation) is E.REBALANCE_IN_PROGRESS


# --- SyncGroup ---------------------------------------------------------------------------------
def test_everybody_waits_for_the_leader_s_assignment() -> None:
    world = Harness()
    (leader, follower), generation = world.generation()
    waiting = world.sync(follower, generation)
    assert waiting not in world.replies
    leading = world.sync(leader, generation, {follower: b"f", "stranger": b"s"})
    assert world.replies[waiting] == SyncReply(E.NONE, "test", "p", b"f")
    assert world.replies[leading] == SyncReply(E.NONE, "test", "p", b"")
    assert world.state() == "Stable"
    assert world.replies[world.sync(follower, generation)] == SyncReply(E.NONE, "test", "p", b"f")


def test_what_is_wrong_with_a_sync_changes_nothing() -> None:
    world = Harness()
    (leader, follower), generation = world.generation()
    before = frozen_state(world.machine)
    for token, code in (
        (world.sync("nobody", generation), E.UNKNOWN_MEMBER_ID),
        (world.sync(leader, generation, group_id="h"), E.UNKNOWN_MEMBER_ID),
        (world.sync(leader, generation, group_id=""), E.INVALID_GROUP_ID),
        (world.sync(leader, generation - 1), E.ILLEGAL_GENERATION),
        (world.sync(leader, generation + 1), E.ILLEGAL_GENERATION),
        (world.sync(leader, generation, group_instance_id="i"), E.UNKNOWN_MEMBER_ID),
        (world.sync(leader, generation, protocol_type="x"), E.INCONSISTENT_GROUP_PROTOCOL),
        (world.sync(leader, generation, protocol_name="x"), E.INCONSISTENT_GROUP_PROTOCOL),
    ):
        assert world.replies[token] == SyncReply(code)
    assert frozen_state(world.machine) == before
    world.sync(leader, generation, protocol_type="test", protocol_name="p")
    world.join(leader)
    before = frozen_state(world.machine)
    assert world.code(world.sync(follower, generation)) is E.REBALANCE_IN_PROGRESS
    assert frozen_state(world.machine) == before


def test_an_assignment_is_answered_when_it_is_durable() -> None:
    world = Harness(stores_at_once=False)
    (leader, follower), generation = world.generation()
    tokens = [world.sync(follower, generation), world.sync(leader, generation, {leader: b"1"})]
    assert not world.replies.keys() & set(tokens)
    assert world.state() == "CompletingRebalance"
    again = world.sync(leader, generation, {leader: b"2"})
    assert len(world.under_way) == 1
    assert world.code(tokens[1]) is E.REBALANCE_IN_PROGRESS
    world.store()
    assert world.replies[again] == SyncReply(E.NONE, "test", "p", b"1")
    assert world.state() == "Stable"


@pytest.mark.parametrize(
    "failure, code",
    [
        (E.KAFKA_STORAGE_ERROR, E.NOT_COORDINATOR),
        (E.NOT_ENOUGH_REPLICAS, E.COORDINATOR_NOT_AVAILABLE),
        (E.REQUEST_TIMED_OUT, E.COORDINATOR_NOT_AVAILABLE),
        (E.MESSAGE_TOO_LARGE, E.UNKNOWN_SERVER_ERROR),
        (E.THROTTLING_QUOTA_EXCEEDED, E.THROTTLING_QUOTA_EXCEEDED),
    ],
)
def test_an_assignment_that_is_not_stored_is_nobody_s(failure: ErrorCode, code: ErrorCode) -> None:
    world = Harness(stores_at_once=False)
    (leader, follower), generation = world.generation()
    tokens = [world.sync(follower, generation), world.sync(leader, generation, {leader: b"1"})]
    world.refuse(failure)
    assert [world.replies[token] for token in tokens] == [SyncReply(code)] * 2
    assert world.state() == "PreparingRebalance"
    again = [world.join(leader), world.join(follower)]
    assert {world.joined(token).generation for token in again} == {generation + 1}
    description = world.machine.describe("g")
    assert description is not None
    assert {member.assignment for member in description.members} == {b""}


def test_an_assignment_that_comes_too_late_is_nobody_s() -> None:
    world = Harness(stores_at_once=False)
    (leader, follower), generation = world.generation()
    tokens = [world.sync(follower, generation), world.sync(leader, generation, {leader: b"1"})]
    world.join_new()
    assert [world.code(token) for token in tokens] == [E.REBALANCE_IN_PROGRESS] * 2
    world.store()
    assert world.state() == "PreparingRebalance"
    world.join(leader)
    world.join(follower)
    world.sync(leader, generation + 1, {leader: b"2"})
    world.store()
    assert world.state() == "Stable"


def test_who_does_not_sync_in_time_is_out() -> None:
    world = Harness()
    (leader, follower), generation = world.generation(session_ms=600_000)
    waiting = world.sync(follower, generation)
    world.pass_time(59_999)
    assert waiting not in world.replies
    world.pass_time(1)
    assert world.code(waiting) is E.REBALANCE_IN_PROGRESS
    assert world.heartbeat(leader, generation) is E.UNKNOWN_MEMBER_ID
    assert world.joined(world.join(follower)).generation == generation + 1


def test_a_follower_has_to_sync_also_when_the_group_is_stable() -> None:
    world = Harness()
    (leader, follower), generation = world.generation(session_ms=600_000)
    world.sync(leader, generation)
    assert world.state() == "Stable"
    world.pass_time(60_000)
    assert world.heartbeat(follower, generation) is E.UNKNOWN_MEMBER_ID
    assert world.state() == "PreparingRebalance"


# --- Heartbeat ---------------------------------------------------------------------------------
def test_heartbeats_by_state() -> None:
    world = Harness()
    (leader, follower), generation = world.generation()
    assert world.heartbeat(leader, generation) is E.NONE  # CompletingRebalance
    world.sync(leader, generation)
    assert world.heartbeat(leader, generation) is E.NONE  # Stable
    for code, heartbeat in (
        (E.INVALID_GROUP_ID, world.heartbeat(leader, generation, group_id="")),
        (E.UNKNOWN_MEMBER_ID, world.heartbeat(leader, generation, group_id="h")),
        (E.UNKNOWN_MEMBER_ID, world.heartbeat("nobody", generation)),
        (E.UNKNOWN_MEMBER_ID, world.heartbeat(leader, generation, instance="i")),
        (E.ILLEGAL_GENERATION, world.heartbeat(leader, generation - 1)),
        (E.ILLEGAL_GENERATION, world.heartbeat(leader, generation + 1)),
    ):
        assert heartbeat is code
    world.join(leader)
    assert world.heartbeat(follower, generation) is E.REBALANCE_IN_PROGRESS
    pending = world.member_id()
    assert world.heartbeat(pending, generation) is E.UNKNOWN_MEMBER_ID


def test_who_is_silent_for_a_session_timeout_is_out() -> None:
    world = Harness()
    (leader, follower), generation = world.stable()
    for _ in range(5):
        world.pass_time(9_999)
        assert world.heartbeat(leader, generation) in {E.NONE, E.REBALANCE_IN_PROGRESS}
    assert world.heartbeat(follower, generation) is E.UNKNOWN_MEMBER_ID
    assert world.heartbeat(leader, generation) is E.REBALANCE_IN_PROGRESS
    assert f"member {follower!r} fell silent" in "".join(world.notes)
    world.pass_time(10_000)
    assert world.state() == "Empty"


def test_who_waits_for_an_answer_need_not_send_heartbeats() -> None:
    world = Harness()
    (leader, follower), generation = world.stable(rebalance_ms=300_000)
    again = world.join(leader)
    for _ in range(20):
        world.pass_time(9_999)
        assert world.heartbeat(follower, generation) is E.REBALANCE_IN_PROGRESS
    world.join(follower)
    assert world.joined(again).generation == generation + 1
    world.pass_time(9_999)
    assert world.heartbeat(leader, generation + 1) is E.NONE
    waiting = world.sync(follower, generation + 1)
    for _ in range(5):
        world.pass_time(9_999)
        assert world.heartbeat(leader, generation + 1) is E.NONE
    world.sync(leader, generation + 1)
    assert world.code(waiting) is E.NONE
    world.pass_time(9_999)
    assert world.state() == "Stable"
    assert world.heartbeat(leader, generation + 1) is E.NONE
    world.pass_time(1)
    assert world.heartbeat(follower, generation + 1) is E.UNKNOWN_MEMBER_ID


def test_a_heartbeat_never_brings_a_deadline_forward() -> None:
    world = Harness(delay_ms=3_000)
    member_id, token = world.join_new()
    assert world.heartbeat(member_id, 0) is E.REBALANCE_IN_PROGRESS  # it is new: five minutes
    assert world.machine.expire(world.now).wake_at_ms == world.wake_at_ms == 3_000
    world.pass_time(3_000)
    assert world.joined(token).generation == 1


# --- LeaveGroup --------------------------------------------------------------------------------
def test_members_leave_and_the_last_one_leaves_an_empty_group() -> None:
    world = Harness()
    (leader, follower), generation = world.stable()
    assert world.codes(world.leave(leader)) == (E.NONE,)
    assert world.state() == "PreparingRebalance"
    assert world.codes(world.leave(follower)) == (E.NONE,)
    assert world.state() == "Empty"
    world.restart()
    assert world.state() == "Empty"
    _, token = world.join_new()
    assert world.joined(token).generation == generation + 2


def test_each_leaving_member_has_its_code() -> None:
    world = Harness()
    (leader, follower), _ = world.stable()
    token = world.leave(leader, "nobody", "", leader, LeavingMember(follower, "i"))
    unknown = E.UNKNOWN_MEMBER_ID
    assert world.codes(token) == (E.NONE, unknown, unknown, unknown, unknown)
    assert world.codes(world.leave("x", "y", group_id="h")) == (unknown, unknown)
    assert world.code(world.leave("x", group_id="")) is E.INVALID_GROUP_ID
    reply = world.replies[world.leave("nobody")]
    assert getattr(reply, "single_code") is unknown  # noqa: B009


def test_who_leaves_gets_its_waiting_requests_answered() -> None:
    world = Harness()
    (leader, follower), generation = world.generation()
    waiting = world.sync(follower, generation)
    world.leave(follower)
    assert world.replies[waiting] == SyncReply(E.UNKNOWN_MEMBER_ID)
    world.join_new()
    waiting = world.join(leader)
    assert world.code(waiting) is E.NONE
    world.member_id()
    waiting = world.join(leader, protocols={"p": b"new"})
    world.leave(leader)
    assert world.joined(waiting) == JoinReply(E.UNKNOWN_MEMBER_ID)


def test_an_id_given_out_can_leave_without_disturbing_the_others() -> None:
    world = Harness()
    world.stable()
    pending = world.member_id()
    assert world.codes(world.leave(pending)) == (E.NONE,)
    assert world.state() == "Stable"
    (leader, *_), _ = world.stable(group_id="h", count=1)
    pending = world.member_id(group_id="h")
    waiting = world.join(leader, group_id="h")
    assert waiting not in world.replies
    world.leave(pending, group_id="h")
    assert world.code(waiting) is E.NONE


def test_leaving_is_answered_when_an_empty_group_is_durable() -> None:
    world = Harness()
    (member_id,), _ = world.stable(1)
    world.stores_at_once = False
    token = world.leave(member_id)
    assert token not in world.replies
    world.refuse()
    assert world.code(token) is E.NOT_COORDINATOR
    assert world.state() == "Empty"
    world.restart()
    assert world.state() == "Stable"  # what the log says; it expires
    world.pass_time(10_000)
    assert world.state() == "Empty"


def test_a_group_that_becomes_empty_keeps_its_generation_while_that_is_stored() -> None:
    world = Harness(stores_at_once=False)
    (member_id,), generation = world.generation(1)
    world.leave(member_id)
    _, token = world.join_new()
    assert world.joined(token).generation == generation + 2
    world.pass_time(10 * 60_000)
    assert [len(decision.records) for decision in world.under_way] == [1, 1]
    for _ in range(2):
        world.store()
    assert world.state() == "Empty"
