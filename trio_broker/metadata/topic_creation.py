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
from trio_broker.metadata.placement import Placement, Unplaceable
from trio_broker.metadata.records import (
    IsrMember,
    PartitionRecord,
    ReplicaAssignment,
    TopicRecord,
    encode_record,
    partition_key,
    topic_key,
)
from trio_broker.metadata.steps import Decision, StepBuilder
from trio_broker.metadata.transaction import Guard, Operation, Put
from trio_broker.names import (
    ZERO_TOPIC_ID,
    BrokerId,
    LeaderEpoch,
    TopicId,
    TopicName,
    collision_key,
    topic_name_fault,
)

#: Kafka's name for its own metadata topic, which clients may not create.
_CLUSTER_METADATA_TOPIC_NAME = "__cluster_metadata"


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


class _Refusal(Exception):
    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


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
        except _Refusal as refusal:
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
            _Refusal: it cannot be created.
        """
        name = self._check_name(request.name)
        config, configs = self._check_configs(request.configs)
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
        for partition, broker_ids in enumerate(broker_lists):
            replicas = self._placement.place(broker_ids)
            if isinstance(replicas, Unplaceable):
                raise _Refusal(
                    ErrorCode.KAFKA_STORAGE_ERROR,
                    f"Broker {replicas.broker_id} has no log dir that can take a new replica.",
                )
            record = self._partition_record(replicas, config)
            operations.append(Put(partition_key(topic_id, partition), encode_record(record)))
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
            raise _Refusal(ErrorCode.INVALID_TOPIC_EXCEPTION, f"Topic name is invalid: {fault}.")
        if text == _CLUSTER_METADATA_TOPIC_NAME:
            raise _Refusal(
                ErrorCode.INVALID_REQUEST, f"Creation of internal topic {text} is prohibited."
            )
        if text in self._image.topics_by_name:
            raise _Refusal(ErrorCode.TOPIC_ALREADY_EXISTS, f"Topic '{text}' already exists.")
        key = collision_key(text)
        holder = self._image.topics_by_collision_key.get(key) or self._collision_keys.get(key)
        if holder is not None:
            raise _Refusal(
                ErrorCode.INVALID_TOPIC_EXCEPTION,
                f"Topic '{text}' collides with existing topic: {holder}",
            )
        return TopicName(text)

    def _check_configs(
        self, pairs: Sequence[tuple[str, str | None]]
    ) -> tuple[TopicConfig, dict[str, str]]:
        configs: dict[str, str] = {}
        for key, text in pairs:
            if text is None:
                raise _Refusal(
                    ErrorCode.INVALID_CONFIG, f"Null value not supported for topic configs: {key}"
                )
            configs[key] = text
        try:
            config = parse_topic_configs(configs, self._image.defaults)
        except ConfigError as error:
            raise _Refusal(ErrorCode.INVALID_CONFIG, "; ".join(error.faults)) from None
        return config, configs

    def _check_assignments(self, request: NewTopic) -> list[list[BrokerId]]:
        if request.replication_factor != -1 or request.partitions != -1:
            raise _Refusal(
                ErrorCode.INVALID_REQUEST,
                "A manual partition assignment was specified, but the number of partitions or the "
                "replication factor was not set to -1.",
            )
        by_partition: dict[int, list[BrokerId]] = {}
        for partition, broker_ids in request.assignments:
            if partition in by_partition:
                raise _Refusal(
                    ErrorCode.INVALID_REPLICA_ASSIGNMENT,
                    f"Found multiple manual partition assignments for partition {partition}",
                )
            if not broker_ids or len(set(broker_ids)) != len(broker_ids):
                raise _Refusal(
                    ErrorCode.INVALID_REPLICA_ASSIGNMENT,
                    f"The manual partition assignment of partition {partition} names no broker, "
                    "or one of them twice.",
                )
            by_partition[partition] = [BrokerId(broker_id) for broker_id in broker_ids]
            unknown = [id_ for id_ in by_partition[partition] if id_ not in self._image.brokers]
            if unknown:
                raise _Refusal(
                    ErrorCode.INVALID_REPLICA_ASSIGNMENT,
                    f"The manual partition assignment includes broker {unknown[0]}, but no such "
                    "broker is registered.",
                )
        if by_partition.keys() != set(range(len(by_partition))):
            raise _Refusal(
                ErrorCode.INVALID_REPLICA_ASSIGNMENT,
                "partitions should be a consecutive 0-based integer sequence",
            )
        lists = [by_partition[partition] for partition in range(len(by_partition))]
        if len({len(broker_ids) for broker_ids in lists}) != 1:
            raise _Refusal(
                ErrorCode.INVALID_REPLICA_ASSIGNMENT,
                "The manual partition assignment has partitions with different numbers of "
                "replicas.",
            )
        return lists

    def _assign(self, request: NewTopic) -> list[list[BrokerId]]:
        factor = request.replication_factor
        if factor < -1 or factor == 0:
            raise _Refusal(
                ErrorCode.INVALID_REPLICATION_FACTOR,
                "Replication factor must be larger than 0, or -1 to use the default value.",
            )
        partitions = request.partitions
        if partitions < -1 or partitions == 0:
            raise _Refusal(
                ErrorCode.INVALID_PARTITIONS,
                "Number of partitions was set to an invalid non-positive value.",
            )
        factor = self._rules.replication_factor_default if factor == -1 else factor
        partitions = self._rules.partitions_default if partitions == -1 else partitions
        registered = len(self._image.brokers)
        if factor > registered:
            raise _Refusal(
                ErrorCode.INVALID_REPLICATION_FACTOR,
                f"Unable to replicate the partition {factor} time(s): The target replication "
                f"factor of {factor} cannot be reached because only {registered} broker(s) are "
                "registered.",
            )
        if factor > len(self._placement.broker_ids):
            raise _Refusal(
                ErrorCode.KAFKA_STORAGE_ERROR, "No log dir can take a new replica at present."
            )
        self._check_limits(partitions)
        brokers = self._placement.choose_brokers(factor)
        # Rotating the list spreads the leaders of one topic over its brokers.
        return [
            brokers[index % factor :] + brokers[: index % factor] for index in range(partitions)
        ]

    def _check_limits(self, partitions: int) -> None:
        limits = self._rules.limits
        if partitions > limits.partitions_per_topic_max:
            raise _Refusal(
                ErrorCode.INVALID_PARTITIONS,
                f"A topic may have at most {limits.partitions_per_topic_max} partitions "
                f"(limits.partitions_per_topic_max), not {partitions}.",
            )
        if self._partition_count + partitions > limits.partitions_max:
            raise _Refusal(
                ErrorCode.POLICY_VIOLATION,
                f"There are {self._partition_count} partitions, {partitions} more would exceed "
                f"{limits.partitions_max} (limits.partitions_max).",
            )

    def _partition_record(
        self, replicas: tuple[ReplicaAssignment, ...], config: TopicConfig
    ) -> PartitionRecord:
        isr = tuple(
            IsrMember(replica.broker_id, self._image.brokers[replica.broker_id].epoch)
            for replica in replicas
        )
        return PartitionRecord(
            leader=replicas[0].broker_id,
            leader_epoch=LeaderEpoch(0),
            partition_epoch=0,
            replicas=replicas,
            isr=isr,
            min_isr=config.min_insync_replicas,
        )
