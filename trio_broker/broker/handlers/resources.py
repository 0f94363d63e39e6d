"""Resources that have a configuration, as the protocol names them."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trio_broker.broker.state import BrokerState


class ResourceType(IntEnum):
    """Numbers of the protocol (org.apache.kafka.common.config.ConfigResource.Type)."""

    TOPIC = 2
    BROKER = 4
    BROKER_LOGGER = 8
    CLIENT_METRICS = 16
    GROUP = 32


def broker_fault(state: BrokerState, name: str) -> str | None:
    """Say why `name` is not this broker, None if it is."""
    if name == str(state.config.node_id):
        return None
    if not (name.isascii() and name.removeprefix("-").isdigit()):
        return f"Node id must be an integer, but it is: {name[:100]}"
    return (
        f"Unexpected broker id, expected {state.config.node_id} or empty string, "
        f"but received {name[:100]}"
    )
