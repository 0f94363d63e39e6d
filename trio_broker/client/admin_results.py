"""What admin calls return."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

from attrs import frozen

from trio_broker.client.metadata import Node, TopicView
from trio_broker.client.types import TopicPartition
from trio_broker.names import TopicId

#: A topic as `Admin.describe_topic` returns it.
TopicDescription = TopicView


class ResourceType(IntEnum):
    """What has configs; the numbers are those of DescribeConfigs."""

    TOPIC = 2
    BROKER = 4


class ConfigSource(IntEnum):
    """Where the value of a config comes from; the numbers are those of DescribeConfigs."""

    UNKNOWN = 0
    TOPIC = 1
    BROKER = 2
    BROKERS_DEFAULT = 3
    STATIC_BROKER = 4
    DEFAULT = 5
    BROKER_LOGGER = 6
    CLIENT_METRICS = 7
    GROUP = 8


class ConfigOperation(IntEnum):
    """How a config is changed; the numbers are those of IncrementalAlterConfigs."""

    SET = 0
    #: Go back to the default.
    DELETE = 1
    #: Add to a list.
    APPEND = 2
    #: Take out of a list.
    SUBTRACT = 3


@frozen
class ConfigEntry:
    """One config.

    Attributes:
        name: such as ``retention.ms``.
        value: None if there is none, or if it is a secret.
        source: where it comes from.
        is_read_only: it cannot be changed at run time.
        is_sensitive: its value is never told.
        documentation: what it means, if the broker says so.
    """

    name: str
    value: str | None
    source: ConfigSource
    is_read_only: bool = False
    is_sensitive: bool = False
    documentation: str = ""

    @property
    def is_default(self) -> bool:
        """Whether nobody has set it."""
        return self.source is ConfigSource.DEFAULT


@frozen
class CreatedTopic:
    """A topic that was created, or would have been.

    Attributes:
        name: of the topic.
        topic_id: zero if the broker is too old to tell, or nothing was created.
        partition_count: -1 if the broker is too old to tell.
        replication_factor: likewise.
        configs: all that differ from the broker's defaults, and others, as the broker tells.
    """

    name: str
    topic_id: TopicId
    partition_count: int
    replication_factor: int
    configs: Mapping[str, str | None]


@frozen
class ClusterDescription:
    """The cluster.

    Attributes:
        cluster_id: its id; None: the broker does not tell.
        controller: id of the broker that admin requests go to, -1 if there is none.
        nodes: all brokers that are there, by id.
    """

    cluster_id: str | None
    controller: int
    nodes: Mapping[int, Node]


@frozen
class GroupListing:
    """A group, in short; `state` and `group_type` are empty if the broker is too old to tell."""

    group_id: str
    protocol_type: str
    state: str = ""
    group_type: str = ""


@frozen
class MemberDescription:
    """A member of a group.

    Attributes:
        member_id: from the coordinator.
        instance_id: of a static member.
        client_id: what it calls itself.
        client_host: its address.
        partitions: what it reads; empty if it is no consumer, or has not been told yet.
    """

    member_id: str
    instance_id: str | None
    client_id: str
    client_host: str
    partitions: tuple[TopicPartition, ...]


@frozen
class GroupDescription:
    """A group.

    Attributes:
        group_id: its name.
        state: Empty, PreparingRebalance, CompletingRebalance, Stable or Dead.
        protocol_type: "consumer" for consumers.
        assignor: the one in use, empty if there is none.
        members: in the order of the answer.
        coordinator: id of the broker that coordinates it.
    """

    group_id: str
    state: str
    protocol_type: str
    assignor: str
    members: tuple[MemberDescription, ...]
    coordinator: int


@frozen
class LogDirDescription:
    """A directory in which a broker keeps logs.

    Attributes:
        path: of the directory.
        error_code: 0, or why it is offline.
        total_bytes: of its disk, -1 if the broker does not tell.
        usable_bytes: likewise.
        partition_bytes: size of each partition in it.
    """

    path: str
    error_code: int
    total_bytes: int
    usable_bytes: int
    partition_bytes: Mapping[TopicPartition, int]
