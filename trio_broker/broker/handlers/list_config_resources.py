"""ListConfigResources (key 74), versions 0 and 1: topics and this broker (KIP-1142).

There are no client metrics and no configurations of groups, so that these types are empty.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trio_broker.broker.handlers.resources import ResourceType
from trio_broker.errors import ErrorCode
from trio_broker.wire.messages.list_config_resources import (
    ConfigResource,
    ListConfigResourcesRequest,
    ListConfigResourcesResponse,
)

if TYPE_CHECKING:
    from trio_broker.broker.session import Session
    from trio_broker.broker.state import BrokerState


async def handle(
    state: BrokerState, session: Session, version: int, request: ListConfigResourcesRequest
) -> ListConfigResourcesResponse:
    """List the resources of the types asked for; version 0 asks for client metrics only."""
    del session
    await trio.lowlevel.checkpoint()
    known = {int(one) for one in ResourceType}
    types = set(request.resource_types) or known
    if version == 0:
        types = {int(ResourceType.CLIENT_METRICS)}
    if types - known:
        return ListConfigResourcesResponse(
            error_code=ErrorCode.UNSUPPORTED_VERSION, config_resources=()
        )
    found: list[ConfigResource] = []
    if ResourceType.TOPIC in types:
        found += [
            ConfigResource(resource_name=name, resource_type=ResourceType.TOPIC)
            for name in sorted(state.controller.image.topics_by_name)
        ]
    for kind in (ResourceType.BROKER, ResourceType.BROKER_LOGGER):
        if kind in types:
            name = str(state.config.node_id)
            found.append(ConfigResource(resource_name=name, resource_type=kind))
    return ListConfigResourcesResponse(error_code=ErrorCode.NONE, config_resources=found)
