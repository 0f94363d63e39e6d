"""DescribeConfigs (API 32): versions 1 to 4, flexible from 4 on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_broker.wire.fields import Kind, array, boolean, int8, int16, int32, string
from trio_broker.wire.message import Request, Response, Struct

if TYPE_CHECKING:
    from collections.abc import Sequence


class DescribeConfigsResource(Struct):
    """One of the `resources` of `DescribeConfigsRequest`."""

    resource_type: int = int8()
    resource_name: str = string()
    configuration_keys: Sequence[str] | None = array(Kind.STRING, nullable_since=0)


class DescribeConfigsRequest(Request, api_key=32, versions=(1, 4), flexible=4):
    """What a client asks with DescribeConfigs."""

    resources: Sequence[DescribeConfigsResource] = array(DescribeConfigsResource)
    include_synonyms: bool = boolean(default=False)
    include_documentation: bool = boolean(since=3, default=False)


class DescribeConfigsSynonym(Struct):
    """One of the `synonyms` of `DescribeConfigsResourceResult`."""

    name: str = string()
    value: str | None = string(nullable_since=0)
    source: int = int8()


class DescribeConfigsResourceResult(Struct):
    """One of the `configs` of `DescribeConfigsResult`."""

    name: str = string()
    value: str | None = string(nullable_since=0)
    read_only: bool = boolean()
    config_source: int = int8(default=-1)
    is_sensitive: bool = boolean()
    synonyms: Sequence[DescribeConfigsSynonym] = array(DescribeConfigsSynonym)
    config_type: int = int8(since=3, default=0)
    documentation: str | None = string(since=3, nullable_since=0, default="")


class DescribeConfigsResult(Struct):
    """One of the `results` of `DescribeConfigsResponse`."""

    error_code: int = int16()
    error_message: str | None = string(nullable_since=0)
    resource_type: int = int8()
    resource_name: str = string()
    configs: Sequence[DescribeConfigsResourceResult] = array(DescribeConfigsResourceResult)


class DescribeConfigsResponse(Response, api_key=32, versions=(1, 4), flexible=4):
    """What it is answered."""

    throttle_time_ms: int = int32(default=0)
    results: Sequence[DescribeConfigsResult] = array(DescribeConfigsResult)
