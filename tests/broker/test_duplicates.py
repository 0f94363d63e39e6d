"""Retries of batches that are stored: answered by what is known of them, whatever the disk does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.broker.admin_calls import SET, incremental_request
from tests.broker.harness import Running, World, make_batch, produce_request, simulated
from tests.broker.retained import eventually
from trio_broker import ErrorCode
from trio_broker.errors import StuckIO

if TYPE_CHECKING:
    from trio_broker.broker.shard import Shard


def batch(sequence: int, *, epoch: int = 0) -> bytes:
    return make_batch(b"%d" % sequence, producer_id=7, producer_epoch=epoch, base_sequence=sequence)


async def store(client: Any, count: int) -> None:
    for sequence in range(count):
        assert (await client.produce(batch(sequence))).base_offset == sequence


async def receive(client: Any) -> tuple[int, int]:
    response = await client.receive(produce_request(b""), 11)
    part = response.responses[0].partition_responses[0]
    return part.error_code, part.base_offset


@simulated
async def test_a_retry_does_not_wait_for_a_disk_that_hangs(world: World) -> None:
    async with world.running() as run:
        await run.broker.create_topic("orders")
        async with world.connect() as client, world.connect() as retrying:
            await store(client, 5)
            world.fs.freeze()
            await client.send(produce_request(batch(5), timeout_ms=10_000), 11)
            await trio.sleep(1)  # it is in the writer's hands
            await client.send(produce_request(batch(6), timeout_ms=10_000), 11)
            began = trio.current_time()
            for sequence in range(5):
                answer = await retrying.produce(batch(sequence), timeout_ms=200)
                assert (answer.error_code, answer.base_offset) == (0, sequence)
                assert answer.log_start_offset == 0
            assert trio.current_time() - began < 1
            # Of what is not stored yet nothing is said yet.
            late = await retrying.produce(batch(5), timeout_ms=200)
            assert late.error_code == ErrorCode.REQUEST_TIMED_OUT
            world.fs.thaw()
            assert [await receive(client) for _ in range(2)] == [(0, 5), (0, 6)]
        assert run.replica("orders").log.log_end_offset == 7


@simulated
async def test_the_answer_to_a_retry_keeps_its_place_among_those_of_its_connection(
    world: World,
) -> None:
    async with world.running() as run:
        await run.broker.create_topic("orders")
        async with world.connect() as client:
            await store(client, 1)
            world.fs.freeze()
            new = await client.send(produce_request(batch(1)), 11)
            retry = await client.send(produce_request(batch(0)), 11)
            await trio.sleep(1)
            world.fs.thaw()
            for sent, offset in ((new, 1), (retry, 0)):
                answered, response = await client.receive_with_id(produce_request(b""), 11)
                part = response.responses[0].partition_responses[0]
                assert (answered, part.error_code, part.base_offset) == (sent, 0, offset)
        await run.wait_idle()


async def thaw_and_acquire(world: World, shard: Shard) -> None:
    """Let the commit under way end, and hold the writer before the next one."""

    async def thaw() -> None:
        await trio.sleep(0.1)
        world.fs.thaw()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(thaw)
        await shard.changes.acquire()


def use_up_budget(run: Running) -> None:
    run.replica("orders").shard.log_dir.keeper.refusal = "the budget is used up"


def fill_disk(run: Running) -> None:
    run.replica("orders").shard.log_dir.health.write_refused(28, "the disk is full", 0.0, "/data")


@simulated
@pytest.mark.parametrize(
    "trouble, code",
    [
        (use_up_budget, ErrorCode.POLICY_VIOLATION),
        (fill_disk, ErrorCode.KAFKA_STORAGE_ERROR),
    ],
)
async def test_a_retry_is_answered_where_nothing_new_is_taken(
    world: World, trouble: Any, code: ErrorCode
) -> None:
    """Told of a failure that is none, the application would send the records once more."""
    async with world.running() as run:
        await run.broker.create_topic("orders")
        async with world.connect() as client:
            await store(client, 2)
            trouble(run)
            for sequence in range(2):
                answer = await client.produce(batch(sequence))
                assert (answer.error_code, answer.base_offset) == (0, sequence)
            assert (await client.produce(batch(2))).error_code == code


@simulated
async def test_a_retry_that_waits_in_the_queue_is_answered_once_its_first_copy_is_stored(
    world: World,
) -> None:
    """By its own deadline, if the writer has not come to it by then, or when it is planned."""
    async with world.running() as run:
        await run.broker.create_topic("orders")
        shard = run.replica("orders").shard
        async with world.connect() as client, world.connect() as early, world.connect() as late:
            world.fs.freeze()
            await client.send(produce_request(batch(0)), 11)
            await trio.sleep(1)
            await early.send(produce_request(batch(0), timeout_ms=3_000), 11)
            await late.send(produce_request(batch(0), timeout_ms=60_000), 11)
            await trio.sleep(1)
            await thaw_and_acquire(world, shard)
            assert await receive(client) == (0, 0)
            assert await receive(early) == (0, 0)
            world.fs.freeze()
            use_up_budget(run)
            shard.changes.release()
            assert await receive(late) == (0, 0)
            run.replica("orders").shard.log_dir.keeper.refusal = None
            world.fs.thaw()
            assert (await client.produce(batch(1))).base_offset == 1
        await run.wait_idle()


@simulated
async def test_a_retry_does_not_hang_with_the_commit_that_it_was_taken_for(world: World) -> None:
    async with world.running() as run:
        await run.broker.create_topic("orders")
        shard = run.replica("orders").shard
        async with world.connect() as client, world.connect() as other:
            world.fs.freeze()
            await client.send(produce_request(batch(0)), 11)
            await trio.sleep(1)
            await client.send(produce_request(batch(0), timeout_ms=60_000), 11)
            await other.send(produce_request(make_batch(b"other")), 11)
            await thaw_and_acquire(world, shard)
            assert await receive(client) == (0, 0)
            world.fs.freeze()
            began = trio.current_time()
            shard.changes.release()
            assert await receive(client) == (0, 0)
            assert trio.current_time() - began < 0.2
            world.fs.thaw()
            assert await receive(other) == (0, 1)
        await run.wait_idle()


@simulated
async def test_a_retry_is_not_answered_by_less_than_its_topic_promises_now(world: World) -> None:
    """Stored under `os`; then `fsync` was asked for, and the flush for it is under way."""
    async with world.running() as run:
        await run.broker.create_topic("orders", configs={"durability": "os"})
        replica = run.replica("orders")
        async with (
            world.connect() as client,
            world.connect() as admin,
            trio.open_nursery() as nursery,
        ):
            await store(client, 1)
            async with replica.shard.changes:
                change = incremental_request("orders", ("durability", SET, "fsync"))
                nursery.start_soon(admin.call, change)
                await eventually(lambda: replica.log.durability.value == "fsync")
                assert replica.log.durable_offset == 0
                retry = await client.produce(batch(0), timeout_ms=500)
                assert retry.error_code == ErrorCode.REQUEST_TIMED_OUT
            await eventually(lambda: replica.log.durable_offset == 1)
            answer = await client.produce(batch(0))
            assert (answer.error_code, answer.base_offset) == (0, 0)


@simulated
async def test_a_retry_is_refused_where_what_is_stored_is_not_known(world: World) -> None:
    async with world.running() as run:
        run.faults_expected = {"log dir /data/logs"}
        await run.broker.create_topic("orders")
        replica = run.replica("orders")
        async with world.connect() as client:
            await store(client, 1)
            replica.shard.log_dir.fail(StuckIO("/data/logs: fdatasync hangs"))
            assert (await client.produce(batch(0))).error_code == ErrorCode.KAFKA_STORAGE_ERROR
            await eventually(lambda: not replica.refusal)
            assert (await client.produce(batch(0))).base_offset == 0
            assert (await client.produce(batch(0, epoch=1))).base_offset == 1
            replaced = await client.produce(batch(0))
            assert replaced.error_code == ErrorCode.INVALID_PRODUCER_EPOCH
