"""DescribeConfigs (key 32), versions 1 to 4: configuration of topics and of this broker.

A resource that is named twice is described once, so that an answer cannot be larger than what there
is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trio_broker.broker.handlers.resources import ResourceType, broker_fault
from trio_broker.broker.handlers.topic_configs import (
    ConfigEntry,
    describe_broker_configs,
    describe_topic_configs,
)
from trio_broker.broker.retention_facts import explain
from trio_broker.errors import ErrorCode
from trio_broker.names import TopicName, topic_name_fault
from trio_broker.storage.pressure import PROMISES
from trio_broker.wire.messages.describe_configs import (
    DescribeConfigsRequest,
    DescribeConfigsResource,
    DescribeConfigsResourceResult,
    DescribeConfigsResponse,
    DescribeConfigsResult,
    DescribeConfigsSynonym,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from trio_broker.broker.session import Session
    from trio_broker.broker.state import BrokerState
    from trio_broker.names import TopicId

#: Of some thirty configs each.
RESOURCES_PER_PIECE = 5


async def handle(
    state: BrokerState, session: Session, version: int, request: DescribeConfigsRequest
) -> DescribeConfigsResponse:
    """List the configuration of each resource, or the keys asked for."""
    del session, version
    await trio.lowlevel.checkpoint()
    describing = _describe_all(state, request)
    results = await state.large_answers.make(describing, yields_per_piece=RESOURCES_PER_PIECE)
    return DescribeConfigsResponse(results=results)


def _each_once(resources: Sequence[DescribeConfigsResource]) -> list[DescribeConfigsResource]:
    """Leave out what is asked for again: the last one counts."""
    return list({(one.resource_type, one.resource_name): one for one in resources}.values())


def _describe_all(
    state: BrokerState, request: DescribeConfigsRequest
) -> Generator[None, None, list[DescribeConfigsResult]]:
    results = []
    for resource in _each_once(request.resources):
        results.append(_describe(state, resource, request))
        yield
    return results


def _describe(
    state: BrokerState, resource: DescribeConfigsResource, request: DescribeConfigsRequest
) -> DescribeConfigsResult:
    code, message, entries = _entries(state, resource, request)
    if resource.configuration_keys:  # null and empty: all of them
        wanted = set(resource.configuration_keys)
        entries = [entry for entry in entries if entry.name in wanted]
    return DescribeConfigsResult(
        error_code=code,
        error_message=message,
        resource_type=resource.resource_type,
        resource_name=resource.resource_name,
        configs=[_result(entry, request) for entry in entries],
    )


def _entries(
    state: BrokerState, resource: DescribeConfigsResource, request: DescribeConfigsRequest
) -> tuple[ErrorCode, str | None, list[ConfigEntry]]:
    name = resource.resource_name
    if resource.resource_type == ResourceType.TOPIC:
        fault = topic_name_fault(name)
        if fault is not None:
            return ErrorCode.INVALID_TOPIC_EXCEPTION, fault, []
        topic = state.controller.image.topics_by_name.get(TopicName(name))
        if topic is None:
            return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"there is no topic {name[:249]!r}", []
        entries = describe_topic_configs(state.config, topic.config, topic.configs)
        if request.include_documentation:
            entries = _with_retention(state, topic.topic_id, entries)
        return ErrorCode.NONE, None, entries
    if resource.resource_type == ResourceType.BROKER:
        if name == "":
            return ErrorCode.NONE, None, []  # the cluster-wide dynamic defaults: there are none
        fault = broker_fault(state, name)
        if fault is not None:
            return ErrorCode.INVALID_REQUEST, fault, []
        return ErrorCode.NONE, None, describe_broker_configs(state.config)
    return (
        ErrorCode.INVALID_REQUEST,
        f"resources of type {resource.resource_type} have no configuration here",
        [],
    )


def _with_retention(
    state: BrokerState, topic_id: TopicId, entries: list[ConfigEntry]
) -> list[ConfigEntry]:
    """Say with the configs of retention what comes of them: when, and what is gone already."""
    routed = state.router.by_id.get(topic_id)
    if routed is None:
        return entries
    now_ms = state.host.wall.now_ms()
    return [
        entry._replace(documentation=f"{entry.documentation}. {explain(routed, now_ms)}")
        if entry.name in PROMISES
        else entry
        for entry in entries
    ]


def _result(entry: ConfigEntry, request: DescribeConfigsRequest) -> DescribeConfigsResourceResult:
    synonyms = entry.synonyms if request.include_synonyms else ()
    return DescribeConfigsResourceResult(
        name=entry.name,
        value=entry.value,
        read_only=entry.read_only,
        config_source=entry.source,
        is_sensitive=False,
        synonyms=[
            DescribeConfigsSynonym(name=synonym.name, value=synonym.value, source=synonym.source)
            for synonym in synonyms
        ],
        config_type=entry.type,
        documentation=entry.documentation if request.include_documentation else None,
    )
