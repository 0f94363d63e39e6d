"""InitProducerId (key 22), versions 0 to 5: an id for an idempotent producer.

With a transactional id the request is refused with a code that clients treat as final, until
transactions exist.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trio_broker.errors import ErrorCode, RequestError
from trio_broker.wire.messages.init_producer_id import (
    InitProducerIdRequest,
    InitProducerIdResponse,
)

if TYPE_CHECKING:
    from trio_broker.broker.session import Session
    from trio_broker.broker.state import BrokerState


async def handle(
    state: BrokerState, session: Session, version: int, request: InitProducerIdRequest
) -> InitProducerIdResponse:
    """Give a producer id that nobody has had.

    Kafka answers every request without a transactional id with a new id and epoch 0, also one
    that names the id it had; so does this.
    """
    del session, version
    if request.transactional_id is not None:
        await trio.lowlevel.checkpoint()
        code = (
            ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED
            if request.transactional_id
            else ErrorCode.INVALID_REQUEST
        )
        return InitProducerIdResponse(error_code=code, producer_epoch=-1)
    try:
        producer_id, producer_epoch = await state.controller.allocate_producer_id()
    except RequestError as error:
        return InitProducerIdResponse(error_code=error.code, producer_epoch=-1)
    return InitProducerIdResponse(
        error_code=ErrorCode.NONE, producer_id=producer_id, producer_epoch=producer_epoch
    )
