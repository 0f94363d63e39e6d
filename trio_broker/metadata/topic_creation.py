"""Decides CreateTopics: checks, placement, and the records of the new topics.

The rules and codes are those of Apache Kafka's controller
(org.apache.kafka.controller.ReplicationControlManager, kafka.server.ControllerApis); where this
broker is stricter, `create_topics` says so. Pure; called by `trio_broker.broker.controller`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from uuid import UUID

import attrs
from attrs import field, frozen

from trio_broker.config import LimitsConfig, TopicConfig
from trio_broker.config_catalog import parse_topic_configs
from trio_broker.errors import ConfigError, ErrorCode
from trio_broker.metadata.image import MetadataImage
from trio_broker.metadata.new_partitions import (
    Refusal,
    check_brokers,
    check_limits,
    choose_brokers,
    place_partitions,
)
from trio_broker.metadata.placement import Placement
from trio_broker.metadata.records import TopicRecord, encode_record, topic_key
from trio_broker.metadata.steps import Decision, StepBuilder
from trio_broker.metadata.transaction import Guard, Operation, Put
from trio_broker.names import (
    INTERNAL_TOPIC_NAMES,
    ZERO_TOPIC_ID,
    BrokerId,
    TopicId,
    TopicName,
    collision_key,
    topic_name_fault,
)

#: Kafka's name for its own metadata topic, which clients may not create.
_CLUSTER_METADATA_TOPIC_NAME = "__cluster_metadata"
#: What a topic of the broker itself always has, whoever creates it: nothing of it expires.
_NEEDED_CONFIGS = {"retention.ms": "-1", "retention.bytes": "-1"}


@frozen(kw_only=True)
class NewTopic:
    """A topic somebody asks for.

    Attributes:
        name: as asked for, not checked yet.
        partitions: how many; -1: the broker's default.
        replication_factor: replicas of each partition; -1: the broker's default.
        assignments: instead of both numbers, for each partition index the broker ids of its
            replicas, as (index, broker ids) pairs in the order received.
        configs: (Kafka's name, text) pairs in the order received; None is refused, as by Kafka.
    """

    name: str
    partitions: int = -1
    replication_factor: int = -1
    assignments: Sequence[tuple[int, Sequence[int]]] = ()
    configs: Sequence[tuple[str, str | None]] = ()


@frozen(kw_only=True)
class CreateTopicResult:
    """The answer for one name of a CreateTopics request.

    Attributes:
        name: as asked for.
        code: NONE, or why there is no such new topic.
        message: the reason for people, None without an error.
        topic_id: of the new topic; zero after an error and for a mere validation.
        partitions: number of partitions, -1 after an error.
        replication_factor: replicas of each, -1 after an error.
        config: what holds for the topic, None after an error.
        configs: what was set explicitly, Kafka's names and text.
    """

    name: str
    code: ErrorCode = ErrorCode.NONE
    message: str | None = None
    topic_id: TopicId = ZERO_TOPIC_ID
    partitions: int = -1
    replication_factor: int = -1
    config: TopicConfig | None = None
    configs: Mapping[str, str] = field(factory=dict)

    def failed(self, code: ErrorCode, message: str) -> CreateTopicResult:
        """Return the answer if the topic could not be created after all."""
        return CreateTopicResult(name=self.name, code=code, message=message)


@frozen(kw_only=True)
class CreationRules:
    """What the broker's configuration and state say about new topics.

    Attributes:
        partitions_default: where a request says -1.
        replication_factor_default: where a request says -1.
        limits: how many partitions there may be.
        excluded_directories: log dirs that take no new replicas.
    """

    partitions_default: int = 1
    replication_factor_default: int = 1
    limits: LimitsConfig = field(factory=LimitsConfig)
    excluded_directories: Collection[UUID] = ()


def create_topics(
    image: MetadataImage,
    requests: Sequence[NewTopic],
    *,
    rules: CreationRules,
    new_topic_id: Callable[[], TopicId],
    validate_only: bool = False,
) -> Decision[CreateTopicResult]:
    """Decide a CreateTopics request.

    Each name gets one answer, in order of first appearance; a name that appears twice is refused
    with INVALID_REQUEST. Stricter than Kafka: two names of one request that collide ("a.b" and
    "a_b") are refused too, the second with INVALID_TOPIC_EXCEPTION; and a validation answers with
    the zero topic id, since the topic that id would name does not exist.

    Args:
        image: the newest metadata known.
        requests: the topics asked for.
        rules: defaults, limits and log dirs to avoid.
        new_topic_id: returns a fresh random id with each call.
        validate_only: decide as if, and return no steps.
    """
    creation = _TopicCreation(image, rules, new_topic_id)
    appearances = Counter(request.name for request in requests)
    results: list[CreateTopicResult] = []
    for request in {request.name: request for request in requests}.values():
        result = CreateTopicResult(name=request.name)
        if appearances[request.name] > 1:
            results.append(result.failed(ErrorCode.INVALID_REQUEST, "Duplicate topic name."))
            continue
        try:
            created = creation.create(request, len(results))
        except Refusal as refusal:
            results.append(result.failed(refusal.code, refusal.message))
        else:
            results.append(
                attrs.evolve(created, topic_id=ZERO_TOPIC_ID) if validate_only else created
            )
    return Decision(tuple(results), () if validate_only else creation.steps())


class _TopicCreation:
    """State of one CreateTopics decision: what its earlier topics already took."""

    def __init__(
        self, image: MetadataImage, rules: CreationRules, new_topic_id: Callable[[], TopicId]
    ) -> None:
        self._image = image
        self._rules = rules
        self._new_topic_id = new_topic_id
        self._placement = Placement(image, rules.excluded_directories)
        self._collision_keys: dict[str, str] = {}
        self._partition_count = image.partition_count
        self._steps = StepBuilder()
        self.steps = self._steps.steps

    def create(self, request: NewTopic, result_index: int) -> CreateTopicResult:
        """Check one topic and add it to the steps.

        Raises:
            Refusal: it cannot be created.
        """
        name = self._check_name(request.name)
        config, configs = self._check_configs(name, request.configs)
        broker_lists = (
            self._check_assignments(request) if request.assignments else self._assign(request)
        )
        self._check_limits(len(broker_lists))
        topic_id = self._new_topic_id()
        operations: list[Operation] = [
            Put(
                topic_key(name),
                encode_record(
                    TopicRecord(topic_id=topic_id, partitions=len(broker_lists), configs=configs)
                ),
            )
        ]
        operations += place_partitions(
            self._image,
            self._placement,
            topic_id,
            broker_lists,
            min_isr=config.min_insync_replicas,
        )
        self._steps.add(result_index, [Guard(topic_key(name), 0)], operations)
        self._partition_count += len(broker_lists)
        self._collision_keys[collision_key(name)] = name
        return CreateTopicResult(
            name=name,
            topic_id=topic_id,
            partitions=len(broker_lists),
            replication_factor=len(broker_lists[0]),
            config=config,
            configs=configs,
        )

    def _check_name(self, text: str) -> TopicName:
        fault = topic_name_fault(text)
        if fault is not None:
            raise Refusal(ErrorCode.INVALID_TOPIC_EXCEPTION, f"Topic name is invalid: {fault}.")
        if text == _CLUSTER_METADATA_TOPIC_NAME:
            raise Refusal(
                ErrorCode.INVALID_REQUEST, f"Creation of internal topic {text} is prohibited."
            )
        if text in self._image.topics_by_name:
            raise Refusal(ErrorCode.TOPIC_ALREADY_EXISTS, f"Topic '{text}' already exists.")
        key = collision_key(text)
        holder = self._image.topics_by_collision_key.get(key) or self._collision_keys.get(key)
        if holder is not None:
            raise Refusal(
                ErrorCode.INVALID_TOPIC_EXCEPTION,
                f"Topic '{text}' collides with existing topic: {holder}",
            )
        return TopicName(text)

    def _check_configs(
        self, name: TopicName, pairs: Sequence[tuple[str, str | None]]
    ) -> tuple[TopicConfig, dict[str, str]]:
        needed = _NEEDED_CONFIGS if name in INTERNAL_TOPIC_NAMES else {}
        configs: dict[str, str] = dict(needed)
        for key, text in pairs:
            if text is None:
                raise Refusal(
                    ErrorCode.INVALID_CONFIG, f"Null value not supported for topic configs: {key}"
                )
            if needed.get(key, text) != text:
                what = f"{name} belongs to the broker itself, which needs {key}={needed[key]}."
                raise Refusal(ErrorCode.INVALID_CONFIG, what)
            configs[key] = text
        try:
            config = parse_topic_configs(configs, self._image.defaults)
        except ConfigError as error:
            raise Refusal(ErrorCode.INVALID_CONFIG, "; ".join(error.faults)) from None
        return config, configs

    def _check_assignments(self, request: NewTopic) -> list[list[BrokerId]]:
        if request.replication_factor != -1 or request.partitions != -1:
            raise Refusal(
                ErrorCode.INVALID_REQUEST,
                "A manual partition assignment was specified, but the number of partitions or the "
                "replication factor was not set to -1.",
            )
        by_partition: dict[int, list[BrokerId]] = {}
        for partition, broker_ids in request.assignments:
            if partition in by_partition:
                raise Refusal(
                    ErrorCode.INVALID_REPLICA_ASSIGNMENT,
                    f"Found multiple manual partition assignments for partition {partition}",
                )
            check_brokers(self._image, partition, broker_ids)
            by_partition[partition] = [BrokerId(broker_id) for broker_id in broker_ids]
        if by_partition.keys() != set(range(len(by_partition))):
            raise Refusal(
                ErrorCode.INVALID_REPLICA_ASSIGNMENT,
                "partitions should be a consecutive 0-based integer sequence",
            )
        lists = [by_partition[partition] for partition in range(len(by_partition))]
        if len({len(broker_ids) for broker_ids in lists}) != 1:
            raise Refusal(
                ErrorCode.INVALID_REPLICA_ASSIGNMENT,
                "The manual partition assignment has partitions with different numbers of "
                "replicas.",
            )
        return lists

    def _assign(self, request: NewTopic) -> list[list[BrokerId]]:
        factor = request.replication_factor
        if factor < -1 or factor == 0:
            raise Refusal(
                ErrorCode.INVALID_REPLICATION_FACTOR,
                "Replication factor must be larger than 0, or -1 to use the default value.",
            )
        partitions = request.partitions
        if partitions < -1 or partitions == 0:
            raise Refusal(
                ErrorCode.INVALID_PARTITIONS,
                "Number of partitions was set to an invalid non-positive value.",
            )
        factor = self._rules.replication_factor_default if factor == -1 else factor
        partitions = self._rules.partitions_default if partitions == -1 else partitions
        registered = len(self._image.brokers)
        if factor > registered:
            raise Refusal(
                ErrorCode.INVALID_REPLICATION_FACTOR,
                f"Unable to replicate the partition {factor} time(s): The target replication "
                f"factor of {factor} cannot be reached because only {registered} broker(s) are "
                "registered.",
            )
        self._check_limits(partitions)
        return choose_brokers(self._placement, factor, partitions)

    def _check_limits(self, partitions: int) -> None:
        check_limits(
            self._rules.limits, of_topic=partitions, total=self._partition_count, added=partitions
        )
