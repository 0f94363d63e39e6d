"""What an OffsetCommit request would write, made before it is decided.

To decide about ten thousand offsets, to encode them and to let them take effect are one step each,
since a commit is there as a whole or not at all. Whatever depends on nothing but the request itself
is made here in pieces, so that little is left for those steps. Pure: it looks at no group.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

from trio_broker.config import INT64_MAX
from trio_broker.errors import ErrorCode
from trio_broker.group.encoding import INT32
from trio_broker.group.offsets import size_bytes_with
from trio_broker.group.schemas import (
    SCHEMA_STRING_BYTES_MAX,
    CoordinatorRecord,
    OffsetCommitValue,
    encode_offset_commit_key_start,
    encode_offset_commit_value,
)
from trio_broker.records.build import Record, encode_records

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence
    from uuid import UUID

    from trio_broker.group.commands import CommitOffsets
    from trio_broker.group.offsets import OffsetToCommit
    from trio_broker.names import TopicName

#: Offsets prepared before others may run: about a millisecond.
OFFSETS_PER_PIECE = 100
#: Most bytes of a commit's records. Each repeats names that the request has once: 75 KB of request
#: could become gigabytes.
COMMIT_BYTES_MAX = 32 * 1024 * 1024


@frozen(kw_only=True, eq=False)
class PreparedCommit:
    """An OffsetCommit request with all that can be known of it beforehand.

    Attributes:
        request: what was asked for.
        now_ms: when it was committed, civil time.
        metadata_bytes_max: longest metadata of one offset, in bytes of UTF-8.
        codes: for each offset of the request, why its records are missing; NONE: they are there.
        records: of the other offsets, in their order.
        section: these records as the records section of a batch.
        places: the topic and partition of each record.
        values: the same offsets by topic and partition; the last one, if one is named twice.
        topics: names and ids of these topics, each once.
        size_bytes_max: as much memory they take at most, if all are new.
    """

    request: CommitOffsets
    now_ms: int
    metadata_bytes_max: int
    codes: tuple[ErrorCode, ...]
    records: tuple[CoordinatorRecord, ...]
    section: bytes
    places: Sequence[tuple[TopicName, int]]
    values: Mapping[TopicName, Mapping[int, OffsetCommitValue]]
    topics: frozenset[tuple[TopicName, UUID]]
    size_bytes_max: int

    def __repr__(self) -> str:
        return f"<PreparedCommit of {len(self.records)} offsets of {self.request.group_id!r}>"

    def only_where(self, codes: Sequence[ErrorCode]) -> PreparedCommit:
        """Return what is left of it if offsets with a code are refused; in one go.

        Args:
            codes: one for each offset of the request.
        """
        making = _Preparation(self.request, self.now_ms, self.metadata_bytes_max)
        making.take(
            [
                offset
                for offset, code in zip(self.request.offsets, codes, strict=True)
                if code is ErrorCode.NONE
            ]
        )
        return making.result(codes)


def preparing_commit(
    request: CommitOffsets, *, now_ms: int, metadata_bytes_max: int
) -> Generator[None, None, PreparedCommit]:
    """Prepare a request; yields after each piece, where others may run.

    Args:
        request: whose topics exist.
        now_ms: civil time.
        metadata_bytes_max: longest metadata of one offset, in bytes of UTF-8.
    """
    making = _Preparation(request, now_ms, min(metadata_bytes_max, SCHEMA_STRING_BYTES_MAX))
    if len(request.group_id.encode()) > SCHEMA_STRING_BYTES_MAX:
        return making.result([ErrorCode.INVALID_GROUP_ID] * len(request.offsets))
    codes: list[ErrorCode] = []
    for start in range(0, len(request.offsets), OFFSETS_PER_PIECE):
        if start:
            yield
        codes += making.take(request.offsets[start : start + OFFSETS_PER_PIECE])
        if making.size_bytes > COMMIT_BYTES_MAX:
            nothing = _Preparation(request, now_ms, metadata_bytes_max)
            return nothing.result([ErrorCode.INVALID_COMMIT_OFFSET_SIZE] * len(request.offsets))
    return making.result(codes)


class _Preparation:
    """A `PreparedCommit` that grows.

    Attributes:
        size_bytes: of its records so far.
    """

    def __init__(self, request: CommitOffsets, now_ms: int, metadata_bytes_max: int) -> None:
        self._request = request
        self._now_ms = now_ms
        self._metadata_bytes_max = metadata_bytes_max
        self._expires_at_ms = -1
        if request.retention_ms >= 0:
            self._expires_at_ms = min(now_ms + request.retention_ms, INT64_MAX)
        self._records: list[CoordinatorRecord] = []
        self._sections: list[bytes] = []
        self._places: list[tuple[TopicName, int]] = []
        self._values: dict[TopicName, dict[int, OffsetCommitValue]] = {}
        self._topics: set[tuple[TopicName, UUID]] = set()
        self._key_starts: dict[TopicName, bytes] = {}
        self._size_bytes_max = 0
        self.size_bytes = 0

    def take(self, offsets: Sequence[OffsetToCommit]) -> list[ErrorCode]:
        """Add those that may be stored; return a code for each."""
        codes: list[ErrorCode] = []
        first = len(self._records)
        for topic, partition, offset, leader_epoch, given, topic_id in offsets:
            metadata = given or ""
            if len(metadata.encode()) > self._metadata_bytes_max:
                codes.append(ErrorCode.OFFSET_METADATA_TOO_LARGE)
                continue
            codes.append(ErrorCode.NONE)
            value = OffsetCommitValue(
                offset, leader_epoch, metadata, self._now_ms, self._expires_at_ms, topic_id
            )
            key_start = self._key_starts.get(topic)
            if key_start is None:
                key_start = encode_offset_commit_key_start(self._request.group_id, topic)
                self._key_starts[topic] = key_start
                self._values[topic] = {}
            self._values[topic][partition] = value
            self._topics.add((topic, topic_id))
            self._places.append((topic, partition))
            self._size_bytes_max += size_bytes_with(metadata)
            key = key_start + INT32.pack(partition)
            self._records.append(CoordinatorRecord(key, encode_offset_commit_value(value)))
        new = [
            Record(key=key, value=encoded, timestamp_ms=self._now_ms)
            for key, encoded in self._records[first:]
        ]
        section = encode_records(new, self._now_ms, first_offset_delta=first)
        self._sections.append(section)
        self.size_bytes += len(section)
        return codes

    def result(self, codes: Sequence[ErrorCode]) -> PreparedCommit:
        """Return what has come together."""
        return PreparedCommit(
            request=self._request,
            now_ms=self._now_ms,
            metadata_bytes_max=self._metadata_bytes_max,
            codes=tuple(codes),
            records=tuple(self._records),
            section=b"".join(self._sections),
            places=self._places,
            values=self._values,
            topics=frozenset(self._topics),
            size_bytes_max=self._size_bytes_max,
        )
