"""A group that commits offsets and wants to find them again (I5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trio_broker.errors import ErrorCode
from trio_broker.testing.model import Violation
from trio_broker.testing.workload.caller import Caller
from trio_broker.wire.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
    OffsetCommitResponse,
)
from trio_broker.wire.messages.offset_fetch import (
    OffsetFetchRequest,
    OffsetFetchRequestGroup,
    OffsetFetchRequestTopics,
    OffsetFetchResponse,
)

if TYPE_CHECKING:
    from trio_broker.testing.model import PartitionModel
    from trio_broker.testing.workload.world import World

#: Refusals that pass.
PASSING = frozenset(
    {
        ErrorCode.REQUEST_TIMED_OUT,
        ErrorCode.COORDINATOR_LOAD_IN_PROGRESS,
        ErrorCode.COORDINATOR_NOT_AVAILABLE,
        ErrorCode.NOT_COORDINATOR,
        ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
        ErrorCode.UNKNOWN_TOPIC_ID,
    }
)
_RETRY_SECONDS = 0.2


class Committer:
    """One group with one member, which assigns partitions to itself."""

    def __init__(self, world: World, name: str, *, operations: int) -> None:
        self.name = name
        self._world = world
        self._caller = Caller(world, name)
        self._draws = world.sim.random(name)
        self._operations = operations
        self._offset = 0

    async def run(self) -> None:
        """Commit and look, so many times, and look once more at the end."""
        while self._operations > 0 and not self._world.is_over:
            self._operations -= 1
            await self._world.pause(self._draws)
            await self._caller.connection()
            for partition in self._world.some_partitions(self._draws)[:1]:
                if self._draws.random() < 0.7:
                    await self._commit(partition)
                else:
                    await self._look(partition)
        await self._world.over.wait()
        for partition in list(self._world.model.partitions()):
            while not partition.topic.deletion_begun and not await self._look(partition):  # noqa: ASYNC110 - it asks
                await trio.sleep(_RETRY_SECONDS)
        self._caller.close()

    async def _commit(self, partition: PartitionModel) -> None:
        self._offset += 1
        topic = partition.topic
        committed = self._world.model.committed_by(self.name, topic.topic_id, partition.index)
        committed.attempt(self._offset)
        losses = self._world.losses
        response = await self._caller.call(
            OffsetCommitRequest(
                group_id=self.name,
                member_id="",
                topics=[
                    OffsetCommitRequestTopic(
                        name=topic.name,
                        topic_id=topic.topic_id,
                        partitions=[
                            OffsetCommitRequestPartition(
                                partition_index=partition.index,
                                committed_offset=self._offset,
                                committed_metadata="",
                            )
                        ],
                    )
                ],
            ),
            OffsetCommitResponse,
        )
        if response is None:
            return
        code = ErrorCode(response.topics[0].partitions[0].error_code)
        if code is ErrorCode.NONE:
            if losses == self._world.losses:
                committed.acknowledge(self._offset)
            if topic.deletion_begun:
                committed.deleted()
        elif code not in PASSING:
            raise Violation(f"I6 {self.name} gets {code.name} for a commit")

    async def _look(self, partition: PartitionModel) -> bool:
        topic = partition.topic
        committed = self._world.model.committed_by(self.name, topic.topic_id, partition.index)
        losses = self._world.losses
        response = await self._caller.call(
            OffsetFetchRequest(
                groups=[
                    OffsetFetchRequestGroup(
                        group_id=self.name,
                        topics=[
                            OffsetFetchRequestTopics(
                                name=topic.name,
                                topic_id=topic.topic_id,
                                partition_indexes=[partition.index],
                            )
                        ],
                    )
                ],
            ),
            OffsetFetchResponse,
        )
        if response is None:
            return False
        group = response.groups[0]
        code = ErrorCode(group.error_code or group.topics[0].partitions[0].error_code)
        if code in PASSING:
            return False
        if code is not ErrorCode.NONE:
            raise Violation(f"I6 {self.name} gets {code.name} when it asks for its offsets")
        found = group.topics[0].partitions[0].committed_offset
        if topic.deletion_begun or losses != self._world.losses:
            return False
        if not committed.found(found):
            raise Violation(
                f"I5 {self.name} finds {found} for {partition}, possible are {committed.possible}"
            )
        return True
