"""Decides AlterConfigs and IncrementalAlterConfigs for topics.

The rules and codes are those of Apache Kafka (kafka.server.ConfigAdminManager and
org.apache.kafka.controller.ConfigurationControlManager); where this broker is stricter,
`alter_topics` says so. Pure; called by `trio_broker.broker.controller`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from enum import IntEnum

import attrs
from attrs import frozen

from trio_broker.config import TopicConfig
from trio_broker.config_catalog import (
    INTERNAL_TOPIC_CONFIGS,
    TOPIC_CONFIGS,
    ConfigType,
    parse_list,
    parse_topic_configs,
    topic_config_text,
)
from trio_broker.errors import ConfigError, ErrorCode
from trio_broker.metadata.image import MetadataImage, TopicState
from trio_broker.metadata.new_partitions import Refusal
from trio_broker.metadata.records import TopicRecord, encode_record, partition_key, topic_key
from trio_broker.metadata.steps import Decision, StepBuilder
from trio_broker.metadata.transaction import Guard, Operation, Put
from trio_broker.names import ZERO_TOPIC_ID, TopicId, TopicName, topic_name_fault


class AlterOperation(IntEnum):
    """What to do with one config, as numbers of the protocol (KIP-339)."""

    SET = 0
    DELETE = 1
    APPEND = 2
    SUBTRACT = 3


@frozen
class ConfigChange:
    """One change of one config.

    Attributes:
        name: Kafka's name, as asked for.
        operation: a number that should be an `AlterOperation`.
        value: None only makes sense to DELETE.
    """

    name: str
    operation: int
    value: str | None


@frozen(kw_only=True)
class TopicAlteration:
    """The changes somebody asks for in the configuration of one topic.

    Attributes:
        name: of the topic, as asked for.
        changes: in the order received.
        replaces_all: what is not named returns to its default (AlterConfigs).
    """

    name: str
    changes: Sequence[ConfigChange]
    replaces_all: bool = False


@frozen(kw_only=True)
class AlterTopicResult:
    """The answer for one topic.

    Attributes:
        name: as asked for.
        code: NONE, or why nothing of it was altered.
        message: the reason for people, None without an error.
        topic_id: zero after an error.
    """

    name: str
    code: ErrorCode = ErrorCode.NONE
    message: str | None = None
    topic_id: TopicId = ZERO_TOPIC_ID

    def failed(self, code: ErrorCode, message: str) -> AlterTopicResult:
        """Return the answer if the topic could not be altered after all."""
        return AlterTopicResult(name=self.name, code=code, message=message)


def alter_topics(
    image: MetadataImage, alterations: Sequence[TopicAlteration], *, validate_only: bool = False
) -> Decision[AlterTopicResult]:
    """Decide about the configurations of topics; there is one result for each alteration.

    A topic that is named twice is refused each time, and one faulty change refuses all changes of
    its topic. Stricter than Kafka: of the broker's own topics only what cannot lose their records
    may be altered (`INTERNAL_TOPIC_CONFIGS`).

    Args:
        image: the newest metadata known.
        alterations: what is asked for.
        validate_only: decide as if, and return no steps.
    """
    appearances = Counter(alteration.name for alteration in alterations)
    results: list[AlterTopicResult] = []
    steps = StepBuilder()
    for alteration in alterations:
        result = AlterTopicResult(name=alteration.name)
        if appearances[alteration.name] > 1:
            message = "Each resource must appear at most once."
            results.append(result.failed(ErrorCode.INVALID_REQUEST, message))
            continue
        try:
            topic, configs, config = _alter(image, alteration)
        except Refusal as refusal:
            results.append(result.failed(refusal.code, refusal.message))
            continue
        if configs != topic.configs:
            steps.add(len(results), *_alteration(topic, configs, config))
        results.append(attrs.evolve(result, topic_id=topic.topic_id))
    return Decision(tuple(results), () if validate_only else steps.steps())


def _alter(
    image: MetadataImage, alteration: TopicAlteration
) -> tuple[TopicState, dict[str, str], TopicConfig]:
    _check_form(alteration)
    topic = _find(image, alteration.name)
    configs = {} if alteration.replaces_all else dict(topic.configs)
    for change in alteration.changes:
        _apply(configs, change, image.defaults)
    if topic.is_internal:
        _check_internal(topic, configs)
    try:
        config = parse_topic_configs(configs, image.defaults)
    except ConfigError as error:
        raise Refusal(ErrorCode.INVALID_CONFIG, "; ".join(error.faults)) from None
    return topic, configs, config


def _check_form(alteration: TopicAlteration) -> None:
    names = [change.name for change in alteration.changes]
    if len(set(names)) != len(names):
        raise Refusal(ErrorCode.INVALID_REQUEST, "Error due to duplicate config keys")
    nulls = [
        change.name
        for change in alteration.changes
        if change.value is None and change.operation != AlterOperation.DELETE
    ]
    if nulls:
        raise Refusal(
            ErrorCode.INVALID_REQUEST, f"Null value not supported for : {', '.join(nulls)}"
        )
    for change in alteration.changes:
        if change.operation not in AlterOperation._value2member_map_:
            raise Refusal(ErrorCode.INVALID_REQUEST, f"Unknown operations type {change.operation}")


def _find(image: MetadataImage, name: str) -> TopicState:
    topic = image.topics_by_name.get(TopicName(name))
    if topic is not None:
        return topic
    if not name:
        raise Refusal(ErrorCode.INVALID_REQUEST, "Default topic resources are not allowed.")
    fault = topic_name_fault(name)
    if fault is not None:
        raise Refusal(ErrorCode.INVALID_TOPIC_EXCEPTION, f"Topic name is invalid: {fault}.")
    raise Refusal(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"The topic '{name}' does not exist.")


def _apply(configs: dict[str, str], change: ConfigChange, defaults: TopicConfig) -> None:
    """Make one change; whether the result is legal is seen to afterwards."""
    name = change.name
    operation = AlterOperation(change.operation)
    if operation is AlterOperation.DELETE:
        configs.pop(name, None)
        return
    assert change.value is not None, "checked before"
    if operation is AlterOperation.SET:
        configs[name] = change.value
        return
    entry = TOPIC_CONFIGS.get(name)
    if entry is not None and entry.type is not ConfigType.LIST:
        raise Refusal(
            ErrorCode.INVALID_CONFIG,
            f"Can't {operation.name} to key {name} because its type is not LIST.",
        )
    if entry is None:
        configs[name] = change.value  # refused for its name, like any other
        return
    parts = parse_list(configs.get(name, topic_config_text(entry, defaults, {})))
    changed = dict.fromkeys(parse_list(change.value))
    if operation is AlterOperation.APPEND:
        present = set(parts)
        parts += [part for part in changed if part not in present]
    else:
        parts = [part for part in parts if part not in changed]
    configs[name] = ",".join(parts)


def _check_internal(topic: TopicState, configs: Mapping[str, str]) -> None:
    altered = {
        name
        for name in configs.keys() | topic.configs.keys()
        if configs.get(name) != topic.configs.get(name)
    }
    forbidden = sorted(altered - INTERNAL_TOPIC_CONFIGS)
    if forbidden:
        raise Refusal(
            ErrorCode.INVALID_CONFIG,
            f"{topic.name} belongs to the broker itself, which needs its {', '.join(forbidden)} "
            "as it is.",
        )


def _alteration(
    topic: TopicState, configs: dict[str, str], config: TopicConfig
) -> tuple[list[Guard], list[Operation]]:
    record = TopicRecord(topic_id=topic.topic_id, partitions=len(topic.partitions), configs=configs)
    guards = [Guard(topic_key(topic.name), topic.mod_revision)]
    operations: list[Operation] = [Put(topic_key(topic.name), encode_record(record))]
    for state in topic.partitions:
        if state.min_isr == config.min_insync_replicas:
            continue
        key = partition_key(topic.topic_id, state.partition)
        changed = attrs.evolve(
            state, min_isr=config.min_insync_replicas, partition_epoch=state.partition_epoch + 1
        )
        guards.append(Guard(key, state.mod_revision))
        operations.append(Put(key, encode_record(changed.as_record())))
    return guards, operations
