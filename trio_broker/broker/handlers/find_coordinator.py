"""FindCoordinator (key 10), versions 0 to 6: who keeps a group's offsets. Always this broker.

Coordinators of transactions are refused with a code that clients treat as final, until
transactions exist.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trio_broker.broker.handlers.topology import broker_address
from trio_broker.errors import ErrorCode
from trio_broker.wire.messages.find_coordinator import (
    Coordinator,
    FindCoordinatorRequest,
    FindCoordinatorResponse,
)

if TYPE_CHECKING:
    from trio_broker.broker.session import Session
    from trio_broker.broker.state import BrokerState

_GROUP = 0
_TRANSACTION = 1
#: From this version on one request asks about many keys (KIP-699).
_BATCH_VERSION = 4


async def handle(
    state: BrokerState, session: Session, version: int, request: FindCoordinatorRequest
) -> FindCoordinatorResponse:
    """Name the coordinator of each key."""
    await trio.lowlevel.checkpoint()
    if version >= _BATCH_VERSION:
        found = [_find(state, session, request.key_type, key) for key in request.coordinator_keys]
        return FindCoordinatorResponse(coordinators=found)
    one = _find(state, session, request.key_type, request.key)
    return FindCoordinatorResponse(
        error_code=one.error_code,
        error_message=one.error_message,
        node_id=one.node_id,
        host=one.host,
        port=one.port,
    )


def _find(state: BrokerState, session: Session, key_type: int, key: str) -> Coordinator:
    code, message = ErrorCode.NONE, None
    if key_type == _TRANSACTION:
        code = ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED
        message = "this broker does not support transactions"
    elif key_type != _GROUP:
        code = ErrorCode.INVALID_REQUEST
        message = f"there is no coordinator for keys of type {key_type}"
    if code:
        return Coordinator(
            key=key, node_id=-1, host="", port=-1, error_code=code, error_message=message
        )
    node_id, host, port = broker_address(state, session)
    return Coordinator(
        key=key,
        node_id=node_id,
        host=host,
        port=port,
        error_code=ErrorCode.NONE,
        error_message=None,
    )
