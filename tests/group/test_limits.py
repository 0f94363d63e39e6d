"""What bounds groups, members and the memory they take."""

from __future__ import annotations

from tests.group.harness import Harness, frozen_state
from trio_broker.errors import ErrorCode
from trio_broker.group.classic_group import Tally
from trio_broker.group.commands import JoinReply, LeavingMember

E = ErrorCode


def test_a_group_has_room_for_so_many() -> None:
    world = Harness(group_size_max=2)
    members, generation = world.stable(2)
    before = frozen_state(world.machine)
    assert world.joined(world.join()) == JoinReply(E.GROUP_MAX_SIZE_REACHED)
    assert world.joined(world.join(instance="i")) == JoinReply(E.GROUP_MAX_SIZE_REACHED)
    assert frozen_state(world.machine) == before
    assert world.heartbeat(members[0], generation) is E.NONE
    assert world.joined(world.join(members[1])).code is E.NONE


def test_ids_given_out_are_bounded_too() -> None:
    world = Harness(group_size_max=3)
    for _ in range(3):
        world.member_id()
    assert world.code(world.join()) is E.GROUP_MAX_SIZE_REACHED
    world.pass_time(10_000)
    assert world.code(world.join()) is E.MEMBER_ID_REQUIRED


def test_a_group_that_is_too_large_after_a_restart_becomes_smaller() -> None:
    world = Harness()
    members, generation = world.stable(3)
    world.config = Harness(group_size_max=2).config
    world.restart()
    assert world.state() == "PreparingRebalance"
    assert world.heartbeat(members[0], generation) is E.REBALANCE_IN_PROGRESS
    first, second, third = (world.join(member_id) for member_id in members)
    assert world.joined(third) == JoinReply(E.GROUP_MAX_SIZE_REACHED)
    assert world.joined(first).generation == world.joined(second).generation == generation + 1


def test_a_pending_id_that_finds_no_room_is_forgotten() -> None:
    world = Harness(group_size_max=2)
    first, second = world.member_id(), world.member_id()
    third = world.joined(world.join(version=3)).member_id
    waiting = [world.join(first), world.join(third)]
    assert not world.replies.keys() & set(waiting)
    assert world.code(world.join(second)) is E.GROUP_MAX_SIZE_REACHED
    assert {world.joined(token).generation for token in waiting} == {2}
    assert world.code(world.join(second)) is E.GROUP_MAX_SIZE_REACHED
    world.leave(first)
    world.join(third)
    assert world.code(world.join(second)) is E.UNKNOWN_MEMBER_ID


def test_groups_are_bounded() -> None:
    world = Harness(groups_max=2)
    world.member_id(group_id="a")
    world.commit({("t", 0): 1}, group_id="b")
    assert world.code(world.join(group_id="c")) is E.POLICY_VIOLATION
    assert world.codes(world.commit({("t", 0): 1}, group_id="c")) == (E.POLICY_VIOLATION,)
    assert world.code(world.join(group_id="b")) is E.MEMBER_ID_REQUIRED


def test_the_memory_of_all_members_is_bounded() -> None:
    world = Harness(membership_bytes_max=65_536)
    protocols = {"p": b"x" * 20_000}
    member_id, _ = world.join_new(group_id="a", protocols=protocols)
    world.join_new(group_id="b", protocols=protocols)
    taken = world.machine.membership_bytes
    assert 40_000 < taken < 45_000
    _, third = world.join_new(group_id="c", protocols={"p": b""})
    assert world.joined(third).code is E.NONE
    assert world.code(world.join(group_id="d", protocols=protocols)) is E.MEMBER_ID_REQUIRED
    world.join_new(group_id="d", protocols=protocols)
    assert world.code(world.join(group_id="e", protocols=protocols)) is E.POLICY_VIOLATION
    assert world.code(world.join(member_id, group_id="a", protocols=protocols)) is E.NONE
    for group_id in "abcd":
        description = world.machine.describe(group_id)
        assert description is not None
        world.leave(*(m.member_id for m in description.members), group_id=group_id)
    assert world.machine.membership_bytes == 0


def test_what_is_assigned_counts_before_it_is_taken() -> None:
    """A request of 4 MiB for each of 10,000 groups was taken, whatever the limit."""
    world = Harness(membership_bytes_max=65_536)
    (leader, other), generation = world.generation(2)
    waiting = world.sync(other, generation)
    before = frozen_state(world.machine)
    large = world.sync(leader, generation, {other: b"x" * 65_536})
    assert world.code(large) is E.POLICY_VIOLATION
    assert frozen_state(world.machine) == before
    assert waiting not in world.replies
    # What is for nobody is not kept.
    given = {leader: b"x" * 30_000, other: b"x" * 30_000, "nobody": b"x" * 65_536}
    assert world.code(world.sync(leader, generation, given)) is E.NONE
    assert world.code(waiting) is E.NONE
    assert world.machine.membership_bytes < 65_536


def test_a_group_that_is_there_goes_on_when_no_memory_is_left() -> None:
    """Its members were refused for what all had taken, and their clients gave up."""
    world = Harness()
    static_id = world.static("i", protocols={"p": b"x" * 30_000})
    for group_id in ("a", "b"):
        members, generation = world.stable(1, group_id=group_id, protocols={"p": b"x" * 30_000})
    world.config = Harness(membership_bytes_max=65_536).config
    world.restart()
    assert world.machine.membership_bytes > 65_536
    larger = world.join(members[0], group_id="b", protocols={"p": b"x" * 30_001})
    assert world.code(larger) is E.POLICY_VIOLATION
    assert world.code(world.join(group_id="b")) is E.POLICY_VIOLATION
    again = world.joined(world.join(members[0], group_id="b", protocols={"p": b"y" * 30_000}))
    assert (again.code, again.generation) == (E.NONE, generation + 1)
    assert world.code(world.sync(members[0], again.generation, group_id="b")) is E.NONE
    back = world.joined(world.join(instance="i", protocols={"p": b"z" * 30_000}))
    assert back.code is E.NONE
    assert back.member_id != static_id


def test_machines_of_one_broker_share_its_limits() -> None:
    total = Tally()
    one = Harness(total=total, groups_max=3, membership_bytes_max=65_536)
    two = Harness(total=total, groups_max=3, membership_bytes_max=65_536)
    large = {"p": b"x" * 30_000}
    one.join_new(group_id="a", protocols=large)
    two.join_new(group_id="b", protocols=large)
    one.commit({("t", 0): 1}, group_id="c")
    for world in (one, two):
        assert world.codes(world.commit({("t", 0): 1}, group_id="d")) == (E.POLICY_VIOLATION,)
    assert two.code(two.join(group_id="b", protocols=large)) is E.POLICY_VIOLATION
    assert total.groups == 3
    assert total.size_bytes == one.machine.membership_bytes + two.machine.membership_bytes
    # A machine that is replaced counts no more, whatever it still hears of its decisions.
    one.stores_at_once = False
    one.commit({("t", 0): 2}, group_id="c")
    one.machine.close(one.now)
    one.machine.give_up()
    assert (total.groups, total.size_bytes) == (1, two.machine.membership_bytes)
    one.refuse()
    assert (total.groups, total.size_bytes) == (1, two.machine.membership_bytes)
    assert two.codes(two.commit({("t", 0): 1}, group_id="d")) == (E.NONE,)


def test_the_memory_of_committed_offsets_is_bounded() -> None:
    total = Tally()
    one, two = (Harness(total=total, offsets_bytes_max=65_536) for _ in range(2))
    note = "x" * 3_600  # about 4,000 bytes each
    for partition in range(8):
        for world in (one, two):
            assert world.codes(world.commit({("t", partition): 1}, metadata=note)) == (E.NONE,)
    assert total.offsets_bytes == 16 * 4_000
    full = E.INVALID_COMMIT_OFFSET_SIZE
    many = {("t", 7): 2, **{("u", partition): 1 for partition in range(4)}}
    # What takes no more room is committed, and new ones as far as there is room.
    assert one.codes(one.commit(many)) == (E.NONE, E.NONE, E.NONE, E.NONE, E.NONE)
    assert one.codes(one.commit({("u", 9): 1}, metadata=note)) == (full,)
    assert two.codes(two.commit({("t", 0): 2}, metadata=note)) == (E.NONE,)
    assert two.codes(two.commit({("t", 0): 2}, metadata=note + "x" * 400)) == (E.NONE,)
    assert two.codes(two.commit({("t", 1): 2}, metadata=note + "x" * 496)) == (E.NONE,)
    before = frozen_state(two.machine)
    assert two.codes(two.commit({("v", 0): 1}, metadata=note)) == (full,)
    assert frozen_state(two.machine) == before
    # A restart takes in all there is; deletion makes room.
    taken = two.machine._groups.tally.offsets_bytes
    two.machine.close(two.now)
    two.machine.give_up()
    two.restart()
    assert two.machine._groups.tally.offsets_bytes == taken
    assert two.codes(two.delete_groups("g")) == (E.NONE,)
    assert total.offsets_bytes == one.machine._groups.tally.offsets_bytes
    assert two.codes(two.commit({("v", 0): 1}, metadata=note)) == (E.NONE,)


def test_a_static_member_that_comes_back_under_another_client_id_counts_as_what_it_is() -> None:
    world = Harness(membership_bytes_max=65_536)
    for _ in range(40):  # each left the difference behind, until nobody could join any more
        world.joined(world.join(instance="i", client_id="long" * 500))
        member_id = world.joined(world.join(instance="i", client_id="short")).member_id
        world.leave(LeavingMember(member_id, "i"))
        assert world.machine.membership_bytes == 0
