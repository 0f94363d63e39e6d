"""Fetch (API 1): versions 4 to 18, flexible from 12 on.

The whole protocol of this API; the broker's hot path is `trio_broker.wire.fetch`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_broker.names import ZERO_TOPIC_ID
from trio_broker.wire.fields import (
    Kind,
    array,
    int8,
    int16,
    int32,
    int64,
    records,
    string,
    struct,
    uuid,
)
from trio_broker.wire.message import Request, Response, Struct

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from trio_broker.wire.buffers import Buffer


class ReplicaState(Struct):
    """The `replica_state` of `FetchRequest`."""

    replica_id: int = int32(default=-1)
    replica_epoch: int = int64(default=-1)


class FetchPartition(Struct):
    """One of the `partitions` of `FetchTopic`."""

    partition: int = int32()
    current_leader_epoch: int = int32(since=9, default=-1)
    fetch_offset: int = int64()
    last_fetched_epoch: int = int32(since=12, default=-1)
    log_start_offset: int = int64(since=5, default=-1)
    partition_max_bytes: int = int32()
    replica_directory_id: UUID = uuid(since=17, tag=0, default=ZERO_TOPIC_ID)
    high_watermark: int = int64(since=18, tag=1, default=9223372036854775807)


class FetchTopic(Struct):
    """One of the `topics` of `FetchRequest`."""

    topic: str = string(until=12, default="")
    topic_id: UUID = uuid(since=13, default=ZERO_TOPIC_ID)
    partitions: Sequence[FetchPartition] = array(FetchPartition)


class ForgottenTopic(Struct):
    """One of the `forgotten_topics_data` of `FetchRequest`."""

    topic: str = string(until=12, default="")
    topic_id: UUID = uuid(since=13, default=ZERO_TOPIC_ID)
    partitions: Sequence[int] = array(Kind.INT32)


class FetchRequest(Request, api_key=1, versions=(4, 18), flexible=12):
    """What a client asks with Fetch."""

    cluster_id: str | None = string(since=12, nullable_since=12, tag=0, default=None)
    replica_id: int = int32(until=14, default=-1)
    replica_state: ReplicaState | None = struct(ReplicaState, since=15, tag=1, default=None)
    max_wait_ms: int = int32()
    min_bytes: int = int32()
    max_bytes: int = int32(default=2147483647)
    isolation_level: int = int8(default=0)
    session_id: int = int32(since=7, default=0)
    session_epoch: int = int32(since=7, default=-1)
    topics: Sequence[FetchTopic] = array(FetchTopic)
    forgotten_topics_data: Sequence[ForgottenTopic] = array(ForgottenTopic, since=7, default=())
    rack_id: str = string(since=11, default="")


class EpochEndOffset(Struct):
    """The `diverging_epoch` of `PartitionData`."""

    epoch: int = int32(default=-1)
    end_offset: int = int64(default=-1)


class LeaderIdAndEpoch(Struct):
    """The `current_leader` of `PartitionData`."""

    leader_id: int = int32(default=-1)
    leader_epoch: int = int32(default=-1)


class SnapshotId(Struct):
    """The `snapshot_id` of `PartitionData`."""

    end_offset: int = int64(default=-1)
    epoch: int = int32(default=-1)


class AbortedTransaction(Struct):
    """One of the `aborted_transactions` of `PartitionData`."""

    producer_id: int = int64()
    first_offset: int = int64()


class PartitionData(Struct):
    """One of the `partitions` of `FetchableTopicResponse`."""

    partition_index: int = int32()
    error_code: int = int16()
    high_watermark: int = int64()
    last_stable_offset: int = int64(default=-1)
    log_start_offset: int = int64(since=5, default=-1)
    diverging_epoch: EpochEndOffset | None = struct(EpochEndOffset, since=12, tag=0, default=None)
    current_leader: LeaderIdAndEpoch | None = struct(
        LeaderIdAndEpoch, since=12, tag=1, default=None
    )
    snapshot_id: SnapshotId | None = struct(SnapshotId, since=12, tag=2, default=None)
    aborted_transactions: Sequence[AbortedTransaction] | None = array(
        AbortedTransaction, nullable_since=0
    )
    preferred_read_replica: int = int32(since=11, default=-1)
    records: Buffer | None = records(nullable_since=0)


class FetchableTopicResponse(Struct):
    """One of the `responses` of `FetchResponse`."""

    topic: str = string(until=12, default="")
    topic_id: UUID = uuid(since=13, default=ZERO_TOPIC_ID)
    partitions: Sequence[PartitionData] = array(PartitionData)


class NodeEndpoint(Struct):
    """One of the `node_endpoints` of `FetchResponse`."""

    node_id: int = int32()
    host: str = string()
    port: int = int32()
    rack: str | None = string(nullable_since=0, default=None)


class FetchResponse(Response, api_key=1, versions=(4, 18), flexible=12):
    """What it is answered."""

    throttle_time_ms: int = int32(default=0)
    error_code: int = int16(since=7, default=0)
    session_id: int = int32(since=7, default=0)
    responses: Sequence[FetchableTopicResponse] = array(FetchableTopicResponse)
    node_endpoints: Sequence[NodeEndpoint] = array(NodeEndpoint, since=16, tag=0, default=())
