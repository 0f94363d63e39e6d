"""AddOffsetsToTxn (API 25): versions 0 to 4, flexible from 3 on."""

from __future__ import annotations

from trio_broker.wire.fields import int16, int32, int64, string
from trio_broker.wire.message import Request, Response


class AddOffsetsToTxnRequest(Request, api_key=25, versions=(0, 4), flexible=3):
    """What a client asks with AddOffsetsToTxn."""

    transactional_id: str = string()
    producer_id: int = int64()
    producer_epoch: int = int16()
    group_id: str = string()


class AddOffsetsToTxnResponse(Response, api_key=25, versions=(0, 4), flexible=3):
    """What it is answered."""

    throttle_time_ms: int = int32(default=0)
    error_code: int = int16()
