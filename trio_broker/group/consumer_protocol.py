"""What consumers tell each other through their group: subscriptions and assignments.

The coordinator passes both on as opaque bytes; only the names of subscribed topics matter to it
(it keeps their offsets). A client encodes its own subscription, and as leader of its group
decodes everybody's and encodes their assignments. The layouts are Apache Kafka's
(ConsumerProtocolSubscription.json, ConsumerProtocolAssignment.json), each behind its version::

    subscription   topics, user data or null, owned partitions (1+), generation int32 (2+),
                   rack string or null (3+)
    assignment     assigned partitions, user data or null

A newer version is read as the newest known here, and bytes behind that are left alone: versions
only ever add fields at the end.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import NamedTuple

from attrs import frozen

from trio_broker.group.encoding import (
    INT16,
    INT32,
    SchemaReader,
    encode_nullable_bytes,
    encode_nullable_string,
)
from trio_broker.names import TopicName
from trio_broker.wire.primitives import encode_string

#: The protocol type of groups of consumers; others (Kafka Connect) have their own bytes.
CONSUMER_PROTOCOL_TYPE = "consumer"
#: Newest version of both layouts.
VERSION_MAX = 3
#: "Not a member of any generation yet."
NO_GENERATION = -1

_OWNED_PARTITIONS_VERSION = 1
_GENERATION_VERSION = 2
_RACK_VERSION = 3
_TOPIC_BYTES_MIN = 2
_TOPIC_PARTITIONS_BYTES_MIN = 6
_PARTITION_BYTES = 4
#: So many different beginnings of subscriptions are compared with further ones.
_BEGINNINGS_MAX = 16


class AssignedPartition(NamedTuple):
    """One partition as consumers name it: by topic name."""

    topic: TopicName
    partition: int


@frozen(kw_only=True)
class Subscription:
    """What one member of a group of consumers wants and has.

    Attributes:
        topics: names of the topics it wants to read.
        user_data: of its assignor.
        owned: partitions it has been reading and has not given up (KIP-429).
        generation: of the group when it got them; -1: none, or from before version 2 (KIP-792).
        rack: where it runs (KIP-881).
    """

    topics: tuple[TopicName, ...]
    user_data: bytes | None = None
    owned: tuple[AssignedPartition, ...] = ()
    generation: int = NO_GENERATION
    rack: str | None = None


@frozen(kw_only=True)
class Assignment:
    """What one member of a group of consumers is to read.

    Attributes:
        partitions: in the assignor's order.
        user_data: of the assignor.
    """

    partitions: tuple[AssignedPartition, ...] = ()
    user_data: bytes | None = None


def encode_subscription(subscription: Subscription, version: int = VERSION_MAX) -> bytes:
    """Encode a subscription; what the version lacks is left out.

    Raises:
        ValueError: there is no such version, or a name is longer than 32,767 bytes.
    """
    _check_version(version)
    topics = sorted(subscription.topics)
    parts = [INT16.pack(version), INT32.pack(len(topics))]
    parts += [encode_string(topic) for topic in topics]
    parts.append(encode_nullable_bytes(subscription.user_data))
    if version >= _OWNED_PARTITIONS_VERSION:
        parts += _encode_partitions(sorted(subscription.owned))
    if version >= _GENERATION_VERSION:
        parts.append(INT32.pack(subscription.generation))
    if version >= _RACK_VERSION:
        parts.append(encode_nullable_string(subscription.rack))
    return b"".join(parts)


def decode_subscription(data: bytes) -> Subscription:
    """Decode a subscription.

    Raises:
        CorruptRecords: these are not the bytes of a subscription.
    """
    reader = SchemaReader(data)
    version = _take_version(reader)
    topics = _take_topics(reader)
    user_data = reader.take_nullable_bytes()
    owned = _take_partitions(reader) if version >= _OWNED_PARTITIONS_VERSION else ()
    generation = reader.take(INT32) if version >= _GENERATION_VERSION else NO_GENERATION
    rack = reader.take_nullable_string() if version >= _RACK_VERSION else None
    return Subscription(
        topics=topics, user_data=user_data, owned=owned, generation=generation, rack=rack or None
    )


def subscribed_topics(subscriptions: Iterable[bytes]) -> frozenset[TopicName]:
    """Decode only the topics of some subscriptions, which begin every version.

    What several begin with is decoded once: in most groups all members read the same topics.

    Raises:
        CorruptRecords: there are bytes of something else among them.
    """
    topics: set[TopicName] = set()
    known: tuple[bytes, ...] = ()
    for data in subscriptions:
        if data.startswith(known):
            continue
        reader = SchemaReader(data)
        _take_version(reader)
        topics.update(_take_topics(reader))
        known = (reader.taken(), *known[: _BEGINNINGS_MAX - 1])
    return frozenset(topics)


def encode_assignment(assignment: Assignment, version: int = VERSION_MAX) -> bytes:
    """Encode an assignment.

    Raises:
        ValueError: there is no such version, or a name is longer than 32,767 bytes.
    """
    _check_version(version)
    parts = [INT16.pack(version), *_encode_partitions(assignment.partitions)]
    parts.append(encode_nullable_bytes(assignment.user_data))
    return b"".join(parts)


def decode_assignment(data: bytes) -> Assignment:
    """Decode an assignment; no bytes at all mean an empty one, as of a member left out.

    Raises:
        CorruptRecords: these are not the bytes of an assignment.
    """
    if not data:
        return Assignment()
    reader = SchemaReader(data)
    _take_version(reader)
    partitions = _take_partitions(reader)
    return Assignment(partitions=partitions, user_data=reader.take_nullable_bytes())


def _check_version(version: int) -> None:
    if not 0 <= version <= VERSION_MAX:
        raise ValueError(f"the consumer protocol has no version {version}")


def _take_version(reader: SchemaReader) -> int:
    version = reader.take(INT16)
    if version < 0:
        raise reader.damaged()
    return version


def _take_topics(reader: SchemaReader) -> tuple[TopicName, ...]:
    count = reader.take_count(_TOPIC_BYTES_MIN)
    return tuple(TopicName(reader.take_string()) for _ in range(count))


def _take_partitions(reader: SchemaReader) -> tuple[AssignedPartition, ...]:
    partitions: list[AssignedPartition] = []
    for _ in range(reader.take_count(_TOPIC_PARTITIONS_BYTES_MIN)):
        topic = TopicName(reader.take_string())
        count = reader.take_count(_PARTITION_BYTES)
        partitions += [AssignedPartition(topic, reader.take(INT32)) for _ in range(count)]
    return tuple(partitions)


def _encode_partitions(partitions: Iterable[AssignedPartition]) -> Sequence[bytes]:
    grouped: dict[str, list[int]] = {}
    for topic, group in itertools.groupby(partitions, key=itemgetter(0)):
        grouped.setdefault(topic, []).extend(partition for _, partition in group)
    parts = [INT32.pack(len(grouped))]
    for topic, indexes in grouped.items():
        parts += (encode_string(topic), INT32.pack(len(indexes)), *map(INT32.pack, indexes))
    return parts
