"""Keeps committed offsets: runs the state machines of `group` on ``__consumer_offsets``.

The topic is created on first use. A command is decided in pure code, its records are appended
like any other batch, and they are replayed into the state in the order they have in the log, at
the moment they are durable; only then is the command answered.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import trio

from trio_broker.broker.append_slot import AwaitedAppend
from trio_broker.errors import CorruptLog, CorruptRecords, ErrorCode, StorageError
from trio_broker.group.offsets import CommittedOffsets, OffsetToCommit
from trio_broker.group.partitioning import offsets_partition
from trio_broker.group.schemas import OffsetCommitValue
from trio_broker.metadata.decisions import NewTopic
from trio_broker.names import OFFSETS_TOPIC_NAME, TopicName
from trio_broker.records.batch import read_header
from trio_broker.records.build import Record, build_batch
from trio_broker.records.iterate import iterate_batches, iterate_records

if TYPE_CHECKING:
    from trio_broker.broker.replica import Replica
    from trio_broker.broker.state import BrokerState
    from trio_broker.broker.topics import RoutedTopic
    from trio_broker.group.decision import CoordinatorRecord

logger = logging.getLogger("trio_broker.groups")

#: A commit that is not durable by then is answered with REQUEST_TIMED_OUT (Kafka:
#: offsets.commit.timeout.ms); it may still come true.
COMMIT_SECONDS_MAX = 5.0
_LOAD_BYTES = 1024 * 1024
_SNAPSHOT_RECORDS_PER_BATCH = 500

#: What a client is told when the append to ``__consumer_offsets`` fails, as Kafka translates it.
_TRANSLATED = {
    ErrorCode.UNKNOWN_TOPIC_OR_PARTITION: ErrorCode.COORDINATOR_NOT_AVAILABLE,
    ErrorCode.NOT_ENOUGH_REPLICAS: ErrorCode.COORDINATOR_NOT_AVAILABLE,
    ErrorCode.LEADER_NOT_AVAILABLE: ErrorCode.COORDINATOR_NOT_AVAILABLE,
    ErrorCode.NOT_LEADER_OR_FOLLOWER: ErrorCode.NOT_COORDINATOR,
    ErrorCode.KAFKA_STORAGE_ERROR: ErrorCode.NOT_COORDINATOR,
    ErrorCode.MESSAGE_TOO_LARGE: ErrorCode.INVALID_COMMIT_OFFSET_SIZE,
    ErrorCode.RECORD_LIST_TOO_LARGE: ErrorCode.INVALID_COMMIT_OFFSET_SIZE,
}


class GroupSummary(NamedTuple):
    """A group, for statistics.

    Attributes:
        group_id: its name.
        members: how many consumers are in it; None where membership is not managed here.
        offsets: what it has committed, by topic and partition; not to be changed.
    """

    group_id: str
    members: int | None
    offsets: Mapping[TopicName, Mapping[int, OffsetCommitValue]]


class _Append(AwaitedAppend):
    """Records on their way into the log; replayed at the moment they are durable."""

    __slots__ = ("_partition", "_records")

    def __init__(self, partition: _OffsetsPartition, records: Sequence[CoordinatorRecord]) -> None:
        super().__init__()
        self._partition = partition
        self._records = records

    def slot_resolved(self) -> None:
        """Take the records into the state, in the order of the log, if they were stored."""
        self._partition.appends_under_way -= 1
        if self.slots[0].code is ErrorCode.NONE:
            self._partition.replay(self._records)
        super().slot_resolved()


class _OffsetsPartition:
    """One partition of ``__consumer_offsets`` and the state its records make up.

    Attributes:
        replica: None if its log dir is not configured any more.
        offsets: what the log says, once it is loaded.
        is_loaded: before, nobody knows what was committed, which is not the same as nothing.
        loading: held while the log is read.
        appends_under_way: records not yet in `offsets`.
    """

    def __init__(self, replica: Replica | None, offsets: CommittedOffsets) -> None:
        self.replica = replica
        self.offsets = offsets
        self.is_loaded = False
        self.loading = trio.Lock()
        self.appends_under_way = 0

    def replay(self, records: Sequence[CoordinatorRecord]) -> None:
        for key, value in records:
            self.offsets.replay(key, value)

    def begin_append(self, records: Sequence[CoordinatorRecord], now_ms: int) -> _Append:
        """Queue records as one batch; only once it is loaded."""
        assert self.replica is not None
        batch = build_batch(
            [Record(key=key, value=value, timestamp_ms=now_ms) for key, value in records]
        )
        append = _Append(self, records)
        self.appends_under_way += 1
        append.submit(self.replica, batch, read_header(batch))
        return append


class GroupCoordinator:
    """Committed offsets of all groups. This broker coordinates every one of them."""

    def __init__(self, state: BrokerState) -> None:
        self._state = state
        self._partitions: list[_OffsetsPartition] = []
        self._creating = trio.Lock()

    async def load(self) -> None:
        """Rebuild the state from the log; called once, before clients are served.

        A partition that is offline or cannot be read now is loaded when somebody asks for it.
        """
        routed = self._state.router.by_name.get(OFFSETS_TOPIC_NAME)
        if routed is not None:
            await self._take_over(routed)

    async def load_group(self, group_id: str) -> ErrorCode:
        """Make sure that what a group has committed is known; else return what to tell it."""
        if not self._partitions:
            return ErrorCode.NONE  # nobody has committed anything
        partition = self._partition_of(group_id)
        await self._load(partition)
        return ErrorCode.NONE if partition.is_loaded else ErrorCode.COORDINATOR_LOAD_IN_PROGRESS

    async def commit(
        self,
        group_id: str,
        offsets: Sequence[OffsetToCommit],
        *,
        generation: int,
        retention_ms: int,
    ) -> list[ErrorCode]:
        """Commit offsets; return a code for each, once they are durable.

        See `CommittedOffsets.handle_commit` for the arguments.

        Cancellation: unknown.
        """
        partition = await self._partition_for(group_id)
        if partition is None:
            return [ErrorCode.COORDINATOR_NOT_AVAILABLE] * len(offsets)
        await self._load(partition)
        if not partition.is_loaded:
            return [ErrorCode.COORDINATOR_LOAD_IN_PROGRESS] * len(offsets)
        now_ms = self._state.host.wall.now_ms()
        decision = partition.offsets.handle_commit(
            group_id=group_id,
            offsets=offsets,
            now_ms=now_ms,
            generation=generation,
            retention_ms=retention_ms,
        )
        if not decision.records:
            return decision.reply
        failure = await self._append(partition, decision.records, now_ms)
        return [code or failure for code in decision.reply]

    def committed(self, group_id: str) -> CommittedOffsets | None:
        """Return the state that holds a group, or None if nothing was ever committed.

        Complete only after a successful `load_group`.
        """
        if not self._partitions:
            return None
        return self._partition_of(group_id).offsets

    def summaries(self) -> Iterator[GroupSummary]:
        """Yield every group that is known, for statistics; not to be interleaved with awaits."""
        for partition in self._partitions:
            for group_id in partition.offsets.group_ids:
                yield GroupSummary(group_id, None, partition.offsets.fetch_all(group_id))

    async def forget_topics(self, names: Sequence[TopicName]) -> None:
        """Forget what was committed for topics that are gone, as Kafka does."""
        now_ms = self._state.host.wall.now_ms()
        for partition in self._partitions:
            decision = partition.offsets.handle_topics_deleted(names)
            if decision.records:
                failure = await self._append(partition, decision.records, now_ms)
                if failure:
                    # Harmless: offsets carry the topic's id, so a new topic does not see them.
                    logger.warning("offsets of deleted topics stay for now: %s", failure.name)

    async def shorten_logs(self) -> None:
        """Where the log has rolled, write the whole state again and drop what came before.

        This keeps ``__consumer_offsets`` within about two segments for each partition. Skipped
        while a commit is under way, whose record would be before the new beginning.
        """
        for partition in self._partitions:
            replica = partition.replica
            if replica is None or not replica.has_log or not partition.is_loaded:
                continue
            log = replica.log
            if log.segment_count < 2 or partition.appends_under_way:
                continue
            records = list(partition.offsets.live_records())
            chunks = [
                records[at : at + _SNAPSHOT_RECORDS_PER_BATCH]
                for at in range(0, len(records), _SNAPSHOT_RECORDS_PER_BATCH)
            ]
            start_offset = log.log_end_offset
            now_ms = self._state.host.wall.now_ms()
            appends = [partition.begin_append(chunk, now_ms) for chunk in chunks]
            for append in appends:
                await append.wait()
            if all(append.slots[0].code is ErrorCode.NONE for append in appends):
                await replica.shard.advance_start_offset(replica, start_offset)

    async def _append(
        self, partition: _OffsetsPartition, records: Sequence[CoordinatorRecord], now_ms: int
    ) -> ErrorCode:
        """Append, wait until durable; return NONE or what to tell the client."""
        append = partition.begin_append(records, now_ms)
        with trio.move_on_after(COMMIT_SECONDS_MAX) as patience:
            await append.wait()
        if patience.cancelled_caught:
            return ErrorCode.REQUEST_TIMED_OUT
        code = append.slots[0].code
        return _TRANSLATED.get(code, code)

    async def _partition_for(self, group_id: str) -> _OffsetsPartition | None:
        if not self._partitions:
            await self._create()
        if not self._partitions:
            return None
        return self._partition_of(group_id)

    def _partition_of(self, group_id: str) -> _OffsetsPartition:
        return self._partitions[offsets_partition(group_id, len(self._partitions))]

    async def _create(self) -> None:
        """Create ``__consumer_offsets``, which is not needed before somebody commits."""
        group = self._state.config.group
        async with self._creating:
            if self._partitions:
                return
            wanted = NewTopic(
                name=OFFSETS_TOPIC_NAME,
                partitions=group.offsets_topic_partitions,
                configs=(
                    ("retention.ms", "-1"),
                    ("retention.bytes", "-1"),
                    ("segment.bytes", str(group.offsets_topic_segment_bytes)),
                ),
            )
            [result] = await self._state.controller.create_topics([wanted])
            routed = self._state.router.by_name.get(OFFSETS_TOPIC_NAME)
            if routed is None:
                logger.error("cannot create %s: %s", OFFSETS_TOPIC_NAME, result.message)
            else:
                await self._take_over(routed)

    async def _take_over(self, routed: RoutedTopic) -> None:
        partitions = [
            _OffsetsPartition(replica, self._empty_state()) for replica in routed.replicas
        ]
        for partition in partitions:
            await self._load(partition)
        self._partitions = partitions

    async def _load(self, partition: _OffsetsPartition) -> None:
        """Take in a partition's log, if that has not been done and can be done now."""
        if partition.is_loaded:
            return
        async with partition.loading:
            await self._load_alone(partition)

    async def _load_alone(self, partition: _OffsetsPartition) -> None:
        replica = partition.replica
        if partition.is_loaded or replica is None or replica.refusal:
            return
        partition.offsets = self._empty_state()
        try:
            await self._replay_log(partition, replica)
        except (StorageError, OSError) as error:
            logger.error("%r: committed offsets cannot be read now: %s", replica, error)
        else:
            partition.is_loaded = True

    def _empty_state(self) -> CommittedOffsets:
        limits = self._state.config.limits
        return CommittedOffsets(
            groups_max=limits.groups_max, metadata_bytes_max=limits.offset_metadata_bytes_max
        )

    async def _replay_log(self, partition: _OffsetsPartition, replica: Replica) -> None:
        log = replica.log
        offset = log.log_start_offset
        while offset < log.log_end_offset:
            plan = log.locate(offset, max_bytes=_LOAD_BYTES, upper_offset=log.log_end_offset)
            if plan is None:
                raise CorruptLog(f"{log!r} has no offset {offset}")
            buffers = await replica.shard.lane.run(log.read_job(plan))
            data = b"".join(buffers)
            if not data:
                raise CorruptLog(f"{log!r} has nothing at offset {offset}")
            for header, batch in iterate_batches(data):
                for record in iterate_records(batch, bytes_max=_LOAD_BYTES * 64):
                    if record.offset >= offset:
                        self._replay_record(partition, record)
                offset = max(offset, header.last_offset + 1)

    def _replay_record(self, partition: _OffsetsPartition, record: Record) -> None:
        try:
            partition.offsets.replay(record.key or b"", record.value)
        except CorruptRecords as error:
            logger.error(  # the batch's checksum holds, so a newer version may have written it
                "%s: record at offset %d is not understood: %s",
                OFFSETS_TOPIC_NAME,
                record.offset,
                error,
            )
