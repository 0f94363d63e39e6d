"""DeleteGroups (key 42), versions 0 to 2: forget groups without members, offsets and all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_broker.errors import ErrorCode
from trio_broker.wire.messages.delete_groups import (
    DeletableGroupResult,
    DeleteGroupsRequest,
    DeleteGroupsResponse,
)

if TYPE_CHECKING:
    from trio_broker.broker.session import Session
    from trio_broker.broker.state import BrokerState


async def handle(
    state: BrokerState, session: Session, version: int, request: DeleteGroupsRequest
) -> DeleteGroupsResponse:
    """Delete each group; answered when that is durable."""
    del session, version
    return DeleteGroupsResponse(
        results=[
            DeletableGroupResult(group_id=group_id, error_code=await _delete(state, group_id))
            for group_id in dict.fromkeys(request.groups_names)
        ]
    )


async def _delete(state: BrokerState, group_id: str) -> ErrorCode:
    reply = await state.coordinator.ask(
        group_id, lambda machine, token, now: machine.delete_groups(token, [group_id], now)
    )
    code: ErrorCode = reply if isinstance(reply, ErrorCode) else reply.code or reply.codes[0]
    return code
