"""DeleteGroups (API 42): versions 0 to 2, flexible from 2 on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_broker.wire.fields import Kind, array, int16, int32, string
from trio_broker.wire.message import Request, Response, Struct

if TYPE_CHECKING:
    from collections.abc import Sequence


class DeleteGroupsRequest(Request, api_key=42, versions=(0, 2), flexible=2):
    """What a client asks with DeleteGroups."""

    groups_names: Sequence[str] = array(Kind.STRING)


class DeletableGroupResult(Struct):
    """One of the `results` of `DeleteGroupsResponse`."""

    group_id: str = string()
    error_code: int = int16()


class DeleteGroupsResponse(Response, api_key=42, versions=(0, 2), flexible=2):
    """What it is answered."""

    throttle_time_ms: int = int32(default=0)
    results: Sequence[DeletableGroupResult] = array(DeletableGroupResult)
