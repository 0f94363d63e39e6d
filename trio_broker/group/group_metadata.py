"""The value of a group's key in ``__consumer_offsets``: its members and what they were assigned.

Byte for byte Apache Kafka's (GroupMetadataValue.json)::

    protocol type string, generation int32, protocol string or null, leader string or null,
    time of the last change of state int64 (2+), members:
        member id string, group instance id string or null (3+), client id string,
        client host string, rebalance timeout int32 (1+), session timeout int32,
        subscription bytes, assignment bytes
    in version 4 all compact, with tagged fields behind each member and at the end
"""

from __future__ import annotations

from typing import NamedTuple

from trio_broker.errors import CorruptRecords
from trio_broker.group.encoding import (
    INT16,
    INT32,
    INT64,
    SchemaReader,
    encode_bytes,
    encode_nullable_string,
)
from trio_broker.wire.primitives import encode_string

_VERSION_MAX = 4
_FLEXIBLE_VERSION = 4
#: What is written, as by Kafka: understood since 2.3, the first with group instance ids.
_VERSION_WRITTEN = 3
#: Fewest bytes a member takes in any version: guards the count of members.
_MEMBER_BYTES_MIN = 9

#: Kafka's "not known" of timestamps and timeouts.
UNKNOWN_MS = -1


class StoredMember(NamedTuple):
    """One member of a group as it is stored.

    Attributes:
        member_id: given by the coordinator.
        group_instance_id: of a static member, given by its owner (KIP-345).
        client_id: what the client calls itself.
        client_host: where it connected from.
        rebalance_timeout_ms: how long it may take to join again; -1 in version 0.
        session_timeout_ms: how long it may be silent.
        subscription: its metadata for the group's protocol.
        assignment: what the leader assigned to it.
    """

    member_id: str
    group_instance_id: str | None
    client_id: str
    client_host: str
    rebalance_timeout_ms: int
    session_timeout_ms: int
    subscription: bytes
    assignment: bytes


class GroupMetadata(NamedTuple):
    """A generation of a group as it is stored.

    Attributes:
        protocol_type: what the group does, ``consumer`` for consumers; empty: not known.
        generation: its number.
        protocol_name: chosen by the members, for consumers the assignor; None without members.
        leader_id: the member that assigned; None without members.
        changed_at_ms: when the group came into its state, milliseconds since 1970; -1: not known.
        members: none if the group is empty.
    """

    protocol_type: str
    generation: int
    protocol_name: str | None
    leader_id: str | None
    changed_at_ms: int
    members: tuple[StoredMember, ...]


def encode_group_metadata(value: GroupMetadata) -> bytes:
    """Encode a generation.

    Raises:
        ValueError: a string is longer than 32,767 bytes.
    """
    parts = [
        INT16.pack(_VERSION_WRITTEN),
        encode_string(value.protocol_type),
        INT32.pack(value.generation),
        encode_nullable_string(value.protocol_name),
        encode_nullable_string(value.leader_id),
        INT64.pack(value.changed_at_ms),
        INT32.pack(len(value.members)),
    ]
    for member in value.members:
        parts += (
            encode_string(member.member_id),
            encode_nullable_string(member.group_instance_id),
            encode_string(member.client_id),
            encode_string(member.client_host),
            INT32.pack(member.rebalance_timeout_ms),
            INT32.pack(member.session_timeout_ms),
            encode_bytes(member.subscription),
            encode_bytes(member.assignment),
        )
    return b"".join(parts)


def decode_group_metadata(data: bytes) -> GroupMetadata:
    """Decode a generation of any version.

    Raises:
        CorruptRecords: the bytes are damaged, of a version this one does not know, have
            members without a protocol, or a member twice.
    """
    reader = SchemaReader(data)
    version = reader.take(INT16)
    if not 0 <= version <= _VERSION_MAX:
        raise CorruptRecords(f"group metadata of version {version}")
    flexible = version >= _FLEXIBLE_VERSION
    protocol_type = reader.take_compact_string() if flexible else reader.take_string()
    generation = reader.take(INT32)
    protocol_name = _nullable_string(reader, flexible=flexible)
    leader_id = _nullable_string(reader, flexible=flexible)
    changed_at_ms = reader.take(INT64) if version >= 2 else UNKNOWN_MS
    count = (reader.take_compact_count if flexible else reader.take_count)(_MEMBER_BYTES_MIN)
    members = tuple(
        _flexible_member(reader) if flexible else _plain_member(reader, version)
        for _ in range(count)
    )
    if flexible:
        reader.skip_tagged_fields()
    reader.end()
    if members and protocol_name is None:
        raise CorruptRecords("group metadata has members but no protocol")
    if len({member.member_id for member in members}) != len(members):
        raise CorruptRecords("group metadata has a member twice")
    return GroupMetadata(
        protocol_type, generation, protocol_name, leader_id, changed_at_ms, members
    )


def _nullable_string(reader: SchemaReader, *, flexible: bool) -> str | None:
    return reader.take_nullable_compact_string() if flexible else reader.take_nullable_string()


def _plain_member(reader: SchemaReader, version: int) -> StoredMember:
    return StoredMember(
        member_id=reader.take_string(),
        group_instance_id=reader.take_nullable_string() if version >= 3 else None,
        client_id=reader.take_string(),
        client_host=reader.take_string(),
        rebalance_timeout_ms=reader.take(INT32) if version >= 1 else UNKNOWN_MS,
        session_timeout_ms=reader.take(INT32),
        subscription=reader.take_sized_bytes(),
        assignment=reader.take_sized_bytes(),
    )


def _flexible_member(reader: SchemaReader) -> StoredMember:
    member = StoredMember(
        member_id=reader.take_compact_string(),
        group_instance_id=reader.take_nullable_compact_string(),
        client_id=reader.take_compact_string(),
        client_host=reader.take_compact_string(),
        rebalance_timeout_ms=reader.take(INT32),
        session_timeout_ms=reader.take(INT32),
        subscription=reader.take_compact_bytes(),
        assignment=reader.take_compact_bytes(),
    )
    reader.skip_tagged_fields()
    return member
