"""AlterConfigs (API 33): versions 0 to 2, flexible from 2 on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_broker.wire.fields import array, boolean, int8, int16, int32, string
from trio_broker.wire.message import Request, Response, Struct

if TYPE_CHECKING:
    from collections.abc import Sequence


class AlterableConfig(Struct):
    """One of the `configs` of `AlterConfigsResource`."""

    name: str = string()
    value: str | None = string(nullable_since=0)


class AlterConfigsResource(Struct):
    """One of the `resources` of `AlterConfigsRequest`."""

    resource_type: int = int8()
    resource_name: str = string()
    configs: Sequence[AlterableConfig] = array(AlterableConfig)


class AlterConfigsRequest(Request, api_key=33, versions=(0, 2), flexible=2):
    """What a client asks with AlterConfigs."""

    resources: Sequence[AlterConfigsResource] = array(AlterConfigsResource)
    validate_only: bool = boolean()


class AlterConfigsResourceResponse(Struct):
    """One of the `responses` of `AlterConfigsResponse`."""

    error_code: int = int16()
    error_message: str | None = string(nullable_since=0)
    resource_type: int = int8()
    resource_name: str = string()


class AlterConfigsResponse(Response, api_key=33, versions=(0, 2), flexible=2):
    """What it is answered."""

    throttle_time_ms: int = int32(default=0)
    responses: Sequence[AlterConfigsResourceResponse] = array(AlterConfigsResourceResponse)
