"""Keys and values of ``__consumer_offsets``, byte for byte those of Apache Kafka.

Kept compatible so that Kafka's tools can read the topic and a cluster's offsets can be moved.
Every key and value begins with a version, int16; the version of a key also says what kind of key
it is (OffsetCommitKey.json, OffsetCommitValue.json of Kafka's group coordinator)::

    key 0, 1    group string, topic string, partition int32; its value:
    value 0-4   offset int64, leader epoch int32 (3+), metadata string (compact in 4),
                commit timestamp int64, expire timestamp int64 (1 only),
                tagged fields (4): 0 = topic id
    key 2       group string; its value is in `group_metadata`
"""

from __future__ import annotations

import struct
from typing import NamedTuple, TypeAlias
from uuid import UUID

from trio_broker.errors import CorruptRecords
from trio_broker.group.encoding import INT16, INT32, INT64, SchemaReader
from trio_broker.names import ZERO_TOPIC_ID, TopicName
from trio_broker.wire.primitives import (
    STRING_BYTES_MAX,
    encode_compact_string,
    encode_string,
    encode_unsigned_varint,
)

#: Longest group id, topic name and metadata that fit the format, in bytes of UTF-8.
SCHEMA_STRING_BYTES_MAX = STRING_BYTES_MAX

_OFFSET_AND_EPOCH_STRUCT = struct.Struct(">qi")

_OFFSET_COMMIT_KEY_VERSIONS = (0, 1)
_OFFSET_COMMIT_KEY_VERSION = 1
_GROUP_METADATA_KEY_VERSION = 2
_VALUE_VERSION_MAX = 4
#: What is written: 4 can carry a topic id, 1 an expiry, 3 neither and is understood since 2.1.
_VALUE_VERSION_TOPIC_ID = 4
_VALUE_VERSION_PLAIN = 3
_VALUE_VERSION_EXPIRY = 1
_TAG_TOPIC_ID = 0


class CoordinatorRecord(NamedTuple):
    """One record of the log that backs a coordinator.

    Attributes:
        key: says what the record is about.
        value: the newest state of that; None deletes it.
    """

    key: bytes
    value: bytes | None


class OffsetCommitKey(NamedTuple):
    """Names one committed offset."""

    group_id: str
    topic: TopicName
    partition: int


class GroupMetadataKey(NamedTuple):
    """Names the members of one group."""

    group_id: str


class UnknownKey(NamedTuple):
    """A kind of key this version has no use for; skipped when a log is replayed (KIP-915)."""

    version: int


Key: TypeAlias = OffsetCommitKey | GroupMetadataKey | UnknownKey


class OffsetCommitValue(NamedTuple):
    """One committed offset.

    Attributes:
        offset: of the next record to read.
        leader_epoch: of the last record read; -1 if the client did not say.
        metadata: the client's own words.
        commit_timestamp_ms: when it was committed, milliseconds since 1970.
        expire_timestamp_ms: when to forget it; -1: by the broker's retention.
        topic_id: incarnation of the topic it was committed for; zero if not known.
    """

    offset: int
    leader_epoch: int
    metadata: str
    commit_timestamp_ms: int
    expire_timestamp_ms: int = -1
    topic_id: UUID = ZERO_TOPIC_ID

    def is_for(self, topic_id: UUID) -> bool:
        """Whether this was committed for that incarnation of its topic, as far as is known.

        Args:
            topic_id: zero, on either side, means not known and compares as equal.
        """
        return self.topic_id == topic_id or ZERO_TOPIC_ID in (self.topic_id, topic_id)


def encode_offset_commit_key(group_id: str, topic: str, partition: int) -> bytes:
    """Encode the key of a committed offset.

    Raises:
        ValueError: a name is longer than 32,767 bytes.
    """
    return encode_offset_commit_key_start(group_id, topic) + INT32.pack(partition)


def encode_offset_commit_key_start(group_id: str, topic: str) -> bytes:
    """Encode what the keys of a topic's partitions begin with; the partition follows, int32.

    Raises:
        ValueError: a name is longer than 32,767 bytes.
    """
    return b"".join(
        (INT16.pack(_OFFSET_COMMIT_KEY_VERSION), encode_string(group_id), encode_string(topic))
    )


def encode_group_metadata_key(group_id: str) -> bytes:
    """Encode the key of a group's members.

    Raises:
        ValueError: the name is longer than 32,767 bytes.
    """
    return INT16.pack(_GROUP_METADATA_KEY_VERSION) + encode_string(group_id)


def decode_key(data: bytes) -> Key:
    """Decode any key.

    Raises:
        CorruptRecords: the bytes are damaged.
    """
    reader = SchemaReader(data)
    version = reader.take(INT16)
    if version == _GROUP_METADATA_KEY_VERSION:
        group_key = GroupMetadataKey(reader.take_string())
        reader.end()
        return group_key
    if version not in _OFFSET_COMMIT_KEY_VERSIONS:
        return UnknownKey(version)
    group_id = reader.take_string()
    topic = TopicName(reader.take_string())
    partition = reader.take(INT32)
    reader.end()
    return OffsetCommitKey(group_id, topic, partition)


def encode_offset_commit_value(value: OffsetCommitValue) -> bytes:
    """Encode a committed offset in the oldest version that holds all of it.

    An expiry and a topic id do not fit together; then the expiry is kept, as only clients from
    before topic ids set one.

    Raises:
        ValueError: the metadata is longer than 32,767 bytes.
    """
    if value.expire_timestamp_ms >= 0:
        return b"".join(
            (
                INT16.pack(_VALUE_VERSION_EXPIRY),
                INT64.pack(value.offset),
                encode_string(value.metadata),
                INT64.pack(value.commit_timestamp_ms),
                INT64.pack(value.expire_timestamp_ms),
            )
        )
    has_topic_id = value.topic_id != ZERO_TOPIC_ID
    version = _VALUE_VERSION_TOPIC_ID if has_topic_id else _VALUE_VERSION_PLAIN
    parts = [
        INT16.pack(version),
        _OFFSET_AND_EPOCH_STRUCT.pack(value.offset, value.leader_epoch),
        encode_compact_string(value.metadata) if has_topic_id else encode_string(value.metadata),
        INT64.pack(value.commit_timestamp_ms),
    ]
    if has_topic_id:
        topic_id = value.topic_id.bytes
        parts += [
            encode_unsigned_varint(1),
            encode_unsigned_varint(_TAG_TOPIC_ID),
            encode_unsigned_varint(len(topic_id)),
            topic_id,
        ]
    return b"".join(parts)


def decode_offset_commit_value(data: bytes) -> OffsetCommitValue:
    """Decode a committed offset of any version.

    Raises:
        CorruptRecords: the bytes are damaged, or of a version this one does not know.
    """
    reader = SchemaReader(data)
    version: int = reader.take(INT16)
    if not 0 <= version <= _VALUE_VERSION_MAX:
        raise CorruptRecords(f"committed offset of version {version}")
    is_flexible = version >= _VALUE_VERSION_TOPIC_ID
    offset = reader.take(INT64)
    leader_epoch = reader.take(INT32) if version >= _VALUE_VERSION_PLAIN else -1
    metadata = reader.take_compact_string() if is_flexible else reader.take_string()
    commit_timestamp_ms = reader.take(INT64)
    expire_timestamp_ms = reader.take(INT64) if version == _VALUE_VERSION_EXPIRY else -1
    topic_id = reader.take_topic_id_tag() if is_flexible else ZERO_TOPIC_ID
    reader.end()
    return OffsetCommitValue(
        offset, leader_epoch, metadata, commit_timestamp_ms, expire_timestamp_ms, topic_id
    )
