"""ListConfigResources (API 74): versions 0 to 1, all flexible.

Version 0 was called ListClientMetricsResources (KIP-714) and has no types; KIP-1142 added them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_broker.wire.fields import Kind, array, int8, int16, int32, string
from trio_broker.wire.message import Request, Response, Struct

if TYPE_CHECKING:
    from collections.abc import Sequence


class ListConfigResourcesRequest(Request, api_key=74, versions=(0, 1), flexible=0):
    """What a client asks with ListConfigResources."""

    resource_types: Sequence[int] = array(Kind.INT8, since=1, default=())


class ConfigResource(Struct):
    """One of the `config_resources` of `ListConfigResourcesResponse`."""

    resource_name: str = string()
    resource_type: int = int8(since=1, default=16)


class ListConfigResourcesResponse(Response, api_key=74, versions=(0, 1), flexible=0):
    """What it is answered."""

    throttle_time_ms: int = int32(default=0)
    error_code: int = int16()
    config_resources: Sequence[ConfigResource] = array(ConfigResource)
