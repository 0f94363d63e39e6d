"""Fetch over a connection: positions, limits, waiting, codes, and reads that reach the disk."""

from __future__ import annotations

import attrs
import pytest
import trio

from tests.broker.harness import (
    World,
    codes,
    fetch_request,
    make_batch,
    produce_request,
    running,
    simulated,
    slow,
)
from trio_broker import BrokerConfig, ErrorCode
from trio_broker.config import NetworkConfig
from trio_broker.errors import CorruptLog
from trio_broker.names import ZERO_TOPIC_ID
from trio_broker.records.iterate import iterate_batches
from trio_broker.storage import paths
from trio_broker.storage.log import Log
from trio_broker.testing.sim.faults import DiskFaults
from trio_broker.testing.sim.network import NetworkFaults
from trio_broker.wire.messages.fetch import FetchPartition, FetchRequest, FetchTopic
from trio_broker.wire.messages.fetch import ReplicaState as FollowerState


def spans(records: bytes | None) -> list[tuple[int, int]]:
    """Return first and last offset of every batch."""
    return [
        (header.base_offset, header.last_offset)
        for header, _ in iterate_batches(bytes(records or b""))
    ]


async def test_every_version_reads_a_batch(wire_config: BrokerConfig) -> None:
    async with running(wire_config) as run:
        for version in range(4, 19):
            topic_id = await run.broker.create_topic("orders")
            topic = topic_id if version >= 13 else "orders"
            async with run.connect() as client:
                await client.produce(make_batch(b"1", b"2"))
                found = await client.fetch(topic=topic, version=version)
                assert (found.error_code, found.high_watermark) == (0, 2)
                assert (found.last_stable_offset, spans(found.records)) == (2, [(0, 1)])
                assert found.log_start_offset == (0 if version >= 5 else -1)
                assert found.aborted_transactions is None
                committed = await client.fetch(topic=topic, version=version, isolation_level=1)
                assert committed.aborted_transactions == []
                assert spans(committed.records) == [(0, 1)]
                end = await client.fetch(2, topic=topic, version=version)
                assert (end.error_code, end.high_watermark, bytes(end.records)) == (0, 2, b"")
            await run.broker.delete_topic("orders")


async def test_what_cannot_be_fetched_has_kafkas_code(wire_config: BrokerConfig) -> None:
    async with running(wire_config) as run:
        topic_id = await run.broker.create_topic("orders")
        async with run.connect() as client:
            await client.produce(make_batch(b"1", b"2"))

            async def code(offset: int = 0, **arguments: object) -> int:
                found = await client.fetch(offset, **arguments)
                if found.error_code:
                    assert (found.high_watermark, bytes(found.records or b"")) == (-1, b"")
                return found.error_code

            assert await code(topic="nowhere") == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
            assert await code(partition=1) == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
            assert await code(topic=ZERO_TOPIC_ID, version=13) == ErrorCode.UNKNOWN_TOPIC_ID
            assert (
                await code(topic=topic_id, partition=-1, version=13)
                == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
            )
            assert await code(3) == ErrorCode.OFFSET_OUT_OF_RANGE
            assert await code(-1) == ErrorCode.OFFSET_OUT_OF_RANGE
            # Whatever there is to wait for, an error is answered at once.
            assert await code(3, max_wait_ms=1_000_000) == ErrorCode.OFFSET_OUT_OF_RANGE
            for epoch, expected in ((-1, 0), (0, 0), (1, ErrorCode.UNKNOWN_LEADER_EPOCH)):
                arguments = {"current_leader_epoch": epoch}
                assert await code(partition_arguments=arguments) == expected
            assert await code(replica_id=7) == ErrorCode.CLUSTER_AUTHORIZATION_FAILED
            follower = FollowerState(replica_id=7)
            assert (
                await code(topic=topic_id, version=17, replica_state=follower)
                == ErrorCode.CLUSTER_AUTHORIZATION_FAILED
            )


@simulated
async def test_an_older_epoch_is_fenced_after_an_unclean_stop(world: World) -> None:
    async with world.running_until_power_cut() as run:
        await run.broker.create_topic("orders")
        await run.broker.produce("orders", b"1")
    async with world.running() as run:
        await run.broker.produce("orders", b"2")
        async with world.connect() as client:

            async def ask(offset: int, **arguments: int) -> object:
                return await client.fetch(offset, partition_arguments=arguments)

            assert (await ask(0, current_leader_epoch=0)).error_code == (
                ErrorCode.FENCED_LEADER_EPOCH
            )
            assert (await ask(0, current_leader_epoch=1)).error_code == 0
            # Truncation (KIP-595): epoch 0 ended at 1, epoch 7 has never been.
            found = await ask(2, last_fetched_epoch=0)
            assert (found.diverging_epoch.epoch, found.diverging_epoch.end_offset) == (0, 1)
            assert (found.error_code, bytes(found.records)) == (0, b"")
            assert (await ask(1, last_fetched_epoch=0)).diverging_epoch is None
            assert (await ask(1, last_fetched_epoch=7)).error_code == (
                ErrorCode.OFFSET_OUT_OF_RANGE
            )


async def test_sessions_are_declined(wire_config: BrokerConfig) -> None:
    async with running(wire_config) as run:
        await run.broker.create_topic("orders")
        async with run.connect() as client:
            for session_id, epoch in ((0, 0), (0, -1), (5, -1), (5, 0)):
                asked = fetch_request(session_id=session_id, session_epoch=epoch)
                response = await client.call(asked, 12)
                assert (response.error_code, response.session_id) == (0, 0)
                assert codes(response.responses[0].partitions) == [0]
            for session_id, epoch in ((5, 1), (0, 1)):
                asked = fetch_request(session_id=session_id, session_epoch=epoch)
                response = await client.call(asked, 12)
                assert response.error_code == ErrorCode.FETCH_SESSION_ID_NOT_FOUND
                assert not response.responses


# ------------------------------------------------------------------------------------- limits
def several(offsets: list[int], *, each: int = 1_000_000, **arguments: object) -> FetchRequest:
    """Ask for partitions 0, 1, ... of orders at these offsets."""
    wanted = [
        FetchPartition(partition=index, fetch_offset=offset, partition_max_bytes=each)
        for index, offset in enumerate(offsets)
    ]
    values = {"max_wait_ms": 0, "min_bytes": 1} | arguments
    return FetchRequest(topics=[FetchTopic(topic="orders", partitions=wanted)], **values)


async def test_whole_batches_within_limits_and_the_first_one_in_any_case(
    wire_config: BrokerConfig,
) -> None:
    async with running(wire_config) as run:
        await run.broker.create_topic("orders", partitions=3)
        async with run.connect() as client:
            batch = make_batch(bytes(1000), b"2")
            for partition in (0, 1):
                for _ in range(4):
                    await client.produce(batch, partition=partition)

            async def fetched(request: FetchRequest) -> list[list[tuple[int, int]]]:
                response = await client.call(request, 12)
                parts = response.responses[0].partitions
                assert codes(parts) == [0] * len(parts)
                return [spans(part.records) for part in parts]

            size = len(batch)
            one, two = [(0, 1)], [(0, 1), (2, 3)]
            assert await fetched(several([0, 0], each=1)) == [one, []]
            assert await fetched(several([0, 0], each=2 * size)) == [two, two]
            assert await fetched(several([0, 0], each=3 * size - 1)) == [two, two]
            assert await fetched(several([0, 0], max_bytes=2 * size)) == [two, []]
            assert await fetched(several([0, 0], max_bytes=3 * size)) == [[*two, (4, 5)], []]
            assert await fetched(several([0, 0], each=2 * size, max_bytes=3 * size)) == [two, one]
            assert await fetched(several([0, 0], max_bytes=0)) == [one, []]
            assert await fetched(several([0, 0], max_bytes=-5, each=-5)) == [one, []]
            # A partition without anything to read does not use up the exception.
            assert await fetched(several([8, 0], each=1)) == [[], one]
            # The batch that contains the offset comes first.
            assert await fetched(several([3], each=1)) == [[(2, 3)]]
            assert await fetched(several([7, 7], each=2 * size)) == [[(6, 7)], [(6, 7)]]


async def test_the_brokers_own_limit_counts_too(wire_config: BrokerConfig) -> None:
    config = wire_config.with_values(network=NetworkConfig(fetch_bytes_max=2500))
    async with running(config) as run:
        await run.broker.create_topic("orders")
        async with run.connect() as client:
            for _ in range(4):
                await client.produce(make_batch(bytes(1000)))
            assert len(spans((await client.fetch()).records)) == 2


# ------------------------------------------------------------------------------------ waiting
@simulated
async def test_a_fetch_waits_for_data_for_no_longer_than_it_says(world: World) -> None:
    async with world.running() as run:
        await run.broker.create_topic("orders")
        async with world.connect() as client:
            for max_wait_ms in (0, -1, 700):
                began = trio.current_time()
                found = await client.fetch(max_wait_ms=max_wait_ms)
                assert (found.error_code, bytes(found.records)) == (0, b"")
                waited = trio.current_time() - began
                assert max_wait_ms / 1000 <= waited < max(max_wait_ms, 0) / 1000 + 0.1
            began = trio.current_time()
            found = await client.fetch(max_wait_ms=60_000, min_bytes=0)
            assert trio.current_time() - began < 0.1


@simulated
async def test_a_fetch_wakes_when_enough_has_arrived_on_its_partitions(world: World) -> None:
    async with world.running() as run:
        await run.broker.create_topic("orders", partitions=2)
        size = len(make_batch(bytes(500)))
        async with world.connect() as client, world.connect() as producer:
            request = several([0, 0], max_wait_ms=60_000, min_bytes=3 * size)
            began = trio.current_time()
            await client.send(request, 12)
            for partition in (0, 1, 0):
                await trio.sleep(1)
                await producer.produce(make_batch(bytes(500)), partition=partition)
            response = await client.receive(request, 12)
            assert 3 <= trio.current_time() - began < 3.5
            parts = response.responses[0].partitions
            assert [len(bytes(part.records)) // size for part in parts] == [2, 1]
        await run.wait_idle()


@simulated
async def test_a_refused_or_repeated_batch_wakes_nobody_for_good(world: World) -> None:
    async with world.running() as run:
        await run.broker.create_topic("orders")
        batch = make_batch(producer_id=1, producer_epoch=0, base_sequence=0)
        async with world.connect() as client, world.connect() as producer:
            await producer.produce(batch)
            await client.send(fetch_request(1, max_wait_ms=5_000), 12)
            began = trio.current_time()
            for _ in range(3):
                assert (await producer.produce(batch)).base_offset == 0
            response = await client.receive(fetch_request(), 12)
            assert trio.current_time() - began >= 4
            assert bytes(response.responses[0].partitions[0].records) == b""


@simulated
@pytest.mark.parametrize(
    "limits",
    [
        {"min_bytes": 20_000, "max_bytes": 10_000},  # of the whole answer
        {"min_bytes": 20_000, "partition_max_bytes": 20_000},  # where no whole batches come to
    ],
)
async def test_a_fetch_does_not_wait_where_its_own_limits_allow_no_more(
    world: World, limits: dict[str, int]
) -> None:
    async with world.running() as run:
        await run.broker.create_topic("orders")
        async with world.connect() as client:
            for _ in range(40):
                await client.produce(make_batch(bytes(1000)))
            began = trio.current_time()
            found = await client.fetch(max_wait_ms=60_000, **limits)
            assert len(bytes(found.records)) > 8_000
            assert trio.current_time() - began < 1
            await client.fetch(35, max_wait_ms=5_000, min_bytes=20_000)
            assert trio.current_time() - began > 5  # there can be more


@simulated
async def test_a_fetch_does_not_wait_at_the_end_of_a_complete_segment(world: World) -> None:
    async with world.running() as run:
        await run.broker.create_topic("orders", configs={"segment.bytes": "3000"})
        async with world.connect() as client:
            for _ in range(8):
                await client.produce(make_batch(bytes(1000)))
            began = trio.current_time()
            found = await client.fetch(1, max_wait_ms=60_000, min_bytes=5000)
            assert spans(found.records) == [(1, 1)]
            assert trio.current_time() - began < 1


@simulated
async def test_deleting_the_topic_wakes_its_fetches(world: World) -> None:
    async with world.running() as run:
        topic_id = await run.broker.create_topic("orders")
        await run.broker.create_topic("carts")
        async with world.connect() as by_name, world.connect() as by_id:
            await by_name.send(fetch_request(max_wait_ms=600_000), 12)
            await by_id.send(fetch_request(topic=topic_id, max_wait_ms=600_000), 13)
            await trio.sleep(1)
            await run.broker.delete_topic("orders")
            for client, version in ((by_name, 12), (by_id, 13)):
                response = await client.receive(fetch_request(), version)
                assert response.responses[0].partitions[0].error_code in {
                    ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
                    ErrorCode.UNKNOWN_TOPIC_ID,
                }


@simulated
async def test_a_stop_answers_parked_fetches_with_what_there_is(world: World) -> None:
    async with trio.open_nursery() as nursery:

        async def fetch() -> None:
            async with world.connect() as client:
                found = await client.fetch(max_wait_ms=600_000, min_bytes=1_000_000)
                assert (found.error_code, spans(found.records)) == (0, [(0, 0)])
                await client.wait_closed()

        async with world.running() as run:
            await run.broker.create_topic("orders")
            await run.broker.produce("orders", b"1")
            nursery.start_soon(fetch)
            await trio.sleep(2)
            began = trio.current_time()
        assert trio.current_time() - began < 3


@simulated
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_client_that_leaves_while_its_fetch_is_parked_is_forgotten(
    world: World, how: str
) -> None:
    async with world.running() as run:
        await run.broker.create_topic("orders")
        async with world.connect() as client:
            await client.send(fetch_request(max_wait_ms=2**31 - 1), 12)
            await trio.sleep(5)
            assert run.replica("orders").waiters
            getattr(client.stream, how)()
        # The client may have asked for days, and its socket must not be kept for them.
        with trio.fail_after(2):
            await run.wait_idle()


@simulated
async def test_what_a_client_leaves_behind_does_not_keep_its_parked_fetch(world: World) -> None:
    """A request that nobody has read yet, and the end of the connection behind it."""
    async with world.running() as run:
        await run.broker.create_topic("orders")
        async with world.connect() as client:
            await client.send(fetch_request(max_wait_ms=2**31 - 1), 12)
            await client.send(fetch_request(), 12)
            await trio.sleep(2)
            assert run.replica("orders").waiters
        with trio.fail_after(11):
            await run.wait_idle()


@simulated
async def test_what_a_client_leaves_behind_a_fetch_that_waits_a_little_is_carried_out(
    world: World,
) -> None:
    async with world.running() as run:
        await run.broker.create_topic("orders")
        async with world.connect() as client:
            await client.send(fetch_request(max_wait_ms=5_000), 12)
            await trio.sleep(1)
            await client.send(produce_request(make_batch(b"last words"), acks=0), 11)
            client.stream.send_eof()
            assert (await client.receive(fetch_request(), 12)).error_code == 0
            await client.wait_closed()
        assert run.replica("orders").log.log_end_offset == 1


@simulated
async def test_a_client_that_waits_for_its_parked_fetch_is_not_taken_for_gone(
    world: World,
) -> None:
    async with world.running() as run:
        await run.broker.create_topic("orders")
        async with world.connect() as client:
            await client.send(fetch_request(max_wait_ms=60_000), 12)
            await client.send(fetch_request(max_wait_ms=0), 12)
            await trio.sleep(20)
            await run.broker.produce("orders", b"1")
            for _ in range(2):
                assert (await client.receive(fetch_request(), 12)).error_code == 0


# ------------------------------------------------------------------------------ disk and memory
@simulated
async def test_what_is_not_in_memory_is_read_on_the_lane(world: World) -> None:
    world.fs.faults = DiskFaults(cached_read_rate=0.0)
    async with world.running(topic=attrs.evolve(world.config().topic, segment_bytes=4096)) as run:
        await run.broker.create_topic("orders")
        async with world.connect() as client:
            for number in range(20):
                await client.produce(make_batch(b"%d" % number * 500))
            assert run.replica("orders").log.segment_count > 3
            offset = 0
            while offset < 20:
                found = await client.fetch(offset)
                (first, _), *_, (_, last) = [*spans(found.records), *spans(found.records)]
                assert first == offset
                offset = last + 1


@simulated
async def test_a_disk_that_cannot_be_read_is_an_error_of_that_partition(world: World) -> None:
    world.fs.faults = DiskFaults(cached_read_rate=0.0)
    async with world.running() as run:
        await run.broker.create_topic("orders")
        async with world.connect() as client:
            await client.produce(make_batch())
            world.fs.faults = DiskFaults(cached_read_rate=0.0, read_error_rate=1.0)
            assert (await client.fetch()).error_code == ErrorCode.KAFKA_STORAGE_ERROR
            world.fs.faults = DiskFaults()
            assert (await client.fetch()).error_code == 0


async def test_damage_found_while_reading_is_an_answer(
    wire_config: BrokerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_cached(log: Log, plan: object) -> None:
        raise CorruptLog("no batches here")

    async with running(wire_config) as run:
        await run.broker.create_topic("orders")
        async with run.connect() as client:
            await client.produce(make_batch())
            with monkeypatch.context() as patch:
                patch.setattr(Log, "read_cached", read_cached)
                assert (await client.fetch()).error_code == ErrorCode.KAFKA_STORAGE_ERROR
            assert (await client.fetch()).error_code == 0


@simulated
async def test_a_topic_deleted_while_a_fetch_reads_its_other_partitions(world: World) -> None:
    """The first partition's read is slow; the second one's topic is gone when its turn comes."""
    world.fs.faults = DiskFaults(cached_read_rate=0.0)
    async with world.running() as run:
        await run.broker.create_topic("orders")
        await run.broker.create_topic("carts")
        await run.broker.produce("orders", b"1")
        await run.broker.produce("carts", b"1")
        wanted = [FetchPartition(partition=0, fetch_offset=0, partition_max_bytes=1000)]
        request = FetchRequest(
            max_wait_ms=0,
            min_bytes=1,
            topics=[FetchTopic(topic=name, partitions=wanted) for name in ("orders", "carts")],
        )
        shard = run.replica("carts").shard
        async with world.connect() as client:
            world.fs.faults = DiskFaults(cached_read_rate=0.0, latency_seconds=(2.0, 2.0))
            await client.send(request, 12)
            await trio.sleep(1)
            replica = run.replica("carts")
            run.state.router.remove(replica.topic)
            replica.close_intake(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
            replica.release_log()
            response = await client.receive(request, 12)
            first, second = (topic.partitions[0] for topic in response.responses)
            assert (first.error_code, spans(first.records)) == (0, [(0, 0)])
            assert second.error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        assert shard


@simulated
async def test_a_topic_deleted_while_a_fetch_opens_its_file_has_no_file_open(world: World) -> None:
    world.fs.faults = DiskFaults(cached_read_rate=0)
    async with world.running() as run:
        await run.broker.create_topic("orders")
        await run.broker.produce("orders", b"x")
        replica = run.replica("orders")
        replica.log._cache.close_file(replica.log.segments[0])  # as if others had needed the room
        owner = paths.owner_name(replica.topic_partition)
        async with world.connect() as client:
            with slow(f"{replica.topic_partition.topic_id}-0/", 0.5):
                await client.send(fetch_request(0), 12)
                await trio.sleep(0.02)
                await run.broker.delete_topic("orders")
            assert not [entry for entry in world.fs.open_files() if entry.owner == owner]


@simulated
async def test_a_reply_counts_as_memory_until_it_is_sent(world: World) -> None:
    network = attrs.evolve(
        world.config().network,
        response_memory_bytes=1024 * 1024,
        fetch_bytes_max=2_000_000,
        send_stall_seconds_max=20.0,
    )
    world.internet.faults = NetworkFaults(window_bytes=100_000)
    async with world.running(network=network) as run:
        await run.broker.create_topic("orders")
        async with world.connect() as reader, world.connect() as other:
            for _ in range(2):
                await other.produce(make_batch(bytes(900_000)))
            await reader.send(fetch_request(partition_max_bytes=2_000_000), 12)
            await trio.sleep(1)
            assert run.state.response_memory.used_bytes > 1_700_000
            # Over the limit, so others wait; but not for longer than a slow reader may take.
            began = trio.current_time()
            for offset, code in ((2, ErrorCode.NONE), (3, ErrorCode.OFFSET_OUT_OF_RANGE)):
                assert (await other.fetch(offset)).error_code == code
            assert trio.current_time() - began < 1  # this takes no memory
            found = await other.fetch(partition_max_bytes=100)
            assert (found.error_code, spans(found.records)) == (0, [(0, 0)])
            assert 15 < trio.current_time() - began < 25
        await run.wait_idle()
        assert run.state.response_memory.used_bytes == 0


@simulated
async def test_a_produce_is_visible_to_the_fetch_that_follows_it(world: World) -> None:
    async with world.running() as run:
        await run.broker.create_topic("orders")
        async with world.connect() as client:
            for offset in range(10):
                await client.send(produce_request(make_batch()), 9)
                await client.send(fetch_request(offset), 12)
                assert (await client.receive(produce_request(b""), 9)) is not None
                response = await client.receive(fetch_request(), 12)
                assert spans(response.responses[0].partitions[0].records) == [(offset, offset)]
