"""CreatePartitions (key 37), versions 0 to 3. Answered when the replicas of new partitions run.

What takes longer than the request's timeout is answered with REQUEST_TIMED_OUT, and goes on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_broker.broker.handlers import mutations
from trio_broker.metadata.decisions import CreatePartitionsResult, MorePartitions
from trio_broker.names import TopicName
from trio_broker.wire.messages.create_partitions import (
    CreatePartitionsRequest,
    CreatePartitionsResponse,
    CreatePartitionsTopic,
    CreatePartitionsTopicResult,
)

if TYPE_CHECKING:
    from trio_broker.broker.session import Session
    from trio_broker.broker.state import BrokerState

#: First version whose clients know what to do about a quota.
_QUOTA_VERSION = 3


async def handle(
    state: BrokerState, session: Session, version: int, request: CreatePartitionsRequest
) -> CreatePartitionsResponse:
    """Add partitions to topics, or only say whether they could be added."""
    known = state.controller.image.topics_by_name
    names = dict.fromkeys(topic.name for topic in request.topics)
    payment = mutations.pay_for_mutations(
        state,
        session,
        [name for name in names if TopicName(name) in known and not request.validate_only],
        strict=version >= _QUOTA_VERSION,
    )
    results = await state.controller.create_partitions(
        [_wanted(topic) for topic in request.topics if topic.name not in payment.refused],
        validate_only=request.validate_only,
        timeout_seconds=mutations.timeout_seconds(request.timeout_ms),
    )
    results += [
        CreatePartitionsResult(name=name).failed(*mutations.REFUSAL) for name in payment.refused
    ]
    return CreatePartitionsResponse(
        throttle_time_ms=payment.throttle_time_ms,
        results=[
            CreatePartitionsTopicResult(
                name=result.name, error_code=result.code, error_message=result.message
            )
            for result in results
        ],
    )


def _wanted(topic: CreatePartitionsTopic) -> MorePartitions:
    assignments = None
    if topic.assignments is not None:
        assignments = [tuple(assignment.broker_ids) for assignment in topic.assignments]
    return MorePartitions(name=topic.name, count=topic.count, assignments=assignments)
