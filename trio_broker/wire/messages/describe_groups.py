"""DescribeGroups (API 15): versions 0 to 6, flexible from 5 on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_broker.wire.fields import Kind, array, binary, boolean, int16, int32, string
from trio_broker.wire.message import Request, Response, Struct

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_broker.wire.buffers import Buffer


class DescribeGroupsRequest(Request, api_key=15, versions=(0, 6), flexible=5):
    """What a client asks with DescribeGroups."""

    groups: Sequence[str] = array(Kind.STRING)
    include_authorized_operations: bool = boolean(since=3, default=False)


class DescribedGroupMember(Struct):
    """One of the `members` of `DescribedGroup`."""

    member_id: str = string()
    group_instance_id: str | None = string(since=4, nullable_since=4, default=None)
    client_id: str = string()
    client_host: str = string()
    member_metadata: Buffer = binary()
    member_assignment: Buffer = binary()


class DescribedGroup(Struct):
    """One of the `groups` of `DescribeGroupsResponse`."""

    error_code: int = int16()
    error_message: str | None = string(since=6, nullable_since=6, default=None)
    group_id: str = string()
    group_state: str = string()
    protocol_type: str = string()
    protocol_data: str = string()
    members: Sequence[DescribedGroupMember] = array(DescribedGroupMember)
    authorized_operations: int = int32(since=3, default=-2147483648)


class DescribeGroupsResponse(Response, api_key=15, versions=(0, 6), flexible=5):
    """What it is answered."""

    throttle_time_ms: int = int32(since=1, default=0)
    groups: Sequence[DescribedGroup] = array(DescribedGroup)
