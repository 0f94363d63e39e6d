"""Which broker, which log dir and which shard hold a new replica: the one with the fewest, first.

Pure counting, so that the same image always gives the same answer. Within one broker a log dir
with fewer replicas wins, then the shard with fewer; between equals the one registered first.
Used by `decisions`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import starmap
from typing import NamedTuple, TypeAlias
from uuid import UUID

from attrs import define

from trio_broker.metadata.image import MetadataImage, ShardKey
from trio_broker.metadata.records import DirectoryRecord, ReplicaAssignment
from trio_broker.names import BrokerId


class Unplaceable(NamedTuple):
    """There is no room: which broker has no log dir that may take a replica."""

    broker_id: BrokerId


#: A broker, the index of one of its candidates, and the index of a shard of that.
_Place: TypeAlias = tuple[BrokerId, int, int]


@define(eq=False)
class _Candidate:
    """A log dir that may take replicas, and how many it has, also by shard."""

    directory: DirectoryRecord
    replica_count: int
    shard_counts: list[int]


class Placement:
    """Places replicas one after another, counting those it placed itself.

    Args:
        image: where everything is now.
        excluded_directories: ids of log dirs that take no new replicas (failed ones).
    """

    def __init__(self, image: MetadataImage, excluded_directories: Collection[UUID] = ()) -> None:
        self._brokers: dict[BrokerId, int] = {}
        directories: dict[tuple[BrokerId, UUID], int] = {}
        for key, count in image.replica_counts.items():
            directory = (key.broker_id, key.directory_id)
            directories[directory] = directories.get(directory, 0) + count
            self._brokers[key.broker_id] = self._brokers.get(key.broker_id, 0) + count
        self._candidates: dict[BrokerId, list[_Candidate]] = {
            broker.broker_id: [
                _Candidate(
                    directory,
                    directories.get((broker.broker_id, directory.directory_id), 0),
                    [
                        image.replica_counts.get(
                            ShardKey(broker.broker_id, directory.directory_id, index), 0
                        )
                        for index in range(directory.shard_count)
                    ],
                )
                for directory in broker.directories
                if directory.directory_id not in excluded_directories
            ]
            for broker in image.brokers.values()
        }
        self._placed: dict[tuple[_Place, ...], tuple[ReplicaAssignment, ...]] = {}

    @property
    def broker_ids(self) -> list[BrokerId]:
        """Brokers that have a log dir to put replicas in."""
        return [broker_id for broker_id, found in self._candidates.items() if found]

    def choose_brokers(self, replication_factor: int) -> list[BrokerId]:
        """Return the `replication_factor` brokers with the fewest replicas, fewest first.

        The caller makes sure that there are so many `broker_ids`.
        """
        ordered = sorted(self.broker_ids, key=lambda broker: (self._brokers.get(broker, 0), broker))
        assert len(ordered) >= replication_factor, "the caller checks the replication factor"
        return ordered[:replication_factor]

    def place(self, broker_ids: Sequence[BrokerId]) -> tuple[ReplicaAssignment, ...] | Unplaceable:
        """Choose a log dir and a shard on each of these brokers for one partition.

        Returns:
            The same object for all partitions that are in the same places.
        """
        for broker_id in broker_ids:
            if not self._candidates.get(broker_id):
                return Unplaceable(broker_id)
        places = tuple([self._choose(broker_id) for broker_id in broker_ids])
        found = self._placed.get(places)
        if found is None:
            found = tuple(starmap(self._assignment, places))
            self._placed[places] = found
        return found

    def _choose(self, broker_id: BrokerId) -> _Place:
        """Return a broker, the index of one of its candidates, and of a shard of that."""
        candidates = self._candidates[broker_id]
        index = 0
        if len(candidates) > 1:
            counts = [candidate.replica_count for candidate in candidates]
            index = counts.index(min(counts))
        candidate = candidates[index]
        shard_counts = candidate.shard_counts
        shard_index = shard_counts.index(min(shard_counts))
        shard_counts[shard_index] += 1
        candidate.replica_count += 1
        self._brokers[broker_id] = self._brokers.get(broker_id, 0) + 1
        return broker_id, index, shard_index

    def _assignment(self, broker_id: BrokerId, index: int, shard_index: int) -> ReplicaAssignment:
        directory = self._candidates[broker_id][index].directory
        return ReplicaAssignment(broker_id, directory.directory_id, shard_index)
