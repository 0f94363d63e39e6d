"""FindCoordinator (API 10): versions 0 to 6, flexible from 3 on.

From version 4 on a request names any number of keys, and each has its own answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_broker.wire.fields import Kind, array, int8, int16, int32, string
from trio_broker.wire.message import Request, Response, Struct

if TYPE_CHECKING:
    from collections.abc import Sequence


class FindCoordinatorRequest(Request, api_key=10, versions=(0, 6), flexible=3):
    """What a client asks with FindCoordinator."""

    key: str = string(until=3, default="")
    key_type: int = int8(since=1, default=0)
    coordinator_keys: Sequence[str] = array(Kind.STRING, since=4, default=())


class Coordinator(Struct):
    """One of the `coordinators` of `FindCoordinatorResponse`."""

    key: str = string()
    node_id: int = int32()
    host: str = string()
    port: int = int32()
    error_code: int = int16()
    error_message: str | None = string(nullable_since=0)


class FindCoordinatorResponse(Response, api_key=10, versions=(0, 6), flexible=3):
    """What it is answered."""

    throttle_time_ms: int = int32(since=1, default=0)
    error_code: int = int16(until=3, default=0)
    error_message: str | None = string(since=1, until=3, nullable_since=1, default="")
    node_id: int = int32(until=3, default=0)
    host: str = string(until=3, default="")
    port: int = int32(until=3, default=0)
    coordinators: Sequence[Coordinator] = array(Coordinator, since=4, default=())
