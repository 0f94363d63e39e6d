"""Judge a history of sends and reads: what must not happen to a log, under the names Jepsen uses.

Producers number their records per partition, so that every record is unique and its place among
its producer's records is known. A test writes down what it sent, what was acknowledged and what
consumers saw (`History`), reads every partition once more to its end, and calls `check`.

The names are those of Jepsen's Kafka workload (jepsen/tests/kafka.clj): lost-write, duplicate,
inconsistent-offsets, aborted-read, nonmonotonic-send, nonmonotonic-poll, poll-skip. Two are ours:
phantom-read (a record nobody sent, or a damaged one) and offset-hole (an offset without a record,
legal only in compacted or transactional logs).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple, TypeAlias

import attrs

#: Topic and partition number.
Partition: TypeAlias = tuple[str, int]

_EXAMPLES_MAX = 5


class Anomaly(StrEnum):
    """What a history can show that a correct broker never produces."""

    LOST_WRITE = "lost-write"
    DUPLICATE = "duplicate"
    INCONSISTENT_OFFSETS = "inconsistent-offsets"
    ABORTED_READ = "aborted-read"
    NONMONOTONIC_SEND = "nonmonotonic-send"
    NONMONOTONIC_POLL = "nonmonotonic-poll"
    POLL_SKIP = "poll-skip"
    PHANTOM_READ = "phantom-read"
    OFFSET_HOLE = "offset-hole"


class RecordId(NamedTuple):
    """Which record: its producer, and its number among that producer's records of a partition."""

    producer: str
    sequence: int


class Row(NamedTuple):
    """One record as a reader saw it. `record` is None if its value was damaged."""

    offset: int
    record: RecordId | None


def encode_value(record: RecordId, size_bytes: int = 0) -> bytes:
    """Return a value that says which record it is, filled up so that damage shows."""
    head = b"%s:%d:" % (record.producer.encode(), record.sequence)
    filler = head * (max(0, size_bytes - len(head)) // len(head) + 1)
    return head + filler[: max(0, size_bytes - len(head))]


def decode_value(value: bytes | None) -> RecordId | None:
    """Return which record `value` is, or None if it is not what `encode_value` made."""
    if value is None:
        return None
    producer, separator, rest = value.partition(b":")
    digits = rest.partition(b":")[0]
    if not separator or not digits.isdigit():
        return None
    record = RecordId(producer.decode(errors="replace"), int(digits))
    return record if encode_value(record, len(value)) == value else None


@attrs.define
class _Sends:
    """What happened to the sends of one partition."""

    order: dict[str, list[int]] = attrs.field(factory=lambda: defaultdict(list))
    sent: set[RecordId] = attrs.field(factory=set)
    acknowledged: dict[RecordId, int] = attrs.field(factory=dict)
    failed: set[RecordId] = attrs.field(factory=set)


@attrs.define
class History:
    """What was sent, acknowledged, refused and read, in the order in which it happened."""

    _sends: dict[Partition, _Sends] = attrs.field(factory=lambda: defaultdict(_Sends))
    _polls: dict[tuple[str, Partition], list[Row]] = attrs.field(factory=lambda: defaultdict(list))

    def sent(self, partition: Partition, record: RecordId) -> None:
        """Note that a producer handed `record` to its client."""
        sends = self._sends[partition]
        sends.sent.add(record)
        sends.order[record.producer].append(record.sequence)

    def acknowledged(self, partition: Partition, record: RecordId, offset: int) -> None:
        """Note that the broker promised `record` at `offset`."""
        self._sends[partition].acknowledged[record] = offset

    def failed(self, partition: Partition, record: RecordId) -> None:
        """Note that `record` was refused for certain; say nothing if its fate is unknown."""
        self._sends[partition].failed.add(record)

    def polled(self, reader: str, partition: Partition, row: Row) -> None:
        """Note what a reader with a fixed assignment was given, one by one."""
        self._polls[reader, partition].append(row)

    @property
    def acknowledged_count(self) -> int:
        return sum(len(sends.acknowledged) for sends in self._sends.values())

    def acknowledged_records(self, partition: Partition) -> Mapping[RecordId, int]:
        """Return the acknowledged records of a partition, with the offsets promised."""
        return self._sends[partition].acknowledged


@attrs.frozen
class Report:
    """What `check` found.

    Attributes:
        found: how often each anomaly occurred; empty for a history without fault.
        examples: a few sentences for each.
        acknowledged: records that were acknowledged.
        read: records in the final read.
        lost: the acknowledged records that are gone.
        lost_are_suffixes: the lost records of each partition were the last ones promised: no
            acknowledged record survived at a higher offset than a lost one.
    """

    found: Mapping[Anomaly, int]
    examples: Mapping[Anomaly, Sequence[str]]
    acknowledged: int
    read: int
    lost: Sequence[tuple[Partition, RecordId]]
    lost_are_suffixes: bool

    @property
    def is_clean(self) -> bool:
        return not self.found

    def __str__(self) -> str:
        head = f"{self.acknowledged} acknowledged, {self.read} read, {len(self.lost)} lost"
        if self.is_clean:
            return f"{head}; no anomaly"
        lines = [f"{head}; anomalies:"]
        for anomaly, count in self.found.items():
            lines.append(f"  {anomaly}: {count}")
            lines += [f"    {example}" for example in self.examples[anomaly]]
        return "\n".join(lines)

    def require_clean(self) -> None:
        """Raise AssertionError with everything found."""
        if not self.is_clean:
            raise AssertionError(str(self))

    def require_load(self, acknowledged_min: int) -> None:
        """Raise AssertionError if too little was acknowledged for the run to mean anything."""
        if self.acknowledged < acknowledged_min:
            raise AssertionError(
                f"void run: {self.acknowledged} records acknowledged, {acknowledged_min} needed"
            )


@attrs.define
class _Findings:
    found: dict[Anomaly, int] = attrs.field(factory=lambda: defaultdict(int))
    examples: dict[Anomaly, list[str]] = attrs.field(factory=lambda: defaultdict(list))

    def add(self, anomaly: Anomaly, example: str) -> None:
        self.found[anomaly] += 1
        if len(self.examples[anomaly]) < _EXAMPLES_MAX:
            self.examples[anomaly].append(example)


def check(
    history: History, final: Mapping[Partition, Iterable[Row]], *, ordered: bool = True
) -> Report:
    """Judge `history` against one last read of every partition from its start to its end.

    Args:
        history: what clients did and saw.
        final: the records of each partition; a partition that is missing counts as empty.
        ordered: each producer's records must stand in the order sent (idempotent producers, or
            one request in flight). Without it duplicates and reordering are not anomalies.
    """
    findings = _Findings()
    logs = {partition: list(rows) for partition, rows in final.items()}
    lost: list[tuple[Partition, RecordId]] = []
    suffixes = True
    for partition in sorted({*history._sends, *logs}):
        sends = history._sends.get(partition, _Sends())
        log = logs.get(partition, [])
        _check_log(findings, partition, sends, log, ordered=ordered)
        gone, is_suffix = _check_acknowledged(findings, partition, sends, log, ordered=ordered)
        lost += [(partition, record) for record in gone]
        suffixes = suffixes and is_suffix
    for (reader, partition), rows in history._polls.items():
        _check_polls(findings, f"{reader} of {_name(partition)}", rows, logs.get(partition, []))
    return Report(
        found=dict(findings.found),
        examples=dict(findings.examples),
        acknowledged=history.acknowledged_count,
        read=sum(len(log) for log in logs.values()),
        lost=lost,
        lost_are_suffixes=suffixes,
    )


def _name(partition: Partition) -> str:
    return f"{partition[0]}-{partition[1]}"


def _check_log(
    findings: _Findings, partition: Partition, sends: _Sends, log: Sequence[Row], *, ordered: bool
) -> None:
    """Judge the final log by itself: offsets without holes, records that were sent, once each."""
    name = _name(partition)
    first_offsets: dict[RecordId, int] = {}
    last_sequences: dict[str, int] = {}
    previous_offset: int | None = None
    for row in log:
        if previous_offset is not None and row.offset <= previous_offset:
            findings.add(
                Anomaly.INCONSISTENT_OFFSETS,
                f"{name}: offset {row.offset} follows {previous_offset} in one read",
            )
        elif previous_offset is not None and row.offset != previous_offset + 1:
            findings.add(
                Anomaly.OFFSET_HOLE, f"{name}: {row.offset} follows {previous_offset} in the log"
            )
        previous_offset = row.offset
        record = row.record
        if record is None or record not in sends.sent:
            findings.add(Anomaly.PHANTOM_READ, f"{name}@{row.offset}: {record}")
            continue
        if record in sends.failed:
            findings.add(Anomaly.ABORTED_READ, f"{name}@{row.offset}: {record} was refused")
        if record in first_offsets:
            if ordered:
                findings.add(
                    Anomaly.DUPLICATE,
                    f"{name}: {record} at {first_offsets[record]} and {row.offset}",
                )
            continue
        first_offsets[record] = row.offset
        last = last_sequences.get(record.producer, -1)
        if ordered and record.sequence < last:
            findings.add(
                Anomaly.NONMONOTONIC_SEND,
                f"{name}@{row.offset}: {record} stands after its producer's {last}",
            )
        last_sequences[record.producer] = max(last, record.sequence)


def _check_acknowledged(
    findings: _Findings, partition: Partition, sends: _Sends, log: Sequence[Row], *, ordered: bool
) -> tuple[list[RecordId], bool]:
    """Compare what was promised with what is there.

    Returns:
        The acknowledged records that are gone, and whether those were the last ones promised.
    """
    name = _name(partition)
    offsets: dict[RecordId, set[int]] = defaultdict(set)
    for row in log:
        if row.record is not None:
            offsets[row.record].add(row.offset)
    promised: dict[int, RecordId] = {}
    lost: dict[int, RecordId] = {}
    last_survivor = -1
    for record, offset in sends.acknowledged.items():
        if ordered and (other := promised.get(offset)) is not None:
            findings.add(
                Anomaly.INCONSISTENT_OFFSETS,
                f"{name}@{offset}: promised to {other} and to {record}",
            )
        promised[offset] = record
        places = offsets.get(record)
        if not places:
            lost[offset] = record
            findings.add(Anomaly.LOST_WRITE, f"{name}@{offset}: {record}")
            continue
        last_survivor = max(last_survivor, offset)
        if offset not in places:
            findings.add(
                Anomaly.INCONSISTENT_OFFSETS,
                f"{name}: {record} promised at {offset}, read at {sorted(places)}",
            )
    if ordered:
        _check_promise_order(findings, name, sends)
    return list(lost.values()), min(lost, default=last_survivor) >= last_survivor


def _check_promise_order(findings: _Findings, name: str, sends: _Sends) -> None:
    """Report promised offsets of one producer that fall although its sequence rises."""
    for producer, sequences in sends.order.items():
        highest = -1
        for sequence in sequences:
            offset = sends.acknowledged.get(RecordId(producer, sequence))
            if offset is None:
                continue
            if offset < highest:
                findings.add(
                    Anomaly.NONMONOTONIC_SEND,
                    f"{name}: {producer}'s {sequence} was promised {offset}, after {highest}",
                )
            highest = max(highest, offset)


def _check_polls(findings: _Findings, name: str, rows: Sequence[Row], log: Sequence[Row]) -> None:
    """Judge what one reader with a fixed assignment was given."""
    by_offset = {row.offset: row.record for row in log}
    previous: int | None = None
    for row in rows:
        if previous is not None and row.offset <= previous:
            findings.add(Anomaly.NONMONOTONIC_POLL, f"{name}: {row.offset} after {previous}")
        elif previous is not None:
            skipped = [o for o in range(previous + 1, row.offset) if o in by_offset]
            if skipped:
                findings.add(Anomaly.POLL_SKIP, f"{name}: {skipped[:3]} before {row.offset}")
        previous = row.offset
        if row.offset not in by_offset:
            findings.add(Anomaly.LOST_WRITE, f"{name}@{row.offset}: {row.record} was read, is gone")
        elif by_offset[row.offset] != row.record:
            findings.add(
                Anomaly.INCONSISTENT_OFFSETS,
                f"{name}@{row.offset}: {row.record} then {by_offset[row.offset]}",
            )
