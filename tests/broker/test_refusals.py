"""Batches that are refused for a reason that passes, and replicas that come back: order is kept."""

from __future__ import annotations

import errno

import attrs
import pytest
import trio

from tests.broker.admin_calls import alter
from tests.broker.harness import World, failing, make_batch, produce_request, simulated, slow
from tests.broker.retained import eventually
from trio_broker import ErrorCode
from trio_broker.broker.replica import ReplicaState
from trio_broker.errors import SyncFailed
from trio_broker.storage import paths


@simulated
@pytest.mark.parametrize("refused_while", ["its disk fails", "it is offline"])
async def test_a_refused_first_batch_is_not_overtaken_when_the_replica_is_back(
    world: World, refused_while: str
) -> None:
    """Batches 0 and 1 are sent at once, as idempotent clients do; only the second finds it up."""
    first, second = (
        make_batch(b"%d" % n, producer_id=7, producer_epoch=0, base_sequence=n) for n in range(2)
    )
    async with world.running() as run:
        run.faults_expected = {"log dir /data/logs"}
        await run.broker.create_topic("orders")
        replica = run.replica("orders")
        async with world.connect() as client:
            with failing("write_at", paths.replica_name(replica.topic_partition)):
                answer = await client.produce(
                    make_batch(b"x") if "offline" in refused_while else first
                )
                assert answer.error_code == ErrorCode.KAFKA_STORAGE_ERROR
                if "offline" in refused_while:
                    assert replica.state is ReplicaState.OFFLINE
                    answer = await client.produce(first)
                    assert answer.error_code == ErrorCode.KAFKA_STORAGE_ERROR
            await eventually(lambda: not replica.refusal)
            answer = await client.produce(second)
            assert answer.error_code == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
            assert (await client.produce(first)).error_code == 0
            assert (await client.produce(second)).error_code == 0


@simulated
async def test_a_first_batch_that_found_too_few_replicas_is_not_overtaken(world: World) -> None:
    """Between the two of them the topic is altered, so that only the second one may be stored."""
    first, second = (
        make_batch(b"%d" % n, producer_id=7, producer_epoch=0, base_sequence=n) for n in range(2)
    )
    async with world.running() as run:
        await run.broker.create_topic("orders", configs={"min.insync.replicas": "2"})
        async with world.connect() as client:
            answer = await client.produce(first, acks=-1)
            assert answer.error_code == ErrorCode.NOT_ENOUGH_REPLICAS
            await alter(client, "orders", {"min.insync.replicas": "1"})
            answer = await client.produce(second, acks=-1)
            assert answer.error_code == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
            assert (await client.produce(first, acks=-1)).error_code == 0
            assert (await client.produce(second, acks=-1)).error_code == 0


@simulated
async def test_a_refused_second_batch_does_not_keep_the_queued_first_one_from_being_stored(
    world: World,
) -> None:
    first, second = (
        make_batch(b"%d" % n, producer_id=7, producer_epoch=0, base_sequence=n) for n in range(2)
    )
    async with world.running() as run:
        await run.broker.create_topic("orders")
        shard = run.replica("orders").shard
        async with world.connect() as client:
            await shard.changes.acquire()  # so that the first one stays in the queue
            await client.send(produce_request(make_batch(b"in the writer's hands")), 9)
            await client.send(produce_request(first), 9)
            await trio.sleep(1)
            shard.log_dir.keeper.refusal = "the budget is used up"
            await client.send(produce_request(second), 9)
            await trio.sleep(1)
            shard.log_dir.keeper.refusal = None
            shard.changes.release()
            found = [await client.receive(produce_request(b""), 9) for _ in range(3)]
            codes = [each.responses[0].partition_responses[0].error_code for each in found]
            assert codes == [ErrorCode.NONE, ErrorCode.NONE, ErrorCode.POLICY_VIOLATION]
            assert (await client.produce(second)).error_code == 0


@simulated
async def test_a_replica_that_came_online_on_a_failed_disk_is_brought_back_too(
    world: World,
) -> None:
    """It was being opened when the log dir failed; its own failed fsync comes second."""
    async with world.running() as run:
        run.faults_expected = {"log dir /data/logs"}
        await run.broker.create_topic("orders")
        replica = run.replica("orders")
        log_dir = replica.shard.log_dir
        async with world.connect() as client:
            assert (await client.produce(make_batch(b"1"))).error_code == 0
            log_dir.fail(SyncFailed("/data/logs", errno.EIO))
            replica.go_online(replica.log)  # as its opening does that has begun before
            replica.log.mark_broken()
            log_dir.fail(SyncFailed(replica.log.directory, errno.EIO))
            assert replica.state is ReplicaState.OFFLINE
            await eventually(lambda: not replica.refusal)
            answer = await client.produce(make_batch(b"2"))
            assert (answer.error_code, answer.base_offset) == (0, 1)


@pytest.mark.parametrize("durability", ["os", "interval", "fsync"])
@simulated
async def test_a_write_that_could_not_be_taken_back_needs_no_operator(
    world: World, durability: str
) -> None:
    """Nothing that was acknowledged is in doubt: no fsync has failed."""
    async with world.running() as run, world.connect() as client:
        await run.broker.create_topic("orders", configs={"durability": durability})
        replica = run.replica("orders")
        assert (await client.produce(make_batch(b"1"))).error_code == 0
        world.fs.faults = attrs.evolve(world.fs.faults, write_error_rate=1.0)
        answer = await client.produce(make_batch(bytes(5_000)))
        assert answer.error_code == ErrorCode.KAFKA_STORAGE_ERROR
        assert replica.log.is_broken
        world.fs.faults = attrs.evolve(world.fs.faults, write_error_rate=0.0)
        await eventually(lambda: not replica.refusal)
        assert (await client.produce(make_batch(b"2"))).error_code == 0


@simulated
async def test_a_replica_that_is_deleted_while_it_is_brought_back_stays_deleted(
    world: World,
) -> None:
    """Online again, but without a log, it made housekeeping stumble."""
    async with world.running() as run:
        run.faults_expected = {"log dir /data/logs"}
        await run.broker.create_topic("orders", configs={"retention.ms": "60000"})
        replica = run.replica("orders")
        name = paths.replica_name(replica.topic_partition)
        async with world.connect() as client:
            assert (await client.produce(make_batch(b"1"))).error_code == 0
            with failing("sync", name):
                answer = await client.produce(make_batch(b"2"))
                assert answer.error_code == ErrorCode.KAFKA_STORAGE_ERROR
        assert replica.log.is_broken
        with slow(name, 3.0):
            await eventually(replica.shard.changes.locked)
            await trio.sleep(1)  # it is being sealed
            await run.broker.delete_topic("orders")
        assert replica.state is ReplicaState.CLOSED
        assert not replica.has_log
