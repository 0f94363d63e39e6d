"""LeaveGroup (key 13), versions 0 to 5: stop being a member, one's own or (from 3) others' too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_broker.errors import ErrorCode
from trio_broker.group.commands import LeaveReply, LeavingMember
from trio_broker.wire.messages.leave_group import (
    LeaveGroupRequest,
    LeaveGroupResponse,
    MemberResponse,
)

if TYPE_CHECKING:
    from trio_broker.broker.session import Session
    from trio_broker.broker.state import BrokerState

#: From this version on one request names many members (KIP-345).
_BATCH_VERSION = 3


async def handle(
    state: BrokerState, session: Session, version: int, request: LeaveGroupRequest
) -> LeaveGroupResponse:
    """Remove members; each has a code of its own where the version can carry them."""
    del session
    if version >= _BATCH_VERSION:
        members = [
            LeavingMember(member.member_id, member.group_instance_id, member.reason)
            for member in request.members
        ]
    else:
        members = [LeavingMember(request.member_id)]
    reply = await state.coordinator.ask(
        request.group_id,
        lambda machine, token, now: machine.leave(token, request.group_id, members, now),
    )
    if isinstance(reply, ErrorCode):
        reply = LeaveReply(reply)
    if version < _BATCH_VERSION:
        return LeaveGroupResponse(error_code=reply.single_code)
    return LeaveGroupResponse(
        error_code=reply.code,
        members=[
            MemberResponse(
                member_id=member.member_id,
                group_instance_id=member.group_instance_id,
                error_code=code,
            )
            for member, code in zip(members, reply.members, strict=bool(not reply.code))
        ],
    )
