"""Metadata (API 3): versions 0 to 13, flexible from 9 on.

`topics` None asks for all topics (in version 0 an empty list does), an empty list for none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_broker.names import ZERO_TOPIC_ID
from trio_broker.wire.fields import Kind, array, boolean, int16, int32, string, uuid
from trio_broker.wire.message import Request, Response, Struct

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID


class MetadataRequestTopic(Struct):
    """One of the `topics` of `MetadataRequest`."""

    topic_id: UUID = uuid(since=10, default=ZERO_TOPIC_ID)
    name: str | None = string(nullable_since=10)


class MetadataRequest(Request, api_key=3, versions=(0, 13), flexible=9):
    """What a client asks with Metadata."""

    topics: Sequence[MetadataRequestTopic] | None = array(MetadataRequestTopic, nullable_since=1)
    allow_auto_topic_creation: bool = boolean(since=4, default=True)
    include_cluster_authorized_operations: bool = boolean(since=8, until=10, default=False)
    include_topic_authorized_operations: bool = boolean(since=8, default=False)


class MetadataResponseBroker(Struct):
    """One of the `brokers` of `MetadataResponse`."""

    node_id: int = int32()
    host: str = string()
    port: int = int32()
    rack: str | None = string(since=1, nullable_since=1, default=None)


class MetadataResponsePartition(Struct):
    """One of the `partitions` of `MetadataResponseTopic`."""

    error_code: int = int16()
    partition_index: int = int32()
    leader_id: int = int32()
    leader_epoch: int = int32(since=7, default=-1)
    replica_nodes: Sequence[int] = array(Kind.INT32)
    isr_nodes: Sequence[int] = array(Kind.INT32)
    offline_replicas: Sequence[int] = array(Kind.INT32, since=5, default=())


class MetadataResponseTopic(Struct):
    """One of the `topics` of `MetadataResponse`."""

    error_code: int = int16()
    name: str | None = string(nullable_since=12)
    topic_id: UUID = uuid(since=10, default=ZERO_TOPIC_ID)
    is_internal: bool = boolean(since=1, default=False)
    partitions: Sequence[MetadataResponsePartition] = array(MetadataResponsePartition)
    topic_authorized_operations: int = int32(since=8, default=-2147483648)


class MetadataResponse(Response, api_key=3, versions=(0, 13), flexible=9):
    """What it is answered."""

    throttle_time_ms: int = int32(since=3, default=0)
    brokers: Sequence[MetadataResponseBroker] = array(MetadataResponseBroker)
    cluster_id: str | None = string(since=2, nullable_since=2, default=None)
    controller_id: int = int32(since=1, default=-1)
    topics: Sequence[MetadataResponseTopic] = array(MetadataResponseTopic)
    cluster_authorized_operations: int = int32(since=8, until=10, default=-2147483648)
    error_code: int = int16(since=13, default=0)
