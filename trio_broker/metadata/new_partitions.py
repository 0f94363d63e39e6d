"""What decisions about new topics and about more partitions have in common: checks and records.

Pure; used by `topic_creation`, `partition_creation` and `config_alteration`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from trio_broker.config import LimitsConfig
from trio_broker.errors import ErrorCode
from trio_broker.metadata.image import MetadataImage, PendingCreation
from trio_broker.metadata.placement import Placement, Unplaceable
from trio_broker.metadata.records import (
    CreationRecord,
    IsrMember,
    PartitionRecord,
    ReplicaAssignment,
    creation_key,
    encode_record,
    partition_key_prefix,
)
from trio_broker.metadata.transaction import Delete, Guard, Operation, Put, Transaction
from trio_broker.names import BrokerId, LeaderEpoch, TopicId

#: Messages repeat what a client sent, which may be long.
MESSAGE_CHARACTERS_MAX = 1000


class Refusal(Exception):
    """One thing asked for cannot be; caught by the decision, which answers it."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message[:MESSAGE_CHARACTERS_MAX]


def check_brokers(image: MetadataImage, partition: int, broker_ids: Sequence[int]) -> None:
    """Check which brokers a client wants the replicas of one partition on.

    Raises:
        Refusal: INVALID_REPLICA_ASSIGNMENT.
    """
    if not broker_ids or len(set(broker_ids)) != len(broker_ids):
        raise Refusal(
            ErrorCode.INVALID_REPLICA_ASSIGNMENT,
            f"The manual partition assignment of partition {partition} names no broker, "
            "or one of them twice.",
        )
    unknown = [id_ for id_ in broker_ids if BrokerId(id_) not in image.brokers]
    if unknown:
        raise Refusal(
            ErrorCode.INVALID_REPLICA_ASSIGNMENT,
            f"The manual partition assignment includes broker {unknown[0]}, but no such "
            "broker is registered.",
        )


def check_limits(limits: LimitsConfig, *, of_topic: int, total: int, added: int) -> None:
    """Check that there may be so many partitions.

    Args:
        limits: of the broker.
        of_topic: partitions of the topic with those to be added.
        total: partitions there are, of all topics.
        added: partitions to be added.

    Raises:
        Refusal: INVALID_PARTITIONS or POLICY_VIOLATION.
    """
    if of_topic > limits.partitions_per_topic_max:
        raise Refusal(
            ErrorCode.INVALID_PARTITIONS,
            f"A topic may have at most {limits.partitions_per_topic_max} partitions "
            f"(limits.partitions_per_topic_max), not {of_topic}.",
        )
    if total + added > limits.partitions_max:
        raise Refusal(
            ErrorCode.POLICY_VIOLATION,
            f"There are {total} partitions, {added} more would exceed "
            f"{limits.partitions_max} (limits.partitions_max).",
        )


def choose_brokers(placement: Placement, factor: int, count: int) -> list[list[BrokerId]]:
    """Choose brokers for `count` partitions with `factor` replicas each, leaders spread out.

    Raises:
        Refusal: KAFKA_STORAGE_ERROR.
    """
    if factor > len(placement.broker_ids):
        raise Refusal(
            ErrorCode.KAFKA_STORAGE_ERROR, "No log dir can take a new replica at present."
        )
    brokers = placement.choose_brokers(factor)
    # Rotating the list spreads the leaders of one topic over its brokers.
    return [brokers[index % factor :] + brokers[: index % factor] for index in range(count)]


def place_partitions(
    image: MetadataImage,
    placement: Placement,
    topic_id: TopicId,
    broker_lists: Sequence[Sequence[BrokerId]],
    *,
    first: int = 0,
    min_isr: int,
) -> list[Operation]:
    """Place the replicas of new partitions, and return what is to be stored of them.

    And that their directories are still to be made, see `forget_creations`.

    Args:
        image: where brokers are known.
        placement: chooses log dirs and shards.
        topic_id: of the topic.
        broker_lists: for each partition, who is to hold a replica.
        first: index of the first of them.
        min_isr: of the topic.

    Raises:
        Refusal: KAFKA_STORAGE_ERROR.
    """
    operations: list[Operation] = []
    values: dict[int, bytes] = {}  # partitions in the same places differ in their keys only
    prefix = partition_key_prefix(topic_id)
    for partition, broker_ids in enumerate(broker_lists, first):
        replicas = placement.place(broker_ids)
        if isinstance(replicas, Unplaceable):
            raise Refusal(
                ErrorCode.KAFKA_STORAGE_ERROR,
                f"Broker {replicas.broker_id} has no log dir that can take a new replica.",
            )
        value = values.get(id(replicas))
        if value is None:
            record = PartitionRecord(
                leader=replicas[0].broker_id,
                leader_epoch=LeaderEpoch(0),
                partition_epoch=0,
                replicas=replicas,
                isr=_all_in_sync(image, replicas),
                min_isr=min_isr,
            )
            value = values[id(replicas)] = encode_record(record)
        operations.append(Put(f"{prefix}{partition}", value))
    creation = CreationRecord(count=len(broker_lists))
    operations.append(Put(creation_key(topic_id, first), encode_record(creation)))
    return operations


def forget_creations(image: MetadataImage, made: Collection[PendingCreation]) -> Transaction:
    """Decide that the directories of new partitions are there; what is forgotten is ignored.

    Args:
        image: the newest metadata known.
        made: which.
    """
    found = [
        creation
        for creation in dict.fromkeys(made)
        if creation in image.creations.get(creation.topic_id, ())
    ]
    keys = [creation_key(creation.topic_id, creation.first) for creation in found]
    return Transaction(
        tuple(Guard(key, each.mod_revision) for key, each in zip(keys, found, strict=True)),
        tuple(map(Delete, keys)),
    )


def _all_in_sync(
    image: MetadataImage, replicas: Sequence[ReplicaAssignment]
) -> tuple[IsrMember, ...]:
    return tuple(
        IsrMember(replica.broker_id, image.brokers[replica.broker_id].epoch) for replica in replicas
    )
