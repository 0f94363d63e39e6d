"""ConsumerGroupHeartbeat (API 68): versions 0 to 1, all flexible."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_broker.wire.fields import Kind, array, int16, int32, string, struct, uuid
from trio_broker.wire.message import Request, Response, Struct

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID


class OwnedPartitions(Struct):
    """One of the `topic_partitions` of `ConsumerGroupHeartbeatRequest`."""

    topic_id: UUID = uuid()
    partitions: Sequence[int] = array(Kind.INT32)


class ConsumerGroupHeartbeatRequest(Request, api_key=68, versions=(0, 1), flexible=0):
    """What a client asks with ConsumerGroupHeartbeat."""

    group_id: str = string()
    member_id: str = string()
    member_epoch: int = int32()
    instance_id: str | None = string(nullable_since=0, default=None)
    rack_id: str | None = string(nullable_since=0, default=None)
    rebalance_timeout_ms: int = int32(default=-1)
    subscribed_topic_names: Sequence[str] | None = array(
        Kind.STRING, nullable_since=0, default=None
    )
    subscribed_topic_regex: str | None = string(since=1, nullable_since=1, default=None)
    server_assignor: str | None = string(nullable_since=0, default=None)
    topic_partitions: Sequence[OwnedPartitions] | None = array(
        OwnedPartitions, nullable_since=0, default=None
    )


class AssignedPartitions(Struct):
    """One of the `topic_partitions` of `Assignment`."""

    topic_id: UUID = uuid()
    partitions: Sequence[int] = array(Kind.INT32)


class Assignment(Struct):
    """The `assignment` of `ConsumerGroupHeartbeatResponse`."""

    topic_partitions: Sequence[AssignedPartitions] = array(AssignedPartitions)


class ConsumerGroupHeartbeatResponse(Response, api_key=68, versions=(0, 1), flexible=0):
    """What it is answered."""

    throttle_time_ms: int = int32(default=0)
    error_code: int = int16()
    error_message: str | None = string(nullable_since=0, default=None)
    member_id: str | None = string(nullable_since=0, default=None)
    member_epoch: int = int32()
    heartbeat_interval_ms: int = int32()
    assignment: Assignment | None = struct(Assignment, nullable_since=0, default=None)
