"""What must be true of a broker whatever happens to it, and how that is looked at.

| | invariant | looked at |
|---|---|---|
| I1 | nothing acknowledged or read is lost, as far as the durability goes | each start, end |
| I2 | one value per offset, for every reader and for good | always |
| I3 | a producer's records in its order, with idempotence each of them once | each audit |
| I4 | high watermark and start offset never go back, nobody reads beyond the first | reads |
| I5 | a group finds the offsets that it has committed | commits |
| I6 | a request gets one answer or its connection ends; what was refused is not stored | clients |
| I7 | no task but those that the present replicas and connections need | quiet |
| I8 | no open file but those of living replicas, no directory of deleted ones | quiet, end |
| I9 | a stop ends within its deadline and leaves nothing to recover | each stop |
| I10 | once faults are over, every partition takes and serves records | the end |
| I11 | a log is no longer than its retention allows | quiet |
| I12 | a fault stays where it is: beside it every request is answered, in time | faults of paths |
| I13 | nothing counts as under way when nothing is | quiet |
| I14 | no deadlock, no fault that a boundary had to take | always |

An audit reads the bytes of every log from the simulated disk, beside the broker and without its
help, and compares them with the model and with what the broker says of itself. All functions here
are synchronous looks; none of them takes time or changes anything.
"""

from __future__ import annotations

import posixpath
from collections import Counter
from itertools import takewhile
from typing import TYPE_CHECKING

import trio
from attrs import frozen

from trio_broker.broker.broker import HURRY_SECONDS
from trio_broker.errors import CorruptRecords
from trio_broker.names import INTERNAL_TOPIC_NAMES
from trio_broker.records.iterate import iterate_batches, iterate_records
from trio_broker.storage import paths
from trio_broker.testing.brokers import Ending, directory_of
from trio_broker.testing.model import StoredRecord, Violation
from trio_broker.testing.sim.host import SimWallClock
from trio_broker.testing.topic_settings import values_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from trio.lowlevel import Task

    from trio_broker.broker.append_slot import AppendSlot
    from trio_broker.broker.replica import Replica
    from trio_broker.records.batch import BatchHeader
    from trio_broker.testing.brokers import Life
    from trio_broker.testing.model import Model, PartitionModel, TopicModel

#: A stop that ends so much later than its deadline is late.
STOP_SLACK_SECONDS = 1.0
_RECORDS_BYTES_MAX = 64 * 1024 * 1024
#: What a record takes besides its value, alone in its batch.
_RECORD_OVERHEAD_BYTES = 80
#: Tasks that come and go with these names are counted one by one.
_PER_REPLICA = "trio_broker.broker.shard_replicas.ShardReplicas._live"
_ROOT = ".open_broker.<locals>.run_tree"
_PER_CLIENT = "trio_broker.broker.listeners._serve_client"


# ----------------------------------------------------------------------------------------- topics


def see_topics(model: Model, life: Life, now: float) -> None:
    """Compare the topics that a broker has with those it should have; the model follows.

    Raises:
        Violation: a topic is there or gone that should not be.
    """
    state = life.state
    image = state.controller.image
    for name, found in image.topics_by_name.items():
        routed = state.router.by_id.get(found.topic_id)
        if routed is None or name in INTERNAL_TOPIC_NAMES:
            continue
        # What is committed is in effect a moment later.
        durability = found.config.durability or state.config.storage.durability
        topic = model.topic_found(
            name, found.topic_id, found.config, durability, len(found.partitions), now
        )
        topic.gave_way = topic.gave_way or routed.gives_way
        # Clients may ask for those that are served, which is told to who has asked for them.
        topic.grow(len(list(takewhile(lambda replica: replica is not None, routed.replicas))))
        for partition, replica in zip(topic.partitions, routed.replicas, strict=False):
            if replica is not None:
                partition.directory = directory_of(replica)
    for topic in model.by_id.values():
        if topic.topic_id not in image.topics_by_id:
            model.topic_gone(topic, now)


# ----------------------------------------------------------------------------------------- audits


def audit(model: Model, life: Life, *, is_start: bool) -> int:
    """Compare every log that is online with the model; return how many were.

    Args:
        model: what is promised.
        life: whose broker serves.
        is_start: it has just begun to, so that everything there is durable.

    Raises:
        Violation: I1, I2, I3, I4 or I6 does not hold.
    """
    now = trio.current_time()
    see_topics(model, life, now)
    tree = life.machine.fs.tree()
    online = 0
    for replica in life.state.router.replicas():
        topic = model.by_id.get(replica.topic_partition.topic_id)
        if topic is None or topic.deletion_begun or replica.refusal:
            continue
        online += 1
        partition = topic.partitions[replica.partition]
        was_lossy = life.disk_lied_at(partition.directory)
        _audit_partition(
            model,
            partition,
            replica,
            tree,
            now,
            was_lossy=was_lossy,
            now_durable=is_start or not life.disk_failed,
        )
        if is_start:
            partition.secure_end = partition.end
        elif was_lossy:
            partition.disk_lied()
    if is_start:
        _settings_start(model, life)
    return online


def _settings_start(model: Model, life: Life) -> None:
    """Take note that what was asked for in an earlier life has come about or never will."""
    default = life.state.config.storage.durability
    model.altering.clear()
    for name, found in life.state.controller.image.topics_by_name.items():
        topic = model.by_id.get(found.topic_id)
        if topic is not None:
            replicas = life.state.router.by_name[name].replicas
            topic.settings.started(
                values_of(found.config, found.config.durability or default),
                all_seen=not any(replica is None or replica.refusal for replica in replicas),
            )


def _audit_partition(
    model: Model,
    partition: PartitionModel,
    replica: Replica,
    tree: Mapping[str, bytes | None],
    now: float,
    *,
    was_lossy: bool,
    now_durable: bool,
) -> None:
    log = replica.log
    start, end = log.log_start_offset, log.log_end_offset
    if start < partition.start:
        raise Violation(f"I4 {partition}: start offset {start}, and it was {partition.start}")
    if end < partition.owed_end:
        raise Violation(f"I1 {partition} ends at {end}, and {partition.owed_end} was promised")
    lost = [o for o in partition.known if end <= o < partition.lossy_from]
    if lost:
        raise Violation(
            f"I1 {partition} ends at {end}: {len(lost)} records from offset {min(lost)} on are lost"
        )
    is_changing = replica.shard.changes.locked()
    batches = list(read_log(tree, log.directory, start, end, is_changing=is_changing))
    _check_order(partition, batches)
    records = [
        StoredRecord(record.offset, record.value or b"")
        for _, batch in batches
        for record in iterate_records(batch, bytes_max=_RECORDS_BYTES_MAX)
        if record.offset >= start
    ]
    if [record.offset for record in records] != list(range(start, end)):
        raise Violation(f"I1 {partition} {start}..{end} has a gap in {records}")
    for record in records:
        if not model.was_sent(partition, record.value):
            raise Violation(f"I2 {partition}: nobody sent {record} here")
        if record.value in partition.never:
            reason = partition.never[record.value]
            raise Violation(f"I6 {partition}: {record} is stored, but was refused: {reason}")
    trimmed_to = model.may_trim.get((partition.topic.name, partition.index), 0)
    if start > max(partition.start, trimmed_to) and not was_lossy:
        _check_retention(model, partition, start, log.size_bytes, replica)
    # A start offset that the disk would not take holds until a restart; its client was told.
    is_certain = now_durable or not trimmed_to
    partition.audited(start if is_certain else partition.start, end, records, now)


def read_log(
    tree: Mapping[str, bytes | None],
    directory: str,
    start: int,
    end: int,
    *,
    is_changing: bool = False,
) -> Iterator[tuple[BatchHeader, memoryview]]:
    """Yield the batches of a log that hold offsets from `start` to `end`, as they are on disk.

    Args:
        tree: of the disk.
        directory: of the replica.
        start: its start offset.
        end: its end offset; what comes behind it was never published.
        is_changing: segments may be about to be deleted, which is not published yet: their files
            have their other name already.

    Raises:
        Violation: there is something else between them than batches, one after the other.
    """
    # Empty files are made for what is then taken back, and may come back after a power cut.
    names = [path for path in tree if posixpath.dirname(path) == directory and tree[path]]
    of_base = {}
    for suffix in (paths.LOG_SUFFIX + paths.DELETED_SUFFIX, paths.LOG_SUFFIX):
        if is_changing or suffix == paths.LOG_SUFFIX:
            for base in paths.offsets_of(map(posixpath.basename, names), suffix):
                of_base[base] = f"{directory}/{paths.offset_name(base, suffix)}"
    bases = sorted(of_base)
    for base, next_base in zip(bases, [*bases, end][1:], strict=False):
        data = tree[of_base[base]]
        assert data is not None
        try:
            for header, batch in iterate_batches(data):
                if header.base_offset >= min(next_base, end):
                    break
                if header.last_offset >= start:
                    yield header, batch
        except CorruptRecords as error:
            raise Violation(f"I1 {directory} is damaged at {base}: {error}") from error


def _check_order(partition: PartitionModel, batches: list[tuple[BatchHeader, memoryview]]) -> None:
    """I3: offsets without gaps, epochs that rise, sequences without gaps or repetition."""
    sequences: dict[tuple[int, int], int] = {}
    epoch = -1
    offset: int | None = None
    for header, _ in batches:
        if offset is not None and header.base_offset != offset:
            raise Violation(f"I3 {partition}: offset {header.base_offset} follows {offset}")
        offset = header.last_offset + 1
        if header.leader_epoch < epoch:
            raise Violation(f"I4 {partition}: leader epoch {header.leader_epoch} after {epoch}")
        epoch = header.leader_epoch
        if header.producer_id < 0:
            continue
        producer = header.producer_id, header.producer_epoch
        expected = sequences.get(producer)
        if expected is not None and header.base_sequence != expected:
            raise Violation(
                f"I3 {partition}: sequence {header.base_sequence} of producer {producer} at offset"
                f" {header.base_offset}, {expected} was due"
            )
        sequences[producer] = header.last_sequence + 1


def _check_retention(
    model: Model, partition: PartitionModel, start: int, size_bytes: int, replica: Replica
) -> None:
    """I1: what is gone was old enough, or there was enough of it, or the disk was full."""
    settings = partition.topic.settings
    bytes_kept, ms_kept = settings.lately("retention_bytes"), settings.lately("retention_ms")
    if any(0 <= most <= size_bytes for most in bytes_kept):
        return
    if model.disk_was_full and partition.topic.gave_way:
        return
    wall = replica.shard.log_dir._state.host.wall
    offset_ms = wall.offset_ms if isinstance(wall, SimWallClock) else 0
    now_ms = wall.now_ms() - offset_ms + model.wall_ahead_ms
    # What had gone before the latest look has been judged by what was left then. Of the rest, the
    # oldest may have gone by size when there was still what has gone by age since.
    left_bytes, newest_ms = size_bytes, 0
    for offset in sorted(
        (o for o in partition.known if partition.start <= o < start), reverse=True
    ):
        value = partition.known[offset]
        newest_ms = partition.sent.get(value, 0)
        if not any(0 <= most < now_ms - newest_ms for most in ms_kept):
            break
        left_bytes += len(value) + _RECORD_OVERHEAD_BYTES
    else:
        return
    if any(0 <= most <= left_bytes for most in bytes_kept):
        return
    raise Violation(
        f"I1 {partition}: records up to {start} are gone, {size_bytes} bytes are left, the newest"
        f" that went was {now_ms - newest_ms} ms old; retention.bytes was of {bytes_kept},"
        f" retention.ms of {ms_kept}"
    )


# ------------------------------------------------------------------------------ what the broker has


@frozen
class Footprint:
    """What a broker has when it has just started: nothing of what comes later is left at the end.

    Attributes:
        tasks: how many of each name.
        files: open, by owner.
    """

    tasks: Counter[str]
    files: Counter[str]

    @classmethod
    def of(cls, life: Life) -> Footprint:
        """Look at a broker now."""
        files = Counter(file.owner for file in life.machine.fs.open_files())
        return cls(count_tasks(life), files)


def count_tasks(life: Life) -> Counter[str]:
    """Count the tasks of a broker by their names."""
    assert life.task is not None
    roots = [task for task in _tasks_below(life.task) if task.name.endswith(_ROOT)]
    return Counter(task.name for root in roots for task in _tasks_below(root))


def _tasks_below(root: Task) -> Iterator[Task]:
    waiting = [root]
    while waiting:
        task = waiting.pop()
        yield task
        for nursery in task.child_nurseries:
            waiting.extend(nursery.child_tasks)


def check_quiet(life: Life, before: Footprint, clients: int) -> None:
    """Check I7, I8 and I13: nobody asks for anything, so nothing is held for anybody.

    Args:
        life: whose broker serves, and has had nothing to do for a while.
        before: what it had at its start, without any topic but internal ones.
        clients: connections that are open.

    Raises:
        Violation: something is left over, or missing.
    """
    state = life.state
    replicas = list(state.router.replicas())
    tasks = count_tasks(life)
    expected = Counter(before.tasks)
    expected[_PER_REPLICA] = len(replicas)
    expected[_PER_CLIENT] = clients
    if +tasks != +expected:
        raise Violation(
            f"I7 tasks: {dict(tasks - expected)} too many, {dict(expected - tasks)} missing;"
            f" {list(state.clients)}"
        )
    if len(state.clients) != clients:
        raise Violation(f"I7 {len(state.clients)} clients instead of {clients}")
    owners = {paths.owner_name(replica.topic_partition) for replica in replicas}
    for file in life.machine.fs.open_files():
        if file.owner.startswith("replica/") and file.owner not in owners | set(before.files):
            raise Violation(f"I8 {file.owner} is gone and has {file.path} open")
    check_nothing_under_way(life)


def check_nothing_under_way(life: Life) -> None:
    """Check I13: no bytes of requests, replies or queues are counted, nobody waits.

    Raises:
        Violation: some are.
    """
    state = life.state
    for name, pool in (("request", state.request_memory), ("response", state.response_memory)):
        if pool.used_bytes:
            raise Violation(f"I13 {pool.used_bytes} bytes of {name}s are under way")
    for log_dir in state.log_dirs:
        for shard in log_dir.shards:
            if shard.queued_bytes:
                raise Violation(f"I13 {shard.queued_bytes} bytes are queued in {shard!r}")
    if state.controller.work_under_way():
        raise Violation(f"I13 still under way: {state.controller.work_under_way()}")


def check_deleted(life: Life, topic: TopicModel) -> None:
    """Check I6 and I8 at the moment a deletion is acknowledged: no task, file, route, or batch.

    Raises:
        Violation: something of the topic is left.
    """
    prefix = f"replica/{topic.topic_id}-"
    held = [file.path for file in life.machine.fs.open_files() if file.owner.startswith(prefix)]
    if held:
        raise Violation(f"I8 {topic} is deleted, and open are {held}")
    if topic.topic_id in life.state.router.by_id:
        raise Violation(f"I8 {topic} is deleted, and requests still find it")
    if waiting := [slot for slot in _open_slots(life) if _is_of(slot, topic)]:
        raise Violation(f"I6 {topic} is deleted, and {len(waiting)} batches for it have no answer")
    for log_dir in life.state.log_dirs:
        for shard in log_dir.shards:
            left = [tp for tp in shard.replicas if tp.topic_id == topic.topic_id]
            if left:
                raise Violation(f"I8 {topic} is deleted, and {shard!r} still has {left}")


def _open_slots(life: Life) -> Iterator[AppendSlot]:
    """Yield every batch that some client waits for."""
    for connection in life.state.clients:
        for request in connection._pending:
            for _, _, slots in request._topics:
                yield from (slot for _, slot in slots if not slot.resolved)


def _is_of(slot: AppendSlot, topic: TopicModel) -> bool:
    return slot.replica is not None and slot.replica.topic_partition.topic_id == topic.topic_id


def check_directories(model: Model, life: Life) -> None:
    """Check I8 once housekeeping has had its time: nothing of deleted topics is on the disk.

    Raises:
        Violation: something is.
    """
    deleted = tuple(str(topic.topic_id) for topic in model.by_id.values() if topic.is_deleted)
    for path in life.machine.fs.tree():
        name = posixpath.basename(path)
        if posixpath.basename(posixpath.dirname(path)) == paths.QUARANTINE_NAME:
            continue  # what nobody can vouch for is kept for people to look at
        if name.endswith(paths.DELETED_SUFFIX) or (deleted and name.startswith(deleted)):
            raise Violation(f"I8 {path} is still on the disk")


def check_retention(model: Model, life: Life) -> None:
    """Check I11 once housekeeping has had its time: no log is longer than it may be.

    Raises:
        Violation: one is.
    """
    now_ms = life.machine.wall.now_ms()
    for replica in life.state.router.replicas():
        topic = model.by_id.get(replica.topic_partition.topic_id)
        if topic is None or replica.refusal:
            continue
        config, log = topic.config, replica.log
        partition = topic.partitions[replica.partition]
        # Whole segments go, and those of an earlier configuration may be large ones.
        rest_bytes = log.size_bytes - (log.segments[0].size_bytes if log.segment_count else 0)
        if 0 <= config.retention_bytes <= rest_bytes and rest_bytes:
            raise Violation(
                f"I11 {partition} has {log.size_bytes} bytes, and {rest_bytes} without the oldest"
                f" segment, {config.retention_bytes} are to be kept"
            )
        if config.retention_ms >= 0 and log.size_bytes and log.segment_count:
            newest_ms = max(log.max_timestamp, 0)
            if now_ms - newest_ms > config.retention_ms:
                raise Violation(f"I11 {partition}: all of it is {now_ms - newest_ms} ms old")


# ------------------------------------------------------------------------------------------- ends


def check_end(life: Life) -> None:
    """Check a life that is over: I8, I9, I13 and I14.

    Raises:
        Violation: files stay open, the stop was late, or not clean for no reason.
    """
    if life.broker is None:
        return
    check_faults(life)
    if life.ending not in {Ending.STOPPED, Ending.CANCELLED}:
        return
    seconds_max = HURRY_SECONDS
    if life.ending is Ending.STOPPED:
        config = life.state.config.shutdown
        seconds_max = config.deadline_seconds + config.ready_grace_seconds
    took = life.ended_at - life.stop_asked_at
    if took > seconds_max + STOP_SLACK_SECONDS:
        raise Violation(f"I9 the stop of {life} took {took:.3f} s, {seconds_max} are allowed")
    held = [file.path for file in life.machine.fs.open_files()]
    if held and not life.disk_lied:
        raise Violation(f"I8 after {life} are open: {held}")
    check_memory_at_end(life)
    if life.ending is Ending.STOPPED and not life.disk_failed:
        report = life.report
        if report is None:
            raise Violation(f"I9 {life} has no report")
        unexplained = [each for each in report.failures if not _explained(life, each)]
        if unexplained or report.clean is bool(report.failures):
            raise Violation(f"I9 {life} was not clean: {report} {report.failures}")


def _explained(life: Life, failure: str) -> bool:
    """Say whether a stop cannot vouch for a replica that waits for an operator.

    In an earlier life an fsync has failed, and what was acknowledged before it is damaged.
    """
    return any(
        paths.ACCEPT_LOSS_NAME in replica.cause and directory_of(replica) in failure
        for replica in life.state.router.replicas()
    )


def check_memory_at_end(life: Life) -> None:
    """Check I13 after a stop."""
    state = life.state
    for name, pool in (("request", state.request_memory), ("response", state.response_memory)):
        if pool.used_bytes:
            raise Violation(f"I13 after {life} {pool.used_bytes} bytes of {name}s are counted")
    if state.clients:
        raise Violation(f"I13 after {life} there are {list(state.clients)}")


def check_faults(life: Life) -> None:
    """Check I14: boundaries have taken nothing but what the disk explains.

    Raises:
        Violation: one has taken a bug.
    """
    for boundary, record in life.state.supervisor.faults.items():
        if boundary.startswith("log dir ") and life.disk_failed:
            continue
        raise Violation(f"I14 {boundary} took {record.count} faults, the last {record.last_cause}")


def check_trusted(life: Life, before: Life) -> None:
    """Check I9: what a clean stop has left was believed, and nothing scanned.

    Replicas that were still being created when a stop was in a hurry have nothing to be believed.
    Nor have those that were offline: a stop makes their files durable, and the next start reads
    them, since something was wrong with them. That may be lives after the fault that took them.

    Args:
        life: which has just begun.
        before: the one before it, which stopped cleanly.

    Raises:
        Violation: a log was scanned all the same.
    """
    not_closed = {
        replica.topic_partition
        for replica in before.state.router.replicas()
        # The cause outlives the closing; the state does not.
        if replica.cause and replica.topic_partition not in replica.shard.summaries
    }
    for replica in life.state.router.replicas():
        if not replica.has_log or replica.log.recovery.is_trusted:
            continue
        if replica.topic_partition in not_closed:
            continue
        if replica.log.recovery.bytes_scanned or replica.log.log_end_offset:
            raise Violation(f"I9 {replica!r} was scanned after a clean stop")
