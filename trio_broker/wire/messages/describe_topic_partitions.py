"""DescribeTopicPartitions (API 75): version 0, all flexible.

Answer `eligible_leader_replicas` and `last_known_elr` with empty lists: the Java client fails at
null.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_broker.wire.fields import Kind, array, boolean, int16, int32, string, struct, uuid
from trio_broker.wire.message import Request, Response, Struct

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID


class TopicRequest(Struct):
    """One of the `topics` of `DescribeTopicPartitionsRequest`."""

    name: str = string()


class Cursor(Struct):
    """The `cursor` of `DescribeTopicPartitionsRequest`."""

    topic_name: str = string()
    partition_index: int = int32()


class DescribeTopicPartitionsRequest(Request, api_key=75, versions=(0, 0), flexible=0):
    """What a client asks with DescribeTopicPartitions."""

    topics: Sequence[TopicRequest] = array(TopicRequest)
    response_partition_limit: int = int32(default=2000)
    cursor: Cursor | None = struct(Cursor, nullable_since=0, default=None)


class DescribeTopicPartitionsResponsePartition(Struct):
    """One of the `partitions` of `DescribeTopicPartitionsResponseTopic`."""

    error_code: int = int16()
    partition_index: int = int32()
    leader_id: int = int32()
    leader_epoch: int = int32(default=-1)
    replica_nodes: Sequence[int] = array(Kind.INT32)
    isr_nodes: Sequence[int] = array(Kind.INT32)
    eligible_leader_replicas: Sequence[int] | None = array(
        Kind.INT32, nullable_since=0, default=None
    )
    last_known_elr: Sequence[int] | None = array(Kind.INT32, nullable_since=0, default=None)
    offline_replicas: Sequence[int] = array(Kind.INT32)


class DescribeTopicPartitionsResponseTopic(Struct):
    """One of the `topics` of `DescribeTopicPartitionsResponse`."""

    error_code: int = int16()
    name: str | None = string(nullable_since=0)
    topic_id: UUID = uuid()
    is_internal: bool = boolean(default=False)
    partitions: Sequence[DescribeTopicPartitionsResponsePartition] = array(
        DescribeTopicPartitionsResponsePartition
    )
    topic_authorized_operations: int = int32(default=-2147483648)


class NextCursor(Struct):
    """The `next_cursor` of `DescribeTopicPartitionsResponse`."""

    topic_name: str = string()
    partition_index: int = int32()


class DescribeTopicPartitionsResponse(Response, api_key=75, versions=(0, 0), flexible=0):
    """What it is answered."""

    throttle_time_ms: int = int32(default=0)
    topics: Sequence[DescribeTopicPartitionsResponseTopic] = array(
        DescribeTopicPartitionsResponseTopic
    )
    next_cursor: NextCursor | None = struct(NextCursor, nullable_since=0, default=None)
