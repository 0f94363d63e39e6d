"""A replica: this broker's running copy of one partition.

Owns the `Log` (and through it the files), the queue position of batches not yet written, and the
fetches that wait for data. One task is its lifetime; its shard starts it, closes it and is the
boundary for its faults. Nothing here touches a disk: batches go to the shard's writer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from typing import TYPE_CHECKING

import trio

from trio_broker.broker.supervise import Backoff
from trio_broker.errors import ErrorCode
from trio_broker.replication.leader_epochs import EpochEnd

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_broker.broker.append_slot import AppendSlot
    from trio_broker.broker.shard import Shard
    from trio_broker.broker.topics import RoutedTopic
    from trio_broker.names import LeaderEpoch, TopicPartition
    from trio_broker.records.batch import BatchHeader
    from trio_broker.replication.producer_state import ProducerStateTable
    from trio_broker.storage.log import Log


class ReplicaState(Enum):
    """Where a replica is in its life."""

    STARTING = "starting"  # its log is being opened, possibly recovered
    ONLINE = "online"
    OFFLINE = "offline"  # a fault or its disk took it; the shard tries again
    CLOSING = "closing"  # intake is closed, queued work is being answered
    CLOSED = "closed"


#: What a request gets while a replica is not online.
_REFUSALS = {
    ReplicaState.STARTING: ErrorCode.LEADER_NOT_AVAILABLE,
    ReplicaState.OFFLINE: ErrorCode.KAFKA_STORAGE_ERROR,
    ReplicaState.CLOSING: ErrorCode.NOT_LEADER_OR_FOLLOWER,
    ReplicaState.CLOSED: ErrorCode.NOT_LEADER_OR_FOLLOWER,
}


class FetchWaiter:
    """One parked fetch: wakes once enough bytes have arrived on its partitions, or on trouble."""

    __slots__ = ("_event", "missing_bytes")

    def __init__(self, missing_bytes: int) -> None:
        self.missing_bytes = missing_bytes
        self._event = trio.Event()

    def arrived(self, size_bytes: int) -> None:
        """Count bytes that have become readable."""
        self.missing_bytes -= size_bytes
        if self.missing_bytes <= 0:
            self._event.set()

    def wake(self) -> None:
        """Wake now: a partition is going away, or the broker is."""
        self._event.set()

    async def wait(self) -> None:
        """Wait to be woken. Cancellation has no effect on anything else."""
        await self._event.wait()


class Replica:
    """The running copy of one partition.

    Attributes:
        boundary: name of the boundary at which its faults stop.
        refusal: the code requests get while it is not online.
        after_failed_sync: an fsync of the log last open has failed, so its pages in the cache may
            lie.
        is_durable: what is acknowledged is known to be on stable storage, as far as no log is open
            that would know.
        may_be_made: its directory may be made if it is not there: nothing was ever stored in it.
        is_missing: its directory was there, and is gone; an operator has to decide.
        cause: why it is offline, for the error message of refused requests.
        when_refusing: called when it goes offline or closes, after its queued batches are refused;
            must not raise and must not block.
    """

    __slots__ = (
        "_backoff",
        "_changes",
        "_has_ended",
        "_helpers",
        "_is_told_to_leave",
        "_log",
        "_parked",
        "_refused",
        "_start_offset",
        "after_failed_sync",
        "boundary",
        "cause",
        "closed_code",
        "is_durable",
        "is_missing",
        "leader_epoch",
        "may_be_made",
        "partition",
        "shard",
        "state",
        "topic",
        "topic_partition",
        "waiters",
        "when_refusing",
    )

    def __init__(
        self,
        *,
        shard: Shard,
        topic: RoutedTopic,
        topic_partition: TopicPartition,
        leader_epoch: LeaderEpoch,
    ) -> None:
        self.shard = shard
        self.topic = topic
        self.topic_partition = topic_partition
        self.partition = topic_partition.partition
        self.boundary = f"replica {topic.name}-{self.partition}"
        self.leader_epoch = leader_epoch
        self.state = ReplicaState.STARTING
        self.closed_code = ErrorCode.NOT_LEADER_OR_FOLLOWER
        self.cause = ""
        self._log: Log | None = None
        self._refused: ProducerStateTable | None = None  # while no log is open
        self._start_offset = 0  # of the log last open; the disk may not know of it
        self.after_failed_sync = False
        self.is_durable = True
        self.may_be_made = False
        self.is_missing = False
        self.waiters: dict[FetchWaiter, None] = {}
        self.when_refusing: Callable[[], None] | None = None
        self._parked: trio.lowlevel.Task | None = None
        self._is_told_to_leave = False
        self._has_ended = False
        self._helpers = 0
        # There may be ten thousand replicas, so what few of them need is made when it is needed.
        self._backoff: Backoff | None = None
        self._changes: trio.lowlevel.ParkingLot | None = None

    def __repr__(self) -> str:
        text = f"<Replica {self.topic.name}-{self.partition} {self.state.value}"
        if self.state is ReplicaState.ONLINE and self.has_log:
            text += (
                f" epoch={self.leader_epoch} start={self.log.log_start_offset}"
                f" leo={self.log.log_end_offset} hw={self.high_watermark}"
            )
        return text + ">"

    @property
    def log(self) -> Log:
        """The open log; only to be asked for while `has_log`."""
        assert self._log is not None, f"{self!r} has no log"
        return self._log

    @property
    def has_log(self) -> bool:
        """Whether a log is open: always while online, possibly while closing or offline."""
        return self._log is not None

    @property
    def high_watermark(self) -> int:
        """First offset that consumers may not read yet.

        The log end offset moves only after the commit it belongs to (in fsync mode: once it is
        durable), so on a single replica the two are one.
        """
        return self.log.log_end_offset

    @property
    def last_stable_offset(self) -> int:
        """First offset that read_committed consumers may not read; no transaction is ever open."""
        return self.log.log_end_offset

    @property
    def refusal(self) -> ErrorCode:
        """What a request gets now, NONE while online."""
        if self.state is ReplicaState.ONLINE:
            return ErrorCode.NONE
        if self.is_closing:
            return self.closed_code
        return _REFUSALS[self.state]

    @property
    def is_closing(self) -> bool:
        """Whether it has been told to end, or has ended."""
        # Asked for every batch: comparing costs a tenth of looking a member up in a set.
        return self.state is ReplicaState.CLOSING or self.state is ReplicaState.CLOSED

    def epoch_fault(self, claimed_epoch: int) -> ErrorCode:
        """Compare a client's idea of the leader epoch with ours (KIP-320); -1 claims nothing."""
        if claimed_epoch < 0 or claimed_epoch == self.leader_epoch:
            return ErrorCode.NONE
        if claimed_epoch < self.leader_epoch:
            return ErrorCode.FENCED_LEADER_EPOCH
        return ErrorCode.UNKNOWN_LEADER_EPOCH

    def epoch_end(self, epoch: int) -> EpochEnd:
        """Find where the largest leader epoch not above `epoch` ended; only while online.

        Epochs in which nothing was written are in no log. They begin and end where the last one
        with records ends, as in Apache Kafka, which notes an epoch when its leader begins.
        """
        log = self.log
        end_offset = log.log_end_offset
        if epoch == self.leader_epoch:
            return EpochEnd(epoch, end_offset)
        latest = log.epochs.latest
        if 0 <= epoch < self.leader_epoch and (latest is None or latest.epoch < epoch):
            return EpochEnd(epoch if latest is None else latest.epoch, end_offset)
        return log.epochs.end_offset_for(epoch, end_offset)

    def append(self, slot: AppendSlot) -> None:
        """Queue a batch for the shard's writer; never blocks, never raises.

        The caller has made sure that the shard's queue has room.
        """
        if self.state is ReplicaState.ONLINE:
            self.shard.enqueue(slot)
        else:
            self.refuse(slot, self.refusal, self.cause or None)

    def answer_duplicate(self, slot: AppendSlot) -> bool:
        """Answer a retry whose first copy is in the log; return whether it was one.

        That needs no disk, so a retry waits for none: not for one that hangs, is full or refuses
        writes, nor for the commit under way. Otherwise its producer could be told that what is
        stored has failed, give up, or be so late with the next retry that five later batches have
        made the broker forget this one.
        """
        if self.state is not ReplicaState.ONLINE or slot.header is None:
            return False
        duplicate = self.log.find_duplicate(slot.header)
        if duplicate is None:
            return False
        slot.accept(duplicate.base_offset, duplicate.log_append_time_ms, self.log.log_start_offset)
        return True

    def refuse(self, slot: AppendSlot, code: ErrorCode, message: str | None) -> None:
        """Answer a batch that is not stored for a reason that passes."""
        if slot.header is not None and not slot.resolved:
            self.refuse_sequence(slot.header)
        slot.refuse(code, message)

    def refuse_ahead(self, slot: AppendSlot, code: ErrorCode, message: str | None) -> None:
        """Answer a batch before those that are queued: what becomes of them is not known yet.

        If one of them is of the same producer, that one decides which sequence is expected next.
        """
        if slot.header is not None and self.shard.has_queued(self, slot.header.producer_id):
            slot.refuse(code, message)
        else:
            self.refuse(slot, code, message)

    def refuse_sequence(self, header: BatchHeader) -> None:
        """Take note that a batch is not stored, or a later one of a new producer would overtake it.

        That holds for as long as this process runs, however often the log is opened again.
        """
        if self.is_closing:
            return
        now_ms = self.shard.now_ms()
        if self._log is not None:
            self._log.producers.refuse(header, now_ms)
        else:
            self._refusals().refuse(header, now_ms)

    def _refusals(self) -> ProducerStateTable:
        if self._refused is None:
            self._refused = self.shard.log_dir.new_producer_table()
        return self._refused

    def published(self, size_bytes: int) -> None:
        """Tell parked fetches that bytes have become readable."""
        for waiter in self.waiters:
            waiter.arrived(size_bytes)

    def wake_waiters(self) -> None:
        """Wake every parked fetch, to look again at a partition whose state has changed."""
        for waiter in self.waiters:
            waiter.wake()

    def go_online(self, log: Log) -> None:
        """Start serving from `log`."""
        self._log = log
        # Records that were deleted, or seen to be gone, do not come back while this process runs.
        log.advance_start_offset(min(self._start_offset, log.log_end_offset))
        self._start_offset = log.log_start_offset  # of a log that has become shorter, too
        if self._refused is not None:
            log.producers.adopt_refusals(self._refused)
            self._refused = None
        self.follow_topic()
        self.after_failed_sync = False
        self.is_durable = True  # or the log knows
        self.may_be_made = self.is_missing = False
        self.state = ReplicaState.ONLINE
        self.cause = ""

    def follow_topic(self) -> None:
        """Let the open log have the configuration of its topic, which may have changed."""
        self.log.config = self.topic.config
        self.log.durability = self.topic.durability

    def release_log(self) -> None:
        """Close the log's files, if it has any open, and forget it. Synchronous, idempotent."""
        if self._log is not None:
            log, self._log = self._log, None
            self._start_offset = max(self._start_offset, log.log_start_offset)
            self.after_failed_sync = self.after_failed_sync or log.has_failed_sync
            self.is_durable = self.is_durable and log.is_durable
            if not self.is_closing and len(log.producers):
                self._refusals().adopt_refusals(log.producers)
            log.close_files()

    def go_offline(self, cause: str) -> None:
        """Stop serving until the shard has opened the log again; queued batches are refused."""
        if self.state in {ReplicaState.STARTING, ReplicaState.ONLINE, ReplicaState.OFFLINE}:
            self.state = ReplicaState.OFFLINE
            self.cause = cause
            self.shard.refuse_queued(self, ErrorCode.KAFKA_STORAGE_ERROR, cause)
            self._tell_refusing()

    def close_intake(self, code: ErrorCode) -> None:
        """Refuse everything from now on with `code`, queued batches and parked fetches included."""
        self.state = ReplicaState.CLOSING
        self.closed_code = code
        self._tell_changed()
        self.shard.refuse_queued(self, code, None)
        self._tell_refusing()

    def _tell_refusing(self) -> None:
        self.wake_waiters()
        if self.when_refusing is not None:
            self.when_refusing()

    async def live(self) -> None:
        """Be the replica's task: lasts until `leave`, and leaves nothing waiting."""
        try:
            if not self._is_told_to_leave:
                await self._park()
        finally:
            self.release_log()
            if self.state is ReplicaState.CLOSING:
                self.state = ReplicaState.CLOSED
            else:
                self.go_offline("its shard has stopped")
            self._has_ended = True
            self._tell_changed()

    async def _park(self) -> None:
        self._parked = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._unpark)

    def _unpark(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._parked = None
        return trio.lowlevel.Abort.SUCCEEDED

    def leave(self) -> None:
        """Let the replica's task end. Idempotent; good for one `live`, also one yet to begin.

        A cancel scope would do the same, and take a tenth of what a replica takes in memory.
        """
        self._is_told_to_leave = True
        if self._parked is not None:
            task, self._parked = self._parked, None
            trio.lowlevel.reschedule(task)

    def prepare_restart(self) -> None:
        """Make a replica whose task has ended ready for a new one, and for opening its log."""
        self.release_log()
        self.go_offline(self.cause or "its shard is starting again")
        self._is_told_to_leave = False
        self._has_ended = False

    def next_try_seconds(self) -> float:
        """Return how long to wait before its log is opened again, after a failure now."""
        if self._backoff is None:
            self._backoff = Backoff()
        return self._backoff.next_seconds(trio.current_time())

    @contextmanager
    def helped(self) -> Iterator[None]:
        """Count the task that runs this block as one of the replica's."""
        self._helpers += 1
        try:
            yield
        finally:
            self._helpers -= 1
            self._tell_changed()

    async def wait_told_to_end(self) -> None:
        """Wait until the replica has been told to end: helpers do not keep it waiting."""
        while not self.is_closing:
            await self._wait_changed()

    async def wait_ended(self) -> None:
        """Wait until the replica's task has ended, and every task that helps it."""
        while self._helpers or not self._has_ended:
            await self._wait_changed()

    async def _wait_changed(self) -> None:
        if self._changes is None:
            self._changes = trio.lowlevel.ParkingLot()
        await self._changes.park()

    def _tell_changed(self) -> None:
        if self._changes is not None:
            self._changes.unpark_all()
