"""SaslHandshake (API 17): versions 0 to 1.

Version 0 continues with bare tokens instead of SaslAuthenticate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_broker.wire.api import NEVER_FLEXIBLE
from trio_broker.wire.fields import Kind, array, int16, string
from trio_broker.wire.message import Request, Response

if TYPE_CHECKING:
    from collections.abc import Sequence


class SaslHandshakeRequest(Request, api_key=17, versions=(0, 1), flexible=NEVER_FLEXIBLE):
    """What a client asks with SaslHandshake."""

    mechanism: str = string()


class SaslHandshakeResponse(Response, api_key=17, versions=(0, 1), flexible=NEVER_FLEXIBLE):
    """What it is answered."""

    error_code: int = int16()
    mechanisms: Sequence[str] = array(Kind.STRING)
