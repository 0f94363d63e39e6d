"""JoinGroup (API 11): versions 0 to 9, flexible from 6 on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_broker.wire.fields import array, binary, boolean, int16, int32, string
from trio_broker.wire.message import Request, Response, Struct

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_broker.wire.buffers import Buffer


class JoinGroupRequestProtocol(Struct):
    """One of the `protocols` of `JoinGroupRequest`."""

    name: str = string()
    metadata: Buffer = binary()


class JoinGroupRequest(Request, api_key=11, versions=(0, 9), flexible=6):
    """What a client asks with JoinGroup."""

    group_id: str = string()
    session_timeout_ms: int = int32()
    rebalance_timeout_ms: int = int32(since=1, default=-1)
    member_id: str = string()
    group_instance_id: str | None = string(since=5, nullable_since=5, default=None)
    protocol_type: str = string()
    protocols: Sequence[JoinGroupRequestProtocol] = array(JoinGroupRequestProtocol)
    reason: str | None = string(since=8, nullable_since=8, default=None)


class JoinGroupResponseMember(Struct):
    """One of the `members` of `JoinGroupResponse`."""

    member_id: str = string()
    group_instance_id: str | None = string(since=5, nullable_since=5, default=None)
    metadata: Buffer = binary()


class JoinGroupResponse(Response, api_key=11, versions=(0, 9), flexible=6):
    """What it is answered."""

    throttle_time_ms: int = int32(since=2, default=0)
    error_code: int = int16()
    generation_id: int = int32(default=-1)
    protocol_type: str | None = string(since=7, nullable_since=7, default=None)
    protocol_name: str | None = string(nullable_since=7)
    leader: str = string()
    skip_assignment: bool = boolean(since=9, default=False)
    member_id: str = string()
    members: Sequence[JoinGroupResponseMember] = array(JoinGroupResponseMember)
