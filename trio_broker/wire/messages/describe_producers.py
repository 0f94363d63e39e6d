"""DescribeProducers (API 61): version 0, all flexible."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_broker.wire.fields import Kind, array, int16, int32, int64, string
from trio_broker.wire.message import Request, Response, Struct

if TYPE_CHECKING:
    from collections.abc import Sequence


class TopicRequest(Struct):
    """One of the `topics` of `DescribeProducersRequest`."""

    name: str = string()
    partition_indexes: Sequence[int] = array(Kind.INT32)


class DescribeProducersRequest(Request, api_key=61, versions=(0, 0), flexible=0):
    """What a client asks with DescribeProducers."""

    topics: Sequence[TopicRequest] = array(TopicRequest)


class ProducerState(Struct):
    """One of the `active_producers` of `PartitionResponse`."""

    producer_id: int = int64()
    producer_epoch: int = int32()
    last_sequence: int = int32(default=-1)
    last_timestamp: int = int64(default=-1)
    coordinator_epoch: int = int32()
    current_txn_start_offset: int = int64(default=-1)


class PartitionResponse(Struct):
    """One of the `partitions` of `TopicResponse`."""

    partition_index: int = int32()
    error_code: int = int16()
    error_message: str | None = string(nullable_since=0, default=None)
    active_producers: Sequence[ProducerState] = array(ProducerState)


class TopicResponse(Struct):
    """One of the `topics` of `DescribeProducersResponse`."""

    name: str = string()
    partitions: Sequence[PartitionResponse] = array(PartitionResponse)


class DescribeProducersResponse(Response, api_key=61, versions=(0, 0), flexible=0):
    """What it is answered."""

    throttle_time_ms: int = int32(default=0)
    topics: Sequence[TopicResponse] = array(TopicResponse)
