"""Deletes the oldest records of partitions, now and then (DeleteRecords)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trio_broker.errors import ErrorCode
from trio_broker.testing.model import Violation
from trio_broker.testing.workload.caller import Caller
from trio_broker.testing.workload.producing import PASSING, UNKNOWN_TOPIC
from trio_broker.wire.messages.delete_records import (
    DeleteRecordsPartition,
    DeleteRecordsRequest,
    DeleteRecordsResponse,
    DeleteRecordsTopic,
)

if TYPE_CHECKING:
    from trio_broker.testing.model import PartitionModel
    from trio_broker.testing.workload.world import World

_HIGH_WATERMARK = -1


class Trimmer:
    """Asks for records to be deleted, up to a drawn offset or all there are."""

    def __init__(self, world: World, name: str, *, operations: int) -> None:
        self.name = name
        self._world = world
        self._caller = Caller(world, name)
        self._draws = world.sim.random(name)
        self._operations = operations

    async def run(self) -> None:
        """Ask so many times."""
        while self._operations > 0 and not self._world.is_over:
            self._operations -= 1
            await trio.sleep(self._draws.expovariate(1 / 0.3))
            await self._caller.connection()
            for partition in self._world.some_partitions(self._draws)[:1]:
                await self._trim(partition)
        self._caller.close()

    async def _trim(self, partition: PartitionModel) -> None:
        offset = self._draws.choice((_HIGH_WATERMARK, partition.start, partition.known_end))
        self._world.model.trim(partition, offset)
        name, asked_at = partition.topic.name, trio.current_time()
        losses = self._world.losses
        answer = await self._caller.call(
            DeleteRecordsRequest(
                topics=[
                    DeleteRecordsTopic(
                        name=name,
                        partitions=[
                            DeleteRecordsPartition(partition_index=partition.index, offset=offset)
                        ],
                    )
                ],
                timeout_ms=30_000,
            ),
            DeleteRecordsResponse,
        )
        if answer is None:
            return
        result = answer.topics[0].partitions[0]
        code = ErrorCode(result.error_code)
        if code is ErrorCode.NONE:
            is_same = self._world.model.incarnation(name, asked_at) is partition.topic
            if is_same and losses == self._world.losses:
                partition.trimmed(result.low_watermark)
                self._world.saw("records trimmed")
        elif code not in PASSING | UNKNOWN_TOPIC | {ErrorCode.OFFSET_OUT_OF_RANGE}:
            raise Violation(f"I6 {self.name} gets {code.name} for deleting records")
