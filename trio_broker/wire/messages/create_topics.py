"""CreateTopics (API 19): versions 2 to 7, flexible from 5 on.

`num_partitions` and `replication_factor` of -1 in a request ask for the broker's defaults. From
version 5 on answer `configs` with a list: the Java client fails at null.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_broker.names import ZERO_TOPIC_ID
from trio_broker.wire.fields import Kind, array, boolean, int8, int16, int32, string, uuid
from trio_broker.wire.message import Request, Response, Struct

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID


class CreatableReplicaAssignment(Struct):
    """One of the `assignments` of `CreatableTopic`."""

    partition_index: int = int32()
    broker_ids: Sequence[int] = array(Kind.INT32)


class CreatableTopicConfig(Struct):
    """One of the `configs` of `CreatableTopic`."""

    name: str = string()
    value: str | None = string(nullable_since=0)


class CreatableTopic(Struct):
    """One of the `topics` of `CreateTopicsRequest`."""

    name: str = string()
    num_partitions: int = int32()
    replication_factor: int = int16()
    assignments: Sequence[CreatableReplicaAssignment] = array(CreatableReplicaAssignment)
    configs: Sequence[CreatableTopicConfig] = array(CreatableTopicConfig)


class CreateTopicsRequest(Request, api_key=19, versions=(2, 7), flexible=5):
    """What a client asks with CreateTopics."""

    topics: Sequence[CreatableTopic] = array(CreatableTopic)
    timeout_ms: int = int32(default=60000)
    validate_only: bool = boolean(default=False)


class CreatableTopicConfigs(Struct):
    """One of the `configs` of `CreatableTopicResult`."""

    name: str = string()
    value: str | None = string(nullable_since=0)
    read_only: bool = boolean()
    config_source: int = int8(default=-1)
    is_sensitive: bool = boolean()


class CreatableTopicResult(Struct):
    """One of the `topics` of `CreateTopicsResponse`."""

    name: str = string()
    topic_id: UUID = uuid(since=7, default=ZERO_TOPIC_ID)
    error_code: int = int16()
    error_message: str | None = string(nullable_since=0)
    topic_config_error_code: int = int16(since=5, tag=0, default=0)
    num_partitions: int = int32(since=5, default=-1)
    replication_factor: int = int16(since=5, default=-1)
    configs: Sequence[CreatableTopicConfigs] | None = array(
        CreatableTopicConfigs, since=5, nullable_since=5, default=()
    )


class CreateTopicsResponse(Response, api_key=19, versions=(2, 7), flexible=5):
    """What it is answered."""

    throttle_time_ms: int = int32(default=0)
    topics: Sequence[CreatableTopicResult] = array(CreatableTopicResult)
