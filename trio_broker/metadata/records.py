"""Keys and values of the metadata store: what is written, and how it is read back.

A value is one compact JSON object with its format version under ``"v"``. A version above the one
known here is refused with `FormatTooNew`, a field that is not known with `CorruptMetadata`: both
mean that a newer broker wrote it, and dropping what it meant on the next write would lose it. So
each change of a class raises its `version`, and a new field has a default for older values.

Used by `image` (reading) and `decisions` (writing). Text in, text out: no store, no image.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any, ClassVar, TypeVar
from uuid import UUID

import attrs
from attrs import field, frozen
from attrs.validators import ge
from cattrs import ClassValidationError, transform_error
from cattrs.gen import make_dict_structure_fn
from cattrs.preconf.json import make_converter

from trio_broker.errors import CorruptMetadata, FormatTooNew
from trio_broker.names import BrokerId, LeaderEpoch, TopicId, TopicName

#: `PartitionRecord.leader` while no replica may lead.
NO_LEADER = BrokerId(-1)

CLUSTER_KEY = "meta"
PRODUCER_IDS_KEY = "pids"
BROKER_PREFIX = "brokers/known/"
TOPIC_PREFIX = "topics/"
PARTITION_PREFIX = "parts/"
DELETION_PREFIX = "deletions/"
CREATION_PREFIX = "creations/"


def broker_key(broker_id: BrokerId) -> str:
    """Return the key of a broker that has ever registered."""
    return f"{BROKER_PREFIX}{broker_id}"


def topic_key(name: TopicName) -> str:
    """Return the key of a topic."""
    return TOPIC_PREFIX + name


def partition_key(topic_id: TopicId, partition: int) -> str:
    """Return the key of a partition."""
    return f"{partition_key_prefix(topic_id)}{partition}"


def partition_key_prefix(topic_id: TopicId) -> str:
    """Return what the keys of a topic's partitions begin with; their indexes follow."""
    return f"{PARTITION_PREFIX}{topic_id}/"


def deletion_key(topic_id: TopicId) -> str:
    """Return the key that says which files of a deleted topic may still exist."""
    return f"{DELETION_PREFIX}{topic_id}"


def creation_key(topic_id: TopicId, first: int) -> str:
    """Return the key that says which new partitions may have no directories yet.

    Those that were decided together: `first` is the index of the first of them.
    """
    return f"{CREATION_PREFIX}{topic_id}/{first}"


@frozen
class ReplicaAssignment:
    """Where one replica of a partition lives.

    Attributes:
        broker_id: on which broker.
        directory_id: in which of its log dirs.
        shard_index: with which of that log dir's shards.
    """

    broker_id: BrokerId
    directory_id: UUID
    shard_index: int


@frozen
class IsrMember:
    """A replica that is in sync, and the epoch its broker had when it became so (KIP-903)."""

    broker_id: BrokerId
    broker_epoch: int


@frozen(kw_only=True)
class ClusterRecord:
    """Facts about the cluster that never change (key `CLUSTER_KEY`)."""

    version: ClassVar[int] = 1
    cluster_id: str


@frozen(kw_only=True)
class DirectoryRecord:
    """One log dir of a broker and the number of its shards."""

    directory_id: UUID
    shard_count: int = field(validator=ge(1))


@frozen(kw_only=True)
class EndpointRecord:
    """An address clients can reach a broker at."""

    listener: str
    host: str
    port: int


@frozen(kw_only=True)
class BrokerRecord:
    """A broker that has ever registered (key `broker_key`)."""

    version: ClassVar[int] = 1
    directories: tuple[DirectoryRecord, ...] = ()
    endpoints: tuple[EndpointRecord, ...] = ()
    rack: str | None = None


@frozen(kw_only=True)
class TopicRecord:
    """A topic (key `topic_key`): its name is in the key, its partitions have keys of their own.

    Attributes:
        topic_id: differs for each incarnation of a name.
        partitions: how many there are; their records exist in the same revision.
        configs: what was set explicitly, as Kafka's names and text.
    """

    version: ClassVar[int] = 1
    topic_id: TopicId
    partitions: int = field(validator=ge(1))
    configs: dict[str, str] = field(factory=dict)


@frozen(kw_only=True)
class PartitionRecord:
    """Everything the safety of one partition needs, in one value (key `partition_key`).

    Attributes:
        leader: broker that leads, or `NO_LEADER`.
        leader_epoch: rises with each change of leader and with each unclean start of it.
        partition_epoch: rises with each change of this record.
        replicas: where the replicas are; the first is the preferred leader.
        isr: the replicas in sync.
        min_isr: the topic's min.insync.replicas, copied so that leader and controller always
            decide with the same number.
    """

    version: ClassVar[int] = 1
    leader: BrokerId
    leader_epoch: LeaderEpoch = field(validator=ge(LeaderEpoch(0)))
    partition_epoch: int = field(validator=ge(0))
    replicas: tuple[ReplicaAssignment, ...]
    isr: tuple[IsrMember, ...]
    min_isr: int = field(validator=ge(1))

    def __attrs_post_init__(self) -> None:
        """Refuse a leader or a member of the ISR that holds no replica."""
        holders = {replica.broker_id for replica in self.replicas}
        if not holders or len(holders) != len(self.replicas):
            raise ValueError("replicas must be on at least one broker, one on each")
        if self.leader != NO_LEADER and self.leader not in holders:
            raise ValueError(f"leader {self.leader} holds no replica")
        if not holders.issuperset(member.broker_id for member in self.isr):
            raise ValueError("a member of the ISR holds no replica")


@frozen(kw_only=True)
class DeletionRecord:
    """Replicas of a deleted topic whose files may still exist (key `deletion_key`).

    Written with the deletion, removed when the files have left their place, so that a broker that
    stops in between knows which directories to remove and which to keep as strays.
    """

    version: ClassVar[int] = 1
    name: TopicName
    partitions: tuple[tuple[ReplicaAssignment, ...], ...]


@frozen(kw_only=True)
class CreationRecord:
    """New partitions whose directories may not have been made yet (key `creation_key`).

    Written with the partitions, removed once all their directories are there, durably: from then
    on one that is missing has vanished, and with it what it had stored.
    """

    version: ClassVar[int] = 1
    count: int = field(validator=ge(1))


@frozen(kw_only=True)
class ProducerIdsRecord:
    """The next producer id that no broker has taken (key `PRODUCER_IDS_KEY`)."""

    version: ClassVar[int] = 1
    next_producer_id: int = field(validator=ge(0))


R = TypeVar(
    "R",
    ClusterRecord,
    BrokerRecord,
    TopicRecord,
    PartitionRecord,
    DeletionRecord,
    CreationRecord,
    ProducerIdsRecord,
)


def _exactly(kind: type) -> Any:
    def structure(value: object, _: object) -> object:
        if type(value) is not kind:
            raise ValueError(f"{value!r} is not of type {kind.__name__}")
        return value

    return structure


@lru_cache(maxsize=1024)
def _uuid(text: str) -> UUID:
    """Return an id. It is the same object for each of the many replicas in one directory."""
    return UUID(text)


def _build_converter() -> Any:
    converter = make_converter(forbid_extra_keys=True)
    for kind in (int, str, bool):
        converter.register_structure_hook(kind, _exactly(kind))
    converter.register_structure_hook(UUID, lambda value, _: _uuid(value))
    converter.register_unstructure_hook(UUID, str)
    return converter


_converter = _build_converter()


def encode_record(record: attrs.AttrsInstance) -> bytes:
    """Return the value to store for `record`."""
    if isinstance(record, PartitionRecord):
        return _encode_partition(record)
    if isinstance(record, DeletionRecord):
        return _encode_deletion(record)
    return _encode(_converter.unstructure(record), record)


def _encode(fields: dict[str, object], record: attrs.AttrsInstance) -> bytes:
    version: int = type(record).version  # type: ignore[attr-defined]
    fields = {"v": version, **fields}
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()


def decode_record(kind: type[R], key: str, value: bytes) -> R:
    """Read the value of `key` as a record of class `kind`.

    Raises:
        FormatTooNew: a newer version of this package wrote it.
        CorruptMetadata: it is not a value this package could have written.
    """
    if kind is PartitionRecord:
        try:
            return _decode_partition(value)
        except (CorruptMetadata, FormatTooNew):
            pass  # said below, with the key
    return _decode(kind, key, value)


def _decode(kind: type[R], key: str, value: bytes) -> R:
    try:
        fields = json.loads(value)
    except ValueError as error:
        raise CorruptMetadata(f"metadata {key}: not JSON ({error})") from error
    version = fields.pop("v", None) if isinstance(fields, dict) else None
    if type(version) is not int or version < 1:
        raise CorruptMetadata(f"metadata {key}: no format version")
    if version > kind.version:
        raise FormatTooNew(
            f"metadata {key} has format {version}, this version reads up to {kind.version}"
        )
    try:
        record: R = _converter.structure(fields, kind)
    except ClassValidationError as error:
        faults = "; ".join(transform_error(error, path=key))
        raise CorruptMetadata(f"metadata {faults}") from error
    return record


# The partitions of a topic differ in their keys; of their values there are few.


@lru_cache(maxsize=1024)
def _encode_partition(record: PartitionRecord) -> bytes:
    return _encode(_converter.unstructure(record), record)


def _encode_deletion(record: DeletionRecord) -> bytes:
    rows: dict[int, object] = {}
    for row in record.partitions:
        if id(row) not in rows:
            rows[id(row)] = _converter.unstructure(row)
    fields: dict[str, object] = {
        "name": record.name,
        "partitions": [rows[id(row)] for row in record.partitions],
    }
    return _encode(fields, record)


@lru_cache(maxsize=1024)
def _replica(broker_id: BrokerId, directory_id: str, shard_index: int) -> ReplicaAssignment:
    return ReplicaAssignment(broker_id, _uuid(directory_id), shard_index)


def _structure_replica(value: Any, kind: type) -> ReplicaAssignment:
    """Read where a replica is: of the thousands of a deleted topic there are few that differ."""
    if type(value) is dict and len(value) == len(_REPLICA_TYPES):
        found = [value.get(name) for name in _REPLICA_TYPES]
        if [type(each) for each in found] == [*_REPLICA_TYPES.values()]:
            return _replica(*found)
    read: ReplicaAssignment = _structure_any_replica(value, kind)
    return read


_REPLICA_TYPES = {"broker_id": int, "directory_id": str, "shard_index": int}
_structure_any_replica = make_dict_structure_fn(
    ReplicaAssignment, _converter, _cattrs_forbid_extra_keys=True
)
_converter.register_structure_hook(ReplicaAssignment, _structure_replica)


@lru_cache(maxsize=1024)
def _decode_partition(value: bytes) -> PartitionRecord:
    return _decode(PartitionRecord, "of a partition", value)
