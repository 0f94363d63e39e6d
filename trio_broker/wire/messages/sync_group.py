"""SyncGroup (API 14): versions 0 to 5, flexible from 4 on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_broker.wire.fields import array, binary, int16, int32, string
from trio_broker.wire.message import Request, Response, Struct

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_broker.wire.buffers import Buffer


class SyncGroupRequestAssignment(Struct):
    """One of the `assignments` of `SyncGroupRequest`."""

    member_id: str = string()
    assignment: Buffer = binary()


class SyncGroupRequest(Request, api_key=14, versions=(0, 5), flexible=4):
    """What a client asks with SyncGroup."""

    group_id: str = string()
    generation_id: int = int32()
    member_id: str = string()
    group_instance_id: str | None = string(since=3, nullable_since=3, default=None)
    protocol_type: str | None = string(since=5, nullable_since=5, default=None)
    protocol_name: str | None = string(since=5, nullable_since=5, default=None)
    assignments: Sequence[SyncGroupRequestAssignment] = array(SyncGroupRequestAssignment)


class SyncGroupResponse(Response, api_key=14, versions=(0, 5), flexible=4):
    """What it is answered."""

    throttle_time_ms: int = int32(since=1, default=0)
    error_code: int = int16()
    protocol_type: str | None = string(since=5, nullable_since=5, default=None)
    protocol_name: str | None = string(since=5, nullable_since=5, default=None)
    assignment: Buffer = binary()
