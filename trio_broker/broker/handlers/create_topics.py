"""CreateTopics (key 19), versions 2 to 7. Answered when the replicas of the new topics run.

What takes longer than the request's timeout is answered with REQUEST_TIMED_OUT, and goes on. From
version 5 on the answer tells the configuration of the topic (KIP-525), always as an array: Java's
Admin client fails on null.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_broker.broker.handlers import mutations
from trio_broker.broker.handlers.topic_configs import describe_topic_configs
from trio_broker.metadata.decisions import CreateTopicResult, NewTopic
from trio_broker.names import TopicName
from trio_broker.wire.messages.create_topics import (
    CreatableTopic,
    CreatableTopicConfigs,
    CreatableTopicResult,
    CreateTopicsRequest,
    CreateTopicsResponse,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from trio_broker.broker.session import Session
    from trio_broker.broker.state import BrokerState

#: First version whose clients know what to do about a quota.
_QUOTA_VERSION = 6
#: Of some thirty configs each.
TOPICS_PER_PIECE = 5


async def handle(
    state: BrokerState, session: Session, version: int, request: CreateTopicsRequest
) -> CreateTopicsResponse:
    """Create topics, or only say whether they could be created."""
    known = state.controller.image.topics_by_name
    names = dict.fromkeys(topic.name for topic in request.topics)
    payment = mutations.pay_for_mutations(
        state,
        session,
        [name for name in names if TopicName(name) not in known and not request.validate_only],
        strict=version >= _QUOTA_VERSION,
    )
    results = await state.controller.create_topics(
        [_wanted(topic) for topic in request.topics if topic.name not in payment.refused],
        validate_only=request.validate_only,
        timeout_seconds=mutations.timeout_seconds(request.timeout_ms),
    )
    results += [CreateTopicResult(name=name).failed(*mutations.REFUSAL) for name in payment.refused]
    describing = _describe_all(state, results)
    topics = await state.large_answers.make(describing, yields_per_piece=TOPICS_PER_PIECE)
    return CreateTopicsResponse(throttle_time_ms=payment.throttle_time_ms, topics=topics)


def _describe_all(
    state: BrokerState, results: Sequence[CreateTopicResult]
) -> Generator[None, None, list[CreatableTopicResult]]:
    topics = []
    for result in results:
        topics.append(_describe(state, result))
        yield
    return topics


def _wanted(topic: CreatableTopic) -> NewTopic:
    return NewTopic(
        name=topic.name,
        partitions=topic.num_partitions,
        replication_factor=topic.replication_factor,
        assignments=[
            (assignment.partition_index, tuple(assignment.broker_ids))
            for assignment in topic.assignments
        ],
        configs=[(config.name, config.value) for config in topic.configs],
    )


def _describe(state: BrokerState, result: CreateTopicResult) -> CreatableTopicResult:
    configs: list[CreatableTopicConfigs] = []
    if result.config is not None:
        configs = [
            CreatableTopicConfigs(
                name=entry.name,
                value=entry.value,
                read_only=entry.read_only,
                config_source=entry.source,
                is_sensitive=False,
            )
            for entry in describe_topic_configs(state.config, result.config, result.configs)
        ]
    return CreatableTopicResult(
        name=result.name,
        topic_id=result.topic_id,
        error_code=result.code,
        error_message=result.message,
        num_partitions=result.partitions,
        replication_factor=result.replication_factor,
        configs=configs,
    )
