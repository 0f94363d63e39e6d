"""The records that every client sends, made anew where they are checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")

_KEYS = 500
_FILLER = " the quick brown fox jumps over the lazy dog" * 2


class SentRecord(NamedTuple):
    """What is handed to a client."""

    key: str
    value: str
    timestamp_ms: int


class ReadRecord(NamedTuple):
    """What a client handed back."""

    offset: int
    key: str
    value: str
    timestamp_ms: int


def make_records(
    label: str, count: int, first_timestamp_ms: int, *, first: int = 0
) -> Iterator[SentRecord]:
    """Yield `count` records, numbered from `first`, one millisecond apart, that compress well."""
    for number in range(first, first + count):
        yield SentRecord(
            f"key-{number % _KEYS}",
            f"{label}:{number}:{_FILLER}",
            first_timestamp_ms + number - first,
        )


def check_complete(
    rows: Mapping[int, Sequence[ReadRecord]],
    sent: Sequence[SentRecord],
    *,
    exact_timestamps: bool = True,
) -> None:
    """Check that a topic holds exactly `sent`: nothing missing, nothing twice, all in order.

    Which partition a key belongs to is the client's business; that it has only one is checked.
    """
    expected = {record.value: (number, record) for number, record in enumerate(sent)}
    assert len(expected) == len(sent)
    partition_of_key: dict[str, int] = {}
    seen: set[str] = set()
    for partition, records in rows.items():
        assert [row.offset for row in records] == list(range(len(records))), partition
        last_number = -1
        for row in records:
            number, record = expected[row.value]
            assert row.key == record.key
            assert number > last_number, f"partition {partition}: {number} after {last_number}"
            if exact_timestamps:
                assert row.timestamp_ms == record.timestamp_ms
            assert partition_of_key.setdefault(row.key, partition) == partition
            last_number = number
            seen.add(row.value)
    assert len(seen) == len(expected), f"{len(expected) - len(seen)} records missing"
    if len(sent) > _KEYS:
        assert len(set(partition_of_key.values())) == len(rows), "a partition stayed empty"
