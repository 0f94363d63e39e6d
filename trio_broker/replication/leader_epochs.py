"""Which leader epoch wrote which offsets of a partition (KIP-101, KIP-320).

One `LeaderEpochCache` belongs to each `storage.Log`. Clients ask it whether what they have read
still exists (OffsetForLeaderEpoch), followers where their log begins to differ from the leader's.
The rules are those of Apache Kafka (LeaderEpochFileCache).
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from typing import NamedTuple

_SNAPSHOT_VERSION = 1
_HEAD_STRUCT = struct.Struct(">hi")
_ENTRY_STRUCT = struct.Struct(">iq")

UNDEFINED_EPOCH = -1
UNDEFINED_OFFSET = -1


class EpochStart(NamedTuple):
    """A leader epoch and the first offset that its leader wrote, or may have written."""

    epoch: int
    start_offset: int


class EpochEnd(NamedTuple):
    """A leader epoch and the offset after the last one of it; (-1, -1) where nothing is known."""

    epoch: int
    end_offset: int


_UNKNOWN = EpochEnd(UNDEFINED_EPOCH, UNDEFINED_OFFSET)


class LeaderEpochCache:
    """The epochs of one log, oldest first: epochs and start offsets both rise."""

    __slots__ = ("_entries",)

    def __init__(self) -> None:
        self._entries: list[EpochStart] = []

    def __repr__(self) -> str:
        return f"<LeaderEpochCache {[tuple(entry) for entry in self._entries]}>"

    @property
    def entries(self) -> tuple[EpochStart, ...]:
        """All entries, oldest first."""
        return tuple(self._entries)

    @property
    def latest(self) -> EpochStart | None:
        """The newest entry, or None if nothing was ever written."""
        return self._entries[-1] if self._entries else None

    def assign(self, epoch: int, start_offset: int) -> bool:
        """Note that `epoch` writes from `start_offset` on; return whether that is news.

        Entries it contradicts, those with an epoch or a start offset not below the new ones, are
        dropped: they come from a leader whose writes were truncated. A later offset of the newest
        epoch is no news, so this may be called for every batch.

        Args:
            epoch: of a leader; negative (not known) is ignored.
            start_offset: first offset written in it.
        """
        entries = self._entries
        if epoch < 0 or start_offset < 0:
            return False
        if entries:
            latest = entries[-1]
            if latest.epoch == epoch and latest.start_offset <= start_offset:
                return False
        while entries and (entries[-1].epoch >= epoch or entries[-1].start_offset >= start_offset):
            entries.pop()
        entries.append(EpochStart(epoch, start_offset))
        return True

    def end_offset_for(self, epoch: int, log_end_offset: int) -> EpochEnd:
        """Find where the largest epoch not above `epoch` ended.

        Args:
            epoch: what the client or follower last saw.
            log_end_offset: of this log, where the newest epoch ends for now.

        Returns:
            The epoch found and its end; `epoch` itself with the start of the log if all known
            epochs are newer; (-1, -1) if it is above all known ones.
        """
        entries = self._entries
        if epoch < 0 or not entries:
            return _UNKNOWN
        if epoch == entries[-1].epoch:
            return EpochEnd(epoch, log_end_offset)
        index = bisect_right(entries, epoch, key=_epoch)
        if index == len(entries):
            return _UNKNOWN
        end_offset = entries[index].start_offset
        if index == 0:
            return EpochEnd(epoch, end_offset)
        return EpochEnd(entries[index - 1].epoch, end_offset)

    def epoch_at(self, offset: int) -> int:
        """Return the epoch in which `offset` was written, or -1 if it is below all known ones."""
        index = bisect_right(self._entries, offset, key=_start_offset)
        return self._entries[index - 1].epoch if index else UNDEFINED_EPOCH

    def truncate_from_end(self, end_offset: int) -> bool:
        """Drop epochs that begin at or above `end_offset`; return whether there were any."""
        index = bisect_left(self._entries, end_offset, key=_start_offset)
        if index == len(self._entries):
            return False
        del self._entries[index:]
        return True

    def truncate_from_start(self, start_offset: int) -> bool:
        """Drop what lies below `start_offset`, the new start of the log; return if that is news.

        The epoch that was current at `start_offset` stays and begins there from now on.
        """
        entries = self._entries
        index = bisect_right(entries, start_offset, key=_start_offset)
        if index == 0 or (index == 1 and entries[0].start_offset == start_offset):
            return False
        entries[:index] = [EpochStart(entries[index - 1].epoch, start_offset)]
        return True

    def to_bytes(self) -> bytes:
        """Return a snapshot; a checksum around it is the caller's business."""
        parts = [_HEAD_STRUCT.pack(_SNAPSHOT_VERSION, len(self._entries))]
        parts.extend([_ENTRY_STRUCT.pack(*entry) for entry in self._entries])
        return b"".join(parts)

    @classmethod
    def from_bytes(cls, data: bytes) -> LeaderEpochCache:
        """Restore a snapshot.

        Raises:
            ValueError: these are not the bytes of a snapshot this version can read.
        """
        if len(data) < _HEAD_STRUCT.size:
            raise ValueError("leader epochs end early")
        version, count = _HEAD_STRUCT.unpack_from(data)
        if version != _SNAPSHOT_VERSION:
            raise ValueError(f"leader epochs of version {version}")
        if len(data) != _HEAD_STRUCT.size + count * _ENTRY_STRUCT.size:
            raise ValueError(f"{count} leader epochs in {len(data)} bytes")
        cache = cls()
        for entry in _ENTRY_STRUCT.iter_unpack(data[_HEAD_STRUCT.size :]):
            start = EpochStart._make(entry)
            latest = cache.latest
            if start.epoch < 0 or start.start_offset < 0:
                raise ValueError(f"leader epoch {start.epoch} at offset {start.start_offset}")
            if latest and (
                start.epoch <= latest.epoch or start.start_offset <= latest.start_offset
            ):
                raise ValueError(f"leader epoch {start} follows {latest}")
            cache._entries.append(start)
        return cache


def _epoch(entry: EpochStart) -> int:
    return entry.epoch


def _start_offset(entry: EpochStart) -> int:
    return entry.start_offset
