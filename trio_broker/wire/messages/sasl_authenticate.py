"""SaslAuthenticate (API 36): versions 0 to 2, flexible from 2 on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_broker.wire.fields import binary, int16, int64, string
from trio_broker.wire.message import Request, Response

if TYPE_CHECKING:
    from trio_broker.wire.buffers import Buffer


class SaslAuthenticateRequest(Request, api_key=36, versions=(0, 2), flexible=2):
    """What a client asks with SaslAuthenticate."""

    auth_bytes: Buffer = binary()


class SaslAuthenticateResponse(Response, api_key=36, versions=(0, 2), flexible=2):
    """What it is answered."""

    error_code: int = int16()
    error_message: str | None = string(nullable_since=0)
    auth_bytes: Buffer = binary()
    session_lifetime_ms: int = int64(since=1, default=0)
