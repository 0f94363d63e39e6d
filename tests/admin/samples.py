"""Statistics made up for tests of what is made out of them."""

from __future__ import annotations

from typing import Any

import attrs

from trio_broker.admin.statistics import (
    BrokerStatistics,
    CommittedOffset,
    ConnectionStatistics,
    DeletionStatistics,
    DescriptorStatistics,
    FaultStatistics,
    GroupStatistics,
    LogDirStatistics,
    MemoryStatistics,
    OwnerStatistics,
    PartitionStatistics,
    RequestStatistics,
    RetentionStatistics,
    ShardStatistics,
    TopicStatistics,
)


def partition(index: int = 0, **changes: Any) -> PartitionStatistics:
    found = PartitionStatistics(
        partition=index,
        state="online",
        cause="",
        leader=0,
        leader_epoch=2,
        replicas=1,
        in_sync_replicas=1,
        log_start_offset=10,
        high_watermark=110,
        size_bytes=4096,
        segments=1,
    )
    return attrs.evolve(found, **changes)


def topic(name: str = "orders", partitions: int = 1, **changes: Any) -> TopicStatistics:
    found = TopicStatistics(
        name=name,
        topic_id="6f1f9a5e-9d3c-4a8e-8f5e-0123456789ab",
        is_internal=False,
        partitions=tuple(partition(index) for index in range(partitions)),
        produced_bytes=1000,
        produced_batches=10,
        produced_records=100,
        fetched_bytes=2000,
        fetches=5,
        retention=retention(),
    )
    return attrs.evolve(found, **changes)


def retention(**changes: Any) -> RetentionStatistics:
    found = RetentionStatistics(
        retention_ms=604_800_000,
        retention_bytes=-1,
        segment_bytes=1 << 20,
        gives_way=True,
        next_deletion_ms=1_700_000_000_500,
        deleted=(
            DeletionStatistics(reason="age", segments=2, size_bytes=20),
            DeletionStatistics(reason="node_budget", segments=3, size_bytes=30),
        ),
    )
    return attrs.evolve(found, **changes)


def committed(topic_name: str = "orders", index: int = 0, **changes: Any) -> CommittedOffset:
    found = CommittedOffset(
        topic=topic_name, partition=index, offset=100, lag_records=10, lag_seconds=2.5
    )
    return attrs.evolve(found, **changes)


def group(group_id: str = "readers", *offsets: CommittedOffset, members: int | None = 3) -> Any:
    return GroupStatistics(group_id=group_id, members=members, offsets=offsets or (committed(),))


def log_dir(path: str = "/data/logs", **changes: Any) -> LogDirStatistics:
    shard = ShardStatistics(
        index=0,
        replicas=1,
        missing_replicas=0,
        queued_bytes=7,
        commits=8,
        committed_batches=9,
        committed_bytes=10,
        is_running=True,
        restarts=0,
        stuck_seconds=0.0,
    )
    found = LogDirStatistics(
        path=path,
        directory_id="0d3f7b7e-0000-4000-8000-000000000001",
        state="ok",
        cause="",
        total_bytes=1000,
        free_bytes=600,
        write_failures=0,
        log_bytes=300,
        log_bytes_max=800,
        produce_refusal="",
        shards=(shard,),
    )
    return attrs.evolve(found, **changes)


def statistics(**changes: Any) -> BrokerStatistics:
    found = BrokerStatistics(
        version="0.1.0",
        node_id=4,
        cluster_id="abcDEF",
        phase="serving",
        uptime_seconds=12.5,
        topics=(topic(),),
        groups=(group(),),
        connections=ConnectionStatistics(open=2, accepted=5, refused=1),
        requests=(
            RequestStatistics(
                api="Produce", bounds_seconds=(0.001, 0.01), counts=(3, 2, 1), seconds=0.5
            ),
        ),
        log_dirs=(log_dir(),),
        memory=(MemoryStatistics(name="request", used_bytes=1, limit_bytes=2),),
        owners=(OwnerStatistics(owner="replica", open_files=3, open_bytes=300, tasks=4),),
        descriptors=DescriptorStatistics(
            allowed=1024, reserved=98, files_max=400, connections_max=500
        ),
        leaks_suspected=0,
        tasks=20,
        event_loop_lag_seconds=0.001,
        faults=(
            FaultStatistics(boundary="replica orders-0", count=2, last_cause="OSError: x"),
            FaultStatistics(boundary="replica audit-1", count=1, last_cause="OSError: y"),
        ),
        stop_seconds=(),
    )
    return attrs.evolve(found, **changes)
