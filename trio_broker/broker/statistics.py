"""Collects what the running broker says of itself; see `admin.statistics` for what it means.

Reads attributes on the event loop and never waits for a disk: what only the machine knows (space,
descriptors) was measured by others before, or comes from the handle ledger. `snapshot` does it in
one go, for embedders; `snapshot_in_turns` lets other tasks run in between, for scrapes of brokers
with thousands of partitions and for embedders that have other work. Then what it shows of different
topics is a few milliseconds apart.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, TypeAlias

import trio

from trio_broker import __version__
from trio_broker.admin.health import OFFLINE_SHOWN, HealthFacts, LogDirHealth, ShardHealth
from trio_broker.admin.statistics import (
    BrokerStatistics,
    CommittedOffset,
    ConnectionStatistics,
    DescriptorStatistics,
    FaultStatistics,
    GroupStatistics,
    LogDirStatistics,
    MemoryStatistics,
    OwnerStatistics,
    PartitionStatistics,
    RequestStatistics,
    ShardStatistics,
    TopicStatistics,
)
from trio_broker.broker.owned_tasks import count_tasks
from trio_broker.broker.replica import ReplicaState
from trio_broker.broker.request_counters import LATENCY_BOUNDS_SECONDS
from trio_broker.broker.retention_facts import retention_of
from trio_broker.wire.api import APIS, ApiKey

if TYPE_CHECKING:
    from collections.abc import Generator

    from trio_broker.broker.group_coordinator import GroupSummary
    from trio_broker.broker.log_dir import LogDir
    from trio_broker.broker.replica import Replica
    from trio_broker.broker.shard import Shard
    from trio_broker.broker.state import BrokerState
    from trio_broker.broker.topics import RoutedTopic
    from trio_broker.metadata.image import PartitionState

    #: Collects, and yields where others may run.
    Collecting: TypeAlias = Generator[None, None, BrokerStatistics]

#: Partitions, or committed offsets, collected before others get a turn: well below a millisecond.
_ITEMS_PER_TURN = 100
#: The same for open files.
FILES_PER_TURN = 500
#: A lag in seconds is told if what memory knows leaves no more doubt than this ...
_DOUBT_SECONDS = 1.0
#: ... or this share of it.
_DOUBT_SHARE = 0.1


def snapshot(state: BrokerState) -> BrokerStatistics:
    """Collect everything in one go."""
    collecting = _collect(state)
    while True:
        try:
            next(collecting)
        except StopIteration as stop:
            found: BrokerStatistics = stop.value
            return found


async def snapshot_in_turns(state: BrokerState) -> BrokerStatistics:
    """Collect everything, letting other tasks run in between.

    Cancellation: nothing was changed.
    """
    collecting = _collect(state)
    while True:
        try:
            next(collecting)
        except StopIteration as stop:
            found: BrokerStatistics = stop.value
            return found
        await trio.lowlevel.checkpoint()


def health_facts(state: BrokerState) -> HealthFacts:
    """Collect what health is judged by: cheap, it is asked for every few seconds."""
    return HealthFacts(
        phase=state.phase.value,
        uptime_seconds=trio.current_time() - state.started_at,
        log_dirs=tuple(_log_dir_health(state, log_dir) for log_dir in state.log_dirs),
        leaks=tuple(_printable(sentence) for sentence in state.leaks.values()),
        faults=_faults(state),
        down=tuple(
            (_printable(boundary), _printable(cause))
            for boundary, cause in state.supervisor.down.items()
        ),
    )


def _faults(state: BrokerState) -> tuple[FaultStatistics, ...]:
    return tuple(
        FaultStatistics(
            boundary=_printable(boundary),
            count=record.count,
            last_cause=_printable(record.last_cause),
        )
        for boundary, record in state.supervisor.faults.items()
    )


def _collect(state: BrokerState) -> Collecting:
    topics = []
    for routed in sorted(state.router.by_id.values(), key=lambda topic: topic.name):
        topics.append((yield from _topic(state, routed)))
    groups = []
    if state.has_coordinator:
        for number, summary in enumerate(state.coordinator.summaries()):
            if number % _ITEMS_PER_TURN == 0:
                yield
            groups.append((yield from _group(state, summary)))
    yield
    owners = yield from _owners(state)
    yield
    return BrokerStatistics(
        version=__version__,
        node_id=state.config.node_id,
        cluster_id=state.controller.image.cluster_id if state.has_metadata else None,
        phase=state.phase.value,
        uptime_seconds=trio.current_time() - state.started_at,
        topics=tuple(topics),
        groups=tuple(groups),
        connections=ConnectionStatistics(
            open=len(state.clients),
            accepted=state.connections_accepted,
            refused=state.connections_refused,
        ),
        requests=_requests(state),
        log_dirs=tuple(_log_dir(state, log_dir) for log_dir in state.log_dirs),
        memory=tuple(
            MemoryStatistics(name=name, used_bytes=pool.used_bytes, limit_bytes=pool.limit_bytes)
            for name, pool in (
                ("request", state.request_memory),
                ("response", state.response_memory),
            )
        ),
        owners=owners,
        descriptors=DescriptorStatistics(
            allowed=state.descriptors.allowed,
            reserved=state.descriptors.reserved,
            files_max=state.descriptors.files_max,
            connections_max=state.descriptors.connections_max,
        ),
        leaks_suspected=len(state.leaks),
        tasks=trio.lowlevel.current_statistics().tasks_living,
        event_loop_lag_seconds=state.loop_lag.max_seconds,
        faults=_faults(state),
        stop_seconds=tuple((phase.name, phase.milliseconds / 1000) for phase in state.stop_phases),
    )


def _owners(state: BrokerState) -> Generator[None, None, tuple[OwnerStatistics, ...]]:
    """Count files and tasks by the kind of their owner; of either there can be ten thousands."""
    files: Counter[str] = Counter()
    size_bytes: Counter[str] = Counter()
    ledger = state.host.fs.open_files()
    for start in range(0, len(ledger), FILES_PER_TURN):
        yield
        for file in state.own_files(ledger[start : start + FILES_PER_TURN]):
            owner = file.owner.partition("/")[0]
            files[owner] += 1
            size_bytes[owner] += file.size_bytes
    yield
    tasks = yield from count_tasks(state.root_task)
    return tuple(
        OwnerStatistics(
            owner=owner,
            open_files=files[owner],
            open_bytes=size_bytes[owner],
            tasks=tasks.get(owner, 0),
        )
        for owner in sorted({*files, *tasks})
    )


# Topics.


def _topic(state: BrokerState, routed: RoutedTopic) -> Generator[None, None, TopicStatistics]:
    image = state.controller.image
    described = image.topics_by_id.get(routed.topic_id)
    partitions = []
    now_ms = state.host.wall.now_ms()
    deletions: list[int] = []
    for index, replica in enumerate(list(routed.replicas)):
        if index % _ITEMS_PER_TURN == 0:
            yield
        is_known = described is not None and index < len(described.partitions)
        known = described.partitions[index] if described is not None and is_known else None
        partitions.append(_partition(index, replica, known))
        if replica is not None and replica.has_log:
            due_ms = replica.log.next_deletion_ms(now_ms, upper_offset=replica.high_watermark)
            if due_ms is not None:
                deletions.append(due_ms)
    traffic = routed.traffic
    return TopicStatistics(
        name=routed.name,
        topic_id=str(routed.topic_id),
        is_internal=routed.is_internal,
        partitions=tuple(partitions),
        produced_bytes=traffic.produced_bytes,
        produced_batches=traffic.produced_batches,
        produced_records=traffic.produced_records,
        fetched_bytes=traffic.fetched_bytes,
        fetches=traffic.fetches,
        retention=retention_of(routed, min(deletions, default=None)),
    )


def _partition(
    index: int, replica: Replica | None, known: PartitionState | None
) -> PartitionStatistics:
    log = replica.log if replica is not None and replica.has_log else None
    return PartitionStatistics(
        partition=index,
        state="absent" if replica is None else replica.state.value,
        cause="its log dir is not configured" if replica is None else replica.cause,
        leader=-1 if known is None else known.leader,
        leader_epoch=-1 if replica is None else replica.leader_epoch,
        replicas=1 if known is None else len(known.replicas),
        in_sync_replicas=1 if known is None else len(known.isr),
        log_start_offset=-1 if log is None else log.log_start_offset,
        high_watermark=-1 if log is None or replica is None else replica.high_watermark,
        size_bytes=0 if log is None else log.size_bytes,
        segments=0 if log is None else log.segment_count,
    )


# Groups.


def _group(state: BrokerState, summary: GroupSummary) -> Generator[None, None, GroupStatistics]:
    now_ms = state.host.wall.now_ms()
    offsets: list[CommittedOffset] = []
    for name, partitions in sorted(summary.offsets.items()):
        routed = state.router.by_name.get(name)
        yield
        if routed is None:
            continue
        for index, committed in sorted(partitions.items()):
            if not committed.is_for(routed.topic_id):
                continue  # of an earlier topic of this name
            if len(offsets) % _ITEMS_PER_TURN == 0:
                yield
            replica = routed.replica(index)
            lag_records, lag_seconds = _lag(replica, committed.offset, now_ms)
            offsets.append(
                CommittedOffset(
                    topic=name,
                    partition=index,
                    offset=committed.offset,
                    lag_records=lag_records,
                    lag_seconds=lag_seconds,
                )
            )
    return GroupStatistics(
        group_id=summary.group_id, members=summary.members, offsets=tuple(offsets)
    )


def _lag(replica: Replica | None, offset: int, now_ms: int) -> tuple[int | None, float | None]:
    """Return the lag in records and in seconds, as far as memory tells."""
    if replica is None or not replica.has_log:
        return None, None
    log = replica.log
    first_unread = max(offset, log.log_start_offset)
    records = max(0, replica.high_watermark - first_unread)
    if records == 0:
        return 0, 0.0
    bounds = log.timestamp_bounds(first_unread)
    if bounds is None:
        return records, None
    longest, shortest = (max(0.0, (now_ms - bound) / 1000) for bound in bounds)
    is_known = longest - shortest <= max(_DOUBT_SECONDS, longest * _DOUBT_SHARE)
    return records, longest if is_known else None


# Requests.


def _requests(state: BrokerState) -> tuple[RequestStatistics, ...]:
    return tuple(
        RequestStatistics(
            api=APIS[ApiKey(key)].name,
            bounds_seconds=LATENCY_BOUNDS_SECONDS,
            counts=tuple(counter.counts),
            seconds=counter.seconds,
        )
        for key, counter in state.requests.items()
        if any(counter.counts)
    )


# Log dirs.


def _log_dir(state: BrokerState, log_dir: LogDir) -> LogDirStatistics:
    space = log_dir.health.space
    return LogDirStatistics(
        path=_printable(log_dir.directory.path),
        directory_id=str(log_dir.directory_id),
        state=log_dir.health.state.value,
        cause=log_dir.cause,
        total_bytes=None if space is None else space.total_bytes,
        free_bytes=None if space is None else space.free_bytes,
        write_failures=log_dir.write_failures,
        log_bytes=log_dir.keeper.used_bytes,
        log_bytes_max=log_dir.keeper.limit_bytes,
        produce_refusal="" if log_dir.refusal is None else _printable(log_dir.refusal[1]),
        shards=tuple(
            ShardStatistics(
                index=index,
                replicas=len(shard.replicas),
                missing_replicas=len(_missing(shard)),
                queued_bytes=shard.queued_bytes,
                commits=shard.commits,
                committed_batches=shard.committed_batches,
                committed_bytes=shard.committed_bytes,
                is_running=shard.is_running,
                restarts=_restarts(state, shard),
                stuck_seconds=shard.lane.stuck_seconds,
            )
            for index, shard in enumerate(log_dir.shards)
        ),
    )


def _log_dir_health(state: BrokerState, log_dir: LogDir) -> LogDirHealth:
    space = log_dir.health.space
    return LogDirHealth(
        path=_printable(log_dir.directory.path),
        state=log_dir.health.state.value,
        cause=_printable(log_dir.cause),
        total_bytes=None if space is None else space.total_bytes,
        free_bytes=None if space is None else space.free_bytes,
        shards=tuple(
            _shard_health(state, index, shard) for index, shard in enumerate(log_dir.shards)
        ),
        over_budget=_printable(log_dir.keeper.refusal or ""),
    )


def _shard_health(state: BrokerState, index: int, shard: Shard) -> ShardHealth:
    offline = [
        replica for replica in shard.replicas.values() if replica.state is ReplicaState.OFFLINE
    ]
    return ShardHealth(
        index=index,
        replicas=len(shard.replicas),
        offline_replicas=len(offline),
        restarts=_restarts(state, shard),
        stuck_seconds=shard.lane.stuck_seconds,
        is_running=shard.is_running,
        offline=tuple(
            (f"{replica.topic.name}-{replica.partition}", _printable(replica.cause))
            for replica in offline[:OFFLINE_SHOWN]
        ),
        missing=tuple(f"{replica.topic.name}-{replica.partition}" for replica in _missing(shard)),
    )


def _missing(shard: Shard) -> list[Replica]:
    return [replica for replica in shard.replicas.values() if replica.is_missing]


def _printable(path: str) -> str:
    """Replace what came from a path's bytes that are no UTF-8, and so cannot be sent as such."""
    return path.encode(errors="replace").decode()


def _restarts(state: BrokerState, shard: Shard) -> int:
    record = state.supervisor.faults.get(shard.boundary)
    return 0 if record is None else record.count
