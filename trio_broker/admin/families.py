"""What a metric family is here: a name, its labels, and how its rows come out of statistics.

Declared as tables in `metrics` and `kafka_exporter`, so that the reference page is made of the same
lines as the answer to a scrape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from attrs import field, frozen

if TYPE_CHECKING:
    from trio_broker.admin.statistics import (
        BrokerStatistics,
        CommittedOffset,
        GroupStatistics,
        PartitionStatistics,
        TopicStatistics,
    )

#: Values of the labels, and the sample.
Row: TypeAlias = tuple[tuple[str, ...], float]


@frozen(kw_only=True)
class ProcessUsage:
    """What the process uses; read by whoever can ask the machine.

    Attributes:
        cpu_seconds: user and system time since it began.
        resident_bytes: its memory.
        open_descriptors: files, sockets and all else.
        descriptors_max: how many of them it may have.
        threads: how many it runs.
        started_at: civil time in seconds since the Unix epoch.
    """

    cpu_seconds: float
    resident_bytes: int
    open_descriptors: int
    descriptors_max: int
    threads: int
    started_at: float


@frozen
class Shown:
    """What one scrape shows.

    Attributes:
        statistics: the broker's.
        process: the process's; None where nobody knows.
        per_partition: whether there are series for each partition.
        series_max: at most so many partitions, and so many committed offsets, are shown.
    """

    statistics: BrokerStatistics
    process: ProcessUsage | None = None
    per_partition: bool = True
    series_max: int = 1_000
    partitions: list[tuple[TopicStatistics, PartitionStatistics]] = field(init=False, repr=False)
    offsets: list[tuple[GroupStatistics, CommittedOffset]] = field(init=False, repr=False)
    omitted: int = field(init=False)

    @partitions.default
    def _shown_partitions(self) -> list[tuple[TopicStatistics, PartitionStatistics]]:
        if not self.per_partition:
            return []
        return [(topic, part) for topic in self.statistics.topics for part in topic.partitions][
            : self.series_max
        ]

    @offsets.default
    def _shown_offsets(self) -> list[tuple[GroupStatistics, CommittedOffset]]:
        if not self.per_partition:
            return []
        return [(group, found) for group in self.statistics.groups for found in group.offsets][
            : self.series_max
        ]

    @omitted.default
    def _count_omitted(self) -> int:
        """Count the partitions and committed offsets that are left out."""
        there = sum(len(topic.partitions) for topic in self.statistics.topics)
        there += sum(len(group.offsets) for group in self.statistics.groups)
        return there - len(self.partitions) - len(self.offsets)


class Family(NamedTuple):
    """One metric family.

    Attributes:
        name: with its unit, and for counters with ``_total``.
        kind: gauge or counter.
        labels: their names.
        help: what it says.
        rows: its samples.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str
    rows: Callable[[Shown], Iterable[Row]]
