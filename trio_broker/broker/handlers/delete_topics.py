"""DeleteTopics (key 20), versions 1 to 6. Answered when no task and no open file is left."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_broker.metadata.decisions import TopicReference
from trio_broker.names import TopicName
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
            TopicReference(name=topic.name, topic_id=None if topic.name else topic.topic_id)
            for topic in request.topics
        ]
    else:
        references = [TopicReference(name=name) for name in request.topic_names]
    results = await state.controller.delete_topics(references)
    gone = [TopicName(result.name) for result in results if result.name and not result.code]
    if gone:
        await state.coordinator.forget_topics(gone)
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
