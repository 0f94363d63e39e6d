"""Words that the client's calls have in common."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class TopicPartition(NamedTuple):
    """A partition as clients name it: by the name of its topic, whichever topic has it now.

    Any other pair of a name and an index compares and hashes equal. (`names.TopicPartition` is
    one partition of one incarnation of a topic, which is what the broker needs.)
    """

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}-{self.partition}"


class OffsetSpec(IntEnum):
    """Offsets that only the broker knows; the numbers are those of ListOffsets."""

    LATEST = -1
    EARLIEST = -2
    #: Of the record with the largest timestamp (KIP-734).
    MAX_TIMESTAMP = -3


class IsolationLevel(IntEnum):
    """Which records of transactions a consumer sees; the numbers are those of Fetch."""

    #: All of them.
    READ_UNCOMMITTED = 0
    #: Those of committed transactions, up to the first one that is still open.
    READ_COMMITTED = 1


class ListedOffset(NamedTuple):
    """What ListOffsets says.

    Attributes:
        offset: -1 if there is none, as for a timestamp later than every record.
        timestamp_ms: of the record found, -1 if it was not looked for.
        leader_epoch: of the record, -1 if the broker does not tell.
    """

    offset: int
    timestamp_ms: int
    leader_epoch: int


class CommittedOffset(NamedTuple):
    """What a group has committed for a partition.

    Attributes:
        offset: of the next record to process.
        metadata: a note of the one who committed it.
        leader_epoch: of the last record processed, -1 if not told.
    """

    offset: int
    metadata: str = ""
    leader_epoch: int = -1
