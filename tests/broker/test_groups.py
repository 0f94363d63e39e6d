"""Consumer groups over the wire: members, generations, restarts, bad disks, the end of a broker.

What the rules are is tested in `tests/group`; here is what the task around the machine owes it:
every request is answered, deadlines pass, what was answered is on the disk.
"""

from __future__ import annotations

import errno
from contextlib import AsyncExitStack
from typing import Any

import pytest
import trio

from tests.broker.group_calls import (
    GROUP,
    heartbeat,
    join,
    join_alone,
    join_request,
    leave,
    sync,
    sync_request,
)
from tests.broker.harness import Running, World, failing, running, simulated
from tests.broker.test_offsets import commit, committed
from trio_broker import BrokerConfig, ErrorCode
from trio_broker.config import GroupConfig
from trio_broker.names import OFFSETS_TOPIC_NAME
from trio_broker.wire.messages.delete_groups import DeleteGroupsRequest
from trio_broker.wire.messages.describe_groups import DescribeGroupsRequest
from trio_broker.wire.messages.list_groups import ListGroupsRequest
from trio_broker.wire.messages.offset_delete import (
    OffsetDeleteRequest,
    OffsetDeleteRequestPartition,
    OffsetDeleteRequestTopic,
)

ONE_PARTITION = GroupConfig(offsets_topic_partitions=1)
#: What clients answer with looking for the coordinator again, or with trying again.
RETRIABLE = {
    ErrorCode.NOT_COORDINATOR,
    ErrorCode.COORDINATOR_NOT_AVAILABLE,
    ErrorCode.COORDINATOR_LOAD_IN_PROGRESS,
}


async def describe(client: Any, group: str = GROUP, version: int = 5) -> Any:
    response = await client.call(DescribeGroupsRequest(groups=[group]), version)
    return response.groups[0]


async def wait_for_state(client: Any, state: str) -> None:
    with trio.fail_after(20):
        while (await describe(client)).group_state != state:  # noqa: ASYNC110 - only asking tells
            await trio.sleep(0.01)


async def listed(client: Any, **filters: Any) -> dict[str, str]:
    response = await client.call(ListGroupsRequest(**filters), 5)
    assert response.error_code == 0
    return {group.group_id: group.group_state for group in response.groups}


class Parked:
    """A request whose answer is awaited by a task of its own."""

    def __init__(self) -> None:
        self.response: Any = None
        self._answered = trio.Event()

    async def run(self, client: Any, request: Any, version: int) -> None:
        await client.send(request, version)
        self.response = await client.receive(request, version)
        self._answered.set()

    @property
    def is_answered(self) -> bool:
        return self._answered.is_set()

    async def wait(self) -> Any:
        with trio.fail_after(25):
            await self._answered.wait()
        return self.response


def park(nursery: trio.Nursery, client: Any, request: Any, version: int) -> Parked:
    parked = Parked()
    nursery.start_soon(parked.run, client, request, version)
    return parked


# ------------------------------------------------------------------------------------ membership
@pytest.mark.parametrize("version", range(10))
async def test_two_members_share_a_group_in_every_version(
    wire_config: BrokerConfig, version: int
) -> None:
    sync_version = min(version, 5)
    async with running(wire_config) as run, run.connect() as one, run.connect() as two:
        first = await join(one, version=version, metadata=b"one")
        assert (first.error_code, first.generation_id, first.leader) == (0, 1, first.member_id)
        synced = await sync(one, first, {first.member_id: b"all"}, sync_version)
        assert (synced.error_code, bytes(synced.assignment)) == (0, b"all")
        async with trio.open_nursery() as nursery:
            second_id = ""
            if version >= 4:
                required = await two.call(join_request(metadata=b"two"), version)
                assert required.error_code == ErrorCode.MEMBER_ID_REQUIRED
                second_id = required.member_id
                assert second_id.startswith("test-")
            parked = park(nursery, two, join_request(second_id, metadata=b"two"), version)
            await wait_for_state_by(run, "PreparingRebalance")
            beat = await heartbeat(one, first.member_id, 1)
            assert beat == ErrorCode.REBALANCE_IN_PROGRESS
            again = await join(one, first.member_id, version, metadata=b"one")
            second = await parked.wait()
        assert (again.error_code, again.generation_id) == (0, 2)
        assert (second.error_code, second.generation_id, second.leader) == (0, 2, again.member_id)
        assert {bytes(member.metadata) for member in again.members} == {b"one", b"two"}
        assert list(second.members) == []
        async with trio.open_nursery() as nursery:
            waiting = park(nursery, two, sync_request(second), sync_version)
            shares = {again.member_id: b"left", second.member_id: b"right"}
            synced = await sync(one, again, shares, sync_version)
            assert bytes(synced.assignment) == b"left"
            assert bytes((await waiting.wait()).assignment) == b"right"
        assert await heartbeat(one, first.member_id, 2) == 0
        assert await heartbeat(two, second.member_id, 2) == 0
        described = await describe(one)
        assert (described.group_state, described.protocol_data) == ("Stable", "range")
        assert {member.client_host for member in described.members} == {"/127.0.0.1"}
        assert {bytes(member.member_assignment) for member in described.members} == {
            b"left",
            b"right",
        }


async def wait_for_state_by(run: Running, state: str) -> None:
    async with run.connect() as client:
        await wait_for_state(client, state)


async def test_heartbeat_codes(wire_config: BrokerConfig) -> None:
    async with running(wire_config) as run, run.connect() as client:
        assert await heartbeat(client, "nobody", 1) == ErrorCode.UNKNOWN_MEMBER_ID
        joined = await join_alone(client)
        me = joined.member_id
        assert await heartbeat(client, me, 1) == 0
        assert await heartbeat(client, "nobody", 1) == ErrorCode.UNKNOWN_MEMBER_ID
        assert await heartbeat(client, me, 0) == ErrorCode.ILLEGAL_GENERATION
        assert await heartbeat(client, me, 2) == ErrorCode.ILLEGAL_GENERATION
        assert await heartbeat(client, me, 1, group_id="") == ErrorCode.INVALID_GROUP_ID
        assert await heartbeat(client, me, 1, group_instance_id="i") == (
            ErrorCode.UNKNOWN_MEMBER_ID
        )


async def test_refused_joins(wire_config: BrokerConfig) -> None:
    async with running(wire_config) as run, run.connect() as client:
        for arguments, code in (
            ({"group": ""}, ErrorCode.INVALID_GROUP_ID),
            ({"session_timeout_ms": 5_999}, ErrorCode.INVALID_SESSION_TIMEOUT),
            ({"session_timeout_ms": 1_800_001}, ErrorCode.INVALID_SESSION_TIMEOUT),
            ({"member_id": "made up"}, ErrorCode.UNKNOWN_MEMBER_ID),
            ({"protocols": ()}, ErrorCode.INCONSISTENT_GROUP_PROTOCOL),
            ({"protocol_type": ""}, ErrorCode.INCONSISTENT_GROUP_PROTOCOL),
        ):
            assert (await join(client, **arguments)).error_code == code, arguments
        assert await listed(client) == {}
        await join_alone(client)
        other = await join(client, protocols=("roundrobin",))
        assert other.error_code == ErrorCode.INCONSISTENT_GROUP_PROTOCOL


@pytest.mark.parametrize("version", range(6))
async def test_leaving_in_every_version(wire_config: BrokerConfig, version: int) -> None:
    async with running(wire_config) as run, run.connect() as client:
        joined = await join_alone(client)
        refused = await leave(client, "nobody", version=version)
        code = refused.members[0].error_code if version >= 3 else refused.error_code
        assert code == ErrorCode.UNKNOWN_MEMBER_ID
        assert await heartbeat(client, joined.member_id, 1) == 0
        left = await leave(client, joined.member_id, version=version)
        assert left.error_code == 0
        assert [member.error_code for member in left.members] == ([0] if version >= 3 else [])
        assert await heartbeat(client, joined.member_id, 1) == ErrorCode.UNKNOWN_MEMBER_ID
        assert (await describe(client)).group_state == "Empty"


async def test_a_static_member_comes_back_into_its_generation(wire_config: BrokerConfig) -> None:
    async with running(wire_config) as run, run.connect() as client:
        first = await join_alone(client, group_instance_id="i")
    async with running(wire_config) as run, run.connect() as client:
        back = await join(client, group_instance_id="i")
        assert (back.error_code, back.generation_id) == (0, 1)
        assert back.skip_assignment
        assert back.member_id != first.member_id
        synced = await sync(client, back)
        assert bytes(synced.assignment) == b"everything"
        fenced = await heartbeat(client, first.member_id, 1, group_instance_id="i")
        assert fenced == ErrorCode.FENCED_INSTANCE_ID
        left = await leave(client, ("", "i"))
        assert left.members[0].error_code == 0


@simulated
async def test_a_silent_member_is_dropped_and_one_that_beats_is_not(world: World) -> None:
    async with world.running() as run, world.connect() as one, world.connect() as two:
        joined = await join_alone(one, session_timeout_ms=6_000)
        for _ in range(4):
            await trio.sleep(5)
            assert await heartbeat(one, joined.member_id, 1) == 0
        async with trio.open_nursery() as nursery:
            required = await two.call(join_request(), 9)
            parked = park(nursery, two, join_request(required.member_id), 9)
            began = trio.current_time()
            second = await parked.wait()
            assert 5.9 < trio.current_time() - began < 6.5
        assert (second.error_code, second.generation_id) == (0, 2)
        assert [member.member_id for member in second.members] == [second.member_id]
        assert await heartbeat(one, joined.member_id, 1) == ErrorCode.UNKNOWN_MEMBER_ID
        await trio.sleep(40)
        assert (await describe(one)).group_state == "Empty"
        del run


@simulated
async def test_first_members_wait_for_others(world: World) -> None:
    """As in Kafka, for the delay, and again for as long while others come."""
    group = GroupConfig(initial_rebalance_delay_ms=3_000)
    async with world.running(group=group), trio.open_nursery() as nursery:
        async with world.connect() as one, world.connect() as two:
            began = trio.current_time()
            first = park(nursery, one, join_request(), 3)
            await trio.sleep(2)
            second = park(nursery, two, join_request(), 3)
            assert (await first.wait()).generation_id == 1
            assert (await second.wait()).generation_id == 1
            assert 5.9 < trio.current_time() - began < 6.5


@simulated
async def test_three_hundred_members_join(world: World) -> None:
    group = GroupConfig(initial_rebalance_delay_ms=3_000)
    async with world.running(group=group), trio.open_nursery() as nursery:
        async with AsyncExitStack() as stack:
            watcher = await stack.enter_async_context(world.connect())
            parked = []
            for _ in range(300):
                client = await stack.enter_async_context(world.connect())
                parked.append(park(nursery, client, join_request(), 3))
            joined = [await one.wait() for one in parked]
            assert {(one.error_code, one.generation_id) for one in joined} == {(0, 1)}
            assert len({one.member_id for one in joined}) == 300
            [leader] = [one for one in joined if one.members]
            assert len(leader.members) == 300
            shares = {one.member_id: one.member_id.encode() for one in joined}
            synced = await sync(watcher, leader, shares)
            assert bytes(synced.assignment).decode() == leader.member_id
            last = await sync(watcher, joined[-1])
            assert bytes(last.assignment).decode() == joined[-1].member_id


@simulated
async def test_a_client_that_closes_while_it_waits_leaves_nothing(world: World) -> None:
    async with world.running() as run:
        async with world.connect() as one:
            joined = await join_alone(one, session_timeout_ms=6_000)
            async with world.connect() as two:
                required = await two.call(join_request(), 9)
                await two.send(join_request(required.member_id, session_timeout_ms=6_000), 9)
                await wait_for_state(one, "PreparingRebalance")
            again = await join(one, joined.member_id)
            assert len(again.members) == 2
            shares = {again.member_id: b"everything"}
            assert (await sync(one, again, shares)).error_code == 0
            with trio.fail_after(60):
                while await heartbeat(one, again.member_id, 2) == 0:  # noqa: ASYNC110
                    await trio.sleep(1)
            third = await join(one, again.member_id)
            assert [member.member_id for member in third.members] == [again.member_id]
            assert len(run.state.clients) == 1
        await run.wait_idle()
        await trio.sleep(60)
        async with world.connect() as one:
            assert (await describe(one)).group_state == "Empty"


# --------------------------------------------------------------------------------------- offsets
async def test_members_commit_in_their_generation_only(wire_config: BrokerConfig) -> None:
    async with running(wire_config) as run, run.connect() as client:
        await run.broker.create_topic("orders")
        joined = await join_alone(client)

        async def as_member(member_id: str, generation: int) -> list[int]:
            return await commit(
                client, 7, member_id=member_id, generation_id_or_member_epoch=generation
            )

        me = joined.member_id
        assert await as_member(me, 1) == [0]
        assert await as_member(me, 0) == [ErrorCode.ILLEGAL_GENERATION]
        assert await as_member(me, 2) == [ErrorCode.ILLEGAL_GENERATION]
        assert await as_member("nobody", 1) == [ErrorCode.UNKNOWN_MEMBER_ID]
        # A client that is no member must not move the offsets of those who are.
        assert await as_member("", -1) == [ErrorCode.UNKNOWN_MEMBER_ID]
        # Before the leader has assigned, nobody owns anything.
        again = await join(client, me, metadata=b"other topics")
        assert await as_member(me, again.generation_id) == [ErrorCode.REBALANCE_IN_PROGRESS]
        assert (await committed(client))["orders"][0][1] == 7
        await leave(client, me)
        assert await as_member("", -1) == [0]


async def test_groups_and_offsets_survive_a_restart(wire_config: BrokerConfig) -> None:
    async with running(wire_config) as run, run.connect() as client:
        await run.broker.create_topic("orders")
        joined = await join_alone(client)
        me = joined.member_id
        assert await commit(client, 9, member_id=me, generation_id_or_member_epoch=1) == [0]
    async with running(wire_config) as run, run.connect() as client:
        assert await heartbeat(client, me, 1) == 0
        described = await describe(client)
        assert described.group_state == "Stable"
        assert bytes(described.members[0].member_assignment) == b"everything"
        assert (await committed(client))["orders"][0][1] == 9
        assert await commit(client, 10, member_id=me, generation_id_or_member_epoch=1) == [0]


@simulated
async def test_groups_and_offsets_survive_a_power_cut(world: World) -> None:
    async with world.running_until_power_cut() as run:
        async with world.connect() as client:
            await run.broker.create_topic("orders")
            joined = await join_alone(client)
            me = joined.member_id
            assert await commit(client, 9, member_id=me, generation_id_or_member_epoch=1) == [0]
    async with world.running(), world.connect() as client:
        assert await heartbeat(client, me, 1) == 0
        assert (await committed(client))["orders"][0][1] == 9
        await trio.sleep(12)  # the session began again with the start, and ends
        assert (await describe(client)).group_state == "Empty"


async def test_deleting_a_topic_forgets_its_offsets(wire_config: BrokerConfig) -> None:
    async with running(wire_config) as run, run.connect() as client:
        for topic in ("orders", "carts"):
            await run.broker.create_topic(topic)
            assert await commit(client, 5, topic=topic) == [0]
            assert await commit(client, 5, topic=topic, group_id="others") == [0]
        await run.broker.delete_topic("orders")
        for group in (GROUP, "others"):
            assert set(await committed(client, partitions=None, group=group)) == {"carts"}
        await run.broker.delete_topic("carts")
        assert await listed(client) == {}


async def test_offset_delete(wire_config: BrokerConfig) -> None:
    async with running(wire_config) as run, run.connect() as client:
        await run.broker.create_topic("orders", partitions=2)

        async def delete(group: str, *partitions: int, topic: str = "orders") -> Any:
            wanted = [OffsetDeleteRequestPartition(partition_index=index) for index in partitions]
            topics = [OffsetDeleteRequestTopic(name=topic, partitions=wanted)]
            response = await client.call(OffsetDeleteRequest(group_id=group, topics=topics), 0)
            return response.error_code, [
                part.error_code for entry in response.topics for part in entry.partitions
            ]

        assert await delete(GROUP, 0) == (ErrorCode.GROUP_ID_NOT_FOUND, [])
        assert await commit(client, 5, 6) == [0, 0]
        unknown = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        assert await delete(GROUP, 0, 9) == (0, [0, unknown])
        assert await delete(GROUP, 0, topic="nowhere") == (0, [unknown])
        found = await committed(client)
        assert [offset for _, offset, *_ in found["orders"]] == [-1, 6]
    async with running(wire_config) as run, run.connect() as client:
        found = await committed(client)
        assert [offset for _, offset, *_ in found["orders"]] == [-1, 6]


async def test_list_and_delete_groups(wire_config: BrokerConfig) -> None:
    async with running(wire_config) as run, run.connect() as client:
        await run.broker.create_topic("orders")
        joined = await join_alone(client)
        assert await commit(client, 5, group_id="simple") == [0]
        assert await listed(client) == {GROUP: "Stable", "simple": "Empty"}
        assert await listed(client, states_filter=["stable"]) == {GROUP: "Stable"}
        assert await listed(client, states_filter=["Empty", "Dead"]) == {"simple": "Empty"}
        assert await listed(client, states_filter=["nonsense"]) == {}
        assert len(await listed(client, types_filter=["Classic"])) == 2
        assert await listed(client, types_filter=["consumer"]) == {}

        async def delete(*groups: str) -> dict[str, int]:
            response = await client.call(DeleteGroupsRequest(groups_names=list(groups)), 2)
            return {result.group_id: result.error_code for result in response.results}

        assert await delete(GROUP, "simple", "nobody") == {
            GROUP: ErrorCode.NON_EMPTY_GROUP,
            "simple": 0,
            "nobody": ErrorCode.GROUP_ID_NOT_FOUND,
        }
        await leave(client, joined.member_id)
        assert await delete(GROUP) == {GROUP: 0}
        assert await listed(client) == {}
        assert (await describe(client)).group_state == "Dead"
        assert (await describe(client, version=6)).error_code == ErrorCode.GROUP_ID_NOT_FOUND
    async with running(wire_config) as run, run.connect() as client:
        assert await listed(client) == {}


# ------------------------------------------------------------------------------ disks and the end
@simulated
async def test_waiting_requests_are_answered_when_the_broker_stops(world: World) -> None:
    async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
        async with world.running() as run:
            one = await stack.enter_async_context(world.connect())
            two = await stack.enter_async_context(world.connect())
            await join_alone(one)
            required = await two.call(join_request(), 9)
            parked = park(nursery, two, join_request(required.member_id), 9)
            await wait_for_state(one, "PreparingRebalance")
            began = trio.current_time()
            run.tree.request_stop()
            await run.tree.ended.wait()
            assert trio.current_time() - began < 5
        assert (await parked.wait()).error_code == ErrorCode.NOT_COORDINATOR


@simulated
async def test_a_group_whose_log_is_offline_sends_its_members_away_and_comes_back(
    world: World,
) -> None:
    async with world.running(group=ONE_PARTITION, reraise=False) as run:
        async with trio.open_nursery() as nursery, world.connect() as one, world.connect() as two:
            await run.broker.create_topic("orders")
            joined = await join_alone(one)
            me = joined.member_id
            assert await commit(one, 7, member_id=me, generation_id_or_member_epoch=1) == [0]
            required = await two.call(join_request(), 9)
            parked = park(nursery, two, join_request(required.member_id), 9)
            await wait_for_state(one, "PreparingRebalance")
            replica = run.replica(OFFSETS_TOPIC_NAME)
            replica.shard.take_offline(replica, "a test has taken it")
            assert (await parked.wait()).error_code == ErrorCode.NOT_COORDINATOR
            # Members go on reading; what they commit meanwhile they will commit again.
            assert await heartbeat(one, me, 1) == 0
            refused = await commit(one, 8, member_id=me, generation_id_or_member_epoch=1)
            assert set(refused) <= RETRIABLE
            synced = await sync(one, joined)
            assert synced.error_code == ErrorCode.REBALANCE_IN_PROGRESS
            assert (await join(one, me)).error_code in RETRIABLE
            assert (await describe(one)).error_code in RETRIABLE
            assert (await one.call(ListGroupsRequest(), 5)).error_code in RETRIABLE
            await trio.sleep(9)  # less than its session, which begins again with the log
            assert await heartbeat(one, me, 1) == 0
            await trio.sleep(9)
            assert await heartbeat(one, me, 1) == 0
            assert (await describe(one)).group_state == "Stable"
            assert (await committed(one))["orders"][0][1] == 7
            assert await commit(one, 8, member_id=me, generation_id_or_member_epoch=1) == [0]


@simulated
async def test_a_full_disk_while_the_leader_assigns(world: World) -> None:
    async with world.running(group=ONE_PARTITION, reraise=False) as run:
        async with world.connect() as client:
            joined = await join(client)
            directory = run.replica(OFFSETS_TOPIC_NAME).log.directory
            with failing("write_at", directory, errno.ENOSPC) as met:
                synced = await sync(client, joined, {joined.member_id: b"everything"})
                assert met
            assert synced.error_code in RETRIABLE | {ErrorCode.REBALANCE_IN_PROGRESS}
            with trio.fail_after(300):
                while True:
                    again = await join(client, joined.member_id)
                    if again.error_code == ErrorCode.UNKNOWN_MEMBER_ID:
                        again = await join(client)
                    if again.error_code == 0:
                        synced = await sync(client, again, {again.member_id: b"everything"})
                        if synced.error_code == 0:
                            break
                    await trio.sleep(1)
            assert bytes(synced.assignment) == b"everything"
            assert (await describe(client)).group_state == "Stable"


@simulated
async def test_a_group_with_the_longest_name_can_be_asked_about(world: World) -> None:
    """The message about it must fit into a string, too."""
    async with world.running(), world.connect() as client:
        for name in ("x" * 32_767, "\0" * 32_767, "日" * 10_922):
            found = await describe(client, name, version=6)
            assert found.error_code == ErrorCode.GROUP_ID_NOT_FOUND
            assert len(found.error_message) < 2_000
