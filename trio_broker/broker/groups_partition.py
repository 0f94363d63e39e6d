"""One partition of ``__consumer_offsets`` and the group machine that runs on it.

A command is decided in pure code at once; what it wants remembered is appended like any other
batch, and at the moment that is durable, in the order of the log, the machine is told and its
answers go out. See `group.machine` for the rules. Owned by `group_coordinator`.

The boundary for bugs in what groups do, whoever gave the command, and whether it is a client's or
the clock's: after one the machine cannot be trusted any more. Who waits for its answer is sent away
to look for a coordinator, and the groups are read again from the log, ever more seldom while that
does not help.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec

import trio

from trio_broker.broker.append_slot import AwaitedAppend
from trio_broker.broker.supervise import Backoff, described
from trio_broker.errors import CorruptLog, CorruptRecords, ErrorCode, StorageError
from trio_broker.group.commands import GroupDecision, Now
from trio_broker.group.machine import GroupMachine
from trio_broker.names import OFFSETS_TOPIC_NAME
from trio_broker.records.batch import read_header
from trio_broker.records.build import Record, build_batch, wrap_records
from trio_broker.records.iterate import iterate_batches, iterate_records

if TYPE_CHECKING:
    from trio_broker.broker.append_slot import AppendSlot
    from trio_broker.broker.replica import Replica
    from trio_broker.broker.state import BrokerState
    from trio_broker.group.classic_group import Tally
    from trio_broker.group.schemas import CoordinatorRecord
    from trio_broker.storage.log import Log

logger = logging.getLogger("trio_broker.groups")

P = ParamSpec("P")

#: How often a partition that could not be loaded is tried again.
RELOAD_SECONDS = 5.0
#: Records of a log that are taken in before others get a turn: about a millisecond.
RECORDS_PER_TURN = 100
_LOAD_BYTES = 1024 * 1024
#: As much may come of a batch that is compressed, as none of this broker's is.
_BATCH_BYTES_MAX = 64 * 1024 * 1024
_SNAPSHOT_RECORDS_PER_BATCH = 500
#: So much of a group's name is in the log; it may be 32,767 bytes of whatever a client likes.
_SHOWN_CHARACTERS_MAX = 249


class _Token:
    """A request that waits for the machine's answer."""

    __slots__ = ("_event", "response")

    def __init__(self) -> None:
        self._event = trio.Event()
        self.response: Any = None

    def answer(self, response: object) -> None:
        """Answer the request, unless that has been done."""
        if self._event.is_set():
            return
        self.response = response
        self._event.set()

    async def wait(self) -> Any:
        await self._event.wait()
        return self.response


class _Append(AwaitedAppend):
    """The records of a decision on their way into the log."""

    __slots__ = ("_decision", "_machine", "_partition")

    def __init__(self, partition: GroupsPartition, decision: GroupDecision | None) -> None:
        super().__init__()
        self._partition = partition
        self._machine = partition.machine
        self._decision = decision

    def slot_resolved(self) -> None:
        """Tell the machine, in the order of the log."""
        self._partition.append_ended(self._machine, self._decision, self.slots[0])
        super().slot_resolved()


class GroupsPartition:
    """A partition of ``__consumer_offsets``.

    Attributes:
        replica: None if its log dir is not configured any more.
        machine: its groups, once it is loaded; a new one whenever the log was lost.
        is_loaded: before, nobody knows what was committed, which is not the same as nothing.
        wake_at_ms: when the machine wants to be asked what has expired, on the clock of `now`.
        appends_under_way: batches whose fate the machine does not know yet.
        boundary: name of the boundary at which its faults stop.
    """

    def __init__(
        self,
        state: BrokerState,
        index: int,
        replica: Replica | None,
        total: Tally,
        woken: Callable[[], None],
    ) -> None:
        self.replica = replica
        self.boundary = f"group coordinator {OFFSETS_TOPIC_NAME}-{index}"
        self._total = total
        self.is_loaded = False
        self.wake_at_ms: int | None = None
        self.appends_under_way = 0
        self._state = state
        self._woken = woken
        self._loading = trio.Lock()
        self._waiting: dict[_Token, None] = {}
        self._backoff = Backoff()
        self._reload_at = -math.inf
        self._state_bytes = 0  # of all that is durable, as it was last written again
        self.machine = self._empty_machine()
        if replica is not None:
            replica.when_refusing = self._log_lost

    def __repr__(self) -> str:
        return f"<GroupsPartition {self.replica!r} {self.machine!r}>"

    def _empty_machine(self) -> GroupMachine:
        config = self._state.config
        return GroupMachine(config.group, config.limits, self._total)

    def now(self) -> Now:
        """Return both times."""
        return Now(self._state.host.wall.now_ms(), int(trio.current_time() * 1000))

    def next_wake(self) -> float:
        """Return the Trio time at which it wants to be looked at; inf: not of its own accord."""
        if not self.is_loaded:
            now = trio.current_time()
            return self._reload_at if self._reload_at > now else now + RELOAD_SECONDS
        return math.inf if self.wake_at_ms is None else self.wake_at_ms / 1000

    # Faults.

    def _attempt(self, step: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Do something with the machine; a fault stops here, and costs this machine."""
        supervisor = self._state.supervisor
        fault = supervisor.absorb_now(self.boundary, step, *args, **kwargs)
        if fault is not None:
            self._give_up_machine(fault)

    def _give_up_machine(self, fault: Exception) -> None:
        """Answer everybody who waits, and have the groups read again after a while."""
        self.is_loaded = False
        self.wake_at_ms = None
        self.machine.give_up()
        self.machine = self._empty_machine()
        for token in self._waiting:
            token.answer(ErrorCode.NOT_COORDINATOR)
        now = trio.current_time()
        self._reload_at = now + self._backoff.next_seconds(now)
        self._state.supervisor.down[self.boundary] = described(fault)
        self._woken()

    # Commands.

    async def ask(self, command: Callable[[object, Now], GroupDecision]) -> Any:
        """Give the machine a command with a token; wait for the answer and return it.

        It is NOT_COORDINATOR, whatever was asked, if the machine has a fault and is given up.

        Cancellation: nobody hears the answer; what was decided stands.
        """
        token = _Token()
        self._waiting[token] = None
        try:
            self._attempt(self._decide, command, token)
            return await token.wait()
        finally:
            del self._waiting[token]

    def _decide(self, command: Callable[[object, Now], GroupDecision], token: _Token) -> None:
        self.carry_out(command(token, self.now()))

    def carry_out(self, decision: GroupDecision) -> None:
        """Send the answers of a decision, queue its records, and see that it is woken in time."""
        self._answer(decision)
        self.wake_at_ms = decision.wake_at_ms
        self._woken()
        if decision.records:
            self._begin_append(decision.records, decision)

    def _answer(self, decision: GroupDecision) -> None:
        for token, response in decision.replies:
            assert isinstance(token, _Token)
            token.answer(response)
        for group_id, text in decision.notes:
            logger.info("group %r: %s", group_id[:_SHOWN_CHARACTERS_MAX], text)

    def let_expire(self) -> None:
        """Let pass what is due now."""
        self._attempt(lambda: self.carry_out(self.machine.expire(self.now())))

    def expire_offsets(self, records_max: int) -> bool:
        """Forget offsets that nobody used for long; return whether more are due than so many."""
        has_more = False

        def expire() -> None:
            nonlocal has_more
            decision = self.machine.expire_offsets(self.now(), records_max=records_max)
            has_more = len(decision.records) >= records_max
            self.carry_out(decision)

        self._attempt(expire)
        return has_more

    def close(self) -> None:
        """Answer every request that waits, and refuse further ones."""
        self._attempt(lambda: self.carry_out(self.machine.close(self.now())))

    def _begin_append(
        self, records: Sequence[CoordinatorRecord], decision: GroupDecision | None
    ) -> _Append:
        """Queue records as one batch."""
        assert self.replica is not None
        if decision is not None and decision.commit is not None:
            commit = decision.commit
            batch = wrap_records(
                commit.section,
                len(commit.records),
                base_timestamp_ms=commit.now_ms,
                max_timestamp_ms=commit.now_ms,
            )
        else:
            now_ms = self._state.host.wall.now_ms()
            batch = build_batch(
                [Record(key=key, value=value, timestamp_ms=now_ms) for key, value in records]
            )
        append = _Append(self, decision)
        self.appends_under_way += 1
        append.submit(self.replica, batch, read_header(batch))
        return append

    def append_ended(
        self, machine: GroupMachine, decision: GroupDecision | None, slot: AppendSlot
    ) -> None:
        """Let the machine that decided know whether the records of its decision are durable."""
        self.appends_under_way -= 1
        if decision is not None and machine is self.machine:  # else it was given up
            self._attempt(self._settle, machine, decision, slot.code)

    def _settle(self, machine: GroupMachine, decision: GroupDecision, code: ErrorCode) -> None:
        if code is ErrorCode.NONE:
            following = machine.stored(decision, self.now())
        else:
            following = machine.not_stored(decision, code, self.now())
        if self.is_loaded:
            self.carry_out(following)
            return
        self._answer(following)  # of a machine that is closed, since its log was lost
        while following.records:
            code = ErrorCode.NOT_COORDINATOR
            following = machine.not_stored(following, code, self.now())
            self._answer(following)

    def _log_lost(self) -> None:
        """The log takes no records for now: send everybody away until it has been read again.

        What it will say then may differ from what the machine believes, since a batch that was
        refused can be there all the same.
        """
        if self.is_loaded:
            self.is_loaded = False
            self.wake_at_ms = None
            self._attempt(lambda: self._answer(self.machine.close(self.now())))
            self._woken()

    # Its log.

    async def load(self) -> None:
        """Take in the log, if that has not been done and can be done now."""
        if self.is_loaded or trio.current_time() < self._reload_at:
            return
        async with self._loading:
            if trio.current_time() < self._reload_at:
                return  # it has failed while this waited
            fault = await self._state.supervisor.absorb(self.boundary, self._load_alone)
            if fault is not None:
                self._give_up_machine(fault)

    async def _load_alone(self) -> None:
        replica = self.replica
        if self.is_loaded or replica is None or replica.refusal or self.appends_under_way:
            return
        self.machine.give_up()
        self.machine = self._empty_machine()
        log = replica.log
        try:
            await self._replay_log(replica, log)
        except (StorageError, OSError) as error:
            # However many ask: each try may read all of a log of which a part cannot be read.
            self._reload_at = trio.current_time() + RELOAD_SECONDS
            what = f"{replica!r}: groups cannot be read now: {error}"
            self._state.paced(logger).log(logging.ERROR, "load", what)
            return
        if not replica.refusal and replica.log is log:  # else it was lost meanwhile
            decision = self.machine.loaded(self.now())
            self.is_loaded = True
            self._state.supervisor.down.pop(self.boundary, None)
            self.carry_out(decision)

    async def _replay_log(self, replica: Replica, log: Log) -> None:
        offset = log.log_start_offset
        replayed = 0
        while offset < log.log_end_offset:
            plan = log.locate(offset, max_bytes=_LOAD_BYTES, upper_offset=log.log_end_offset)
            if plan is None:
                raise CorruptLog(f"{log!r} has no offset {offset}")
            buffers = await replica.shard.read(log.read_job(plan))
            data = b"".join(buffers)
            if not data:
                raise CorruptLog(f"{log!r} has nothing at offset {offset}")
            for header, batch in iterate_batches(data):
                # A large batch that was taken must be read again, or no group is ever found.
                bytes_max = max(_BATCH_BYTES_MAX, header.size_bytes)
                for record in iterate_records(batch, bytes_max=bytes_max):
                    if record.offset >= offset:
                        self._replay_record(record)
                    replayed += 1
                    if replayed % RECORDS_PER_TURN == 0:
                        await trio.lowlevel.checkpoint()
                offset = max(offset, header.last_offset + 1)

    def _replay_record(self, record: Record) -> None:
        try:
            self.machine.replay(record.key or b"", record.value)
        except CorruptRecords as error:
            logger.error(  # the batch's checksum holds, so a newer version may have written it
                "%r: record at offset %d is not understood: %s", self, record.offset, error
            )

    async def shorten_log(self) -> None:
        """Where the log has rolled, write the whole state again and drop what came before.

        Of a state that takes several segments, where that makes the log half as long at least.
        Skipped while records are under way, which would lie before the new beginning. A fault
        stops here: the groups are none the worse for a log that stays long.
        """
        await self._state.supervisor.absorb(self.boundary, self._shorten)

    async def _shorten(self) -> None:
        replica = self.replica
        if replica is None or not self._is_long(replica):
            return
        free_bytes = await self._free_bytes(replica)
        if not self._is_long(replica):
            return  # any more
        log = replica.log
        records = list(self.machine.live_records())
        if 2 * sum(len(key) + len(value or b"") for key, value in records) > free_bytes:
            return  # on a disk that is full this room is for commits, and each try would take some
        start_offset = log.log_end_offset
        appends = [
            self._begin_append(records[at : at + _SNAPSHOT_RECORDS_PER_BATCH], None)
            for at in range(0, len(records), _SNAPSHOT_RECORDS_PER_BATCH)
        ]
        for append in appends:
            await append.wait()
        if all(append.slots[0].code is ErrorCode.NONE for append in appends):
            self._state_bytes = sum(append.slots[0].size_bytes for append in appends)
            await replica.shard.advance_start_offset(replica, start_offset)

    def _is_long(self, replica: Replica) -> bool:
        """Whether the log can be made shorter now."""
        if not replica.has_log or not self.is_loaded or self.appends_under_way:
            return False
        log = replica.log
        # Most of it may be the state itself, which may take several segments.
        return log.segment_count >= 2 and log.size_bytes >= 2 * self._state_bytes

    async def _free_bytes(self, replica: Replica) -> int:
        """Return how much room is left on the disk, 0 if it does not say."""
        shard = replica.shard
        try:
            path = shard.log_dir.directory.path
            space = await shard.lane.call(self._state.host.fs.space, path)
        except (StorageError, OSError):
            return 0
        return space.free_bytes
