"""Heartbeat (key 12), versions 0 to 4: a member is alive, and hears of a rebalance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trio_broker.errors import ErrorCode
from trio_broker.group.commands import Now
from trio_broker.wire.messages.heartbeat import HeartbeatRequest, HeartbeatResponse

if TYPE_CHECKING:
    from trio_broker.broker.session import Session
    from trio_broker.broker.state import BrokerState


async def handle(
    state: BrokerState, session: Session, version: int, request: HeartbeatRequest
) -> HeartbeatResponse:
    """Note that a member is alive."""
    del session, version
    machine = await state.coordinator.machine_for(request.group_id)
    if machine is ErrorCode.COORDINATOR_LOAD_IN_PROGRESS:
        # As in Apache Kafka: it cannot be judged now, clients do not expect that code here, and
        # sessions start anew once the groups are loaded.
        return HeartbeatResponse(error_code=ErrorCode.NONE)
    if isinstance(machine, ErrorCode):
        return HeartbeatResponse(error_code=machine)
    now = Now(state.host.wall.now_ms(), int(trio.current_time() * 1000))
    code = machine.heartbeat(
        request.group_id,
        request.generation_id,
        request.member_id,
        request.group_instance_id,
        now,
    )
    return HeartbeatResponse(error_code=code)
