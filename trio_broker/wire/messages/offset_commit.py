"""OffsetCommit (API 8): versions 2 to 10, flexible from 8 on.

From version 9 on `generation_id_or_member_epoch` may be a member epoch (KIP-848).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_broker.names import ZERO_TOPIC_ID
from trio_broker.wire.fields import array, int16, int32, int64, string, uuid
from trio_broker.wire.message import Request, Response, Struct

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID


class OffsetCommitRequestPartition(Struct):
    """One of the `partitions` of `OffsetCommitRequestTopic`."""

    partition_index: int = int32()
    committed_offset: int = int64()
    committed_leader_epoch: int = int32(since=6, default=-1)
    committed_metadata: str | None = string(nullable_since=0)


class OffsetCommitRequestTopic(Struct):
    """One of the `topics` of `OffsetCommitRequest`."""

    name: str = string(until=9, default="")
    topic_id: UUID = uuid(since=10, default=ZERO_TOPIC_ID)
    partitions: Sequence[OffsetCommitRequestPartition] = array(OffsetCommitRequestPartition)


class OffsetCommitRequest(Request, api_key=8, versions=(2, 10), flexible=8):
    """What a client asks with OffsetCommit."""

    group_id: str = string()
    generation_id_or_member_epoch: int = int32(default=-1)
    member_id: str = string()
    group_instance_id: str | None = string(since=7, nullable_since=7, default=None)
    retention_time_ms: int = int64(until=4, default=-1)
    topics: Sequence[OffsetCommitRequestTopic] = array(OffsetCommitRequestTopic)


class OffsetCommitResponsePartition(Struct):
    """One of the `partitions` of `OffsetCommitResponseTopic`."""

    partition_index: int = int32()
    error_code: int = int16()


class OffsetCommitResponseTopic(Struct):
    """One of the `topics` of `OffsetCommitResponse`."""

    name: str = string(until=9, default="")
    topic_id: UUID = uuid(since=10, default=ZERO_TOPIC_ID)
    partitions: Sequence[OffsetCommitResponsePartition] = array(OffsetCommitResponsePartition)


class OffsetCommitResponse(Response, api_key=8, versions=(2, 10), flexible=8):
    """What it is answered."""

    throttle_time_ms: int = int32(since=3, default=0)
    topics: Sequence[OffsetCommitResponseTopic] = array(OffsetCommitResponseTopic)
