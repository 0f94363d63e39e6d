"""SyncGroup (key 14), versions 0 to 5: learn one's assignment; waits for the leader's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trio_broker.errors import ErrorCode
from trio_broker.group.commands import SyncGroup, SyncReply
from trio_broker.wire.messages.sync_group import SyncGroupRequest, SyncGroupResponse

if TYPE_CHECKING:
    from trio_broker.broker.session import Session
    from trio_broker.broker.state import BrokerState

#: From this version on a member says which protocol it means (KIP-559), and must.
_PROTOCOL_VERSION = 5


async def handle(
    state: BrokerState, session: Session, version: int, request: SyncGroupRequest
) -> SyncGroupResponse:
    """Take the leader's assignments; answer each member with its own."""
    del session
    if version >= _PROTOCOL_VERSION and None in (request.protocol_type, request.protocol_name):
        await trio.lowlevel.checkpoint()
        return SyncGroupResponse(
            error_code=ErrorCode.INCONSISTENT_GROUP_PROTOCOL,
            protocol_type=None,
            protocol_name=None,
            assignment=b"",
        )
    command = SyncGroup(
        group_id=request.group_id,
        generation=request.generation_id,
        member_id=request.member_id,
        group_instance_id=request.group_instance_id,
        protocol_type=request.protocol_type,
        protocol_name=request.protocol_name,
        assignments={item.member_id: bytes(item.assignment) for item in request.assignments},
    )
    reply = await state.coordinator.ask(
        request.group_id, lambda machine, token, now: machine.sync(token, command, now)
    )
    if isinstance(reply, ErrorCode):
        reply = SyncReply(reply)
    if reply.code is ErrorCode.COORDINATOR_LOAD_IN_PROGRESS:
        # Clients do not expect that code here; the rebalance is lost with the state, so as in
        # Apache Kafka the member is to join again.
        reply = SyncReply(ErrorCode.REBALANCE_IN_PROGRESS)
    return SyncGroupResponse(
        error_code=reply.code,
        protocol_type=reply.protocol_type,
        protocol_name=reply.protocol_name,
        assignment=reply.assignment,
    )
