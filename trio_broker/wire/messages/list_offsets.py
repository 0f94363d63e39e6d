"""ListOffsets (API 2): versions 1 to 11, flexible from 6 on.

A timestamp of -1 asks for the end of the log, -2 for its start, -3 for the record with the largest
timestamp, -4 for the start of what is on local disk, -5 for the end of what is in tiered storage.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_broker.wire.fields import array, int8, int16, int32, int64, string
from trio_broker.wire.message import Request, Response, Struct

if TYPE_CHECKING:
    from collections.abc import Sequence


class ListOffsetsPartition(Struct):
    """One of the `partitions` of `ListOffsetsTopic`."""

    partition_index: int = int32()
    current_leader_epoch: int = int32(since=4, default=-1)
    timestamp: int = int64()


class ListOffsetsTopic(Struct):
    """One of the `topics` of `ListOffsetsRequest`."""

    name: str = string()
    partitions: Sequence[ListOffsetsPartition] = array(ListOffsetsPartition)


class ListOffsetsRequest(Request, api_key=2, versions=(1, 11), flexible=6):
    """What a client asks with ListOffsets."""

    replica_id: int = int32()
    isolation_level: int = int8(since=2, default=0)
    topics: Sequence[ListOffsetsTopic] = array(ListOffsetsTopic)
    timeout_ms: int = int32(since=10, default=0)


class ListOffsetsPartitionResponse(Struct):
    """One of the `partitions` of `ListOffsetsTopicResponse`."""

    partition_index: int = int32()
    error_code: int = int16()
    timestamp: int = int64(default=-1)
    offset: int = int64(default=-1)
    leader_epoch: int = int32(since=4, default=-1)


class ListOffsetsTopicResponse(Struct):
    """One of the `topics` of `ListOffsetsResponse`."""

    name: str = string()
    partitions: Sequence[ListOffsetsPartitionResponse] = array(ListOffsetsPartitionResponse)


class ListOffsetsResponse(Response, api_key=2, versions=(1, 11), flexible=6):
    """What it is answered."""

    throttle_time_ms: int = int32(since=2, default=0)
    topics: Sequence[ListOffsetsTopicResponse] = array(ListOffsetsTopicResponse)
