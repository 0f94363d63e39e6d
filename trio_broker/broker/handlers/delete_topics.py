"""DeleteTopics (key 20), versions 1 to 6. Answered when no task and no open file is left.

And when a restart would not bring the topic back. What takes longer than the request's timeout is
answered with REQUEST_TIMED_OUT, and goes on. KAFKA_STORAGE_ERROR says that nothing was deleted
because the metadata could not be written, or (see the message) that the topic is gone for every
client while its files cannot be moved yet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_broker.broker.handlers import mutations
from trio_broker.errors import ErrorCode
from trio_broker.metadata.decisions import DeleteTopicResult, TopicReference
from trio_broker.names import ZERO_TOPIC_ID, TopicName
from trio_broker.wire.messages.delete_topics import (
    DeletableTopicResult,
    DeleteTopicsRequest,
    DeleteTopicsResponse,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_broker.broker.session import Session
    from trio_broker.broker.state import BrokerState

#: First version whose clients know what to do about a quota.
_QUOTA_VERSION = 5
#: From this version on topics are named by name or by id.
_TOPIC_ID_VERSION = 6


#: Answers for topics that are deleted, as far as clients can see.
_DELETED = frozenset({ErrorCode.NONE, ErrorCode.REQUEST_TIMED_OUT, ErrorCode.KAFKA_STORAGE_ERROR})


async def handle(
    state: BrokerState, session: Session, version: int, request: DeleteTopicsRequest
) -> DeleteTopicsResponse:
    """Delete topics by name or, from version 6 on, by id."""
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
    payment = mutations.pay_for_mutations(
        state, session, _existing(state, references), strict=version >= _QUOTA_VERSION
    )
    refused = [one for one in references if _name(state, one) in payment.refused]
    results = await state.controller.delete_topics(
        [one for one in references if one not in refused],
        timeout_seconds=mutations.timeout_seconds(request.timeout_ms),
    )
    await _forget_offsets(state, results)
    results += [
        DeleteTopicResult(name=_name(state, one)).failed(*mutations.REFUSAL) for one in refused
    ]
    return DeleteTopicsResponse(
        throttle_time_ms=payment.throttle_time_ms,
        responses=[
            DeletableTopicResult(
                name=result.name,
                topic_id=result.topic_id,
                error_code=result.code,
                error_message=result.message,
            )
            for result in results
        ],
    )


def _name(state: BrokerState, reference: TopicReference) -> str | None:
    """Return the name of the topic that is meant, None if there is none of that id."""
    if reference.topic_id is None:
        return reference.name
    topic = state.controller.image.topics_by_id.get(reference.topic_id)
    return None if topic is None else topic.name


def _existing(state: BrokerState, references: Sequence[TopicReference]) -> list[str]:
    known = state.controller.image.topics_by_name
    names = dict.fromkeys(_name(state, reference) for reference in references)
    return [name for name in names if name is not None and TopicName(name) in known]


async def _forget_offsets(state: BrokerState, results: Sequence[DeleteTopicResult]) -> None:
    """Forget what was committed for topics that are gone, even if their replicas are not yet."""
    image = state.controller.image
    gone = [
        TopicName(result.name)
        for result in results
        if result.name is not None and result.code in _DELETED and result.is_gone(image)
    ]
    if gone:
        await state.coordinator.forget_topics(gone)
