"""Heartbeat (API 12): versions 0 to 4, flexible from 4 on."""

from __future__ import annotations

from trio_broker.wire.fields import int16, int32, string
from trio_broker.wire.message import Request, Response


class HeartbeatRequest(Request, api_key=12, versions=(0, 4), flexible=4):
    """What a client asks with Heartbeat."""

    group_id: str = string()
    generation_id: int = int32()
    member_id: str = string()
    group_instance_id: str | None = string(since=3, nullable_since=3, default=None)


class HeartbeatResponse(Response, api_key=12, versions=(0, 4), flexible=4):
    """What it is answered."""

    throttle_time_ms: int = int32(since=1, default=0)
    error_code: int = int16()
