"""OffsetCommit and OffsetFetch: every version, restarts, deleted topics, short logs, bad disks."""

from __future__ import annotations

from typing import Any

import attrs
import trio

from tests.broker.harness import World, codes, failing, running, simulated, slow
from tests.broker.retained import eventually
from trio_broker import BrokerConfig, ErrorCode
from trio_broker.config import Durability, GroupConfig
from trio_broker.names import OFFSETS_TOPIC_NAME, ZERO_TOPIC_ID, TopicName
from trio_broker.wire.messages.delete_topics import DeleteTopicsRequest
from trio_broker.wire.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
)
from trio_broker.wire.messages.offset_fetch import (
    OffsetFetchRequest,
    OffsetFetchRequestGroup,
    OffsetFetchRequestTopic,
    OffsetFetchRequestTopics,
)


def commit_request(
    *offsets: int, topic: Any = "orders", metadata: str | None = "here", **arguments: Any
) -> Any:
    """Commit offsets of partitions 0, 1, ...; a topic that is no name is an id."""
    named = {"name": topic} if isinstance(topic, str) else {"topic_id": topic}
    partitions = [
        OffsetCommitRequestPartition(
            partition_index=index,
            committed_offset=offset,
            committed_leader_epoch=3,
            committed_metadata=metadata,
        )
        for index, offset in enumerate(offsets)
    ]
    topics = [OffsetCommitRequestTopic(**named, partitions=partitions)]
    values = {"group_id": "readers", "member_id": "", "topics": topics}
    return OffsetCommitRequest(**(values | arguments))


async def commit(client: Any, *offsets: int, version: int = 8, **arguments: Any) -> list[int]:
    response = await client.call(commit_request(*offsets, **arguments), version)
    return codes(response.topics[0].partitions)


async def committed(
    client: Any,
    version: int = 7,
    *,
    group: str = "readers",
    topic: Any = "orders",
    partitions: tuple[int, ...] | None = (0, 1),
) -> dict[Any, list[tuple[Any, ...]]]:
    """Return (partition, offset, epoch, metadata, code) of each partition, by topic.

    With `partitions` None all that the group has committed.
    """
    if version < 8:
        wanted = [OffsetFetchRequestTopic(name=topic, partition_indexes=partitions or ())]
        topics = None if partitions is None else wanted
        response = await client.call(OffsetFetchRequest(group_id=group, topics=topics), version)
        assert response.error_code == 0
        found = response.topics
    else:
        named = {"name": topic} if isinstance(topic, str) else {"topic_id": topic}
        asked = [OffsetFetchRequestTopics(**named, partition_indexes=partitions or ())]
        one = OffsetFetchRequestGroup(group_id=group, topics=None if partitions is None else asked)
        response = await client.call(OffsetFetchRequest(groups=[one]), version)
        [answer] = response.groups
        assert (answer.group_id, answer.error_code) == (group, 0)
        found = answer.topics
    return {
        (entry.topic_id if version >= 10 else entry.name): [
            (
                part.partition_index,
                part.committed_offset,
                part.committed_leader_epoch,
                part.metadata,
                part.error_code,
            )
            for part in entry.partitions
        ]
        for entry in found
    }


@simulated
async def test_a_commit_survives_a_power_cut_whatever_topics_may_lose(world: World) -> None:
    """Records of topics are as durable as the broker's mode says, committed offsets as fsync."""
    world.fs.faults = attrs.evolve(world.fs.faults, writes_lost="any")
    config = {
        "storage": attrs.evolve(world.config().storage, durability=Durability.OS),
        "topic": attrs.evolve(world.config().topic, durability=Durability.OS),
    }
    async with world.running_until_power_cut(**config) as run:
        await run.broker.create_topic("orders")
        async with world.connect() as client:
            for offset in range(1, 6):
                assert await commit(client, offset) == [0]
        offsets_topic = run.state.router.by_name[OFFSETS_TOPIC_NAME]
        written = [replica.log for replica in offsets_topic.replicas if replica.log.log_end_offset]
        assert [log.durable_offset for log in written] == [log.log_end_offset for log in written]
        assert run.replica("orders").topic.durability is Durability.OS
    async with world.running(**config) as run, world.connect() as client:
        found = await committed(client, partitions=(0,))
        assert found == {"orders": [(0, 5, 3, "here", 0)]}


async def test_every_version_commits(wire_config: BrokerConfig) -> None:
    async with running(wire_config) as run:
        for version in range(2, 11):
            topic_id = await run.broker.create_topic("orders", partitions=2)
            topic = topic_id if version >= 10 else "orders"
            async with run.connect() as client:
                assert await commit(client, 5, 6, topic=topic, version=version) == [0, 0]
                assert await commit(client, 7, 8, 9, topic=topic, version=version) == [
                    0,
                    0,
                    ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
                ]
                epoch = 3 if version >= 6 else -1
                found = await committed(client)
                assert found == {"orders": [(0, 7, epoch, "here", 0), (1, 8, epoch, "here", 0)]}
                unknown = ZERO_TOPIC_ID if version >= 10 else "nowhere"
                assert await commit(client, 1, topic=unknown, version=version) == [
                    ErrorCode.UNKNOWN_TOPIC_ID
                    if version >= 10
                    else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
                ]
            await run.broker.delete_topic("orders")


async def test_every_version_fetches_what_was_committed(wire_config: BrokerConfig) -> None:
    async with running(wire_config) as run:
        for version in range(1, 11):
            topic_id = await run.broker.create_topic("orders", partitions=2)
            topic = topic_id if version >= 10 else "orders"
            async with run.connect() as client:
                epoch = 3 if version >= 5 else -1
                nothing = [(0, -1, -1, "", 0), (1, -1, -1, "", 0)]
                assert await committed(client, version, topic=topic) == {topic: nothing}
                assert await commit(client, 42) == [0]
                something = [(0, 42, epoch, "here", 0), nothing[1]]
                assert await committed(client, version, topic=topic) == {topic: something}
                assert await committed(client, version, topic=topic, group="others") == {
                    topic: nothing
                }
                if version >= 2:
                    every = await committed(client, version, partitions=None)
                    assert every == {topic: something[:1]}
                    assert await committed(client, version, partitions=None, group="others") == {}
                unknown = ZERO_TOPIC_ID if version >= 10 else "nowhere"
                code = ErrorCode.UNKNOWN_TOPIC_ID if version >= 10 else 0
                found = await committed(client, version, topic=unknown, partitions=(0,))
                assert found == {unknown: [(0, -1, -1, "", code)]}
            await run.broker.delete_topic("orders")


async def test_refused_commits(wire_config: BrokerConfig) -> None:
    async with running(wire_config) as run:
        await run.broker.create_topic("orders", partitions=2)
        async with run.connect() as client:
            assert await commit(client, 1, metadata="x" * 4097) == [
                ErrorCode.OFFSET_METADATA_TOO_LARGE
            ]
            assert await commit(client, 1, metadata="x" * 4096) == [0]
            assert await commit(client, 1, metadata=None) == [0]
            assert (await committed(client))["orders"][0] == (0, 1, 3, "", 0)
            assert await commit(client, 1, generation_id_or_member_epoch=4, member_id="m") == [
                ErrorCode.UNKNOWN_MEMBER_ID
            ]
            assert await commit(
                client, 1, group_id="unheard of", generation_id_or_member_epoch=4
            ) == [ErrorCode.ILLEGAL_GENERATION]
            # Old clients commit for the group without a name.
            assert await commit(client, 9, group_id="") == [0]
            assert (await committed(client, group=""))["orders"][0][1] == 9


async def test_commits_survive_a_restart_and_the_deletion_of_other_topics(
    wire_config: BrokerConfig,
) -> None:
    async with running(wire_config) as run:
        await run.broker.create_topic("orders")
        await run.broker.create_topic("carts")
        async with run.connect() as client:
            for offset in range(5):
                assert await commit(client, offset) == [0]
                assert await commit(client, offset, topic="carts", group_id=f"g{offset}") == [0]
            await run.broker.delete_topic("carts")
    async with running(wire_config) as run, run.connect() as client:
        assert (await committed(client, partitions=(0,))) == {"orders": [(0, 4, 3, "here", 0)]}
        assert await committed(client, partitions=None, group="g3") == {}


async def test_a_topic_of_the_same_name_does_not_inherit_offsets(
    wire_config: BrokerConfig,
) -> None:
    async with running(wire_config) as run:
        await run.broker.create_topic("orders")
        async with run.connect() as client:
            assert await commit(client, 7) == [0]
            await run.broker.delete_topic("orders")
            await run.broker.create_topic("orders")
            for version in (7, 8, 9):
                found = await committed(client, version, partitions=(0,))
                assert found["orders"] == [(0, -1, -1, "", 0)]


@simulated
async def test_who_deletes_a_topic_forgets_no_offsets_of_the_next_one_of_that_name(
    world: World,
) -> None:
    """They are forgotten when all of the topic is gone; by then the next one may be in use."""
    async with world.running() as run, world.connect() as client:
        await run.broker.create_topic("orders", partitions=700)
        assert set(await commit(client, *range(700))) == {0}
        await run.state.controller.delete_topic("orders")
        new_id = await run.broker.create_topic("orders", partitions=2)
        assert await commit(client, 5) == [0]
        await run.state.coordinator.forget_topics([TopicName("orders")])
        assert await committed(client) == {"orders": [(0, 5, 3, "here", 0), (1, -1, -1, "", 0)]}
        known = run.state.coordinator.committed("readers").fetch_all("readers")
        assert {index: value.topic_id for index, value in known["orders"].items()} == {0: new_id}


@simulated
async def test_offsets_of_a_topic_go_whatever_has_its_name_by_then(world: World) -> None:
    """A producer that goes on brings its topic back before all of the old one is gone."""
    async with world.running() as run, world.connect() as client, trio.open_nursery() as nursery:
        for by_client in (True, False):
            await run.broker.create_topic("orders")
            assert await commit(client, 5) == [0]
            known = run.state.router.by_name
            with slow("/data/logs", 0.2):
                if by_client:
                    request = DeleteTopicsRequest(topic_names=["orders"], timeout_ms=20_000)
                    await client.send(request, 4)
                else:
                    nursery.start_soon(run.broker.delete_topic, "orders")
                await eventually(lambda known=known: "orders" not in known)
                await run.broker.create_topic("orders")
            if by_client:
                assert codes((await client.receive(request, 4)).responses) == [0]
            await trio.sleep(20)
            assert run.state.coordinator.committed("readers").fetch_all("readers") == {}
            await run.broker.delete_topic("orders")


@simulated
async def test_a_short_log_holds_the_whole_state(world: World) -> None:
    group = GroupConfig(offsets_topic_partitions=1, offsets_topic_segment_bytes=4096)
    async with world.running(group=group) as run:
        await run.broker.create_topic("orders")
        async with world.connect() as client:
            for number in range(120):
                name = f"g{number % 7}"
                assert await commit(client, number, group_id=name) == [0]
            replica = run.replica(OFFSETS_TOPIC_NAME)
            before = replica.log.segment_count
            assert before > 3
            await run.state.coordinator.shorten_logs()
            assert replica.log.segment_count < before
            assert replica.log.log_start_offset > 100
            await trio.sleep(100)  # the files go a minute later
            assert await commit(client, 1000, group_id="g1") == [0]
    expected = {f"g{number % 7}": number for number in range(120)} | {"g1": 1000}
    async with world.running(group=group) as run, world.connect() as client:
        for name, offset in expected.items():
            assert (await committed(client, group=name))["orders"][0][1] == offset
        names = [path for path in world.fs.tree() if path.endswith(".log")]
        assert sum(str(run.topic_id(OFFSETS_TOPIC_NAME)) in name for name in names) <= 2


@simulated
async def test_offsets_that_cannot_be_read_at_the_start_are_not_taken_for_none(
    world: World,
) -> None:
    """A consumer that hears "nothing committed" begins again at the start, or skips everything."""
    group = GroupConfig(offsets_topic_partitions=1, offsets_topic_segment_bytes=2000)
    async with world.running_until_power_cut(group=group) as run:
        await run.broker.create_topic("orders")
        async with world.connect() as client:
            for offset in range(60):
                assert await commit(client, offset) == [0]
        replica = run.replica(OFFSETS_TOPIC_NAME)
        directory = replica.log.directory
        assert replica.log.segment_count > 3
    async with trio.open_nursery() as nursery:
        healed = trio.Event()

        async def break_reads(task_status: Any) -> None:
            with failing("read_at", directory) as met:
                task_status.started()
                await healed.wait()
                assert met

        await nursery.start(break_reads)
        async with world.running(group=group, reraise=False) as run:
            async with world.connect() as client:
                asked = OffsetFetchRequestGroup(group_id="readers", topics=None)
                response = await client.call(OffsetFetchRequest(groups=[asked]), 8)
                assert codes(response.groups) == [ErrorCode.COORDINATOR_LOAD_IN_PROGRESS]
                wanted = OffsetFetchRequestTopic(name="orders", partition_indexes=(0,))
                response = await client.call(
                    OffsetFetchRequest(group_id="readers", topics=[wanted]), 7
                )
                assert response.error_code == ErrorCode.COORDINATOR_LOAD_IN_PROGRESS
                assert await commit(client, 1) == [ErrorCode.COORDINATOR_LOAD_IN_PROGRESS]
                await run.state.coordinator.shorten_logs()
                healed.set()
                await trio.sleep(120)
                await run.state.coordinator.shorten_logs()
                assert (await committed(client))["orders"][0][1] == 59
                assert await commit(client, 60) == [0]
    async with world.running(group=group) as run, world.connect() as client:
        assert (await committed(client))["orders"][0][1] == 60


@simulated
async def test_groups_are_there_however_long_their_topic_took_to_make(world: World) -> None:
    """Who asked first is told to come again; whoever asks once it is there gets an answer."""
    async with world.running() as run:
        await run.broker.create_topic("orders")
        async with world.connect() as client:
            with slow("/data/logs", 4.0):
                with trio.move_on_after(20):
                    while await commit(client, 1) != [ErrorCode.NONE]:  # noqa: ASYNC110
                        await trio.sleep(0.5)
                routed = run.state.router.by_name[OFFSETS_TOPIC_NAME]
                assert not routed.is_made, "it was made sooner than this test believes"
            with trio.fail_after(200):
                while await commit(client, 2) != [ErrorCode.NONE]:  # noqa: ASYNC110
                    await trio.sleep(0.5)


@simulated
async def test_many_offsets_that_expire_at_once_go_soon(world: World) -> None:
    """A batch at a time, but not one only each time that it is looked for expired ones."""
    group = GroupConfig(
        offsets_topic_partitions=1,
        offsets_retention_ms=60_000,
        offsets_retention_check_interval_ms=600_000,
    )
    async with world.running(group=group) as run:
        await run.broker.create_topic("orders", partitions=100)
        async with world.connect() as client:
            for number in range(25):
                assert set(await commit(client, *range(100), group_id=f"g{number}")) == {0}
            machine = await run.state.coordinator.machine_for("g0")
            assert not isinstance(machine, ErrorCode)
            assert machine.group_count == 25
            await trio.sleep(620)
            assert machine.group_count == 0
