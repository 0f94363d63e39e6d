"""InitProducerId (API 22): versions 0 to 5, flexible from 2 on.

Version 6 (two-phase commit) is not stable in Kafka and not declared.
"""

from __future__ import annotations

from trio_broker.wire.fields import int16, int32, int64, string
from trio_broker.wire.message import Request, Response


class InitProducerIdRequest(Request, api_key=22, versions=(0, 5), flexible=2):
    """What a client asks with InitProducerId."""

    transactional_id: str | None = string(nullable_since=0)
    transaction_timeout_ms: int = int32()
    producer_id: int = int64(since=3, default=-1)
    producer_epoch: int = int16(since=3, default=-1)


class InitProducerIdResponse(Response, api_key=22, versions=(0, 5), flexible=2):
    """What it is answered."""

    throttle_time_ms: int = int32(default=0)
    error_code: int = int16()
    producer_id: int = int64(default=-1)
    producer_epoch: int = int16()
