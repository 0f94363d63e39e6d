"""ApiVersions (key 18), versions 0 to 4: what this broker serves.

The response carries no tagged field: librdkafka before 2.2 misreads any of them in version 3, and
no feature is finalized, so that clients of transactions (none yet) use the first protocol of
KIP-890. A version that is not served is answered in version 0 with UNSUPPORTED_VERSION, which is
how a newer client finds the version to use.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import trio

from trio_broker.errors import ErrorCode
from trio_broker.wire.api import ApiKey
from trio_broker.wire.messages.api_versions import (
    ApiVersion,
    ApiVersionsRequest,
    ApiVersionsResponse,
)

if TYPE_CHECKING:
    from trio_broker.broker.handlers.served import ServedApi
    from trio_broker.broker.session import Session
    from trio_broker.broker.state import BrokerState

#: First version whose request names the client's software (KIP-511).
_SOFTWARE_VERSION = 3
_SOFTWARE = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])?\Z")


def respond(served: Mapping[int, ServedApi], error_code: ErrorCode) -> ApiVersionsResponse:
    """Build the response; after an unsupported version it names ApiVersions alone."""
    offered = [
        ApiVersion(api_key=key, min_version=api.advertised_min_version, max_version=api.max_version)
        for key, api in sorted(served.items())
        if error_code is ErrorCode.NONE or key == ApiKey.API_VERSIONS
    ]
    return ApiVersionsResponse(error_code=error_code, api_keys=offered)


async def handle(
    state: BrokerState, session: Session, version: int, request: ApiVersionsRequest
) -> ApiVersionsResponse:
    """Tell what is served, and remember what the client is."""
    await trio.lowlevel.checkpoint()
    error_code = ErrorCode.NONE
    if version >= _SOFTWARE_VERSION:
        name, release = request.client_software_name, request.client_software_version
        if _SOFTWARE.match(name) and _SOFTWARE.match(release):
            session.software_name, session.software_version = name, release
        else:
            error_code = ErrorCode.INVALID_REQUEST
    return respond(state.served, error_code)
