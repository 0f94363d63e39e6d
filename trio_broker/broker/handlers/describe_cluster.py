"""DescribeCluster (key 60), versions 0 to 2: brokers, controller and cluster id."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trio_broker.broker.handlers.topology import (
    CLUSTER_OPERATIONS,
    NO_OPERATIONS,
    broker_address,
)
from trio_broker.errors import ErrorCode
from trio_broker.wire.messages.describe_cluster import (
    DescribeClusterBroker,
    DescribeClusterRequest,
    DescribeClusterResponse,
)

if TYPE_CHECKING:
    from trio_broker.broker.session import Session
    from trio_broker.broker.state import BrokerState

_BROKER_ENDPOINTS = 1
_CONTROLLER_ENDPOINTS = 2


async def handle(
    state: BrokerState, session: Session, version: int, request: DescribeClusterRequest
) -> DescribeClusterResponse:
    """Describe the cluster; endpoints of controllers (KIP-919) are not for clients here."""
    del version
    await trio.lowlevel.checkpoint()
    cluster_id = state.controller.image.cluster_id or ""
    if request.endpoint_type != _BROKER_ENDPOINTS:
        return DescribeClusterResponse(
            error_code=(
                ErrorCode.MISMATCHED_ENDPOINT_TYPE
                if request.endpoint_type == _CONTROLLER_ENDPOINTS
                else ErrorCode.UNSUPPORTED_ENDPOINT_TYPE
            ),
            error_message="this broker tells the endpoints of brokers only (endpoint type 1)",
            endpoint_type=request.endpoint_type,
            cluster_id=cluster_id,
            brokers=(),
        )
    node_id, host, port = broker_address(state, session)
    return DescribeClusterResponse(
        error_code=ErrorCode.NONE,
        cluster_id=cluster_id,
        controller_id=node_id,
        brokers=[DescribeClusterBroker(broker_id=node_id, host=host, port=port)],
        cluster_authorized_operations=(
            CLUSTER_OPERATIONS if request.include_cluster_authorized_operations else NO_OPERATIONS
        ),
    )
