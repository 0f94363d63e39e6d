"""ApiVersions (API 18): versions 0 to 4, flexible from 3 on.

The response's header is always version 0, and a request of an unsupported version is answered with
body version 0 and UNSUPPORTED_VERSION (KIP-511).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_broker.wire.fields import array, boolean, int16, int32, int64, string
from trio_broker.wire.message import Request, Response, Struct

if TYPE_CHECKING:
    from collections.abc import Sequence


class ApiVersionsRequest(Request, api_key=18, versions=(0, 4), flexible=3):
    """What a client asks with ApiVersions."""

    client_software_name: str = string(since=3, default="")
    client_software_version: str = string(since=3, default="")


class ApiVersion(Struct):
    """One of the `api_keys` of `ApiVersionsResponse`."""

    api_key: int = int16()
    min_version: int = int16()
    max_version: int = int16()


class SupportedFeatureKey(Struct):
    """One of the `supported_features` of `ApiVersionsResponse`."""

    name: str = string()
    min_version: int = int16()
    max_version: int = int16()


class FinalizedFeatureKey(Struct):
    """One of the `finalized_features` of `ApiVersionsResponse`."""

    name: str = string()
    max_version_level: int = int16()
    min_version_level: int = int16()


class ApiVersionsResponse(Response, api_key=18, versions=(0, 4), flexible=3):
    """What it is answered."""

    error_code: int = int16()
    api_keys: Sequence[ApiVersion] = array(ApiVersion)
    throttle_time_ms: int = int32(since=1, default=0)
    # Kafka has the tagged fields from version 3 on. librdkafka before 2.2 cannot skip them there
    # ("Read underflow", its pull request 4278), so that in version 3 they are never sent.
    supported_features: Sequence[SupportedFeatureKey] = array(
        SupportedFeatureKey, since=4, tag=0, default=()
    )
    finalized_features_epoch: int = int64(since=4, tag=1, default=-1)
    finalized_features: Sequence[FinalizedFeatureKey] = array(
        FinalizedFeatureKey, since=4, tag=2, default=()
    )
    zk_migration_ready: bool = boolean(since=4, tag=3, default=False)
