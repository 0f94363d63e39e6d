"""ListGroups (API 16): versions 0 to 5, flexible from 3 on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_broker.wire.fields import Kind, array, int16, int32, string
from trio_broker.wire.message import Request, Response, Struct

if TYPE_CHECKING:
    from collections.abc import Sequence


class ListGroupsRequest(Request, api_key=16, versions=(0, 5), flexible=3):
    """What a client asks with ListGroups."""

    states_filter: Sequence[str] = array(Kind.STRING, since=4, default=())
    types_filter: Sequence[str] = array(Kind.STRING, since=5, default=())


class ListedGroup(Struct):
    """One of the `groups` of `ListGroupsResponse`."""

    group_id: str = string()
    protocol_type: str = string()
    group_state: str = string(since=4, default="")
    group_type: str = string(since=5, default="")


class ListGroupsResponse(Response, api_key=16, versions=(0, 5), flexible=3):
    """What it is answered."""

    throttle_time_ms: int = int32(since=1, default=0)
    error_code: int = int16()
    groups: Sequence[ListedGroup] = array(ListedGroup)
