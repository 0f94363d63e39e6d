"""Honest clients that work while others attack, on topics and groups that those do not know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import trio

from tests.broker.harness import Client, make_batch, open_client
from trio_broker.wire.messages.heartbeat import HeartbeatRequest
from trio_broker.wire.messages.join_group import JoinGroupRequest, JoinGroupRequestProtocol
from trio_broker.wire.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
)
from trio_broker.wire.messages.offset_fetch import OffsetFetchRequest, OffsetFetchRequestTopic
from trio_broker.wire.messages.sync_group import SyncGroupRequest, SyncGroupRequestAssignment

if TYPE_CHECKING:
    from trio_broker.testing.sim.host import SimMachine

TOPIC = "bystander"
GROUP = "bystanders"
_PAUSE_SECONDS = 4.0
_SECONDS = 600.0


@attrs.define
class Rounds:
    """How often an honest client has done its work; it raises as soon as it cannot."""

    done: int = 0
    _changed: trio.Event = attrs.field(factory=trio.Event)

    def count(self) -> None:
        self.done += 1
        self._changed.set()
        self._changed = trio.Event()

    async def wait_for_rounds(self, more: int) -> None:
        goal = self.done + more
        with trio.fail_after(_SECONDS):
            while self.done < goal:
                await self._changed.wait()


async def honest_producer(machine: SimMachine, *, task_status: Any) -> None:
    """Produce a record, read it back, and again, on one connection that must not break."""
    rounds = Rounds()
    task_status.started(rounds)
    async with open_client(machine.network, ("server", 9092)) as client:
        while True:
            value = b"round %d" % rounds.done
            batch = make_batch(value, timestamp_ms=machine.wall.now_ms())
            produced = await client.produce(batch, topic=TOPIC)
            assert (produced.error_code, produced.base_offset) == (0, rounds.done), produced
            fetched = await client.fetch(rounds.done, topic=TOPIC)
            assert fetched.error_code == 0, fetched
            assert fetched.high_watermark == rounds.done + 1, fetched
            assert value in bytes(fetched.records), fetched
            rounds.count()
            await trio.sleep(_PAUSE_SECONDS)


async def honest_group(machine: SimMachine, *, task_status: Any) -> None:
    """Be the only member of a group: heartbeats go on, what is committed is what is read."""
    rounds = Rounds()
    task_status.started(rounds)
    async with open_client(machine.network, ("server", 9092)) as client:
        member_id, generation = await _join(client)
        while True:
            beat = HeartbeatRequest(group_id=GROUP, generation_id=generation, member_id=member_id)
            answered = await client.call(beat)
            assert answered.error_code == 0, answered
            await _commit(client, member_id, generation, rounds.done)
            rounds.count()
            await trio.sleep(_PAUSE_SECONDS)


async def _join(client: Client) -> tuple[str, int]:
    join = JoinGroupRequest(
        group_id=GROUP,
        session_timeout_ms=60_000,
        rebalance_timeout_ms=60_000,
        member_id="",
        protocol_type="consumer",
        protocols=[JoinGroupRequestProtocol(name="range", metadata=b"")],
    )
    joined = await client.call(join, 3)
    assert joined.error_code == 0, joined
    sync = SyncGroupRequest(
        group_id=GROUP,
        generation_id=joined.generation_id,
        member_id=joined.member_id,
        assignments=[SyncGroupRequestAssignment(member_id=joined.member_id, assignment=b"all")],
    )
    synced = await client.call(sync, 3)
    assert (synced.error_code, bytes(synced.assignment)) == (0, b"all"), synced
    return joined.member_id, joined.generation_id


async def _commit(client: Client, member_id: str, generation: int, offset: int) -> None:
    partition = OffsetCommitRequestPartition(
        partition_index=0, committed_offset=offset, committed_metadata="m"
    )
    commit = OffsetCommitRequest(
        group_id=GROUP,
        generation_id_or_member_epoch=generation,
        member_id=member_id,
        topics=[OffsetCommitRequestTopic(name=TOPIC, partitions=[partition])],
    )
    committed = await client.call(commit, 8)
    assert committed.topics[0].partitions[0].error_code == 0, committed
    fetch = OffsetFetchRequest(
        group_id=GROUP, topics=[OffsetFetchRequestTopic(name=TOPIC, partition_indexes=[0])]
    )
    fetched = await client.call(fetch, 7)
    assert fetched.topics[0].partitions[0].committed_offset == offset, fetched
