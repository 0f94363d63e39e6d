"""ConsumerGroupDescribe (API 69): versions 0 to 1, all flexible."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_broker.wire.fields import Kind, array, boolean, int8, int16, int32, string, struct, uuid
from trio_broker.wire.message import Request, Response, Struct

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID


class ConsumerGroupDescribeRequest(Request, api_key=69, versions=(0, 1), flexible=0):
    """What a client asks with ConsumerGroupDescribe."""

    group_ids: Sequence[str] = array(Kind.STRING)
    include_authorized_operations: bool = boolean()


class TopicPartitions(Struct):
    """One of the `topic_partitions` of `Assignment`."""

    topic_id: UUID = uuid()
    topic_name: str = string()
    partitions: Sequence[int] = array(Kind.INT32)


class Assignment(Struct):
    """The `assignment` of `Member`."""

    topic_partitions: Sequence[TopicPartitions] = array(TopicPartitions)


class Member(Struct):
    """One of the `members` of `DescribedGroup`."""

    member_id: str = string()
    instance_id: str | None = string(nullable_since=0, default=None)
    rack_id: str | None = string(nullable_since=0, default=None)
    member_epoch: int = int32()
    client_id: str = string()
    client_host: str = string()
    subscribed_topic_names: Sequence[str] = array(Kind.STRING)
    subscribed_topic_regex: str | None = string(nullable_since=0, default=None)
    assignment: Assignment = struct(Assignment)
    target_assignment: Assignment = struct(Assignment)
    member_type: int = int8(since=1, default=-1)


class DescribedGroup(Struct):
    """One of the `groups` of `ConsumerGroupDescribeResponse`."""

    error_code: int = int16()
    error_message: str | None = string(nullable_since=0, default=None)
    group_id: str = string()
    group_state: str = string()
    group_epoch: int = int32()
    assignment_epoch: int = int32()
    assignor_name: str = string()
    members: Sequence[Member] = array(Member)
    authorized_operations: int = int32(default=-2147483648)


class ConsumerGroupDescribeResponse(Response, api_key=69, versions=(0, 1), flexible=0):
    """What it is answered."""

    throttle_time_ms: int = int32(default=0)
    groups: Sequence[DescribedGroup] = array(DescribedGroup)
