"""DeleteTopics (key 20), versions 1 to 6. Answered when no task and no open file is left.

If that takes longer than the client waits it is told REQUEST_TIMED_OUT; a deletion that has begun
goes on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trio_broker.broker.handlers.create_topics import TIMEOUT_MS_MIN
from trio_broker.errors import ErrorCode
from trio_broker.metadata.decisions import DeleteTopicResult, TopicReference
from trio_broker.names import ZERO_TOPIC_ID, TopicName
from trio_broker.wire.messages.delete_topics import (
    DeletableTopicResult,
    DeleteTopicsRequest,
    DeleteTopicsResponse,
)

if TYPE_CHECKING:
    from trio_broker.broker.session import Session
    from trio_broker.broker.state import BrokerState

#: From this version on topics are named by name or by id.
_TOPIC_ID_VERSION = 6


async def handle(
    state: BrokerState, session: Session, version: int, request: DeleteTopicsRequest
) -> DeleteTopicsResponse:
    """Delete topics by name or, from version 6 on, by id."""
    del session
    if version >= _TOPIC_ID_VERSION:
        references = [
            TopicReference(
                name=topic.name,
                topic_id=None if topic.topic_id == ZERO_TOPIC_ID else topic.topic_id,
            )
            for topic in request.topics
        ]
    else:
        references = [TopicReference(name=name) for name in request.topic_names]
    results: list[DeleteTopicResult] = []
    with trio.move_on_after(max(request.timeout_ms, TIMEOUT_MS_MIN) / 1000):
        results = await state.controller.delete_topics(references)
        gone = [TopicName(result.name) for result in results if result.name and not result.code]
        if gone:
            await state.coordinator.forget_topics(gone)
    if not results:
        results = [_timed_out(reference) for reference in references]
    return DeleteTopicsResponse(
        responses=[
            DeletableTopicResult(
                name=result.name,
                topic_id=result.topic_id,
                error_code=result.code,
                error_message=result.message,
            )
            for result in results
        ]
    )


def _timed_out(reference: TopicReference) -> DeleteTopicResult:
    return DeleteTopicResult(
        name=reference.name,
        topic_id=reference.topic_id or ZERO_TOPIC_ID,
        code=ErrorCode.REQUEST_TIMED_OUT,
        message="The topic was not deleted in time; it may be yet.",
    )
