"""Produce (API 0): versions 3 to 13, flexible from 9 on.

The whole protocol of this API; the broker's hot path is `trio_broker.wire.produce`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_broker.names import ZERO_TOPIC_ID
from trio_broker.wire.fields import array, int16, int32, int64, records, string, struct, uuid
from trio_broker.wire.message import Request, Response, Struct

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from trio_broker.wire.buffers import Buffer


class PartitionProduceData(Struct):
    """One of the `partition_data` of `TopicProduceData`."""

    index: int = int32()
    records: Buffer | None = records(nullable_since=0)


class TopicProduceData(Struct):
    """One of the `topic_data` of `ProduceRequest`."""

    name: str = string(until=12, default="")
    topic_id: UUID = uuid(since=13, default=ZERO_TOPIC_ID)
    partition_data: Sequence[PartitionProduceData] = array(PartitionProduceData)


class ProduceRequest(Request, api_key=0, versions=(3, 13), flexible=9):
    """What a client asks with Produce."""

    transactional_id: str | None = string(nullable_since=0, default=None)
    acks: int = int16()
    timeout_ms: int = int32()
    topic_data: Sequence[TopicProduceData] = array(TopicProduceData)


class BatchIndexAndErrorMessage(Struct):
    """One of the `record_errors` of `PartitionProduceResponse`."""

    batch_index: int = int32()
    batch_index_error_message: str | None = string(nullable_since=0, default=None)


class LeaderIdAndEpoch(Struct):
    """The `current_leader` of `PartitionProduceResponse`."""

    leader_id: int = int32(default=-1)
    leader_epoch: int = int32(default=-1)


class PartitionProduceResponse(Struct):
    """One of the `partition_responses` of `TopicProduceResponse`."""

    index: int = int32()
    error_code: int = int16()
    base_offset: int = int64()
    log_append_time_ms: int = int64(default=-1)
    log_start_offset: int = int64(since=5, default=-1)
    record_errors: Sequence[BatchIndexAndErrorMessage] = array(
        BatchIndexAndErrorMessage, since=8, default=()
    )
    error_message: str | None = string(since=8, nullable_since=8, default=None)
    current_leader: LeaderIdAndEpoch | None = struct(
        LeaderIdAndEpoch, since=10, tag=0, default=None
    )


class TopicProduceResponse(Struct):
    """One of the `responses` of `ProduceResponse`."""

    name: str = string(until=12, default="")
    topic_id: UUID = uuid(since=13, default=ZERO_TOPIC_ID)
    partition_responses: Sequence[PartitionProduceResponse] = array(PartitionProduceResponse)


class NodeEndpoint(Struct):
    """One of the `node_endpoints` of `ProduceResponse`."""

    node_id: int = int32()
    host: str = string()
    port: int = int32()
    rack: str | None = string(nullable_since=0, default=None)


class ProduceResponse(Response, api_key=0, versions=(3, 13), flexible=9):
    """What it is answered."""

    responses: Sequence[TopicProduceResponse] = array(TopicProduceResponse)
    throttle_time_ms: int = int32(default=0)
    node_endpoints: Sequence[NodeEndpoint] = array(NodeEndpoint, since=10, tag=0, default=())
