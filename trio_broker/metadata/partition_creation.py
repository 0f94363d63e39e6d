"""Decides CreatePartitions: checks, placement, and the records of partitions added to topics.

The rules and codes are those of Apache Kafka's controller
(org.apache.kafka.controller.ReplicationControlManager, kafka.server.ControllerApis); where this
broker is stricter, `create_partitions` says so. Pure; called by
`trio_broker.broker.controller`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import attrs
from attrs import frozen

from trio_broker.errors import ErrorCode
from trio_broker.metadata.image import MetadataImage, TopicState
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
from trio_broker.metadata.topic_creation import CreationRules
from trio_broker.metadata.transaction import Guard, Operation, Put
from trio_broker.names import ZERO_TOPIC_ID, BrokerId, TopicId, TopicName


@frozen(kw_only=True)
class MorePartitions:
    """A topic that is to have more partitions.

    Attributes:
        name: of the topic, as asked for.
        count: how many partitions it is to have then, in all.
        assignments: for each added partition the broker ids of its replicas; None: chosen here.
    """

    name: str
    count: int
    assignments: Sequence[Sequence[int]] | None = None


@frozen(kw_only=True)
class CreatePartitionsResult:
    """The answer for one name of a CreatePartitions request.

    Attributes:
        name: as asked for.
        code: NONE, or why there are no more partitions than before.
        message: the reason for people, None without an error.
        topic_id: zero after an error.
    """

    name: str
    code: ErrorCode = ErrorCode.NONE
    message: str | None = None
    topic_id: TopicId = ZERO_TOPIC_ID

    def failed(self, code: ErrorCode, message: str) -> CreatePartitionsResult:
        """Return the answer if the partitions could not be added after all."""
        return CreatePartitionsResult(name=self.name, code=code, message=message)


def create_partitions(
    image: MetadataImage,
    requests: Sequence[MorePartitions],
    *,
    rules: CreationRules,
    validate_only: bool = False,
) -> Decision[CreatePartitionsResult]:
    """Decide a CreatePartitions request.

    Each name gets one answer, in order of first appearance; a name that appears twice is refused
    with INVALID_REQUEST. Stricter than Kafka: internal topics are refused with
    INVALID_TOPIC_EXCEPTION, since which partition a group belongs to depends on their number.

    Args:
        image: the newest metadata known.
        requests: the topics and their numbers of partitions.
        rules: limits and log dirs to avoid.
        validate_only: decide as if, and return no steps.
    """
    addition = _PartitionAddition(image, rules)
    appearances = Counter(request.name for request in requests)
    results: list[CreatePartitionsResult] = []
    for request in {request.name: request for request in requests}.values():
        result = CreatePartitionsResult(name=request.name)
        if appearances[request.name] > 1:
            results.append(result.failed(ErrorCode.INVALID_REQUEST, "Duplicate topic name."))
            continue
        try:
            topic_id = addition.add(request, len(results))
        except Refusal as refusal:
            results.append(result.failed(refusal.code, refusal.message))
        else:
            results.append(attrs.evolve(result, topic_id=topic_id))
    return Decision(tuple(results), () if validate_only else addition.steps())


class _PartitionAddition:
    """State of one CreatePartitions decision: what its earlier topics already took."""

    def __init__(self, image: MetadataImage, rules: CreationRules) -> None:
        self._image = image
        self._rules = rules
        self._placement = Placement(image, rules.excluded_directories)
        self._partition_count = image.partition_count
        self._steps = StepBuilder()
        self.steps = self._steps.steps

    def add(self, request: MorePartitions, result_index: int) -> TopicId:
        """Check one topic's new partitions and add them to the steps.

        Raises:
            Refusal: they cannot be added.
        """
        topic = self._find(request)
        first, count = len(topic.partitions), request.count
        added = count - first
        check_limits(self._rules.limits, of_topic=count, total=self._partition_count, added=added)
        factor = len(topic.partitions[0].replicas)
        if request.assignments is None:
            broker_lists = choose_brokers(self._placement, factor, added)
        else:
            broker_lists = self._check_assignments(request.assignments, first, added, factor)
        record = TopicRecord(topic_id=topic.topic_id, partitions=count, configs=dict(topic.configs))
        operations: list[Operation] = [Put(topic_key(topic.name), encode_record(record))]
        guards = [Guard(topic_key(topic.name), topic.mod_revision)]
        operations += place_partitions(
            self._image,
            self._placement,
            topic.topic_id,
            broker_lists,
            first=first,
            min_isr=topic.config.min_insync_replicas,
        )
        self._steps.add(result_index, guards, operations)
        self._partition_count += added
        return topic.topic_id

    def _find(self, request: MorePartitions) -> TopicState:
        topic = self._image.topics_by_name.get(TopicName(request.name))
        if topic is None:
            raise Refusal(
                ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
                "This server does not host this topic-partition.",
            )
        if topic.is_internal:
            raise Refusal(
                ErrorCode.INVALID_TOPIC_EXCEPTION, f"{topic.name} belongs to the broker itself."
            )
        count = len(topic.partitions)
        if request.count == count:
            raise Refusal(ErrorCode.INVALID_PARTITIONS, f"Topic already has {count} partition(s).")
        if request.count < count:
            raise Refusal(
                ErrorCode.INVALID_PARTITIONS,
                f"The topic {topic.name} currently has {count} partition(s); {request.count} "
                "would not be an increase.",
            )
        return topic

    def _check_assignments(
        self, assignments: Sequence[Sequence[int]], first: int, added: int, factor: int
    ) -> list[list[BrokerId]]:
        if len(assignments) != added:
            raise Refusal(
                ErrorCode.INVALID_REPLICA_ASSIGNMENT,
                f"Attempted to add {added} additional partition(s), but only {len(assignments)} "
                "assignment(s) were specified.",
            )
        for partition, broker_ids in enumerate(assignments, first):
            check_brokers(self._image, partition, broker_ids)
            if len(broker_ids) != factor:
                raise Refusal(
                    ErrorCode.INVALID_REPLICA_ASSIGNMENT,
                    f"The manual partition assignment of partition {partition} has "
                    f"{len(broker_ids)} replica(s), the topic's partitions have {factor}.",
                )
        return [[BrokerId(broker_id) for broker_id in broker_ids] for broker_ids in assignments]
