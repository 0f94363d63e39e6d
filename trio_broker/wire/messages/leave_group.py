"""LeaveGroup (API 13): versions 0 to 5, flexible from 4 on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_broker.wire.fields import array, int16, int32, string
from trio_broker.wire.message import Request, Response, Struct

if TYPE_CHECKING:
    from collections.abc import Sequence


class MemberIdentity(Struct):
    """One of the `members` of `LeaveGroupRequest`."""

    member_id: str = string()
    group_instance_id: str | None = string(nullable_since=0, default=None)
    reason: str | None = string(since=5, nullable_since=5, default=None)


class LeaveGroupRequest(Request, api_key=13, versions=(0, 5), flexible=4):
    """What a client asks with LeaveGroup."""

    group_id: str = string()
    member_id: str = string(until=2, default="")
    members: Sequence[MemberIdentity] = array(MemberIdentity, since=3, default=())


class MemberResponse(Struct):
    """One of the `members` of `LeaveGroupResponse`."""

    member_id: str = string()
    group_instance_id: str | None = string(nullable_since=0)
    error_code: int = int16()


class LeaveGroupResponse(Response, api_key=13, versions=(0, 5), flexible=4):
    """What it is answered."""

    throttle_time_ms: int = int32(since=1, default=0)
    error_code: int = int16()
    members: Sequence[MemberResponse] = array(MemberResponse, since=3, default=())
