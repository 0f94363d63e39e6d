"""Decisions about metadata: from an image and a request to transactions and answers.

Every function is pure. It returns transactions (grouped as *steps* where there may be many) and
the answers that hold once they are committed; until then nothing has happened. If a guard fails,
the image was old: the caller takes a newer one and decides again.

This module holds the decisions about the cluster and its brokers, and gathers those about topics
under one name. Called by `trio_broker.broker.controller`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple
from uuid import UUID

import attrs
from attrs import frozen

from trio_broker.metadata.config_alteration import (
    AlterOperation,
    AlterTopicResult,
    ConfigChange,
    TopicAlteration,
    alter_topics,
)
from trio_broker.metadata.image import BrokerState, MetadataImage, PartitionState
from trio_broker.metadata.new_partitions import forget_creations
from trio_broker.metadata.partition_creation import (
    CreatePartitionsResult,
    MorePartitions,
    create_partitions,
)
from trio_broker.metadata.records import (
    CLUSTER_KEY,
    PRODUCER_IDS_KEY,
    BrokerRecord,
    ClusterRecord,
    DirectoryRecord,
    EndpointRecord,
    ProducerIdsRecord,
    ReplicaAssignment,
    broker_key,
    encode_record,
    partition_key,
)
from trio_broker.metadata.steps import Decision, Step, StepBuilder
from trio_broker.metadata.topic_creation import (
    CreateTopicResult,
    CreationRules,
    NewTopic,
    create_topics,
)
from trio_broker.metadata.topic_deletion import (
    DeleteTopicResult,
    TopicReference,
    delete_topics,
    forget_deletions,
)
from trio_broker.metadata.transaction import Guard, Put, Transaction
from trio_broker.names import BrokerId, LeaderEpoch, TopicPartition

__all__ = [
    "PRODUCER_ID_BLOCK_SIZE",
    "AlterOperation",
    "AlterTopicResult",
    "ConfigChange",
    "CreatePartitionsResult",
    "CreateTopicResult",
    "CreationRules",
    "Decision",
    "DeleteTopicResult",
    "MorePartitions",
    "NewTopic",
    "ProducerIdBlock",
    "StartedDirectory",
    "Step",
    "TopicAlteration",
    "TopicReference",
    "advertise_endpoints",
    "allocate_producer_ids",
    "alter_topics",
    "create_cluster",
    "create_partitions",
    "create_topics",
    "delete_topics",
    "forget_creations",
    "forget_deletions",
    "start_broker",
]

#: Producer ids are taken from the store this many at a time, as Kafka does.
PRODUCER_ID_BLOCK_SIZE = 1000


class ProducerIdBlock(NamedTuple):
    """Producer ids `first` to `first + size - 1`; they belong to whoever committed the block."""

    first: int
    size: int


def allocate_producer_ids(image: MetadataImage) -> tuple[Transaction, ProducerIdBlock]:
    """Decide to take the next block of producer ids; it is the caller's once committed."""
    block = ProducerIdBlock(image.next_producer_id, PRODUCER_ID_BLOCK_SIZE)
    record = ProducerIdsRecord(next_producer_id=block.first + block.size)
    transaction = Transaction(
        (Guard(PRODUCER_IDS_KEY, image.producer_ids_revision),),
        (Put(PRODUCER_IDS_KEY, encode_record(record)),),
    )
    return transaction, block


def create_cluster(cluster_id: str) -> Transaction:
    """Decide that an empty store belongs to a new cluster of that id."""
    return Transaction(
        (Guard(CLUSTER_KEY, 0),),
        (Put(CLUSTER_KEY, encode_record(ClusterRecord(cluster_id=cluster_id))),),
    )


@frozen(kw_only=True)
class StartedDirectory:
    """A log dir that a starting broker has opened.

    Attributes:
        directory_id: its persistent id.
        shard_count: number of shards it has in this run.
        clean: False if it was not closed in order, so that its logs may have lost their ends.
        doubtful: replicas of which that is not known: they were not closed in order, or are gone.
    """

    directory_id: UUID
    shard_count: int
    clean: bool
    doubtful: Collection[TopicPartition] = ()


def start_broker(
    image: MetadataImage, broker_id: BrokerId, directories: Sequence[StartedDirectory]
) -> tuple[Step, ...]:
    """Decide what changes when a broker has opened its log dirs.

    - The broker's record says which log dirs it has; only these take new replicas.
    - The leader epoch of each partition that this broker leads from a log dir that is not clean,
      or whose replica there is doubtful, rises by one: records of the old epoch may be gone, and
      offsets given out again must be told apart from them (KIP-101, KIP-320).
    - Where the number of shards of a log dir changed, its replicas are dealt out anew.

    Committing only some of the steps is safe: the next start is unclean and decides again. Also
    to be called, with every open log dir, when a failed log dir comes back.
    """
    known = image.brokers.get(broker_id)
    steps = StepBuilder()
    record = BrokerRecord(
        directories=tuple(
            DirectoryRecord(directory_id=found.directory_id, shard_count=found.shard_count)
            for found in directories
        ),
        endpoints=() if known is None else known.endpoints,
        rack=None if known is None else known.rack,
    )
    starts = {found.directory_id: found for found in directories}
    next_shard = dict.fromkeys(_resharded_directories(image, known, directories), 0)
    for name in sorted(image.topics_by_name):
        for state in image.topics_by_name[name].partitions:
            replica = state.replica_on(broker_id)
            started = None if replica is None else starts.get(replica.directory_id)
            if replica is None or started is None:
                continue
            changed = state
            may_lack_records = not started.clean or state.topic_partition in started.doubtful
            if may_lack_records and state.leader == broker_id:
                changed = attrs.evolve(changed, leader_epoch=LeaderEpoch(state.leader_epoch + 1))
            if started.directory_id in next_shard:
                shard_index = next_shard[started.directory_id] % started.shard_count
                next_shard[started.directory_id] += 1
                changed = _moved(changed, attrs.evolve(replica, shard_index=shard_index))
            if changed != state:
                _put_partition(steps, changed)
    # Last, so that an interrupted dealing out is noticed and done again by the next start.
    put = _broker_put(known, broker_id, record)
    if put.operations:
        steps.add(None, put.guards, put.operations)
    return steps.steps()


def advertise_endpoints(
    image: MetadataImage, broker_id: BrokerId, endpoints: Sequence[EndpointRecord]
) -> Transaction:
    """Decide to tell clients that a started broker is reached at `endpoints`.

    Without operations if they are told so already.
    """
    known = image.brokers[broker_id]
    record = BrokerRecord(
        directories=known.directories, endpoints=tuple(endpoints), rack=known.rack
    )
    return _broker_put(known, broker_id, record)


def _resharded_directories(
    image: MetadataImage, known: BrokerState | None, directories: Sequence[StartedDirectory]
) -> set[UUID]:
    """Return the log dirs whose replicas refer to shards as they were in another run."""
    if known is None:
        return set()
    registered = {found.directory_id: found.shard_count for found in known.directories}
    resharded = {
        found.directory_id
        for found in directories
        if registered.get(found.directory_id, found.shard_count) != found.shard_count
    }
    # A log dir that was absent in the last run is not registered, but may hold replicas.
    counts = {found.directory_id: found.shard_count for found in directories}
    for key in image.replica_counts:
        if key.broker_id == known.broker_id and key.shard_index >= counts.get(
            key.directory_id, key.shard_index + 1
        ):
            resharded.add(key.directory_id)
    return resharded


def _moved(state: PartitionState, moved: ReplicaAssignment) -> PartitionState:
    replicas = tuple(
        moved if replica.broker_id == moved.broker_id else replica for replica in state.replicas
    )
    return attrs.evolve(state, replicas=replicas)


def _put_partition(steps: StepBuilder, changed: PartitionState) -> None:
    key = partition_key(changed.topic_id, changed.partition)
    record = attrs.evolve(changed, partition_epoch=changed.partition_epoch + 1).as_record()
    steps.add(None, [Guard(key, changed.mod_revision)], [Put(key, encode_record(record))])


def _broker_put(
    known: BrokerState | None, broker_id: BrokerId, record: BrokerRecord
) -> Transaction:
    if known is not None and record == BrokerRecord(
        directories=known.directories, endpoints=known.endpoints, rack=known.rack
    ):
        return Transaction((), ())
    key = broker_key(broker_id)
    mod_revision = 0 if known is None else known.mod_revision
    return Transaction((Guard(key, mod_revision),), (Put(key, encode_record(record)),))
