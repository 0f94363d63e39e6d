"""The metadata image: everything a broker knows about the cluster, at one revision.

An image never changes: `apply` returns the next one, which shares what stayed the same, so
whoever holds an image across an await sees one consistent state. Lookups by name, by id and by
partition cost one dictionary access. An image is a function of the store's content alone: one
built by applying revisions one by one equals one built from a snapshot of the result.

Made by the controller (which applies what it committed), read by every handler. No I/O.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from operator import attrgetter
from typing import NamedTuple
from uuid import UUID

import attrs
from attrs import field, frozen

from trio_broker.config import TopicConfig
from trio_broker.config_catalog import parse_topic_configs
from trio_broker.errors import ConfigError, CorruptMetadata, FormatTooNew
from trio_broker.metadata.records import (
    BROKER_PREFIX,
    CLUSTER_KEY,
    CREATION_PREFIX,
    DELETION_PREFIX,
    PARTITION_PREFIX,
    PRODUCER_IDS_KEY,
    TOPIC_PREFIX,
    BrokerRecord,
    ClusterRecord,
    CreationRecord,
    DeletionRecord,
    DirectoryRecord,
    EndpointRecord,
    IsrMember,
    PartitionRecord,
    ProducerIdsRecord,
    ReplicaAssignment,
    TopicRecord,
    decode_record,
)
from trio_broker.metadata.transaction import Delete, KeyValue, Put, Revision
from trio_broker.names import (
    INTERNAL_TOPIC_NAMES,
    BrokerId,
    LeaderEpoch,
    TopicId,
    TopicName,
    TopicPartition,
    collision_key,
    topic_name_fault,
)

_REPLICAS = attrgetter("replicas")


@frozen
class PartitionState:
    """Facts about one partition; see `PartitionRecord` for what the fields mean.

    Attributes:
        mod_revision: revision of the last change, for guards.
    """

    topic_name: TopicName
    topic_id: TopicId
    partition: int
    leader: BrokerId
    leader_epoch: LeaderEpoch
    partition_epoch: int
    replicas: tuple[ReplicaAssignment, ...]
    isr: tuple[IsrMember, ...]
    min_isr: int
    mod_revision: int

    @property
    def topic_partition(self) -> TopicPartition:
        """Identity of the partition."""
        return TopicPartition(self.topic_id, self.partition)

    @property
    def replica_ids(self) -> tuple[BrokerId, ...]:
        """Brokers that hold a replica, the preferred leader first."""
        return tuple([replica.broker_id for replica in self.replicas])

    @property
    def isr_ids(self) -> tuple[BrokerId, ...]:
        """Brokers whose replica is in sync."""
        return tuple([member.broker_id for member in self.isr])

    def replica_on(self, broker_id: BrokerId) -> ReplicaAssignment | None:
        """Return where `broker_id` keeps its replica, or None if it holds none."""
        for replica in self.replicas:
            if replica.broker_id == broker_id:
                return replica
        return None

    def as_record(self) -> PartitionRecord:
        """Return what is stored of it."""
        return PartitionRecord(
            leader=self.leader,
            leader_epoch=self.leader_epoch,
            partition_epoch=self.partition_epoch,
            replicas=self.replicas,
            isr=self.isr,
            min_isr=self.min_isr,
        )


@frozen
class TopicState:
    """A topic with its partitions.

    Attributes:
        config: what holds for the topic, defaults filled in.
        configs: what was set explicitly for it, Kafka's names and text.
        partitions: indexed by partition number.
        mod_revision: revision of the last change of the topic's own key, for guards.
    """

    name: TopicName
    topic_id: TopicId
    config: TopicConfig
    configs: Mapping[str, str]
    partitions: tuple[PartitionState, ...]
    mod_revision: int

    @property
    def is_internal(self) -> bool:
        """Whether it belongs to the broker itself."""
        return self.name in INTERNAL_TOPIC_NAMES


@frozen
class BrokerState:
    """A broker that has ever registered.

    Attributes:
        epoch: revision in which it registered first (constant until brokers have leases).
    """

    broker_id: BrokerId
    epoch: int
    directories: tuple[DirectoryRecord, ...]
    endpoints: tuple[EndpointRecord, ...]
    rack: str | None
    mod_revision: int


@frozen
class PendingDeletion:
    """A deleted topic of which files may still exist."""

    topic_id: TopicId
    name: TopicName
    partitions: tuple[tuple[ReplicaAssignment, ...], ...]
    mod_revision: int


@frozen
class PendingCreation:
    """New partitions of one topic, from `first` on, whose directories may not be there yet."""

    topic_id: TopicId
    first: int
    count: int
    mod_revision: int

    @property
    def partitions(self) -> range:
        """Indexes of these partitions."""
        return range(self.first, self.first + self.count)


class ShardKey(NamedTuple):
    """One shard of one log dir of one broker, for counting what it holds."""

    broker_id: BrokerId
    directory_id: UUID
    shard_index: int


@frozen
class MetadataImage:
    """The cluster's metadata at `revision`. Treat the mappings as read-only.

    Attributes:
        defaults: configuration of topics where nothing was set explicitly.
        revision: revision of the store this image shows.
        cluster_id: empty only before the first start has committed one.
        next_producer_id: first producer id that nobody has taken.
        producer_ids_revision: revision of that number's last change, 0 if there was none.
        topics_by_name: every topic.
        topics_by_id: the same topics.
        topics_by_collision_key: name of the topic that holds a `names.collision_key`.
        brokers: every broker that has ever registered.
        deletions: deleted topics whose replicas are not all gone.
        creations: by topic, new partitions whose directories may not be there yet.
        replica_counts: number of replicas in each shard that has any.
        partition_count: number of partitions in the cluster.
    """

    defaults: TopicConfig
    revision: int = 0
    cluster_id: str = ""
    next_producer_id: int = 0
    producer_ids_revision: int = 0
    topics_by_name: Mapping[TopicName, TopicState] = field(factory=dict, repr=False)
    topics_by_id: Mapping[TopicId, TopicState] = field(factory=dict, repr=False)
    topics_by_collision_key: Mapping[str, TopicName] = field(factory=dict, repr=False)
    brokers: Mapping[BrokerId, BrokerState] = field(factory=dict, repr=False)
    deletions: Mapping[TopicId, PendingDeletion] = field(factory=dict, repr=False)
    creations: Mapping[TopicId, tuple[PendingCreation, ...]] = field(factory=dict, repr=False)
    replica_counts: Mapping[ShardKey, int] = field(factory=dict, repr=False)
    partition_count: int = 0

    def partition(self, topic_partition: TopicPartition) -> PartitionState | None:
        """Return the state of a partition, or None if there is no such topic or partition."""
        topic = self.topics_by_id.get(topic_partition.topic_id)
        if topic is None or not 0 <= topic_partition.partition < len(topic.partitions):
            return None
        return topic.partitions[topic_partition.partition]

    def replicas_in(self, broker_id: BrokerId, directory_id: UUID) -> Iterator[TopicPartition]:
        """Name the replicas that a broker keeps in one of its log dirs."""
        for topic in self.topics_by_id.values():
            for state in topic.partitions:
                replica = state.replica_on(broker_id)
                if replica is not None and replica.directory_id == directory_id:
                    yield state.topic_partition

    def being_created(self) -> set[TopicPartition]:
        """Return the partitions whose directories may not have been made yet."""
        return {
            TopicPartition(creation.topic_id, partition)
            for creations in self.creations.values()
            for creation in creations
            for partition in creation.partitions
        }

    def apply(self, revision: Revision) -> MetadataImage:
        """Return the image after `revision`, which must be the next one.

        Raises:
            CorruptMetadata: the result would make no sense; this image stays valid.
            FormatTooNew: a newer version of this package wrote a value or a key.
        """
        assert revision.number == self.revision + 1, "revisions are applied one by one"
        builder = _Builder(self)
        for operation in revision.operations:
            if isinstance(operation, Put):
                builder.put(operation.key, operation.value, revision.number, revision.number)
            else:
                builder.delete(operation)
        return builder.build(revision.number)


def image_from_snapshot(
    entries: Iterable[KeyValue], revision: int, defaults: TopicConfig
) -> MetadataImage:
    """Build the image of a store that holds `entries` at `revision`.

    Raises:
        CorruptMetadata: the entries make no sense together.
        FormatTooNew: a newer version of this package wrote some of them.
    """
    builder = _Builder(MetadataImage(defaults))
    for entry in entries:
        builder.put(entry.key, entry.value, entry.create_revision, entry.mod_revision)
    return builder.build(revision)


class _TopicDraft:
    """A topic being changed: its own record and its partitions may come in any order."""

    __slots__ = ("mod_revision", "name", "partitions", "record")

    def __init__(self) -> None:
        self.name = TopicName("")
        self.record: TopicRecord | None = None
        self.mod_revision = 0
        #: Those that stay as they are, and records of others with the revision of their change.
        self.partitions: dict[int, PartitionState | tuple[PartitionRecord, int]] = {}


class _Builder:
    """Collects the changes of one revision (or a whole snapshot) on top of an image."""

    def __init__(self, base: MetadataImage) -> None:
        self._base = base
        self._changes: dict[str, object] = {}
        self._brokers: dict[BrokerId, BrokerState] | None = None
        self._deletions: dict[TopicId, PendingDeletion] | None = None
        self._creations: dict[TopicId, tuple[PendingCreation, ...]] | None = None
        self._drafts: dict[TopicId, _TopicDraft] = {}

    def put(self, key: str, value: bytes, create_revision: int, mod_revision: int) -> None:
        """Take in one key's new value. `create_revision` counts only where the key is new."""
        if key.startswith(PARTITION_PREFIX):
            topic_id, partition = _split_partition_key(key)
            record = decode_record(PartitionRecord, key, value)
            self._draft(topic_id).partitions[partition] = (record, mod_revision)
        elif key.startswith(TOPIC_PREFIX):
            self._put_topic(key, decode_record(TopicRecord, key, value), mod_revision)
        elif key.startswith(DELETION_PREFIX):
            deletion = decode_record(DeletionRecord, key, value)
            topic_id = _parse_uuid(key, key.removeprefix(DELETION_PREFIX))
            self._changed_deletions()[topic_id] = PendingDeletion(
                topic_id, deletion.name, deletion.partitions, mod_revision
            )
        elif key.startswith(CREATION_PREFIX):
            topic_id, first = _split_partition_key(key, CREATION_PREFIX)
            count = decode_record(CreationRecord, key, value).count
            self._change_creation(
                topic_id, first, PendingCreation(topic_id, first, count, mod_revision)
            )
        elif key.startswith(BROKER_PREFIX):
            broker_id = BrokerId(_parse_number(key, key.removeprefix(BROKER_PREFIX)))
            broker = decode_record(BrokerRecord, key, value)
            brokers = self._changed_brokers()
            known = brokers.get(broker_id)
            brokers[broker_id] = BrokerState(
                broker_id,
                create_revision if known is None else known.epoch,
                broker.directories,
                broker.endpoints,
                broker.rack,
                mod_revision,
            )
        elif key == PRODUCER_IDS_KEY:
            ids = decode_record(ProducerIdsRecord, key, value)
            self._changes["next_producer_id"] = ids.next_producer_id
            self._changes["producer_ids_revision"] = mod_revision
        elif key == CLUSTER_KEY:
            self._changes["cluster_id"] = decode_record(ClusterRecord, key, value).cluster_id
        else:
            raise FormatTooNew(f"metadata key {key!r} is of a kind this version does not know")

    def delete(self, operation: Delete) -> None:
        """Take in the removal of a key that may or may not exist."""
        key = operation.key
        if key.startswith(PARTITION_PREFIX):
            topic_id, partition = _split_partition_key(key)
            self._draft(topic_id).partitions.pop(partition, None)
        elif key.startswith(TOPIC_PREFIX):
            topic = self._base.topics_by_name.get(TopicName(key.removeprefix(TOPIC_PREFIX)))
            if topic is not None:
                self._draft(topic.topic_id).record = None
        elif key.startswith(DELETION_PREFIX):
            topic_id = _parse_uuid(key, key.removeprefix(DELETION_PREFIX))
            self._changed_deletions().pop(topic_id, None)
        elif key.startswith(CREATION_PREFIX):
            self._change_creation(*_split_partition_key(key, CREATION_PREFIX), None)
        elif key.startswith(BROKER_PREFIX):
            broker_id = BrokerId(_parse_number(key, key.removeprefix(BROKER_PREFIX)))
            self._changed_brokers().pop(broker_id, None)
        else:
            raise CorruptMetadata(f"metadata key {key!r} is never removed")

    def build(self, revision: int) -> MetadataImage:
        """Check that everything fits together and return the new image."""
        self._changes["revision"] = revision
        if self._brokers is not None:
            self._changes["brokers"] = self._brokers
        if self._deletions is not None:
            self._changes["deletions"] = self._deletions
        if self._creations is not None:
            self._changes["creations"] = self._creations
        if self._drafts:
            self._build_topics()
        return attrs.evolve(self._base, **self._changes)  # type: ignore[arg-type]

    def _changed_brokers(self) -> dict[BrokerId, BrokerState]:
        if self._brokers is None:
            self._brokers = dict(self._base.brokers)
        return self._brokers

    def _changed_deletions(self) -> dict[TopicId, PendingDeletion]:
        if self._deletions is None:
            self._deletions = dict(self._base.deletions)
        return self._deletions

    def _change_creation(
        self, topic_id: TopicId, first: int, creation: PendingCreation | None
    ) -> None:
        if self._creations is None:
            self._creations = dict(self._base.creations)
        others = [each for each in self._creations.get(topic_id, ()) if each.first != first]
        pending = sorted([*others, *([creation] if creation else [])], key=attrgetter("first"))
        if pending:
            self._creations[topic_id] = tuple(pending)
        else:
            self._creations.pop(topic_id, None)

    def _draft(self, topic_id: TopicId) -> _TopicDraft:
        draft = self._drafts.get(topic_id)
        if draft is None:
            draft = self._drafts[topic_id] = _TopicDraft()
            topic = self._base.topics_by_id.get(topic_id)
            if topic is not None:
                draft.name = topic.name
                draft.mod_revision = topic.mod_revision
                draft.record = TopicRecord(
                    topic_id=topic_id,
                    partitions=len(topic.partitions),
                    configs=dict(topic.configs),
                )
                draft.partitions = dict(enumerate(topic.partitions))
        return draft

    def _put_topic(self, key: str, record: TopicRecord, mod_revision: int) -> None:
        name = TopicName(key.removeprefix(TOPIC_PREFIX))
        fault = topic_name_fault(name)
        if fault is not None:
            raise CorruptMetadata(f"metadata {key}: {fault}")
        before = self._base.topics_by_name.get(name)
        if before is not None and before.topic_id != record.topic_id:
            self._draft(before.topic_id).record = None
        draft = self._draft(record.topic_id)
        if draft.record is not None and draft.name != name:
            raise CorruptMetadata(
                f"topic id {record.topic_id} belongs to both {draft.name} and {name}"
            )
        draft.name = name
        draft.record = record
        draft.mod_revision = mod_revision

    def _build_topics(self) -> None:
        base = self._base
        by_name = dict(base.topics_by_name)
        by_id = dict(base.topics_by_id)
        by_collision_key = dict(base.topics_by_collision_key)
        counts = dict(base.replica_counts)
        partition_count = base.partition_count
        for topic_id in self._drafts:
            before = by_id.pop(topic_id, None)
            if before is not None:
                partition_count -= len(before.partitions)
                _count(counts, before.partitions, -1)
                del by_name[before.name]
                del by_collision_key[collision_key(before.name)]
        for topic_id, draft in self._drafts.items():
            if draft.record is None:
                if draft.partitions:
                    raise CorruptMetadata(f"partitions of topic id {topic_id} have no topic")
                continue
            topic = _build_topic(draft, draft.record, base)
            by_name[topic.name] = topic
            by_id[topic_id] = topic
            holder = by_collision_key.setdefault(collision_key(topic.name), topic.name)
            if holder != topic.name:
                raise CorruptMetadata(f"topics {holder} and {topic.name} collide")
            partition_count += len(topic.partitions)
            _count(counts, topic.partitions, 1)
        self._changes |= {
            "topics_by_name": by_name,
            "topics_by_id": by_id,
            "topics_by_collision_key": by_collision_key,
            "replica_counts": counts,
            "partition_count": partition_count,
        }


def _build_topic(draft: _TopicDraft, record: TopicRecord, base: MetadataImage) -> TopicState:
    name, topic_id = draft.name, record.topic_id
    if draft.partitions.keys() != set(range(record.partitions)):
        raise CorruptMetadata(
            f"topic {name} has {record.partitions} partitions, but records of "
            f"{len(draft.partitions)} or of others"
        )
    before = base.topics_by_id.get(topic_id)
    if before is not None and before.configs == record.configs:
        config = before.config
    elif not record.configs:
        config = base.defaults
    else:
        try:
            config = parse_topic_configs(record.configs, base.defaults)
        except ConfigError as error:
            raise CorruptMetadata(f"topic {name}: {'; '.join(error.faults)}") from error
    states = []
    for partition in range(record.partitions):
        found = draft.partitions[partition]
        if isinstance(found, PartitionState):
            states.append(found)
            continue
        stored, mod_revision = found
        states.append(
            PartitionState(
                name,
                topic_id,
                partition,
                stored.leader,
                stored.leader_epoch,
                stored.partition_epoch,
                stored.replicas,
                stored.isr,
                stored.min_isr,
                mod_revision,
            )
        )
    return TopicState(name, topic_id, config, record.configs, tuple(states), draft.mod_revision)


def _count(counts: dict[ShardKey, int], partitions: Sequence[PartitionState], step: int) -> None:
    # Most share the few tuples there are of places.
    together = Counter(map(id, map(_REPLICAS, partitions)))
    places = {id(state.replicas): state.replicas for state in partitions}
    for place, replicas in places.items():
        for replica in replicas:
            key = ShardKey(replica.broker_id, replica.directory_id, replica.shard_index)
            count = counts.get(key, 0) + step * together[place]
            if count:
                counts[key] = count
            else:
                del counts[key]


def _split_partition_key(key: str, prefix: str = PARTITION_PREFIX) -> tuple[TopicId, int]:
    topic_id, _, partition = key.removeprefix(prefix).partition("/")
    return _parse_uuid(key, topic_id), _parse_number(key, partition)


def _parse_uuid(key: str, text: str) -> UUID:
    try:
        parsed, canonical_text = _uuid_and_text(text)
    except ValueError as error:
        raise CorruptMetadata(f"metadata key {key!r} holds no topic id") from error
    if canonical_text != text:
        raise CorruptMetadata(f"metadata key {key!r} is not in canonical form")
    return parsed


@lru_cache(maxsize=64)  # the keys of all partitions of a topic begin with its id
def _uuid_and_text(text: str) -> tuple[UUID, str]:
    parsed = UUID(text)
    return parsed, str(parsed)


@lru_cache(maxsize=2048)
def _number(text: str) -> int | None:
    if not (text.isascii() and text.isdigit() and len(text) <= 10) or str(int(text)) != text:
        return None
    return int(text)


def _parse_number(key: str, text: str) -> int:
    number = _number(text)
    if number is None:
        raise CorruptMetadata(f"metadata key {key!r} does not end in a number")
    return number
