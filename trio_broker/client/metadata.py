"""What a client knows about the cluster: brokers, topics, who leads which partition.

Pure: a `ClusterView` never changes, an answer to Metadata makes a new one. `cluster.Cluster` asks,
and keeps the newest.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from attrs import evolve, field, frozen

from trio_broker.errors import ErrorCode
from trio_broker.names import ZERO_TOPIC_ID, TopicId

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from trio_broker.wire.messages.metadata import (
        MetadataResponse,
        MetadataResponsePartition,
        MetadataResponseTopic,
    )

#: Of a partition that nobody leads, and of a cluster without a controller.
NOBODY = -1


@frozen
class Node:
    """A broker, as the cluster tells clients to reach it.

    Attributes:
        node_id: its id.
        host: name or address.
        port: its port.
        rack: where it stands, if told.
    """

    node_id: int
    host: str
    port: int
    rack: str | None = None


@frozen
class PartitionView:
    """One partition.

    Attributes:
        index: within its topic.
        leader: id of the broker that leads it, `NOBODY` if none does.
        leader_epoch: how often that has changed; -1 if not told.
        replicas: brokers that have it, the preferred leader first.
        in_sync: those of them that have all of it.
        offline: those of them that are away.
        error_code: why there is no leader.
    """

    index: int
    leader: int
    leader_epoch: int = -1
    replicas: tuple[int, ...] = ()
    in_sync: tuple[int, ...] = ()
    offline: tuple[int, ...] = ()
    error_code: int = 0


@frozen
class TopicView:
    """One topic; its partitions by index."""

    name: str
    topic_id: TopicId = ZERO_TOPIC_ID
    is_internal: bool = False
    partitions: Mapping[int, PartitionView] = field(factory=dict)


@frozen
class ClusterView:
    """The cluster at one moment.

    Attributes:
        cluster_id: None if it is not told.
        controller: broker to which admin requests go, `NOBODY` if not told.
        nodes: brokers by id.
        topics: by name, those that were asked for and exist.
        failures: topics that were asked for and could not be told about, with the error code.
        names: names of the topics by id.
    """

    cluster_id: str | None = None
    controller: int = NOBODY
    nodes: Mapping[int, Node] = MappingProxyType({})
    topics: Mapping[str, TopicView] = MappingProxyType({})
    failures: Mapping[str, int] = MappingProxyType({})
    names: Mapping[TopicId, str] = MappingProxyType({})

    def leader(self, topic: str, partition: int) -> int:
        """Return the id of a partition's leader, `NOBODY` if there is none or it is not known."""
        view = self.topics.get(topic)
        found = None if view is None else view.partitions.get(partition)
        return NOBODY if found is None else found.leader

    def partition(self, topic: str, partition: int) -> PartitionView | None:
        """Return a partition, None if it is not known."""
        view = self.topics.get(topic)
        return None if view is None else view.partitions.get(partition)

    def topic_id(self, topic: str) -> TopicId:
        """Return the id of a topic, zero if it is not known."""
        view = self.topics.get(topic)
        return ZERO_TOPIC_ID if view is None else view.topic_id

    def topic_name(self, name: str, topic_id: TopicId) -> str | None:
        """Return the name of a topic in a response, which has either the name or the id."""
        return name or self.names.get(topic_id)


def topic_view(answer: MetadataResponseTopic) -> TopicView:
    """Take over what an answer says of one topic."""
    return TopicView(
        name=answer.name or "",
        topic_id=answer.topic_id,
        is_internal=answer.is_internal,
        partitions={
            partition.partition_index: _partition_view(partition) for partition in answer.partitions
        },
    )


def _partition_view(answer: MetadataResponsePartition) -> PartitionView:
    return PartitionView(
        index=answer.partition_index,
        # Some brokers name the last leader of a partition that has none.
        leader=NOBODY if answer.error_code == ErrorCode.LEADER_NOT_AVAILABLE else answer.leader_id,
        leader_epoch=answer.leader_epoch,
        replicas=tuple(answer.replica_nodes),
        in_sync=tuple(answer.isr_nodes),
        offline=tuple(answer.offline_replicas),
        error_code=answer.error_code,
    )


def updated(view: ClusterView, answer: MetadataResponse, kept: Collection[str]) -> ClusterView:
    """Return what is known after an answer.

    Brokers do not learn of a new leader at the same moment: of a partition (of one incarnation of
    a topic) what has the lower leader epoch is older and is not taken over.

    Args:
        view: what was known.
        answer: to a request for some topics.
        kept: topics that were not asked for and stay known.
    """
    topics = {name: view.topics[name] for name in kept if name in view.topics}
    failures = {name: view.failures[name] for name in kept if name in view.failures}
    for topic in answer.topics:
        name = topic.name or view.names.get(topic.topic_id)
        if name is None:
            continue
        if topic.error_code:
            failures[name] = topic.error_code
            topics.pop(name, None)
            continue
        failures.pop(name, None)
        fresh = evolve(topic_view(topic), name=name)
        known = view.topics.get(name)
        if known is not None and known.topic_id == fresh.topic_id:
            fresh = evolve(fresh, partitions=_newest(known.partitions, fresh.partitions))
        topics[name] = fresh
    return ClusterView(
        cluster_id=answer.cluster_id if answer.cluster_id is not None else view.cluster_id,
        controller=answer.controller_id,
        nodes={
            node.node_id: Node(node.node_id, node.host, node.port, node.rack)
            for node in answer.brokers
        },
        topics=topics,
        failures=failures,
        names={topic.topic_id: topic.name for topic in topics.values()},
    )


def _newest(
    known: Mapping[int, PartitionView], fresh: Mapping[int, PartitionView]
) -> dict[int, PartitionView]:
    newest = dict(fresh)
    for index, partition in fresh.items():
        before = known.get(index)
        if before is not None and 0 <= partition.leader_epoch < before.leader_epoch:
            newest[index] = before
    return newest
