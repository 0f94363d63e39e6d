"""AlterConfigs (key 33), versions 0 to 2: what is not named returns to its default."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_broker.broker.handlers.alterations import ResourceAlteration, alter
from trio_broker.metadata.decisions import AlterOperation, ConfigChange
from trio_broker.wire.messages.alter_configs import (
    AlterConfigsRequest,
    AlterConfigsResourceResponse,
    AlterConfigsResponse,
)

if TYPE_CHECKING:
    from trio_broker.broker.session import Session
    from trio_broker.broker.state import BrokerState


async def handle(
    state: BrokerState, session: Session, version: int, request: AlterConfigsRequest
) -> AlterConfigsResponse:
    """Replace the configuration of each resource."""
    del session, version
    results = await alter(
        state,
        [
            ResourceAlteration(
                resource.resource_type,
                resource.resource_name,
                [
                    ConfigChange(config.name, AlterOperation.SET, config.value)
                    for config in resource.configs
                ],
            )
            for resource in request.resources
        ],
        replaces_all=True,
        validate_only=request.validate_only,
    )
    return AlterConfigsResponse(
        responses=[
            AlterConfigsResourceResponse(
                error_code=result.code,
                error_message=result.message,
                resource_type=resource.resource_type,
                resource_name=resource.resource_name,
            )
            for resource, result in zip(request.resources, results, strict=True)
        ]
    )
