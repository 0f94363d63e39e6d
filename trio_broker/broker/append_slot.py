"""What travels through a shard's write queue: one record batch for one partition.

A slot is resolved exactly once, by the shard's writer, by the closing of its replica, or by the
reaper when the client's own deadline has passed. Whoever put it in (a connection, the embedded
API, a coordinator) learns of it through `SlotOwner.slot_resolved`, a plain synchronous call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import trio

from trio_broker.errors import ErrorCode

if TYPE_CHECKING:
    from trio_broker.broker.replica import Replica
    from trio_broker.host.interface import Buffer
    from trio_broker.records.batch import BatchHeader


class SlotOwner(Protocol):
    """Who waits for slots."""

    def slot_resolved(self) -> None:
        """Take note that one more slot has its outcome. Must not raise and must not block."""


class AppendSlot:
    """One batch on its way into one partition, and then its outcome.

    Attributes:
        buffer: the whole batch as the client sent it; not changed while the slot is open.
        header: its decoded header.
        size_bytes: of the buffer when it was queued; the buffer goes with the outcome.
        code: outcome; NONE also for a duplicate, whose original offset is answered.
        base_offset: offset of its first record, -1 unless it was stored.
        log_append_time_ms: -1 unless the topic stamps records itself.
        log_start_offset: of the partition when the slot was resolved, -1 if unknown.
        message: why it was refused, for the client's log.
    """

    __slots__ = (
        "base_offset",
        "buffer",
        "code",
        "header",
        "log_append_time_ms",
        "log_start_offset",
        "message",
        "owner",
        "replica",
        "resolved",
        "size_bytes",
    )

    def __init__(
        self, replica: Replica | None, buffer: Buffer, header: BatchHeader | None, owner: SlotOwner
    ) -> None:
        self.replica = replica
        self.buffer = buffer
        self.header = header
        self.owner = owner
        self.resolved = False
        self.size_bytes = 0
        self.code = ErrorCode.NONE
        self.base_offset = -1
        self.log_append_time_ms = -1
        self.log_start_offset = -1
        self.message: str | None = None

    def accept(self, base_offset: int, log_append_time_ms: int, log_start_offset: int) -> None:
        """Resolve as stored at `base_offset`. No effect on a slot already resolved."""
        if not self.resolved:
            self.base_offset = base_offset
            self.log_append_time_ms = log_append_time_ms
            self.log_start_offset = log_start_offset
            self._resolve()

    def refuse(self, code: ErrorCode, message: str | None = None) -> None:
        """Resolve as not stored, or (REQUEST_TIMED_OUT) as not known to be stored."""
        if not self.resolved:
            self.code = code
            self.message = message
            self._resolve()

    def _resolve(self) -> None:
        self.resolved = True
        self.buffer = b""
        self.owner.slot_resolved()


class AwaitedAppend:
    """Owner of slots whose outcome a task awaits: the embedded API and the coordinators."""

    __slots__ = ("_event", "_open_count", "slots")

    def __init__(self) -> None:
        self._event = trio.Event()
        self._open_count = 0
        self.slots: list[AppendSlot] = []

    def submit(self, replica: Replica, buffer: Buffer, header: BatchHeader) -> AppendSlot:
        """Queue a batch on a replica; `wait` then waits for it too."""
        slot = AppendSlot(replica, buffer, header, self)
        self.slots.append(slot)
        self._open_count += 1
        replica.append(slot)
        return slot

    def slot_resolved(self) -> None:
        """See `SlotOwner`."""
        self._open_count -= 1
        if self._open_count == 0:
            self._event.set()

    async def wait(self) -> None:
        """Wait until every submitted slot has its outcome.

        Cancellation: unknown; the batches are in the queue and may or may not be stored.
        """
        if self._open_count:
            await self._event.wait()
        else:
            await trio.lowlevel.checkpoint()
