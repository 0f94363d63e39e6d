"""What clients are told about brokers, partitions that serve, and operations that are allowed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from trio_broker.broker.session import Session
    from trio_broker.broker.state import BrokerState
    from trio_broker.broker.topics import RoutedTopic
    from trio_broker.metadata.image import TopicState
    from trio_broker.names import TopicName

#: Not asked for, or not told.
NO_OPERATIONS = -(2**31)
#: All operations on a topic that there are, as one bit each: what a broker without authorizer
#: answers (org.apache.kafka.common.acl.AclOperation; read, write, create, delete, alter, describe,
#: describe configs, alter configs).
TOPIC_OPERATIONS = sum(1 << code for code in (3, 4, 5, 6, 7, 8, 10, 11))
#: The same for the cluster: create, alter, describe, cluster action, describe configs, alter
#: configs, idempotent write.
CLUSTER_OPERATIONS = sum(1 << code for code in (5, 7, 8, 9, 10, 11, 12))


def broker_address(state: BrokerState, session: Session) -> tuple[int, str, int]:
    """Return this broker's id and the host and port that this client is to use."""
    host, port = state.advertised(session)
    return state.config.node_id, host, port


def is_online(routed: RoutedTopic | None, partition: int) -> bool:
    """Say whether this broker's replica of a partition serves."""
    replica = routed.replica(partition) if routed is not None else None
    return replica is not None and not replica.refusal


def still_there(
    state: BrokerState, topics: Iterable[tuple[TopicName, TopicState]]
) -> Iterator[TopicState]:
    """Leave out topics that have been deleted when their turn comes."""
    for _, topic in topics:
        if topic.topic_id in state.controller.image.topics_by_id:
            yield topic
