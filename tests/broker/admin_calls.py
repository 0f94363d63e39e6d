"""Requests of the admin APIs, as short as tests like them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.broker.harness import NEWEST, Client
from trio_broker.wire.messages import alter_configs, incremental_alter_configs
from trio_broker.wire.messages.create_partitions import (
    CreatePartitionsAssignment,
    CreatePartitionsRequest,
    CreatePartitionsTopic,
)
from trio_broker.wire.messages.delete_records import (
    DeleteRecordsPartition,
    DeleteRecordsRequest,
    DeleteRecordsTopic,
)
from trio_broker.wire.messages.describe_configs import (
    DescribeConfigsRequest,
    DescribeConfigsResource,
)
from trio_broker.wire.messages.describe_log_dirs import (
    DescribableLogDirTopic,
    DescribeLogDirsRequest,
)
from trio_broker.wire.messages.describe_producers import DescribeProducersRequest
from trio_broker.wire.messages.describe_producers import TopicRequest as ProducersTopic
from trio_broker.wire.messages.describe_topic_partitions import (
    Cursor,
    DescribeTopicPartitionsRequest,
)
from trio_broker.wire.messages.describe_topic_partitions import TopicRequest as PartitionsTopic
from trio_broker.wire.messages.offset_for_leader_epoch import (
    OffsetForLeaderEpochRequest,
    OffsetForLeaderPartition,
    OffsetForLeaderTopic,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TOPIC, BROKER = 2, 4
SET, DELETE, APPEND, SUBTRACT = range(4)


def incremental_request(
    name: str, *changes: tuple[str, int, str | None], kind: int = TOPIC, validate_only: bool = False
) -> incremental_alter_configs.IncrementalAlterConfigsRequest:
    """Return a request to make some changes to one resource."""
    resource = incremental_alter_configs.AlterConfigsResource(
        resource_type=kind,
        resource_name=name,
        configs=[
            incremental_alter_configs.AlterableConfig(
                name=config, config_operation=operation, value=value
            )
            for config, operation, value in changes
        ],
    )
    return incremental_alter_configs.IncrementalAlterConfigsRequest(
        resources=[resource], validate_only=validate_only
    )


def replace_request(
    name: str, configs: Mapping[str, str | None], *, kind: int = TOPIC, validate_only: bool = False
) -> alter_configs.AlterConfigsRequest:
    """Return a request to replace the configuration of one resource."""
    resource = alter_configs.AlterConfigsResource(
        resource_type=kind,
        resource_name=name,
        configs=[
            alter_configs.AlterableConfig(name=config, value=value)
            for config, value in configs.items()
        ],
    )
    return alter_configs.AlterConfigsRequest(resources=[resource], validate_only=validate_only)


def partitions_request(
    name: str,
    count: int,
    *,
    assignments: Sequence[Sequence[int]] | None = None,
    validate_only: bool = False,
    timeout_ms: int = 30_000,
) -> CreatePartitionsRequest:
    """Return a request to give one topic `count` partitions."""
    wanted = None
    if assignments is not None:
        wanted = [CreatePartitionsAssignment(broker_ids=ids) for ids in assignments]
    topic = CreatePartitionsTopic(name=name, count=count, assignments=wanted)
    return CreatePartitionsRequest(
        topics=[topic], timeout_ms=timeout_ms, validate_only=validate_only
    )


def delete_records_request(
    topic: str, offsets: Mapping[int, int], *, timeout_ms: int = 30_000
) -> DeleteRecordsRequest:
    """Return a request to delete what lies below some offsets."""
    partitions = [
        DeleteRecordsPartition(partition_index=number, offset=offset)
        for number, offset in offsets.items()
    ]
    return DeleteRecordsRequest(
        topics=[DeleteRecordsTopic(name=topic, partitions=partitions)], timeout_ms=timeout_ms
    )


def epoch_request(
    topic: str, epoch: int, *, partition: int = 0, current: int = -1
) -> OffsetForLeaderEpochRequest:
    """Return a question about one epoch of one partition."""
    wanted = OffsetForLeaderPartition(
        partition=partition, current_leader_epoch=current, leader_epoch=epoch
    )
    return OffsetForLeaderEpochRequest(
        replica_id=-1, topics=[OffsetForLeaderTopic(topic=topic, partitions=[wanted])]
    )


def log_dirs_request(topics: Mapping[str, Sequence[int]] | None) -> DescribeLogDirsRequest:
    """Return a request about some partitions, or about all."""
    if topics is None:
        return DescribeLogDirsRequest(topics=None)
    return DescribeLogDirsRequest(
        topics=[
            DescribableLogDirTopic(topic=name, partitions=numbers)
            for name, numbers in topics.items()
        ]
    )


def producers_request(topic: str, *partitions: int) -> DescribeProducersRequest:
    """Return a request about the producers of some partitions."""
    return DescribeProducersRequest(
        topics=[ProducersTopic(name=topic, partition_indexes=partitions)]
    )


def pages_request(
    *topics: str, limit: int = 2000, cursor: tuple[str, int] | None = None
) -> DescribeTopicPartitionsRequest:
    """Return a request about the partitions of some topics, or of all, from a cursor on."""
    at = None
    if cursor is not None:
        at = Cursor(topic_name=cursor[0], partition_index=cursor[1])
    return DescribeTopicPartitionsRequest(
        topics=[PartitionsTopic(name=name) for name in topics],
        response_partition_limit=limit,
        cursor=at,
    )


def describe_request(
    kind: int, name: str, keys: Sequence[str] | None = None
) -> DescribeConfigsRequest:
    """Return a request for the configuration of one resource."""
    resource = DescribeConfigsResource(
        resource_type=kind, resource_name=name, configuration_keys=keys
    )
    return DescribeConfigsRequest(resources=[resource])


async def alter(client: Client, topic: str, configs: Mapping[str, str | None]) -> None:
    """Set configs of a topic, or return those that are None to their defaults; must succeed."""
    changes = [(name, DELETE if value is None else SET, value) for name, value in configs.items()]
    answer = await client.call(incremental_request(topic, *changes))
    assert [(one.error_code, one.error_message) for one in answer.responses] == [(0, None)]


async def configs_of(client: Client, topic: str, version: int = NEWEST) -> dict[str, Any]:
    """Return the configs of a topic by name."""
    [result] = (await client.call(describe_request(TOPIC, topic), version)).results
    assert result.error_code == 0
    return {entry.name: entry for entry in result.configs}
