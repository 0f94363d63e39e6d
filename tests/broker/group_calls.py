"""Requests of group members, as short as tests want to write them."""

from __future__ import annotations

from typing import Any

from trio_broker.wire.messages.heartbeat import HeartbeatRequest
from trio_broker.wire.messages.join_group import JoinGroupRequest, JoinGroupRequestProtocol
from trio_broker.wire.messages.leave_group import LeaveGroupRequest, MemberIdentity
from trio_broker.wire.messages.sync_group import SyncGroupRequest, SyncGroupRequestAssignment

GROUP = "readers"
REQUIRES_MEMBER_ID_VERSION = 4


def join_request(
    member_id: str = "",
    *,
    group: str = GROUP,
    metadata: bytes = b"topics",
    protocols: tuple[str, ...] = ("range",),
    **arguments: Any,
) -> Any:
    """Ask to join; further arguments are fields of the request."""
    values: dict[str, Any] = {
        "session_timeout_ms": 10_000,
        "rebalance_timeout_ms": 30_000,
        "protocol_type": "consumer",
    }
    return JoinGroupRequest(
        group_id=group,
        member_id=member_id,
        protocols=[JoinGroupRequestProtocol(name=name, metadata=metadata) for name in protocols],
        **(values | arguments),
    )


async def join(client: Any, member_id: str = "", version: int = 9, **arguments: Any) -> Any:
    """Join, with the id that the coordinator gives out if it asks for one."""
    response = await client.call(join_request(member_id, **arguments), version)
    if response is not None and response.error_code == 79:  # MEMBER_ID_REQUIRED
        response = await client.call(join_request(response.member_id, **arguments), version)
    return response


async def sync(
    client: Any, joined: Any, assignments: dict[str, bytes] | None = None, version: int = 5
) -> Any:
    """Ask for the assignment of the generation that was joined."""
    return await client.call(sync_request(joined, assignments), version)


def sync_request(joined: Any, assignments: dict[str, bytes] | None = None) -> Any:
    """Return what `sync` sends."""
    return SyncGroupRequest(
        group_id=GROUP,
        generation_id=joined.generation_id,
        member_id=joined.member_id,
        protocol_type="consumer",
        protocol_name=joined.protocol_name or None,
        assignments=[
            SyncGroupRequestAssignment(member_id=member_id, assignment=assignment)
            for member_id, assignment in (assignments or {}).items()
        ],
    )


async def join_alone(client: Any, **arguments: Any) -> Any:
    """Be the only member of a group, with an assignment; return the answer to JoinGroup."""
    joined = await join(client, **arguments)
    assert joined.error_code == 0
    synced = await sync(client, joined, {joined.member_id: b"everything"})
    assert (synced.error_code, bytes(synced.assignment)) == (0, b"everything")
    return joined


async def heartbeat(
    client: Any, member_id: str, generation: int, version: int = 4, **arguments: Any
) -> int:
    """Return the code of a heartbeat."""
    request = HeartbeatRequest(
        member_id=member_id, generation_id=generation, **({"group_id": GROUP} | arguments)
    )
    return int((await client.call(request, version)).error_code)


async def leave(client: Any, *members: str | tuple[str, str], version: int = 5) -> Any:
    """Leave; a member is its id, or its id and its instance id."""
    if version < 3:
        [member] = members
        return await client.call(LeaveGroupRequest(group_id=GROUP, member_id=member), version)
    identities = [
        MemberIdentity(member_id=member)
        if isinstance(member, str)
        else MemberIdentity(member_id=member[0], group_instance_id=member[1])
        for member in members
    ]
    return await client.call(LeaveGroupRequest(group_id=GROUP, members=identities), version)
