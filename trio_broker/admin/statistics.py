"""What a running broker says of itself: one frozen tree of plain values.

Made by `broker.statistics`, handed out by `Broker.statistics()`, turned into text by `metrics`.
Counters only grow while the broker runs and begin at 0 when it starts. Sizes are in bytes, times in
seconds. A snapshot costs about 2 microseconds for each partition and committed offset.
"""

from __future__ import annotations

from typing import Final

from attrs import frozen

#: The boundary of a fault is named by its kind and by what it is, such as "replica orders-0".
BOUNDARY_KINDS: Final = ("log dir", "shard", "replica", "group coordinator", "listener")


def boundary_kind(boundary: str) -> str:
    """Return the kind of a boundary; one of which there is one only is a kind of its own."""
    return next((kind for kind in BOUNDARY_KINDS if boundary.startswith(f"{kind} ")), boundary)


@frozen(kw_only=True)
class PartitionStatistics:
    """One partition of a topic.

    Attributes:
        partition: index.
        state: online, or why it does not serve: starting, offline, closing, closed, absent (its
            log dir is not configured here).
        cause: why it is offline, else empty.
        leader: id of the broker that leads it.
        leader_epoch: raised whenever another term of leadership begins.
        replicas: how many there should be.
        in_sync_replicas: how many of them have everything.
        log_start_offset: of the oldest record kept; -1 while there is no open log.
        high_watermark: after the newest record that consumers may read; -1 likewise.
        size_bytes: of its segments.
        segments: how many there are.
    """

    partition: int
    state: str
    cause: str
    leader: int
    leader_epoch: int
    replicas: int
    in_sync_replicas: int
    log_start_offset: int
    high_watermark: int
    size_bytes: int
    segments: int


@frozen(kw_only=True)
class DeletionStatistics:
    """What one rule of retention has taken away from a topic.

    Attributes:
        reason: age, size, start_offset (DeleteRecords), or node_budget (logs took too much room).
        segments: how many.
        size_bytes: of them.
    """

    reason: str
    segments: int
    size_bytes: int


@frozen(kw_only=True)
class RetentionStatistics:
    """What is kept of a topic, and what was not.

    Attributes:
        retention_ms: the age that is kept; -1: any.
        retention_bytes: the size of a partition that is kept; -1: any.
        segment_bytes: where segments roll, which may be earlier than the topic's configuration says
            so that they can give way in small pieces.
        gives_way: its oldest segments go if logs take too much room, because neither age nor size
            was set for this topic.
        next_deletion_ms: when age takes away the next segment if nothing more is written to it, in
            milliseconds since the Unix epoch; None if there is none to come.
        deleted: by rule, every one of them.
    """

    retention_ms: int
    retention_bytes: int
    segment_bytes: int
    gives_way: bool
    next_deletion_ms: int | None
    deleted: tuple[DeletionStatistics, ...]


@frozen(kw_only=True)
class TopicStatistics:
    """One topic; it disappears from the statistics the moment its deletion begins.

    Attributes:
        name: its name.
        topic_id: its id, as text.
        is_internal: whether it belongs to the broker itself.
        partitions: by index.
        produced_bytes: stored record batches, as the clients sent them.
        produced_batches: how many there were.
        produced_records: how many records they held.
        fetched_bytes: record batches sent to consumers, embedded ones included.
        fetches: partitions' parts of Fetch responses that held any. Batches are not counted: that
            would mean looking at each of them on the way out.
        retention: what is kept, and what was not.
    """

    name: str
    topic_id: str
    is_internal: bool
    partitions: tuple[PartitionStatistics, ...]
    produced_bytes: int
    produced_batches: int
    produced_records: int
    fetched_bytes: int
    fetches: int
    retention: RetentionStatistics

    @property
    def retention_deleted_bytes(self) -> int:
        """Bytes that retention has taken away, by whatever rule."""
        return sum(deleted.size_bytes for deleted in self.retention.deleted)


@frozen(kw_only=True)
class CommittedOffset:
    """How far a group has come with one partition.

    Attributes:
        topic: name.
        partition: index.
        offset: committed: of the next record to read.
        lag_records: records between it and the high watermark; None while the partition is offline.
        lag_seconds: how long the oldest unread record has been there; 0.0 without lag, None where
            telling would take a look at the disk.
    """

    topic: str
    partition: int
    offset: int
    lag_records: int | None
    lag_seconds: float | None


@frozen(kw_only=True)
class GroupStatistics:
    """A consumer group.

    Attributes:
        group_id: its name.
        members: how many consumers it has now; None where membership is not managed here.
        offsets: what it has committed, for topics that exist.
    """

    group_id: str
    members: int | None
    offsets: tuple[CommittedOffset, ...]

    @property
    def lag_records(self) -> int:
        """Unread records of all partitions whose lag is known."""
        return sum(committed.lag_records or 0 for committed in self.offsets)


@frozen(kw_only=True)
class ConnectionStatistics:
    """Clients' connections.

    Attributes:
        open: now.
        accepted: ever.
        refused: closed at once, because there were too many, in all or from one address.
    """

    open: int
    accepted: int
    refused: int


@frozen(kw_only=True)
class RequestStatistics:
    """Requests of one API that were answered, and how long that took.

    The time runs from the whole request being there to its answer being ready, so it includes
    waiting for the disk and, for Fetch, waiting for records to come.

    Attributes:
        api: its name, such as Produce.
        bounds_seconds: inclusive upper bounds of the buckets.
        counts: requests in each bucket, and in one more those above the last bound.
        seconds: the sum of all times.
    """

    api: str
    bounds_seconds: tuple[float, ...]
    counts: tuple[int, ...]
    seconds: float

    @property
    def count(self) -> int:
        """Requests in all."""
        return sum(self.counts)


@frozen(kw_only=True)
class ShardStatistics:
    """One writer of a log dir.

    Attributes:
        index: its number in the log dir.
        replicas: how many it serves.
        missing_replicas: how many of them are offline because their directories have vanished.
        queued_bytes: batches that wait for its next commit.
        commits: group commits written, counted once for each partition they concerned.
        committed_batches: batches in them.
        committed_bytes: bytes in them.
        is_running: False between a fault and the next start.
        restarts: how often it failed and was started again.
        stuck_seconds: how long the system call it is in has been running.
    """

    index: int
    replicas: int
    missing_replicas: int
    queued_bytes: int
    commits: int
    committed_batches: int
    committed_bytes: int
    is_running: bool
    restarts: int
    stuck_seconds: float


@frozen(kw_only=True)
class LogDirStatistics:
    """One directory of logs, usually one disk.

    Attributes:
        path: where it is.
        directory_id: its identity, as text.
        state: ok, or what is wrong with it.
        cause: why it is not ok, else empty.
        total_bytes: of its filesystem; None until measured.
        free_bytes: of that, what this process may use; measured every second, or on a quiet
            disk every half a minute.
        write_failures: writes that the system refused and that were cut back.
        log_bytes: what logs take here, counted every few seconds while it changes.
        log_bytes_max: what they may take, here or (`storage.bytes_max`) in all log dirs together;
            None until the disk has been measured.
        produce_refusal: why produce is refused here, else empty.
        shards: by index.
    """

    path: str
    directory_id: str
    state: str
    cause: str
    total_bytes: int | None
    free_bytes: int | None
    write_failures: int
    log_bytes: int
    log_bytes_max: int | None
    produce_refusal: str
    shards: tuple[ShardStatistics, ...]


@frozen(kw_only=True)
class MemoryStatistics:
    """A bound on memory.

    Attributes:
        name: request or response.
        used_bytes: now.
        limit_bytes: above it, nobody new starts.
    """

    name: str
    used_bytes: int
    limit_bytes: int


@frozen(kw_only=True)
class OwnerStatistics:
    """What a level of the task tree holds now.

    Attributes:
        owner: kind of owner: replica, log-dir, metadata, shard, lane, connection, ...
        open_files: how many files it has open.
        open_bytes: size of those files: what the disk could not have back if they were removed.
        tasks: how many tasks it has.
    """

    owner: str
    open_files: int
    open_bytes: int
    tasks: int


@frozen(kw_only=True)
class DescriptorStatistics:
    """Who may have how many of the process's descriptors, as settled at the start.

    Attributes:
        allowed: what the system allowed then (RLIMIT_NOFILE).
        reserved: set aside for everything that is neither a segment nor a client.
        files_max: most segment files kept open.
        connections_max: most connections of Kafka clients.
    """

    allowed: int
    reserved: int
    files_max: int
    connections_max: int


@frozen(kw_only=True)
class FaultStatistics:
    """Unexpected errors that a boundary of the task tree has stopped.

    Attributes:
        boundary: which one, such as ``replica orders-0``.
        count: how many.
        last_cause: the newest one.
    """

    boundary: str
    count: int
    last_cause: str


@frozen(kw_only=True)
class BrokerStatistics:
    """Everything, at one moment.

    Attributes:
        version: of the software.
        node_id: of this broker.
        cluster_id: None until the metadata has been read.
        phase: starting, recovering, serving, draining, stopping or stopped.
        uptime_seconds: since the broker began to start.
        topics: in order of their names.
        groups: in order of their ids.
        connections: of Kafka clients.
        requests: by API, those that were ever asked for.
        log_dirs: as configured.
        memory: the pools.
        owners: open files and tasks, by kind of owner.
        descriptors: how they are divided.
        leaks_suspected: owners that hold files for longer than they may.
        tasks: of the whole Trio program, an embedding one's included.
        event_loop_lag_seconds: longest time in the last quarter of a minute that a task which was
            ready had to wait for its turn.
        faults: by boundary; the one that has stopped a fault last comes last.
        stop_seconds: how long each phase of the stop took, as far as it has come.
    """

    version: str
    node_id: int
    cluster_id: str | None
    phase: str
    uptime_seconds: float
    topics: tuple[TopicStatistics, ...]
    groups: tuple[GroupStatistics, ...]
    connections: ConnectionStatistics
    requests: tuple[RequestStatistics, ...]
    log_dirs: tuple[LogDirStatistics, ...]
    memory: tuple[MemoryStatistics, ...]
    owners: tuple[OwnerStatistics, ...]
    descriptors: DescriptorStatistics
    leaks_suspected: int
    tasks: int
    event_loop_lag_seconds: float
    faults: tuple[FaultStatistics, ...]
    stop_seconds: tuple[tuple[str, float], ...]
