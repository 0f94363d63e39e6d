"""What a log promises, as a list: the model that `log_world` compares a real `Log` with.

Knows nothing of disks. It is told what was written, what was acknowledged and what was made
durable, and says whether what a log shows afterwards is allowed:

- everything that was durable is there, with its offset and content;
- everything else is batches that were really written at that place, whole, without a gap;
- after the death of a process alone, everything that was published is there;
- no record is there twice;
- the start offset never goes back behind one that was durable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Violation(AssertionError):
    """A log broke a promise."""


class WrittenBatch(NamedTuple):
    """One batch: the values of its records, and whose it is (`producer_id` -1: nobody's)."""

    values: tuple[bytes, ...]
    producer_id: int = -1
    epoch: int = -1
    sequence: int = -1

    def __repr__(self) -> str:
        numbers = ",".join(value[:6].decode(errors="replace") for value in self.values)
        if self.producer_id < 0:
            return f"<{numbers}>"
        return f"<{numbers} of {self.producer_id}.{self.epoch} at {self.sequence}>"


class StoredBatch(NamedTuple):
    """A batch and the offset of its first record."""

    base_offset: int
    batch: WrittenBatch

    def __repr__(self) -> str:
        return f"{self.base_offset}{self.batch}"

    @property
    def end_offset(self) -> int:
        """Offset after its last record."""
        return self.base_offset + len(self.batch.values)


class LogModel:
    """What is known of one log.

    Attributes:
        published: batches that readers may have seen, oldest first, from the first ever on.
        end: the log end offset.
        durable_end: offsets below are acknowledged and on stable storage.
        start: the start offset.
        latest_start: a start offset that was to be written down, whether that succeeded or not.
        durable_start: a start offset that is on stable storage.
        in_flight: batches whose append ended without an answer.
        refused: batches that were written and cut back: they may come back with a power cut,
            as long as nothing after them was made durable.
    """

    def __init__(self) -> None:
        self.published: list[StoredBatch] = []
        self.end = 0
        self.durable_end = 0
        self.start = 0
        self.latest_start = 0
        self.durable_start = 0
        self.in_flight: list[StoredBatch] = []
        self.refused: list[StoredBatch] = []

    # What happens.

    def begin(self, batches: Iterable[StoredBatch]) -> None:
        """An append is about to write these."""
        self.in_flight = list(batches)

    def publish(self, *, synced: bool) -> None:
        """The append succeeded."""
        self.published += self.in_flight
        if self.in_flight:
            self.end = self.in_flight[-1].end_offset
        self.in_flight = []
        if synced:
            self.make_durable()

    def refuse(self) -> None:
        """The append failed, and the file was cut back."""
        self.refused += self.in_flight
        self.in_flight = []

    def make_durable(self) -> None:
        """Everything published is on stable storage."""
        self.durable_end = self.end
        self.refused = []

    def cut_to_durable(self) -> None:
        """Everything that is not durable was given up, durably."""
        self.published = [entry for entry in self.published if entry.base_offset < self.durable_end]
        self.end = self.durable_end
        self.in_flight = []
        self.refused = []

    def begin_to_move_start(self, start: int) -> None:
        """A new start offset is about to be written down."""
        self.latest_start = max(self.latest_start, start)

    def move_start(self, start: int, *, durable: bool) -> None:
        """The start offset moved up."""
        self.begin_to_move_start(start)
        self.start = max(self.start, start)
        if durable:
            self.durable_start = max(self.durable_start, start)

    def location_of(self, batch: WrittenBatch) -> int | None:
        """Return where a batch was published, or None if it was not."""
        for entry in reversed(self.published):
            if entry.batch == batch:
                return entry.base_offset
        return None

    def start_again(self, found: Sequence[StoredBatch], start: int, end: int) -> None:
        """Accept what a log shows after recovery: all of it is promised from now on."""
        first = found[0].base_offset if found else end
        kept = [entry for entry in self.published if entry.end_offset <= first]
        self.published = [*kept, *found]
        self.start = self.latest_start = self.durable_start = start
        self.end = end
        self.in_flight = []
        self.make_durable()

    # What is allowed.

    def check_published(self, found: Sequence[StoredBatch], start: int, end: int) -> None:
        """Compare with a log that is running."""
        self._check_row(found, start, end)
        if start != self.start or end != self.end:
            raise Violation(f"log is {start}..{end} instead of {self.start}..{self.end}")
        self._check_prefix(found, self.end)

    def check_recovered(
        self, found: Sequence[StoredBatch], start: int, end: int, *, power_lost: bool
    ) -> None:
        """Compare with a log that was opened after the end of a process or a loss of power."""
        self._check_row(found, start, end)
        promised_end = self.durable_end if power_lost else self.end
        if end < promised_end:
            raise Violation(f"{promised_end - end} records before offset {promised_end} are lost")
        if not self.durable_start <= start <= self.latest_start:
            raise Violation(f"start {start} is not in {self.durable_start}..{self.latest_start}")
        self._check_prefix(found, promised_end)
        possible = {*self.published, *self.in_flight}
        if power_lost:
            possible.update(self.refused)
        for entry in found:
            if entry not in possible:
                raise Violation(f"nobody wrote {entry}")

    def _check_prefix(self, found: Sequence[StoredBatch], end: int) -> None:
        first = found[0].base_offset if found else end
        expected = [e for e in self.published if first <= e.base_offset < end]
        if list(found[: len(expected)]) != expected:
            raise Violation(f"found {found[: len(expected)]} instead of {expected}")

    def _check_row(self, found: Sequence[StoredBatch], start: int, end: int) -> None:
        """No gaps, no copies, and exactly from the start to the end."""
        offset = found[0].base_offset if found else end
        if offset > start and start != end:
            raise Violation(f"offsets {start} to {offset} are missing")
        seen: set[bytes] = set()
        for entry in found:
            if entry.base_offset != offset:
                raise Violation(f"offset {entry.base_offset} follows {offset}")
            offset = entry.end_offset
            for value in entry.batch.values:
                if value in seen:
                    raise Violation(f"{value!r} is there twice")
                seen.add(value)
        if offset != end:
            raise Violation(f"the log ends at {end}, but its batches end at {offset}")
