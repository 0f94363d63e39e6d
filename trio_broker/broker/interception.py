"""The seam in front of the handlers: who may answer a request instead of them, or lose its answer.

There is nobody in production, which costs one comparison per request. Test kits use it to let a
client meet the errors, delays and broken connections that it must survive; the handlers know
nothing of it. Calls of the embedded API do not pass here: only what comes over a connection,
in memory or from the network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from attrs import frozen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_broker.broker.session import Session
    from trio_broker.broker.state import BrokerState
    from trio_broker.host.interface import Buffer
    from trio_broker.wire.headers import RequestHeader


@frozen(kw_only=True)
class Intervention:
    """What becomes of a request instead of what would have.

    Attributes:
        reply: buffers of a whole response frame that are sent instead of carrying the request out;
            none for a request that is not answered (Produce with acks=0).
        carry_out: do what the request asks, then close the connection without answering.
        close_reason: why the connection closes, for the log; "" if it does not. With neither a
            reply nor `carry_out` it closes before anything is done.
    """

    reply: Sequence[Buffer] | None = None
    carry_out: bool = False
    close_reason: str = ""


class Interceptor(Protocol):
    """Looks at each request of each connection before its handler does."""

    async def intercept(
        self, state: BrokerState, session: Session, header: RequestHeader, frame: memoryview
    ) -> Intervention | None:
        """Say what becomes of a request; None: what normally does.

        Waiting here holds up the connection and nobody else, as a slow broker would: later requests
        of the same client are not read. A drain cancels the wait; the request is not carried out.

        Args:
            state: the running broker.
            session: who asks.
            header: of the request.
            frame: the request, without its size; valid until this returns.
        """
