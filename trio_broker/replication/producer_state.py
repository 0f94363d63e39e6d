"""What a partition remembers of its idempotent producers, so that a retry is never a second copy.

One `ProducerStateTable` belongs to each `storage.Log`, which asks `check` while it plans an
append, tells `apply` when the batches are published, and snapshots the table beside the log. The
rules are those of Apache Kafka (KIP-98; ProducerAppendInfo, ProducerStateEntry):

- a batch of the same epoch with exactly the sequences of one of the last five is a duplicate and
  is answered with the offset of the first copy;
- otherwise its first sequence must follow the last one (0 follows 2^31 - 1);
- a higher epoch starts at sequence 0, a lower one is a producer that has been replaced;
- a producer nobody remembers may start anywhere (KIP-360), because its state may have expired.

One rule is ours: when the first batch of an unknown producer is refused, the sequence it had is
still the one expected, so that the batches sent behind it cannot overtake it.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from trio_broker.errors import ErrorCode
from trio_broker.records.batch import (
    ATTRIBUTE_CONTROL,
    ATTRIBUTE_LOG_APPEND_TIME,
    SEQUENCE_MASK,
    BatchHeader,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Batches remembered per producer: clients keep at most this many requests in flight.
CACHED_BATCHES_MAX = 5

_SNAPSHOT_VERSION = 1
_SNAPSHOT_HEAD = struct.Struct(">hi")
_PRODUCER_STRUCT = struct.Struct(">qhiqb")
_BATCH_STRUCT = struct.Struct(">iiqqq")


class CachedBatch(NamedTuple):
    """A batch that was appended, as far as recognising its duplicate needs it.

    Attributes:
        base_sequence: of its first record.
        last_sequence: of its last record; less than `base_sequence` if it wrapped.
        base_offset: where it was appended.
        last_offset: of its last record.
        log_append_time_ms: what its producer was told; -1 for a topic with CreateTime.
    """

    base_sequence: int
    last_sequence: int
    base_offset: int
    last_offset: int
    log_append_time_ms: int


class Accept(NamedTuple):
    """The batch may be appended."""


class Duplicate(NamedTuple):
    """The batch is in the log; answer as the first time."""

    base_offset: int
    log_append_time_ms: int


class DuplicateInFlight(NamedTuple):
    """The batch is being appended; answer as its first copy will be, when it will be.

    Attributes:
        base_offset: what was given to `PendingProducers.add` for the first copy.
    """

    base_offset: int


class Reject(NamedTuple):
    """The batch must not be appended."""

    code: ErrorCode
    message: str


Verdict: TypeAlias = Accept | Duplicate | DuplicateInFlight | Reject

_ACCEPT = Accept()


class ProducerEntry:
    """State of one producer; changed only by this module.

    Attributes:
        epoch: newest epoch seen.
        next_sequence: what the next batch must begin with.
        last_update_ms: wall clock at the last append, milliseconds since 1970.
        batches: the newest batches of this epoch, oldest first, at most five.
    """

    __slots__ = ("batches", "epoch", "last_update_ms", "next_sequence")

    def __init__(self, epoch: int, next_sequence: int, last_update_ms: int) -> None:
        self.epoch = epoch
        self.next_sequence = next_sequence
        self.last_update_ms = last_update_ms
        self.batches: list[CachedBatch] = []

    @property
    def last_sequence(self) -> int:
        """Sequence of the newest record in the log, -1 if none of this epoch is known."""
        return self.batches[-1].last_sequence if self.batches else -1

    def copy(self) -> ProducerEntry:
        """Return an entry that can change without changing this one."""
        result = ProducerEntry(self.epoch, self.next_sequence, self.last_update_ms)
        result.batches = self.batches.copy()
        return result

    def append(self, header: BatchHeader, base_offset: int, log_append_time_ms: int) -> None:
        """Take in a batch that is in the log, or is about to be."""
        if header.producer_epoch != self.epoch:
            self.epoch = header.producer_epoch
            self.next_sequence = 0
            self.batches.clear()
        if header.attributes & ATTRIBUTE_CONTROL:
            return  # a marker has no sequence; sequences of its epoch go on
        last_sequence = header.last_sequence
        self.next_sequence = (last_sequence + 1) & SEQUENCE_MASK
        if len(self.batches) == CACHED_BATCHES_MAX:
            del self.batches[0]
        self.batches.append(
            CachedBatch(
                header.base_sequence,
                last_sequence,
                base_offset,
                base_offset + header.last_offset_delta,
                log_append_time_ms,
            )
        )

    def duplicate_of(self, header: BatchHeader) -> CachedBatch | None:
        """Return the remembered batch with the same epoch and sequences, if there is one."""
        if header.producer_epoch != self.epoch:
            return None
        base_sequence = header.base_sequence
        for batch in self.batches:
            if batch.base_sequence == base_sequence and batch.last_sequence == header.last_sequence:
                return batch
        return None


class PendingProducers:
    """The changes that batches accepted but not yet published will make to a table.

    One per group commit and log: made when the commit is planned, dropped when it ends. The table
    itself changes only by `apply`, so there is nothing to undo when a commit fails.
    """

    def __init__(self, table: ProducerStateTable) -> None:
        self._table = table
        self._entries: dict[int, ProducerEntry] = {}

    def add(self, header: BatchHeader, base_offset: int) -> None:
        """Count in a batch that `ProducerStateTable.check` accepted.

        Args:
            header: of the batch.
            base_offset: the offset it will get.
        """
        producer_id = header.producer_id
        if producer_id < 0:
            return
        entry = self._entries.get(producer_id)
        if entry is None:
            known = self._table.get(producer_id)
            entry = _new_entry(header, 0) if known is None else known.copy()
            self._entries[producer_id] = entry
        entry.append(header, base_offset, -1)

    def get(self, producer_id: int) -> ProducerEntry | None:
        """Return the entry as it will be, or None if nothing is pending for this producer."""
        return self._entries.get(producer_id)


class ProducerStateTable:
    """All producers of one partition, least recently active first.

    Args:
        producer_ids_max: most producers remembered; above it the one that has not written for the
            longest time is forgotten, and may then start anywhere.
        expiration_ms: forget a producer this long after its last batch.
    """

    __slots__ = ("_entries", "_expiration_ms", "_producer_ids_max")

    def __init__(self, producer_ids_max: int, expiration_ms: int) -> None:
        self._producer_ids_max = producer_ids_max
        self._expiration_ms = expiration_ms
        self._entries: dict[int, ProducerEntry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"<ProducerStateTable {len(self._entries)} of {self._producer_ids_max} producers>"

    def items(self) -> Iterable[tuple[int, ProducerEntry]]:
        """Return every producer id with what is known of it; not to be changed."""
        return self._entries.items()

    def get(self, producer_id: int) -> ProducerEntry | None:
        """Return what is known of a producer; not to be changed."""
        return self._entries.get(producer_id)

    def check(self, header: BatchHeader, pending: PendingProducers) -> Verdict:
        """Decide about a batch that a client sent; changes nothing.

        Args:
            header: validated, so that a producer id comes with an epoch and a sequence.
            pending: what was accepted before it and is not published yet.
        """
        producer_id = header.producer_id
        if producer_id < 0 or header.attributes & ATTRIBUTE_CONTROL:
            return _ACCEPT
        published = self._entries.get(producer_id)
        entry = pending.get(producer_id) or published
        if entry is None:
            return _ACCEPT
        base_sequence = header.base_sequence
        epoch = header.producer_epoch
        if epoch == entry.epoch:
            # Remembered batches go first: with 2^31 records in five batches, the same sequences
            # could be both a duplicate and the next ones, and a retry is the likelier.
            copy = entry.duplicate_of(header)
            if copy is not None:
                if published is not None and copy in published.batches:
                    return Duplicate(copy.base_offset, copy.log_append_time_ms)
                return DuplicateInFlight(copy.base_offset)
            if base_sequence == entry.next_sequence:
                return _ACCEPT
            return Reject(
                ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER,
                f"producer {producer_id} epoch {epoch} sent sequence {base_sequence}, "
                f"expected {entry.next_sequence}",
            )
        if epoch < entry.epoch:
            return Reject(
                ErrorCode.INVALID_PRODUCER_EPOCH,
                f"producer {producer_id} epoch {epoch} was replaced by epoch {entry.epoch}",
            )
        if base_sequence != 0:
            return Reject(
                ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER,
                f"producer {producer_id} began epoch {epoch} with sequence {base_sequence}, not 0",
            )
        return _ACCEPT

    def stored_copy(self, header: BatchHeader) -> CachedBatch | None:
        """Return the published batch that this one is a duplicate of, if it is one.

        Right whatever of the same producer is still on its way: the first copy is in the log, and
        to have been asked before those others is as good an order as any.
        """
        entry = self._entries.get(header.producer_id)
        if entry is None or header.attributes & ATTRIBUTE_CONTROL:
            return None
        return entry.duplicate_of(header)

    def apply(
        self,
        header: BatchHeader,
        base_offset: int,
        now_ms: int,
        *,
        log_append_time_ms: int = -1,
    ) -> None:
        """Take in a batch that is in the log now; also when a log is replayed.

        Args:
            header: as sent, or as stored.
            base_offset: where the batch is.
            now_ms: wall clock, from which expiry counts.
            log_append_time_ms: the append time stamped on it; taken from a stored header by
                itself.
        """
        producer_id = header.producer_id
        if producer_id < 0:
            return
        if header.attributes & ATTRIBUTE_LOG_APPEND_TIME:
            log_append_time_ms = header.max_timestamp
        entry = self._entries.pop(producer_id, None)
        if entry is None:
            entry = _new_entry(header, now_ms)
        entry.append(header, base_offset, log_append_time_ms)
        entry.last_update_ms = now_ms
        self._insert(producer_id, entry)

    def refuse(self, header: BatchHeader, now_ms: int) -> None:
        """Note that a batch could not be appended though it was accepted.

        If its producer is unknown, the sequence it had stays the one expected: without that, the
        batch sent behind it would be the producer's first, be accepted, and so overtake it. Of
        several the first one counts, whichever is refused first: what is queued is refused before
        the commit under way has failed.

        Args:
            header: of the batch.
            now_ms: wall clock.
        """
        producer_id = header.producer_id
        if producer_id < 0 or header.attributes & ATTRIBUTE_CONTROL:
            return
        entry = self._entries.get(producer_id)
        if entry is None:
            self._insert(producer_id, _new_entry(header, now_ms))
        elif not entry.batches and entry.epoch == header.producer_epoch:
            ahead = (entry.next_sequence - header.base_sequence) & SEQUENCE_MASK
            if ahead <= SEQUENCE_MASK // 2:
                entry.next_sequence = header.base_sequence

    def adopt_refusals(self, other: ProducerStateTable) -> None:
        """Expect what another table of the same partition has noted by `refuse`.

        For a log that is opened again: what was refused is not in it. Producers that this table
        knows from the log itself stay as they are.
        """
        for producer_id, entry in other.items():
            if not entry.batches and producer_id not in self._entries:
                self._insert(producer_id, entry.copy())

    def truncate_to(self, offset: int) -> None:
        """Forget the batches at and above `offset`, which are no longer in the log.

        The producers of such batches are expected to send them again: the first forgotten
        sequence becomes the next one. (Which epoch came before is not remembered, so a producer
        keeps the epoch it had, even if no batch of it is left.)
        """
        for entry in self._entries.values():
            batches = entry.batches
            if not batches or batches[-1].last_offset < offset:
                continue
            kept = [batch for batch in batches if batch.last_offset < offset]
            entry.next_sequence = batches[len(kept)].base_sequence
            entry.batches = kept

    def expire(self, now_ms: int) -> int:
        """Forget producers that have not written for `expiration_ms`; return how many."""
        latest_ms = now_ms - self._expiration_ms
        expired = [
            producer_id
            for producer_id, entry in self._entries.items()
            if entry.last_update_ms <= latest_ms
        ]
        for producer_id in expired:
            del self._entries[producer_id]
        return len(expired)

    def to_bytes(self) -> bytes:
        """Return a snapshot; a checksum around it is the caller's business."""
        parts = [_SNAPSHOT_HEAD.pack(_SNAPSHOT_VERSION, len(self._entries))]
        for producer_id, entry in self._entries.items():
            parts.append(
                _PRODUCER_STRUCT.pack(
                    producer_id,
                    entry.epoch,
                    entry.next_sequence,
                    entry.last_update_ms,
                    len(entry.batches),
                )
            )
            parts.extend([_BATCH_STRUCT.pack(*batch) for batch in entry.batches])
        return b"".join(parts)

    @classmethod
    def from_bytes(
        cls, data: bytes, *, producer_ids_max: int, expiration_ms: int
    ) -> ProducerStateTable:
        """Restore a snapshot, under limits that may have changed since.

        Raises:
            ValueError: these are not the bytes of a snapshot this version can read.
        """
        table = cls(producer_ids_max, expiration_ms)
        try:
            version, count = _SNAPSHOT_HEAD.unpack_from(data)
            if version != _SNAPSHOT_VERSION:
                raise ValueError(f"producer snapshot of version {version}")
            position = _SNAPSHOT_HEAD.size
            for _ in range(count):
                producer_id, epoch, next_sequence, last_update_ms, batch_count = (
                    _PRODUCER_STRUCT.unpack_from(data, position)
                )
                position += _PRODUCER_STRUCT.size
                if not 0 <= batch_count <= CACHED_BATCHES_MAX:
                    raise ValueError(
                        f"producer snapshot with {batch_count} batches of one producer"
                    )
                entry = ProducerEntry(epoch, next_sequence, last_update_ms)
                for _ in range(batch_count):
                    entry.batches.append(
                        CachedBatch._make(_BATCH_STRUCT.unpack_from(data, position))
                    )
                    position += _BATCH_STRUCT.size
                table._insert(producer_id, entry)
        except struct.error as error:
            raise ValueError(f"producer snapshot ends early: {error}") from error
        if position != len(data):
            raise ValueError(f"{len(data) - position} bytes follow the producer snapshot")
        return table

    def _insert(self, producer_id: int, entry: ProducerEntry) -> None:
        """Put an entry last in the order of activity, and keep the bound."""
        self._entries[producer_id] = entry
        if len(self._entries) > self._producer_ids_max:
            del self._entries[next(iter(self._entries))]


def _new_entry(header: BatchHeader, now_ms: int) -> ProducerEntry:
    """Return the state of a producer nobody remembers, which may start where this batch does."""
    return ProducerEntry(header.producer_epoch, max(header.base_sequence, 0), now_ms)
