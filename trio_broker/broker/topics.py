"""Routing: from a topic's name or id to the replicas of its partitions.

A `RoutedTopic` is the one object that all per-topic state of the running broker hangs off, so
that deleting a topic is dropping one reference. Changed only by the `Reconciler`
(`broker/reconciler.py`); read by every handler without awaiting.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import define, field

from trio_broker.broker.replica import ReplicaState
from trio_broker.broker.request_counters import TopicTraffic
from trio_broker.config import INT64_MAX, TimestampType
from trio_broker.storage.pressure import gives_way

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from trio_broker.broker.replica import Replica
    from trio_broker.config import Durability, TopicConfig
    from trio_broker.names import TopicId, TopicName


@define(eq=False)
class RoutedTopic:
    """A topic that this broker serves.

    Attributes:
        config: effective configuration (defaults applied).
        durability: what acknowledgements of this topic mean.
        replicas: by partition index; None for a partition whose replica does not exist here.
        before_max_ms: how much older than now a client's timestamp may be.
        after_max_ms: how much newer.
        gives_way: its segments are deleted when logs take too much room.
        rolls_early: they are made small enough for that, since nobody has set their size.
        traffic: what went in and out.
        turn: counts records of the embedding program that no key sends to a partition.
        routable: False once deletion has begun: requests no longer find it.
    """

    name: TopicName
    topic_id: TopicId
    config: TopicConfig
    durability: Durability
    is_internal: bool = False
    routable: bool = True
    replicas: list[Replica | None] = field(factory=list)
    gives_way: bool = False
    rolls_early: bool = False
    before_max_ms: int = 0
    after_max_ms: int = 0
    traffic: TopicTraffic = field(factory=TopicTraffic)
    turn: int = 0

    def __attrs_post_init__(self) -> None:
        """Work out what the hot path would otherwise ask for each batch."""
        self.configure(self.config, self.durability)

    def configure(self, config: TopicConfig, durability: Durability) -> None:
        """Take over a configuration. Clients' timestamps do not matter with LogAppendTime."""
        self.config = config
        self.durability = durability
        stamps = config.message_timestamp_type is TimestampType.LOG_APPEND_TIME
        self.before_max_ms = INT64_MAX if stamps else config.message_timestamp_before_max_ms
        self.after_max_ms = INT64_MAX if stamps else config.message_timestamp_after_max_ms

    def keep_promises(self, explicit_configs: Collection[str]) -> None:
        """Take over for which configs a value was set, rather than left to the broker."""
        self.gives_way = gives_way(explicit_configs, is_internal=self.is_internal)
        self.rolls_early = self.gives_way and "segment.bytes" not in explicit_configs

    @property
    def is_made(self) -> bool:
        """Whether all its partitions are here, and each has been opened once, or tried to be."""
        return all(
            replica is not None and replica.state is not ReplicaState.STARTING
            for replica in self.replicas
        )

    def replica(self, partition: int) -> Replica | None:
        """Return the replica of a partition, or None if there is no such partition here."""
        if 0 <= partition < len(self.replicas):
            return self.replicas[partition]
        return None

    def place(self, partition: int, replica: Replica) -> None:
        """Put a replica at its index."""
        missing = partition + 1 - len(self.replicas)
        if missing > 0:
            self.replicas.extend([None] * missing)
        self.replicas[partition] = replica


@define(eq=False)
class TopicRouter:
    """All topics of the running broker, by name and by id."""

    by_name: dict[str, RoutedTopic] = field(factory=dict)
    by_id: dict[TopicId, RoutedTopic] = field(factory=dict)

    def add(self, topic: RoutedTopic) -> None:
        """Make a topic findable."""
        self.by_name[topic.name] = topic
        self.by_id[topic.topic_id] = topic

    def remove(self, topic: RoutedTopic) -> None:
        """Make a topic unfindable: later requests answer as if it had never existed."""
        topic.routable = False
        if self.by_name.get(topic.name) is topic:
            del self.by_name[topic.name]
        self.by_id.pop(topic.topic_id, None)

    def replicas(self) -> Iterator[Replica]:
        """Yield every replica of every topic."""
        for topic in self.by_id.values():
            for replica in topic.replicas:
                if replica is not None:
                    yield replica
