"""Clients of what is beside a fault: they are answered in time, as if there were none (I12).

A fault may reach as far as the operations guide says and no further: one that concerns the reading
of one partition leaves all others alone, one of a log dir those of the other log dirs. Each of
these clients asks for one partition at a time over a connection of its own, since requests that
also name the faulty one have to wait for it, and so has what is sent behind them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trio_broker.errors import ErrorCode
from trio_broker.records.iterate import iterate_batches, iterate_records
from trio_broker.storage.disk_state import FAILING_PLACES_MAX, DiskState
from trio_broker.testing.brokers import directory_of
from trio_broker.testing.model import Violation
from trio_broker.testing.workload.caller import Caller
from trio_broker.testing.workload.producing import (
    Refusals,
    ValueMaker,
    batch_of,
    outcomes,
    produce_request,
)
from trio_broker.wire.messages.fetch import (
    FetchPartition,
    FetchRequest,
    FetchResponse,
    FetchTopic,
)
from trio_broker.wire.messages.produce import ProduceResponse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_broker.testing.brokers import Life
    from trio_broker.testing.model import PartitionModel
    from trio_broker.testing.workload.world import World

#: Answers come within this. The slowest of 2,900 took 0.95 s (many clients, small commits, segments
#: of a kilobyte, a slow network), beside faults that lasted for up to 10.
USUAL_SECONDS = 3.0
_PAUSE_SECONDS = 0.05
_SETTLES_SECONDS = 5.0
_STUCK_SECONDS = 1.0
_LOOK_SECONDS = 0.1
#: One more partition whose writes fail, and its log dir is taken for broken, as it should be.
_PLACES_MAX = FAILING_PLACES_MAX - 1
_RECORDS_BYTES_MAX = 64 * 1024 * 1024


def is_below(path: str, directory: str) -> bool:
    """Whether a path is a directory or in it."""
    return path == directory or path.startswith(f"{directory}/")


class Bystander:
    """One such client."""

    def __init__(self, world: World, name: str) -> None:
        self._world = world
        self._caller = Caller(world, name)
        self._draws = world.sim.random(name)
        self._values = ValueMaker(world, name, self._draws)

    async def ask(
        self, partitions: Sequence[PartitionModel], life: Life, over: trio.Event, what: str
    ) -> None:
        """Write and read, again and again until it is over, and demand answers.

        Args:
            partitions: that are not concerned by a fault.
            life: of the broker; nothing is demanded any more when it ends.
            over: set when the fault is about to end.
            what: the fault, for the message.

        Raises:
            Violation: an answer is an error, comes late, or does not come.
        """
        try:
            while not over.is_set():
                await trio.sleep(self._draws.expovariate(1 / _PAUSE_SECONDS))
                usable = [each for each in partitions if not each.topic.deletion_begun]
                if not usable or self._world.server.serving is not life:
                    return
                partition = self._draws.choice(usable)
                code: ErrorCode | None = None
                with trio.move_on_after(USUAL_SECONDS):
                    code = await self._write_and_read(partition)
                if code is ErrorCode.NONE:
                    self._world.saw(f"answered beside {what}")
                    continue
                self._caller.close()
                if partition.topic.deletion_begun or self._world.server.serving is not life:
                    continue
                raise Violation(
                    f"I12 {partition} is beside {what}, and {self._caller.name} gets"
                    f" {'no answer' if code is None else code.name}"
                )
        finally:
            self._caller.close()

    async def _write_and_read(self, partition: PartitionModel) -> ErrorCode | None:
        """Return the first code that is not NONE; None if there is no answer."""
        await self._caller.connection()
        values = self._values.values(partition)
        partition.send(values, self._caller.wall_ms)
        batch = batch_of(values, self._caller.wall_ms)
        refusals = Refusals(partition.topic, len(batch), acks=-1)
        request = produce_request([(partition, batch)], acks=-1, timeout_ms=30_000)
        produced = await self._caller.call(request, ProduceResponse)
        if produced is None:
            return None
        [outcome] = outcomes(produced)
        code = ErrorCode(outcome.error_code)
        if code is not ErrorCode.NONE:
            return ErrorCode.NONE if refusals.may_be(code) else code
        self._world.acknowledged(partition, outcome.base_offset, values, self._caller.losses)
        return await self._read(partition, outcome.base_offset)

    async def _read(self, partition: PartitionModel, offset: int) -> ErrorCode | None:
        wanted = FetchPartition(
            partition=partition.index, fetch_offset=offset, partition_max_bytes=1_000_000
        )
        topic = FetchTopic(
            topic=partition.topic.name, topic_id=partition.topic.topic_id, partitions=[wanted]
        )
        fetched = await self._caller.call(
            FetchRequest(max_wait_ms=0, min_bytes=1, max_bytes=1_000_000, topics=[topic]),
            FetchResponse,
        )
        if fetched is None:
            return None
        part = fetched.responses[0].partitions[0]
        if part.error_code == ErrorCode.OFFSET_OUT_OF_RANGE:
            return ErrorCode.NONE  # retention was faster
        for _, data in iterate_batches(part.records or b""):
            for record in iterate_records(data, bytes_max=_RECORDS_BYTES_MAX):
                if record.offset >= offset:
                    self._world.read(partition, record.offset, record.value or b"")
        return ErrorCode(part.error_code)


class Bystanders:
    """All of them."""

    def __init__(self, world: World, count: int) -> None:
        self._world = world
        self._all = [Bystander(world, f"bystander-{number}") for number in range(count)]

    async def wait_until_all_is_well(self) -> bool:
        """Wait for what earlier faults have left to be over; return whether it is."""
        with trio.move_on_after(_SETTLES_SECONDS):
            while not self._all_is_well():  # noqa: ASYNC110 - it looks
                await trio.sleep(_LOOK_SECONDS)
            return True
        return False

    def _all_is_well(self) -> bool:
        life = self._world.server.serving
        # A call of a disk that was slow when it began may still be given up.
        calm_seconds = trio.current_time() - self._world.disk_changed_at
        stuck_seconds = min(_STUCK_SECONDS, calm_seconds)
        return (
            life is not None
            and not any(replica.refusal for replica in life.state.router.replicas())
            and not any(
                log_dir.refusal
                or log_dir.health.state is not DiskState.OK
                or len(log_dir.health.failing_places(trio.current_time())) >= _PLACES_MAX
                for log_dir in life.state.log_dirs
            )
            and not any(lane.stuck_seconds > stuck_seconds for lane in life.state.disk_lanes)
        )

    async def stand_by(self, path: str, what: str, seconds: float) -> None:
        """Be clients of everything outside of a directory for a while.

        Raises:
            Violation: see `Bystander.ask`.
        """
        life, model = self._world.server.serving, self._world.model
        partitions: list[PartitionModel] = []
        for replica in life.state.router.replicas() if life is not None else ():
            topic = model.by_id.get(replica.topic_partition.topic_id)
            if topic is None or replica.partition >= len(topic.partitions):
                continue  # nobody knows of it yet
            if not is_below(directory_of(replica), path):
                partitions.append(topic.partitions[replica.partition])
        over = trio.Event()
        async with trio.open_nursery() as nursery:
            for bystander in self._all if partitions else ():
                assert life is not None
                nursery.start_soon(bystander.ask, partitions, life, over, what)
            await trio.sleep(seconds)
            over.set()
