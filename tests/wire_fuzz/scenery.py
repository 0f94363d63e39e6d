"""What is on the broker before the attack: topics of several kinds, groups, offsets, producers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.broker.harness import Client, make_batch
from trio_broker.config import (
    BrokerConfig,
    GroupConfig,
    LimitsConfig,
    ShutdownConfig,
    StorageConfig,
    TopicConfig,
)
from trio_broker.records.compression import Compression
from trio_broker.wire.messages.create_topics import (
    CreatableTopic,
    CreatableTopicConfig,
    CreateTopicsRequest,
)
from trio_broker.wire.messages.delete_records import (
    DeleteRecordsPartition,
    DeleteRecordsRequest,
    DeleteRecordsTopic,
)
from trio_broker.wire.messages.init_producer_id import InitProducerIdRequest
from trio_broker.wire.messages.join_group import JoinGroupRequest, JoinGroupRequestProtocol
from trio_broker.wire.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
)
from trio_broker.wire.messages.sync_group import SyncGroupRequest, SyncGroupRequestAssignment

if TYPE_CHECKING:
    import random

    from tests.wire_fuzz.requests import World

#: Name, partitions, configs.
TOPICS: list[tuple[str, int, dict[str, str]]] = [
    ("bystander", 1, {}),
    ("orders", 3, {}),
    ("old", 1, {"retention.ms": "-1"}),
    ("stamped", 1, {"message.timestamp.type": "LogAppendTime"}),
    ("small", 1, {"max.message.bytes": "300"}),
    ("strict", 1, {"message.timestamp.before.max.ms": "1000"}),
    ("two", 1, {"min.insync.replicas": "2"}),
    ("a.b", 1, {"durability": "os"}),
]


def config_under_attack(chance: random.Random) -> BrokerConfig:
    """Return a configuration with limits that a round can reach."""
    return BrokerConfig(
        data_dir="/data",
        listeners=("server:9092",),
        topic=TopicConfig(retention_ms=-1),
        storage=StorageConfig(shards_per_log_dir=chance.choice((1, 2))),
        limits=LimitsConfig(
            topic_mutations_per_second=-1,
            partitions_max=chance.choice((40, 120)),
            partitions_per_topic_max=chance.choice((5, 50)),
            groups_max=chance.choice((10, 100)),
            producer_ids_per_partition_max=chance.choice((5, 1000)),
        ),
        group=GroupConfig(
            session_timeout_min_ms=10, initial_rebalance_delay_ms=chance.choice((0, 100))
        ),
        shutdown=ShutdownConfig(deadline_seconds=10),
    )


async def build_scenery(client: Client, world: World) -> None:
    """Make topics and groups, and let the world know all of them but the bystanders'."""
    create = CreateTopicsRequest(
        topics=[
            CreatableTopic(
                name=name,
                num_partitions=partitions,
                replication_factor=1,
                assignments=(),
                configs=[
                    CreatableTopicConfig(name=key, value=value) for key, value in configs.items()
                ],
            )
            for name, partitions, configs in TOPICS
        ],
        timeout_ms=10_000,
    )
    created = await client.call(create)
    for topic in created.topics:
        assert topic.error_code == 0, topic
        if topic.name != "bystander":
            world.topics[topic.name] = topic.topic_id
    await _fill(client, world)
    await _trim(client, "old", 4)
    for group_id in ("readers", "group-1"):
        world.members.append(await _join(client, group_id))
    await _commit(client, "simple")


async def _fill(client: Client, world: World) -> None:
    now_ms = world.now_ms()
    identified = await client.call(
        InitProducerIdRequest(transactional_id=None, transaction_timeout_ms=1000)
    )
    assert identified.error_code == 0, identified
    world.producers.append((identified.producer_id, identified.producer_epoch))
    producer: dict[str, Any] = {"producer_id": identified.producer_id, "producer_epoch": 0}
    for topic in ("orders", "old", "stamped", "small", "strict", "a.b"):
        for number, codec in enumerate(Compression):
            batch = make_batch(b"1", b"2", timestamp_ms=now_ms, compression=codec)
            produced = await client.produce(batch, topic=topic)
            assert produced.error_code == 0, produced
            batch = make_batch(b"x", timestamp_ms=now_ms, base_sequence=number, **producer)
            produced = await client.produce(batch, topic=topic)
            assert produced.error_code == 0, produced


async def _trim(client: Client, topic: str, offset: int) -> None:
    partition = DeleteRecordsPartition(partition_index=0, offset=offset)
    wanted = DeleteRecordsTopic(name=topic, partitions=[partition])
    trimmed = await client.call(DeleteRecordsRequest(topics=[wanted], timeout_ms=10_000))
    assert trimmed.topics[0].partitions[0].error_code == 0, trimmed


async def _join(client: Client, group_id: str) -> tuple[str, str, int]:
    metadata = b"\0\0\0\0\0\1\0\6orders\0\0\0\0"
    join = JoinGroupRequest(
        group_id=group_id,
        session_timeout_ms=1_800_000,
        rebalance_timeout_ms=1_000,
        member_id="",
        protocol_type="consumer",
        protocols=[JoinGroupRequestProtocol(name="range", metadata=metadata)],
    )
    joined = await client.call(join, 3)
    assert joined.error_code == 0, joined
    sync = SyncGroupRequest(
        group_id=group_id,
        generation_id=joined.generation_id,
        member_id=joined.member_id,
        assignments=[SyncGroupRequestAssignment(member_id=joined.member_id, assignment=metadata)],
    )
    assert (await client.call(sync, 3)).error_code == 0
    return group_id, joined.member_id, joined.generation_id


async def _commit(client: Client, group_id: str) -> None:
    topics = [
        OffsetCommitRequestTopic(
            name=topic,
            partitions=[
                OffsetCommitRequestPartition(
                    partition_index=0, committed_offset=2, committed_metadata="here"
                )
            ],
        )
        for topic in ("orders", "old", "a.b")
    ]
    committed = await client.call(
        OffsetCommitRequest(group_id=group_id, member_id="", topics=topics), 8
    )
    assert all(topic.partitions[0].error_code == 0 for topic in committed.topics), committed
