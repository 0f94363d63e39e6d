"""Which broker, which log dir and which shard hold a new replica: the one with the fewest, first.

Pure counting, so that the same image always gives the same answer. Within one broker a log dir
with fewer replicas wins, then the shard with fewer; between equals the one registered first.
Used by `decisions`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple
from uuid import UUID

from trio_broker.metadata.image import MetadataImage, ShardKey
from trio_broker.metadata.records import DirectoryRecord, ReplicaAssignment
from trio_broker.names import BrokerId


class Unplaceable(NamedTuple):
    """There is no room: which broker has no log dir that may take a replica."""

    broker_id: BrokerId


class Placement:
    """Places replicas one after another, counting those it placed itself.

    Args:
        image: where everything is now.
        excluded_directories: ids of log dirs that take no new replicas (failed ones).
    """

    def __init__(self, image: MetadataImage, excluded_directories: Collection[UUID] = ()) -> None:
        self._shards = dict(image.replica_counts)
        self._directories: dict[tuple[BrokerId, UUID], int] = {}
        self._brokers: dict[BrokerId, int] = {}
        for key, count in image.replica_counts.items():
            directory = (key.broker_id, key.directory_id)
            self._directories[directory] = self._directories.get(directory, 0) + count
            self._brokers[key.broker_id] = self._brokers.get(key.broker_id, 0) + count
        self._candidates: dict[BrokerId, list[DirectoryRecord]] = {
            broker.broker_id: [
                directory
                for directory in broker.directories
                if directory.directory_id not in excluded_directories
            ]
            for broker in image.brokers.values()
        }

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
        """Choose a log dir and a shard on each of these brokers for one partition."""
        for broker_id in broker_ids:
            if not self._candidates.get(broker_id):
                return Unplaceable(broker_id)
        return tuple(self._place_on(broker_id) for broker_id in broker_ids)

    def _place_on(self, broker_id: BrokerId) -> ReplicaAssignment:
        directory = min(
            self._candidates[broker_id],
            key=lambda found: self._directories.get((broker_id, found.directory_id), 0),
        )
        directory_id = directory.directory_id
        shard_index = min(
            range(directory.shard_count),
            key=lambda index: self._shards.get(ShardKey(broker_id, directory_id, index), 0),
        )
        shard = ShardKey(broker_id, directory_id, shard_index)
        self._shards[shard] = self._shards.get(shard, 0) + 1
        place = (broker_id, directory_id)
        self._directories[place] = self._directories.get(place, 0) + 1
        self._brokers[broker_id] = self._brokers.get(broker_id, 0) + 1
        return ReplicaAssignment(broker_id, directory_id, shard_index)
