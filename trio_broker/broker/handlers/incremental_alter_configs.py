"""IncrementalAlterConfigs (key 44), versions 0 and 1: set, delete, append, subtract (KIP-339)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_broker.broker.handlers.alterations import ResourceAlteration, alter
from trio_broker.metadata.decisions import ConfigChange
from trio_broker.wire.messages.incremental_alter_configs import (
    AlterConfigsResourceResponse,
    IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse,
)

if TYPE_CHECKING:
    from trio_broker.broker.session import Session
    from trio_broker.broker.state import BrokerState


async def handle(
    state: BrokerState, session: Session, version: int, request: IncrementalAlterConfigsRequest
) -> IncrementalAlterConfigsResponse:
    """Change some configs of each resource, all of them or none."""
    del session, version
    results = await alter(
        state,
        [
            ResourceAlteration(
                resource.resource_type,
                resource.resource_name,
                [
                    ConfigChange(config.name, config.config_operation, config.value)
                    for config in resource.configs
                ],
            )
            for resource in request.resources
        ],
        replaces_all=False,
        validate_only=request.validate_only,
    )
    return IncrementalAlterConfigsResponse(
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
