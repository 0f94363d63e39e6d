"""JoinGroup (key 11), versions 0 to 9: become a member; waits until the rebalance is complete."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_broker.errors import ErrorCode
from trio_broker.group.commands import JoinGroup, JoinReply, Protocol
from trio_broker.wire.messages.join_group import (
    JoinGroupRequest,
    JoinGroupResponse,
    JoinGroupResponseMember,
)

if TYPE_CHECKING:
    from trio_broker.broker.session import Session
    from trio_broker.broker.state import BrokerState

#: Before this version a protocol that nobody chose is an empty string instead of null.
_NULLABLE_PROTOCOL_VERSION = 7


async def handle(
    state: BrokerState, session: Session, version: int, request: JoinGroupRequest
) -> JoinGroupResponse:
    """Join; the answer comes when all members have joined, or their time is up."""
    command = JoinGroup(
        group_id=request.group_id,
        member_id=request.member_id,
        group_instance_id=request.group_instance_id,
        client_id=session.client_id,
        client_host="/" + session.peer.rpartition(":")[0],
        protocol_type=request.protocol_type,
        protocols=tuple(
            Protocol(protocol.name, bytes(protocol.metadata)) for protocol in request.protocols
        ),
        session_timeout_ms=request.session_timeout_ms,
        rebalance_timeout_ms=request.rebalance_timeout_ms,
        unique_text=str(state.host.entropy.uuid()),
        api_version=version,
        reason=request.reason,
    )
    reply = await state.coordinator.ask(
        request.group_id, lambda machine, token, now: machine.join(token, command, now)
    )
    if isinstance(reply, ErrorCode):
        reply = JoinReply(reply, request.member_id)
    no_protocol = None if version >= _NULLABLE_PROTOCOL_VERSION else ""
    return JoinGroupResponse(
        error_code=reply.code,
        generation_id=reply.generation,
        protocol_type=reply.protocol_type,
        protocol_name=no_protocol if reply.protocol_name is None else reply.protocol_name,
        leader=reply.leader_id,
        skip_assignment=reply.skip_assignment,
        member_id=reply.member_id,
        members=[
            JoinGroupResponseMember(
                member_id=member.member_id,
                group_instance_id=member.group_instance_id,
                metadata=member.metadata,
            )
            for member in reply.members
        ],
    )
