"""OffsetFetch (API 9): versions 1 to 10, flexible from 6 on.

`topics` None asks for all offsets of a group.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_broker.names import ZERO_TOPIC_ID
from trio_broker.wire.fields import Kind, array, boolean, int16, int32, int64, string, uuid
from trio_broker.wire.message import Request, Response, Struct

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID


class OffsetFetchRequestTopic(Struct):
    """One of the `topics` of `OffsetFetchRequest`."""

    name: str = string()
    partition_indexes: Sequence[int] = array(Kind.INT32)


class OffsetFetchRequestTopics(Struct):
    """One of the `topics` of `OffsetFetchRequestGroup`."""

    name: str = string(until=9, default="")
    topic_id: UUID = uuid(since=10, default=ZERO_TOPIC_ID)
    partition_indexes: Sequence[int] = array(Kind.INT32)


class OffsetFetchRequestGroup(Struct):
    """One of the `groups` of `OffsetFetchRequest`."""

    group_id: str = string()
    member_id: str | None = string(since=9, nullable_since=9, default=None)
    member_epoch: int = int32(since=9, default=-1)
    topics: Sequence[OffsetFetchRequestTopics] | None = array(
        OffsetFetchRequestTopics, nullable_since=0
    )


class OffsetFetchRequest(Request, api_key=9, versions=(1, 10), flexible=6):
    """What a client asks with OffsetFetch."""

    group_id: str = string(until=7, default="")
    topics: Sequence[OffsetFetchRequestTopic] | None = array(
        OffsetFetchRequestTopic, until=7, nullable_since=2, default=()
    )
    groups: Sequence[OffsetFetchRequestGroup] = array(OffsetFetchRequestGroup, since=8, default=())
    require_stable: bool = boolean(since=7, default=False)


class OffsetFetchResponsePartition(Struct):
    """One of the `partitions` of `OffsetFetchResponseTopic`."""

    partition_index: int = int32()
    committed_offset: int = int64()
    committed_leader_epoch: int = int32(since=5, default=-1)
    metadata: str | None = string(nullable_since=0)
    error_code: int = int16()


class OffsetFetchResponseTopic(Struct):
    """One of the `topics` of `OffsetFetchResponse`."""

    name: str = string()
    partitions: Sequence[OffsetFetchResponsePartition] = array(OffsetFetchResponsePartition)


class OffsetFetchResponsePartitions(Struct):
    """One of the `partitions` of `OffsetFetchResponseTopics`."""

    partition_index: int = int32()
    committed_offset: int = int64()
    committed_leader_epoch: int = int32(default=-1)
    metadata: str | None = string(nullable_since=0)
    error_code: int = int16()


class OffsetFetchResponseTopics(Struct):
    """One of the `topics` of `OffsetFetchResponseGroup`."""

    name: str = string(until=9, default="")
    topic_id: UUID = uuid(since=10, default=ZERO_TOPIC_ID)
    partitions: Sequence[OffsetFetchResponsePartitions] = array(OffsetFetchResponsePartitions)


class OffsetFetchResponseGroup(Struct):
    """One of the `groups` of `OffsetFetchResponse`."""

    group_id: str = string()
    topics: Sequence[OffsetFetchResponseTopics] = array(OffsetFetchResponseTopics)
    error_code: int = int16(default=0)


class OffsetFetchResponse(Response, api_key=9, versions=(1, 10), flexible=6):
    """What it is answered."""

    throttle_time_ms: int = int32(since=3, default=0)
    topics: Sequence[OffsetFetchResponseTopic] = array(
        OffsetFetchResponseTopic, until=7, default=()
    )
    error_code: int = int16(since=2, until=7, default=0)
    groups: Sequence[OffsetFetchResponseGroup] = array(
        OffsetFetchResponseGroup, since=8, default=()
    )
