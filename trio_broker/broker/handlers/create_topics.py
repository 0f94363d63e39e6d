"""CreateTopics (key 19), versions 2 to 7. Answered when the replicas of the new topics run.

If that takes longer than the client waits it is told REQUEST_TIMED_OUT; a creation that has begun
goes on. From version 5 on the answer tells the configuration of the topic (KIP-525), always as an
array: Java's Admin client fails on null.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trio_broker.broker.handlers.topic_configs import describe_topic_configs
from trio_broker.errors import ErrorCode
from trio_broker.metadata.decisions import CreateTopicResult, NewTopic
from trio_broker.wire.messages.create_topics import (
    CreatableTopicConfigs,
    CreatableTopicResult,
    CreateTopicsRequest,
    CreateTopicsResponse,
)

if TYPE_CHECKING:
    from trio_broker.broker.session import Session
    from trio_broker.broker.state import BrokerState

#: A change has at least this long to begin, also for clients that ask for no timeout.
TIMEOUT_MS_MIN = 1000


async def handle(
    state: BrokerState, session: Session, version: int, request: CreateTopicsRequest
) -> CreateTopicsResponse:
    """Create topics, or only say whether they could be created."""
    del session, version
    wanted = [
        NewTopic(
            name=topic.name,
            partitions=topic.num_partitions,
            replication_factor=topic.replication_factor,
            assignments=[
                (assignment.partition_index, tuple(assignment.broker_ids))
                for assignment in topic.assignments
            ],
            configs=[(config.name, config.value) for config in topic.configs],
        )
        for topic in request.topics
    ]
    results: list[CreateTopicResult] = []
    with trio.move_on_after(max(request.timeout_ms, TIMEOUT_MS_MIN) / 1000):
        results = await state.controller.create_topics(wanted, validate_only=request.validate_only)
    if not results:
        results = [_timed_out(name) for name in dict.fromkeys(topic.name for topic in wanted)]
    return CreateTopicsResponse(topics=[_describe(state, result) for result in results])


def _timed_out(name: str) -> CreateTopicResult:
    return CreateTopicResult(
        name=name,
        code=ErrorCode.REQUEST_TIMED_OUT,
        message="The topic was not created in time; it may be yet.",
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
