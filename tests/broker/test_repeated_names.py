"""What a request names many times is answered once: an answer is no larger than what there is.

A name takes a few bytes to repeat, and a topic's partitions, a group's members or a configuration
with its documentation take thousands to tell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.broker.group_calls import GROUP, join, sync
from tests.broker.harness import Client, World, make_batch, simulated
from tests.broker.test_offsets import commit
from trio_broker.wire.messages.describe_configs import (
    DescribeConfigsRequest,
    DescribeConfigsResource,
)
from trio_broker.wire.messages.describe_groups import DescribeGroupsRequest
from trio_broker.wire.messages.describe_producers import DescribeProducersRequest, TopicRequest
from trio_broker.wire.messages.fetch import FetchPartition, FetchRequest, FetchTopic
from trio_broker.wire.messages.metadata import MetadataRequest, MetadataRequestTopic
from trio_broker.wire.messages.offset_fetch import (
    OffsetFetchRequest,
    OffsetFetchRequestGroup,
    OffsetFetchRequestTopic,
    OffsetFetchRequestTopics,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

TIMES = 2_000


def _metadata(times: int, topic_id: UUID) -> Any:
    return MetadataRequest(topics=[MetadataRequestTopic(name="orders")] * times)


def _metadata_by_id(times: int, topic_id: UUID) -> Any:
    return MetadataRequest(topics=[MetadataRequestTopic(name=None, topic_id=topic_id)] * times)


def _configs(times: int, topic_id: UUID) -> Any:
    resources = [
        DescribeConfigsResource(resource_type=kind, resource_name=name, configuration_keys=None)
        for kind, name in ((2, "orders"), (4, "0"))
    ]
    return DescribeConfigsRequest(resources=resources * times, include_documentation=True)


def _groups(times: int, topic_id: UUID) -> Any:
    return DescribeGroupsRequest(groups=[GROUP] * times)


def _producers(times: int, topic_id: UUID) -> Any:
    return DescribeProducersRequest(
        topics=[TopicRequest(name="orders", partition_indexes=[0] * times)]
    )


def _offsets_of_one_group(times: int, topic_id: UUID) -> Any:
    wanted = OffsetFetchRequestTopic(name="orders", partition_indexes=[0] * times)
    return OffsetFetchRequest(group_id="simple", topics=[wanted])


def _offsets(times: int, topic_id: UUID) -> Any:
    wanted = OffsetFetchRequestTopics(topic_id=topic_id, partition_indexes=[0] * times)
    return OffsetFetchRequest(groups=[OffsetFetchRequestGroup(group_id="simple", topics=[wanted])])


REQUESTS: list[tuple[Callable[[int, UUID], Any], int]] = [
    (_metadata, 0),
    (_metadata, 12),
    (_metadata_by_id, 13),
    (_configs, 4),
    (_groups, 0),
    (_groups, 6),
    (_producers, 0),
    (_offsets_of_one_group, 7),
    (_offsets, 10),
]


async def _prepare(client: Client, run: Any) -> None:
    await run.broker.create_topic("orders", partitions=20)
    producer = {"producer_id": 5, "producer_epoch": 0, "base_sequence": 0}
    assert (await client.produce(make_batch(**producer))).error_code == 0
    assert await commit(client, 1, group_id="simple", metadata="m" * 4_000) == [0]
    joined = await join(client, metadata=b"x" * 4_000)
    await sync(client, joined, {joined.member_id: b"y" * 4_000})


@pytest.mark.parametrize(
    "build, version",
    REQUESTS,
    ids=[f"{build.__name__[1:]}-{version}" for build, version in REQUESTS],
)
@simulated
async def test_repetitions_are_answered_once(world: World, build: Any, version: int) -> None:
    async with world.running() as run, world.connect() as client:
        await _prepare(client, run)
        sizes = []
        for times in (1, TIMES):
            await client.send(build(times, run.topic_id("orders")), version)
            frame = await client.receive_frame()
            assert frame is not None
            sizes.append(len(frame))
        assert sizes[0] > 50
        assert sizes[1] == sizes[0]


@simulated
async def test_all_offsets_of_a_group_are_told_once(world: World) -> None:
    async with world.running() as run, world.connect() as client:
        await _prepare(client, run)
        everything = OffsetFetchRequestGroup(group_id="simple", topics=None)
        answer = await client.call(OffsetFetchRequest(groups=[everything] * TIMES), 9)
        assert [len(group.topics) for group in answer.groups] == [1] + [0] * (TIMES - 1)


@simulated
async def test_different_partitions_of_a_topic_that_is_named_twice_are_all_answered(
    world: World,
) -> None:
    async with world.running() as run, world.connect() as client:
        await _prepare(client, run)
        wanted = [
            OffsetFetchRequestTopic(name="orders", partition_indexes=indexes)
            for indexes in ([0, 1], [1, 2], [0])
        ]
        answer = await client.call(OffsetFetchRequest(group_id="simple", topics=wanted), 5)
        found = [[part.partition_index for part in topic.partitions] for topic in answer.topics]
        assert found == [[0, 1], [2], []]


@simulated
async def test_the_last_offset_asked_for_of_a_partition_is_fetched(world: World) -> None:
    """Apache Kafka does so, and one that waits waits for each partition once."""

    def request(*offsets: int, max_wait_ms: int = 0) -> FetchRequest:
        partitions = [
            FetchPartition(partition=0, fetch_offset=offset, partition_max_bytes=1_000)
            for offset in offsets
        ]
        topics = [FetchTopic(topic="orders", partitions=[one]) for one in partitions]
        return FetchRequest(max_wait_ms=max_wait_ms, min_bytes=1, topics=topics)

    async with world.running() as run, world.connect() as client:
        await run.broker.create_topic("orders")
        for _ in range(2):
            assert (await client.produce(make_batch(b"1"))).error_code == 0
        answer = await client.call(request(7, 1), 4)
        assert [len(topic.partitions) for topic in answer.responses] == [1, 0]
        found = answer.responses[0].partitions[0]
        assert (found.error_code, found.high_watermark) == (0, 2)
        assert int.from_bytes(found.records[:8], "big") == 1
        async with world.connect() as other, trio.open_nursery() as nursery:
            await client.send(request(*[2] * TIMES, max_wait_ms=10_000), 4)
            nursery.start_soon(_produce_later, other)
            frame = await client.receive_frame()
            assert frame is not None and len(frame) < 300 + TIMES * len("orders" + "\0" * 6)


async def _produce_later(client: Client) -> None:
    await trio.sleep(1)
    assert (await client.produce(make_batch(b"2"))).error_code == 0
