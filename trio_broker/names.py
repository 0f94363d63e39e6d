"""Identifiers that cross every layer, each a type of its own so that mix-ups are type errors.

Lowest layer together with `errors`: imports nothing of the package.
"""

from __future__ import annotations

import re
from typing import NamedTuple, NewType
from uuid import UUID

BrokerId = NewType("BrokerId", int)
LeaderEpoch = NewType("LeaderEpoch", int)
TopicName = NewType("TopicName", str)
TopicId = UUID

TOPIC_NAME_LENGTH_MAX = 249
_LEGAL_TOPIC_NAME = re.compile(r"[a-zA-Z0-9._-]{1,249}\Z")

#: Topics that clients may read but not write, created by the broker itself.
OFFSETS_TOPIC_NAME = TopicName("__consumer_offsets")
TRANSACTIONS_TOPIC_NAME = TopicName("__transaction_state")
INTERNAL_TOPIC_NAMES = frozenset({OFFSETS_TOPIC_NAME, TRANSACTIONS_TOPIC_NAME})

#: Kafka's "no topic id" on the wire.
ZERO_TOPIC_ID = UUID(int=0)


class TopicPartition(NamedTuple):
    """One partition of one incarnation of a topic: the id changes when a name is created again."""

    topic_id: TopicId
    partition: int

    def __str__(self) -> str:
        return f"{self.topic_id}-{self.partition}"


def topic_name_fault(name: str) -> str | None:
    """Say why `name` is not a legal topic name, or return None if it is.

    The rule is Kafka's (org.apache.kafka.common.internals.Topic): 1 to 249 characters of
    ``[a-zA-Z0-9._-]``, and neither "." nor "..".
    """
    if not name:
        return "a topic name must not be empty"
    if name in {".", ".."}:
        return f"a topic name must not be {name!r}"
    if len(name) > TOPIC_NAME_LENGTH_MAX:
        return f"a topic name must be at most 249 characters, this one has {len(name)}"
    if _LEGAL_TOPIC_NAME.match(name) is None:
        return "a topic name may contain only ASCII letters, digits, '.', '_' and '-'"
    return None


def collision_key(name: str) -> str:
    """Return what two topic names must not share: '.' and '_' are one character in metric names."""
    return name.replace(".", "_")
