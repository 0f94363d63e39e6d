"""DescribeGroups (key 15), versions 0 to 6: state and members of groups.

A group that does not exist is "Dead"; from version 6 on it is GROUP_ID_NOT_FOUND (KIP-1043). A
group that is named twice is described once, so that an answer cannot be larger than what there is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trio_broker.broker.handlers.topology import NO_OPERATIONS
from trio_broker.errors import ErrorCode
from trio_broker.wire.messages.describe_groups import (
    DescribedGroup,
    DescribedGroupMember,
    DescribeGroupsRequest,
    DescribeGroupsResponse,
)

if TYPE_CHECKING:
    from trio_broker.broker.session import Session
    from trio_broker.broker.state import BrokerState

_NOT_FOUND_VERSION = 6
#: So much of a name that does not exist is repeated in the message about it.
_SHOWN_CHARACTERS_MAX = 249
#: Read, delete and describe: what a broker without authorizer allows on a group.
_GROUP_OPERATIONS = sum(1 << code for code in (3, 6, 8))


async def handle(
    state: BrokerState, session: Session, version: int, request: DescribeGroupsRequest
) -> DescribeGroupsResponse:
    """Describe each group asked for, once however often it is named."""
    del session
    operations = _GROUP_OPERATIONS if request.include_authorized_operations else NO_OPERATIONS
    groups = []
    for group_id in dict.fromkeys(request.groups):
        groups.append(await _describe(state, version, group_id, operations))
        await trio.lowlevel.checkpoint()
    return DescribeGroupsResponse(groups=groups)


async def _describe(
    state: BrokerState, version: int, group_id: str, operations: int
) -> DescribedGroup:
    code = await state.coordinator.load_group(group_id)
    message = None
    found = None if code else state.coordinator.describe(group_id)
    if found is None and not code and version >= _NOT_FOUND_VERSION:
        code, message = (
            ErrorCode.GROUP_ID_NOT_FOUND,
            f"there is no group {group_id[:_SHOWN_CHARACTERS_MAX]!r}",
        )
    if found is None:
        return DescribedGroup(
            error_code=code,
            error_message=message,
            group_id=group_id,
            group_state=""
            if code not in {ErrorCode.NONE, ErrorCode.GROUP_ID_NOT_FOUND}
            else "Dead",
            protocol_type="",
            protocol_data="",
            members=(),
            authorized_operations=operations,
        )
    return DescribedGroup(
        error_code=ErrorCode.NONE,
        group_id=group_id,
        group_state=found.state,
        protocol_type=found.protocol_type,
        protocol_data=found.protocol_name,
        members=[
            DescribedGroupMember(
                member_id=member.member_id,
                group_instance_id=member.group_instance_id,
                client_id=member.client_id,
                client_host=member.client_host,
                member_metadata=member.metadata,
                member_assignment=member.assignment,
            )
            for member in found.members
        ],
        authorized_operations=operations,
    )
