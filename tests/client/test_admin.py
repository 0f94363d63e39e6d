"""The admin client, against our broker and against Apache Kafka."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
import trio

from trio_broker import ErrorCode, RequestError
from trio_broker.client import (
    ClientClosed,
    ClientOptions,
    CommittedOffset,
    ConfigOperation,
    OffsetSpec,
    ResourceType,
    TopicPartition,
    Unreachable,
    open_client,
)
from trio_broker.client.admin_results import ConfigSource
from trio_broker.testing import memory_broker
from trio_broker.wire.api import ApiKey

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_broker.client import Client

    Served = Callable[[ApiKey], None]
    NewName = Callable[[], str]

LATEST, EARLIEST = OffsetSpec.LATEST, OffsetSpec.EARLIEST
#: Recent, or retention would delete the records while a test looks at them.
FIRST_MS = time.time_ns() // 1_000_000 - 60_000


async def eventually(look: Callable[[], Awaitable[bool]]) -> None:
    """Look until it is true: brokers of a Kafka cluster learn of a change after it is answered."""
    with trio.fail_after(10):
        while not await look():
            pass  # looking is a request, which takes its time


async def is_gone(client: Client, topic: str) -> bool:
    try:
        await client.admin.describe_topic(topic)
    except RequestError as error:
        return error.code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    return False


async def produce(client: Client, topic: str, count: int, *, partition: int = 0) -> None:
    async with client.open_producer() as producer:
        for number in range(count):
            await producer.send_soon(
                topic, b"%d" % number, partition=partition, timestamp_ms=FIRST_MS + number
            )


async def test_a_topic_is_created_described_and_deleted(client: Client, new_name: NewName) -> None:
    name = new_name()
    created = await client.admin.create_topic(
        name, partitions=2, configs={"retention.ms": "-1", "segment.bytes": "2000000"}
    )
    assert (created.name, created.partition_count, created.replication_factor) == (name, 2, 1)
    assert created.configs["segment.bytes"] == "2000000"
    assert name in [topic.name for topic in await client.admin.list_topics()]

    described = await client.admin.describe_topic(name)
    assert described.topic_id == created.topic_id
    assert sorted(described.partitions) == [0, 1]
    cluster = await client.admin.describe_cluster()
    assert {view.leader for view in described.partitions.values()} <= set(cluster.nodes)
    assert cluster.cluster_id

    with pytest.raises(RequestError) as caught:
        await client.admin.create_topic(name)
    assert caught.value.code == ErrorCode.TOPIC_ALREADY_EXISTS

    await client.admin.delete_topic(name)
    await eventually(lambda: is_gone(client, name))
    with pytest.raises(RequestError) as caught:
        await client.admin.delete_topic(name)
    assert caught.value.code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


@pytest.mark.parametrize(
    "arguments, code",
    [
        ({"partitions": 0}, ErrorCode.INVALID_PARTITIONS),
        ({"replication_factor": 99}, ErrorCode.INVALID_REPLICATION_FACTOR),
        ({"configs": {"retention.ms": "soon"}}, ErrorCode.INVALID_CONFIG),
    ],
)
async def test_a_topic_that_makes_no_sense_is_refused(
    client: Client, new_name: NewName, arguments: dict[str, object], code: ErrorCode
) -> None:
    with pytest.raises(RequestError) as caught:
        await client.admin.create_topic(new_name(), **arguments)  # type: ignore[arg-type]
    assert caught.value.code == code


async def test_validating_creates_nothing(client: Client, new_name: NewName) -> None:
    name = new_name()
    await client.admin.create_topic(name, partitions=4, validate_only=True)
    with pytest.raises(RequestError):
        await client.admin.describe_topic(name)


async def test_the_ends_of_logs_and_times_are_found(client: Client, topic: str) -> None:
    await produce(client, topic, 10)
    first, empty = TopicPartition(topic, 0), TopicPartition(topic, 1)

    ends = await client.admin.list_offsets({first: LATEST, empty: LATEST})
    assert (ends[first].offset, ends[empty].offset) == (10, 0)
    starts = await client.admin.list_offsets({first: EARLIEST})
    assert starts[first].offset == 0
    found = await client.admin.list_offsets({first: FIRST_MS + 4, empty: FIRST_MS + 4})
    assert (found[first].offset, found[first].timestamp_ms) == (4, FIRST_MS + 4)
    assert found[empty].offset == -1
    newest = await client.admin.list_offsets({first: OffsetSpec.MAX_TIMESTAMP})
    assert newest[first].offset == 9

    with pytest.raises(RequestError) as caught:
        await client.admin.list_offsets({TopicPartition(topic, 99): LATEST})
    assert caught.value.code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


async def test_partitions_are_added(client: Client, topic: str, served: Served) -> None:
    served(ApiKey.CREATE_PARTITIONS)
    await client.admin.add_partitions(topic, 5)
    assert len((await client.admin.describe_topic(topic)).partitions) == 5
    with pytest.raises(RequestError) as caught:
        await client.admin.add_partitions(topic, 5)
    assert caught.value.code == ErrorCode.INVALID_PARTITIONS


async def test_configs_are_described(client: Client, topic: str) -> None:
    configs = await client.admin.topic_configs(topic)
    assert configs["retention.ms"].value == "604800000"
    assert configs["retention.ms"].is_default
    some = await client.admin.describe_configs(ResourceType.TOPIC, topic, keys=["segment.bytes"])
    assert list(some) == ["segment.bytes"]
    [node_id, *_] = client.metadata.nodes
    assert await client.admin.broker_configs(node_id)


async def test_configs_are_altered(client: Client, topic: str, served: Served) -> None:
    served(ApiKey.INCREMENTAL_ALTER_CONFIGS)
    alter = client.admin.alter_topic_configs

    async def value_is(key: str, value: str, source: ConfigSource) -> bool:
        config = (await client.admin.topic_configs(topic))[key]
        return (config.value, config.source) == (value, source)

    await alter(topic, {"retention.ms": "1000000", "max.message.bytes": "5000"})
    await alter(topic, {"max.message.bytes": "9"}, validate_only=True)
    await eventually(lambda: value_is("retention.ms", "1000000", ConfigSource.TOPIC))
    await eventually(lambda: value_is("max.message.bytes", "5000", ConfigSource.TOPIC))

    await alter(topic, {"retention.ms": None})
    await eventually(lambda: value_is("retention.ms", "604800000", ConfigSource.DEFAULT))
    await client.admin.alter_configs(
        ResourceType.TOPIC, topic, {"cleanup.policy": (ConfigOperation.APPEND, "delete")}
    )
    await eventually(lambda: value_is("cleanup.policy", "delete", ConfigSource.TOPIC))
    with pytest.raises(RequestError) as caught:
        await alter(topic, {"retention.mss": "1"})
    assert caught.value.code == ErrorCode.INVALID_CONFIG


async def test_records_are_deleted(client: Client, topic: str, served: Served) -> None:
    served(ApiKey.DELETE_RECORDS)
    await produce(client, topic, 10)
    place = TopicPartition(topic, 0)
    assert await client.admin.delete_records({place: 4}) == {place: 4}
    assert (await client.admin.list_offsets({place: EARLIEST}))[place].offset == 4
    with pytest.raises(RequestError) as caught:
        await client.admin.delete_records({place: 11})
    assert caught.value.code == ErrorCode.OFFSET_OUT_OF_RANGE


async def test_offsets_of_a_group_without_members(
    client: Client, topic: str, new_name: NewName
) -> None:
    group = new_name()
    first, second = TopicPartition(topic, 0), TopicPartition(topic, 1)
    assert await client.admin.group_offsets(group) == {}
    await client.admin.alter_group_offsets(
        group, {first: 7, second: CommittedOffset(9, "a note", leader_epoch=0)}
    )
    offsets = await client.admin.group_offsets(group)
    assert offsets[first].offset == 7
    assert offsets[second] == CommittedOffset(9, "a note", leader_epoch=0)
    assert set(await client.admin.group_offsets(group, [second])) == {second}


async def test_groups_are_listed_described_and_deleted(
    client: Client, topic: str, new_name: NewName, served: Served
) -> None:
    served(ApiKey.DELETE_GROUPS)
    served(ApiKey.OFFSET_DELETE)
    group = new_name()
    places = [TopicPartition(topic, index) for index in range(2)]
    await client.admin.alter_group_offsets(group, dict.fromkeys(places, 3))
    assert group in [listed.group_id for listed in await client.admin.list_groups()]
    described = await client.admin.describe_group(group)
    assert (described.state, described.members) == ("Empty", ())

    await client.admin.delete_group_offsets(group, places[:1])
    assert set(await client.admin.group_offsets(group)) == {places[1]}
    await client.admin.delete_group(group)
    for call in (client.admin.describe_group, client.admin.delete_group):
        with pytest.raises(RequestError) as caught:
            await call(group)
        assert caught.value.code == ErrorCode.GROUP_ID_NOT_FOUND


async def test_sizes_of_logs_are_told(client: Client, topic: str, served: Served) -> None:
    served(ApiKey.DESCRIBE_LOG_DIRS)
    await produce(client, topic, 10)
    [node_id, *_] = client.metadata.nodes
    [log_dir] = await client.admin.describe_log_dirs(node_id)
    assert log_dir.error_code == 0
    assert log_dir.partition_bytes[TopicPartition(topic, 0)] > 0
    assert log_dir.partition_bytes[TopicPartition(topic, 1)] == 0


async def test_a_closed_client_says_so() -> None:
    async with memory_broker() as broker:
        async with open_client(broker=broker) as client:
            await client.admin.list_topics()
        with pytest.raises(ClientClosed, match="the client is closed"):
            await client.admin.list_topics()


async def test_nobody_at_the_address() -> None:
    options = ClientOptions(start_timeout_seconds=0.01)
    with pytest.raises(Unreachable, match=r"no broker .*: cannot connect to 127\.0\.0\.1:1: Conn"):
        async with open_client("127.0.0.1:1", options=options):
            raise AssertionError("there is nobody")


@pytest.mark.parametrize("bootstrap", [None, "", "localhost", "localhost:kafka"])
async def test_an_address_that_is_none(bootstrap: str | None) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        async with open_client(bootstrap):
            raise AssertionError("there is no address")
