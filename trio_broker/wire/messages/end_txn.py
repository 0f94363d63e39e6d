"""EndTxn (API 26): versions 0 to 5, flexible from 3 on."""

from __future__ import annotations

from trio_broker.wire.fields import boolean, int16, int32, int64, string
from trio_broker.wire.message import Request, Response


class EndTxnRequest(Request, api_key=26, versions=(0, 5), flexible=3):
    """What a client asks with EndTxn."""

    transactional_id: str = string()
    producer_id: int = int64()
    producer_epoch: int = int16()
    committed: bool = boolean()


class EndTxnResponse(Response, api_key=26, versions=(0, 5), flexible=3):
    """What it is answered."""

    throttle_time_ms: int = int32(default=0)
    error_code: int = int16()
    producer_id: int = int64(since=5, default=-1)
    producer_epoch: int = int16(since=5, default=-1)
