"""ListGroups (key 16), versions 0 to 5: names, states and types of groups."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trio_broker.wire.messages.list_groups import (
    ListedGroup,
    ListGroupsRequest,
    ListGroupsResponse,
)

if TYPE_CHECKING:
    from trio_broker.broker.session import Session
    from trio_broker.broker.state import BrokerState


async def handle(
    state: BrokerState, session: Session, version: int, request: ListGroupsRequest
) -> ListGroupsResponse:
    """List all groups, or those in one of the states and of one of the types asked for."""
    del session, version
    await trio.lowlevel.checkpoint()
    listings = state.coordinator.list_groups(request.states_filter, request.types_filter)
    return ListGroupsResponse(
        error_code=state.coordinator.listing_fault(),
        groups=[
            ListedGroup(
                group_id=listing.group_id,
                protocol_type=listing.protocol_type,
                group_state=listing.state,
                group_type=listing.group_type,
            )
            for listing in sorted(listings)
        ],
    )
