"""Log dirs and shards: what a failing disk takes with it, what goes on, and what comes back."""

from __future__ import annotations

import errno
import os
from typing import Any

import attrs
import pytest
import trio

from tests.broker.harness import (
    Running,
    World,
    code_of,
    failing,
    fetch_request,
    make_batch,
    produce_request,
    running,
    simulated,
    slow,
)
from tests.broker.retained import eventually
from tests.conftest import open_descriptors
from trio_broker import BrokerConfig, ErrorCode
from trio_broker.broker.append_slot import AwaitedAppend
from trio_broker.broker.replica import Replica, ReplicaState
from trio_broker.broker.shard_jobs import never_over
from trio_broker.config import StorageConfig, TopicConfig
from trio_broker.group.commands import CommitOffsets
from trio_broker.records.batch import read_header
from trio_broker.records.build import Record
from trio_broker.storage import paths
from trio_broker.testing.sim.disk import SimFileSystem
from trio_broker.testing.sim.path_faults import PathFaults

TWO_DISKS = {"log_dirs": ("/disk-a", "/disk-b")}


def on_disk(run: Running, topic: str, disk: str) -> Replica:
    """Return a replica of a topic that lies on that disk."""
    replicas = run.state.router.by_name[topic].replicas
    return next(r for r in replicas if r is not None and r.log.directory.startswith(disk))


# ------------------------------------------------------------------------------ failing disks
@simulated
async def test_a_failed_fsync_takes_its_log_dir_and_nothing_else(world: World) -> None:
    async with world.running(**TWO_DISKS) as run:
        run.faults_expected = {"log dir /disk-a"}
        await run.broker.create_topic("orders", partitions=4)
        bad, good = on_disk(run, "orders", "/disk-a"), on_disk(run, "orders", "/disk-b")
        async with world.connect() as client, world.connect() as reader:
            assert await code_of(client, bad) == 0
            asked = fetch_request(1, partition=bad.partition, max_wait_ms=600_000)
            await reader.send(asked, 12)
            await trio.sleep(0.1)
            with failing("sync", "/disk-a/"):
                answer = await client.produce(make_batch(), partition=bad.partition)
                assert answer.error_code == ErrorCode.KAFKA_STORAGE_ERROR
                assert "/disk-a" in answer.error_message
                assert await code_of(client, bad) == ErrorCode.KAFKA_STORAGE_ERROR
                # Who waits for data there is told; both partitions of the disk are away.
                parked = await reader.receive(asked, 12)
                assert parked.responses[0].partitions[0].error_code == (
                    ErrorCode.KAFKA_STORAGE_ERROR
                )
                for _ in range(20):
                    assert await code_of(client, good) == 0
                    await trio.sleep(1)
                offline = [r for r in run.state.router.replicas() if r.refusal]
                assert {r.shard.log_dir for r in offline} == {bad.shard.log_dir}
                assert len(offline) == 2
            await eventually(lambda: not bad.refusal)
            # Nothing above the durable end was acknowledged, so nothing of it is there.
            answer = await client.produce(make_batch(b"after"), partition=bad.partition)
            assert (answer.error_code, answer.base_offset) == (0, 1)
        values = [record.value async for record in records(run, bad)]
        assert values == [b"x" * 100, b"after"]


async def records(run: Running, replica: Replica) -> Any:
    end = replica.log.log_end_offset
    async with run.broker.read("orders", replica.partition) as reader:
        for _ in range(replica.log.log_start_offset, end):
            yield await reader.receive()


@simulated
async def test_a_full_disk_refuses_exactly_what_did_not_fit(world: World) -> None:
    async with world.running() as run:
        await run.broker.create_topic("orders", partitions=2)
        first, second = run.replica("orders", 0), run.replica("orders", 1)
        async with world.connect() as client:
            for replica in (first, second):
                assert await code_of(client, replica) == 0
            held = first.shard.changes
            await held.acquire()  # so that both batches are part of one commit
            with failing("write_at", paths.replica_name(first.topic_partition), errno.ENOSPC):
                for replica in (first, second):
                    request = produce_request(make_batch(), partition=replica.partition)
                    await client.send(request, 11)
                await trio.sleep(1)
                held.release()
                found = []
                for _ in range(2):
                    response = await client.receive(produce_request(b""), 11)
                    part = response.responses[0].partition_responses[0]
                    found.append((part.error_code, part.base_offset))
            assert found[0] == (ErrorCode.KAFKA_STORAGE_ERROR, -1)
            if first.shard is second.shard:
                assert found[1] == (0, 1)
            # The disk has room again: no restart is needed, and nothing is in between.
            await eventually(lambda: first.shard.log_dir.produce_refusal is None)
            answer = await client.produce(make_batch(b"after"), partition=0)
            assert (answer.error_code, answer.base_offset) == (0, 1)


@simulated
async def test_a_hung_disk_holds_up_nobody_on_another_one(world: World) -> None:
    async with world.running(**TWO_DISKS) as run:
        run.faults_expected = {"log dir /disk-a"}
        await run.broker.create_topic("orders", partitions=4)
        bad, good = on_disk(run, "orders", "/disk-a"), on_disk(run, "orders", "/disk-b")
        async with world.connect() as client, world.connect() as victim:
            with slow("/disk-a/", 90.0):
                request = produce_request(make_batch(), partition=bad.partition, timeout_ms=5_000)
                await victim.send(request, 9)
                for _ in range(40):
                    began = trio.current_time()
                    assert await code_of(client, good) == 0
                    assert trio.current_time() - began < 1
                    await trio.sleep(1)
                late = await victim.receive(request, 9)
                assert late.responses[0].partition_responses[0].error_code == (
                    ErrorCode.REQUEST_TIMED_OUT
                )
                assert await code_of(victim, bad) == ErrorCode.KAFKA_STORAGE_ERROR
            await eventually(lambda: not bad.refusal)
            assert await code_of(victim, bad) == 0


@simulated
async def test_a_commit_that_came_back_too_late_writes_no_more(world: World) -> None:
    """Its other batches have been refused long ago; their clients may have sent them again."""
    storage = attrs.evolve(world.config().storage, shards_per_log_dir=1)
    async with world.running(storage=storage) as run:
        run.faults_expected = {"log dir /data/logs"}
        await run.broker.create_topic("orders", partitions=3)
        async with world.connect() as client:
            for partition in range(3):
                await client.produce(make_batch(), partition=partition)
            shard = run.replica("orders").shard
            sizes = [run.replica("orders", index).log.size_bytes for index in range(3)]
            files = [f"{run.replica('orders', i).log.directory}/{'0' * 20}.log" for i in range(3)]
            async with shard.changes:
                for partition in range(3):
                    request = produce_request(make_batch(), partition=partition, timeout_ms=90_000)
                    await client.send(request, 9)
                await trio.sleep(1)
            with slow(paths.replica_name(run.replica("orders", 0).topic_partition), 40.0):
                await trio.sleep(20)
                for _ in range(3):
                    response = await client.receive(produce_request(b""), 9)
                    part = response.responses[0].partition_responses[0]
                    assert part.error_code == ErrorCode.KAFKA_STORAGE_ERROR
                await trio.sleep(20)
                assert [len(world.fs.content(path)) for path in files[1:]] == sizes[1:]
            await eventually(lambda: not run.replica("orders").refusal)
            for partition in range(3):
                answer = await client.produce(make_batch(), partition=partition)
                assert (answer.error_code, answer.base_offset) == (0, 1)


# ------------------------------------------------------------------------------------- faults
@simulated
async def test_a_fault_in_a_shard_stops_there_and_the_shard_runs_again(world: World) -> None:
    async with world.running(reraise=False) as run:
        run.faults_expected = {"shard /data/logs#0", "shard /data/logs#1"}
        await run.broker.create_topic("orders", partitions=2)
        bad, good = run.replica("orders", 0), run.replica("orders", 1)
        assert bad.shard is not good.shard
        async with world.connect() as client:
            for replica in (bad, good):
                assert await code_of(client, replica) == 0

            def fail() -> None:
                raise ZeroDivisionError("a bug")

            bad.shard._take = fail  # type: ignore[method-assign]
            assert await code_of(client, bad) == ErrorCode.KAFKA_STORAGE_ERROR
            assert bad.state is ReplicaState.OFFLINE
            assert not bad.shard.is_running
            assert await code_of(client, good) == 0
            del bad.shard._take
            # A topic made meanwhile waits for the shard too.
            await run.broker.create_topic("carts", partitions=2)
            await eventually(lambda: not any(r.refusal for r in run.state.router.replicas()))
            for topic in ("orders", "carts"):
                for partition in range(2):
                    answer = await client.produce(make_batch(), topic=topic, partition=partition)
                    assert answer.error_code == 0
        assert len(run.state.supervisor.faults) == 1


@simulated
async def test_a_topic_can_be_deleted_while_its_shard_is_down(world: World) -> None:
    async with world.running(reraise=False) as run:
        run.faults_expected = {"shard /data/logs#0", "shard /data/logs#1"}
        topic_id = await run.broker.create_topic("orders")
        await run.broker.create_topic("others", partitions=4)
        shard = run.replica("orders").shard

        def fail() -> None:
            raise ZeroDivisionError("a bug")

        shard._take = fail  # type: ignore[method-assign]
        with pytest.raises(Exception, match="KAFKA_STORAGE_ERROR"):
            await run.broker.produce("orders", b"x")
        del shard._take
        await run.broker.delete_topic("orders")
        await eventually(lambda: not any(r.refusal for r in run.state.router.replicas()))
        assert all(key.topic_id != topic_id for key in shard.replicas)
        assert not any(str(topic_id) in entry.owner for entry in world.fs.open_files())
        await trio.sleep(100)
        assert not any(str(topic_id) in path for path in world.fs.tree())


@simulated
async def test_a_replica_that_was_being_opened_when_it_was_deleted_stays_closed(
    world: World,
) -> None:
    """An append that could not be cut back takes a replica offline; it is opened again later."""
    async with world.running() as run:
        topic_id = await run.broker.create_topic("orders")
        replica = run.replica("orders")
        name = paths.replica_name(replica.topic_partition)
        async with world.connect() as client:
            assert await code_of(client, replica) == 0
            with failing("write_at", name), failing("truncate", name):
                assert await code_of(client, replica) == ErrorCode.KAFKA_STORAGE_ERROR
            assert replica.state is ReplicaState.OFFLINE
            with slow(name, 1.0):
                await trio.sleep(2)  # it is being recovered
                await run.broker.delete_topic("orders")
        assert replica.state is ReplicaState.CLOSED
        assert not any(str(topic_id) in entry.owner for entry in world.fs.open_files())
        await trio.sleep(100)
        assert not any(str(topic_id) in path for path in world.fs.tree())


@simulated
async def test_an_offline_interval_replica_does_not_trip_the_writer(world: World) -> None:
    storage = attrs.evolve(world.config().storage, flush_interval_ms=20_000)
    async with world.running(storage=storage) as run:
        await run.broker.create_topic("orders", configs={"durability": "interval"})
        await run.broker.create_topic("others", partitions=4)
        replica = run.replica("orders")
        name = paths.replica_name(replica.topic_partition)
        other = next(
            r for r in run.state.router.by_name["others"].replicas if r.shard is replica.shard
        )
        async with world.connect() as client:
            assert await code_of(client, replica) == 0
            with failing("write_at", name), failing("truncate", name), failing("read_at", name):
                assert await code_of(client, replica) == ErrorCode.KAFKA_STORAGE_ERROR
                for _ in range(30):
                    assert await code_of(client, other, topic="others") == 0
                    await trio.sleep(0.1)
            await eventually(lambda: not replica.refusal)
            assert await code_of(client, replica) == 0


# -------------------------------------------------------------------------------- commits
@pytest.mark.parametrize("seed", range(6))
@simulated
async def test_a_batch_that_comes_as_a_stop_flushes_is_stored_or_refused(world: World) -> None:
    """A batch is queued between the moment in which a stop gets its turn and that turn itself."""
    storage = attrs.evolve(world.config().storage, shards_per_log_dir=1)
    async with world.running(storage=storage) as run:
        await run.broker.create_topic("orders")
        replica = run.replica("orders")
        async with world.connect() as client:
            assert (await client.produce(make_batch())).error_code == 0
        await eventually(lambda: not replica.shard.changes.locked())
        batch = make_batch()
        append = AwaitedAppend()

        async def produce() -> None:
            append.submit(replica, batch, read_header(batch))
            await append.wait()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(replica.shard.flush_all, never_over)
            nursery.start_soon(produce)
        [slot] = append.slots
        stored = replica.shard.summaries[replica.topic_partition].end_offset
        assert (slot.code == 0) is (stored == 2)
        if stored == 1:
            assert slot.code == ErrorCode.NOT_LEADER_OR_FOLLOWER


@simulated
async def test_many_clients_share_commits(world: World) -> None:
    async with world.running() as run:
        await run.broker.create_topic("orders")
        shard = run.replica("orders").shard
        before = shard.commits

        async def produce() -> None:
            async with world.connect() as client:
                for _ in range(20):
                    assert (await client.produce(make_batch())).error_code == 0

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(produce)
        assert shard.commits - before <= 20 * 20 / 4


# ------------------------------------------------------------------- retention and deletion
@simulated
async def test_housekeeping_deletes_what_is_too_old_or_too_much(world: World) -> None:
    async with world.running(topic=TopicConfig(segment_bytes=2_000)) as run:
        await run.broker.create_topic(
            "old", configs={"retention.ms": "60000", "file.delete.delay.ms": "1000"}
        )
        await run.broker.create_topic("big", configs={"retention.bytes": "5000"})
        await run.broker.create_topic("kept", configs={"retention.ms": "-1"})
        for topic in ("old", "big", "kept"):
            for _ in range(20):
                now_ms = run.host.wall.now_ms()
                record = Record(value=bytes(500), timestamp_ms=now_ms)
                await run.broker.produce_batch(topic, [record])
        await trio.sleep(40)
        big = run.replica("big").log
        assert 0 < big.log_start_offset < 20
        assert big.size_bytes <= 7_000
        assert run.replica("old").log.log_start_offset == 0
        await trio.sleep(120)
        old = run.replica("old").log
        assert (old.log_start_offset, old.log_end_offset) == (20, 20)
        assert run.replica("kept").log.log_start_offset == 0
        tree = [path for path in world.fs.tree() if old.directory in path]
        assert sum(".log" in path for path in tree) <= 1
        assert (await run.broker.produce("old", b"new")) == (0, 20)
        async with world.connect() as client:
            found = await client.fetch(0, topic="old")
            assert found.error_code == ErrorCode.OFFSET_OUT_OF_RANGE


async def test_deletion_leaves_no_open_file(wire_config: BrokerConfig) -> None:
    before = open_descriptors()
    async with running(wire_config) as run:
        await run.broker.create_topic("orders", partitions=5, configs={"segment.bytes": "2000"})
        owners = [replica.log.owner for replica in run.state.router.replicas()]
        async with run.connect() as client:
            for partition in range(5):
                for _ in range(8):
                    await client.produce(make_batch(bytes(500)), partition=partition)
                await client.fetch(partition=partition)
            held = {entry.owner for entry in run.host.fs.open_files()}
            assert set(owners) <= held
            await run.broker.delete_topic("orders")
            held = {entry.owner for entry in run.host.fs.open_files()}
            assert not set(owners) & held
            for descriptor in open_descriptors() - before:
                if descriptor.kind == "file":
                    path = os.readlink(f"/proc/self/fd/{descriptor.number}")
                    assert not any(owner.partition("/")[2] in path for owner in owners)


@simulated
async def test_interrupted_deletions_are_finished_and_strangers_put_aside(world: World) -> None:
    stranger = "/data/logs/00000000-0000-4000-8000-00000000abcd-0"
    async with world.running_until_power_cut() as run:
        for name in ("orders", "carts"):
            await run.broker.create_topic(name, partitions=2)
            await run.broker.produce(name, b"x")
        topic_id = run.topic_id("orders")

        async def never(_: object) -> None:
            await trio.sleep_forever()

        # The deletion is in the metadata, and then the power fails.
        run.state.controller.reconciler.stop_partitions = never
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run.broker.delete_topic, "orders")
            await trio.sleep(5)
            nursery.cancel_scope.cancel()
        assert topic_id in run.state.controller.image.deletions
    world.fs.prepare_directory(stranger)
    async with world.running() as run:
        assert set(run.state.router.by_name) == {"carts"}
        assert not run.state.controller.image.deletions
        await trio.sleep(100)
        tree = world.fs.tree()
        assert not any(str(topic_id) in path for path in tree)
        assert stranger not in tree
        assert any("quarantine" in path and "abcd" in path for path in tree)
        assert await run.broker.produce("carts", b"y", partition=0)


@simulated
async def test_every_deleted_directory_is_removed_whoever_is_at_it(world: World) -> None:
    async with world.running() as run:
        names = [f"topic-{number}" for number in range(4)]
        for name in names:
            await run.broker.create_topic(name, partitions=2)
            await run.broker.produce(name, b"x")
        ids = [str(run.topic_id(name)) for name in names]
        log_dir = run.state.log_dirs[0]
        with slow(".deleted", 0.5):
            for name in names:
                await run.broker.delete_topic(name)
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(log_dir.deleted.remove_all)
                nursery.start_soon(log_dir.shards[0].housekeeper.take_turn)
            await trio.sleep(60)
        assert not any(topic_id in path for topic_id in ids for path in world.fs.tree())


@simulated
async def test_a_topic_on_a_log_dir_that_was_taken_away_is_offline_and_known(world: World) -> None:
    async with world.running(**TWO_DISKS) as run:
        await run.broker.create_topic("orders", partitions=4)
        await run.state.coordinator.commit(CommitOffsets(group_id="group", offsets=()))
        kept = on_disk(run, "orders", "/disk-a").partition
    async with world.running(log_dirs=("/disk-a",)) as run:
        routed = run.state.router.by_name["orders"]
        assert len(routed.replicas) == 4
        assert routed.replica(kept) is not None
        async with world.connect() as client:
            assert (await client.produce(make_batch(), partition=kept)).error_code == 0
            missing = next(i for i in range(4) if routed.replica(i) is None)
            assert (await client.produce(make_batch(), partition=missing)).error_code in {
                ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
                ErrorCode.LEADER_NOT_AVAILABLE,
                ErrorCode.KAFKA_STORAGE_ERROR,
            }
    async with world.running(**TWO_DISKS) as run:
        assert all(replica is not None for replica in run.state.router.by_name["orders"].replicas)


@simulated
async def test_a_write_to_a_read_only_disk_fails_the_log_dir_even_if_it_cannot_be_cut_back(
    world: World,
) -> None:
    async with world.running(**TWO_DISKS) as run:
        run.faults_expected = {"log dir /disk-a"}
        await run.broker.create_topic("orders", partitions=4)
        bad, good = on_disk(run, "orders", "/disk-a"), on_disk(run, "orders", "/disk-b")
        async with world.connect() as client:
            for replica in (bad, good):
                assert await code_of(client, replica) == 0
            read_only = [
                failing(call, "/disk-a/", errno.EROFS) for call in ("write_at", "truncate")
            ]
            with read_only[0], read_only[1]:
                assert await code_of(client, bad) == ErrorCode.KAFKA_STORAGE_ERROR
                assert bad.shard.log_dir.is_failed
                assert "EROFS" in bad.shard.log_dir.cause
                for _ in range(10):
                    assert await code_of(client, good) == 0
                    await trio.sleep(1)
            await eventually(lambda: not bad.refusal)
            assert await code_of(client, bad) == 0
        assert bad.log.log_end_offset == 2


@pytest.mark.parametrize("durability", ["fsync", "interval", "os"])
@simulated
async def test_a_directory_that_is_forbidden_is_the_trouble_of_its_partition(
    world: World, durability: str
) -> None:
    """The broker keeps one file open, so it has to open others to write, and to flush them."""
    configs = {"segment.bytes": "1024", "durability": durability}
    storage = StorageConfig(open_files_max=1, flush_interval_ms=50)
    async with world.running(storage=storage) as run:
        await run.broker.create_topic("orders", partitions=3, configs=configs)
        bad, *good = [each for each in run.state.router.by_name["orders"].replicas if each]
        async with world.connect() as client:
            for replica in (bad, *good):
                assert await code_of(client, replica) == 0
            forbidden = PathFaults(name_error_rate=1.0, error_number=errno.EACCES)
            with world.fs.failing_below(bad.log.directory, forbidden):
                refused = 0
                for _ in range(20):
                    refused += await code_of(client, bad) == ErrorCode.KAFKA_STORAGE_ERROR
                    for replica in good:
                        assert await code_of(client, replica) == 0
                    await trio.sleep(0.2)
                assert refused > 10
                assert not [log_dir for log_dir in run.state.log_dirs if log_dir.is_failed]
                assert bad.shard.log_dir.write_failures >= refused
            await eventually(lambda: not bad.refusal)
            assert await code_of(client, bad) == 0


@simulated
async def test_bad_sectors_below_a_log_that_is_written_to_are_the_trouble_of_its_partition(
    world: World,
) -> None:
    """The first write after a start reads the headers of the last segment."""
    async with world.running() as run:
        await run.broker.create_topic("orders", partitions=3)
        async with world.connect() as client:
            for replica in run.state.router.by_name["orders"].replicas:
                assert replica is not None
                assert await code_of(client, replica) == 0
    async with world.running() as run:
        bad, *good = [each for each in run.state.router.by_name["orders"].replicas if each]
        async with world.connect() as client:
            with world.fs.failing_below(bad.log.directory, PathFaults(read_error_rate=1.0)):
                for _ in range(20):
                    assert await code_of(client, bad) == ErrorCode.KAFKA_STORAGE_ERROR
                    for replica in good:
                        assert await code_of(client, replica) == 0
                    await trio.sleep(0.2)
                assert not [log_dir for log_dir in run.state.log_dirs if log_dir.is_failed]
                assert bad.shard.log_dir.write_failures == 20
            assert await code_of(client, bad) == 0
            assert bad.log.log_end_offset == 2


@pytest.mark.parametrize("error_number", [errno.EACCES, errno.ENOSPC])
@simulated
async def test_a_log_that_cannot_be_cut_back_keeps_no_other_from_coming_back(
    world: World, error_number: int
) -> None:
    """After an fsync has failed its disk works again, and only its own files refuse."""
    async with world.running() as run:
        run.faults_expected = {"log dir /data/logs"}
        await run.broker.create_topic("orders", partitions=2)
        bad, good = (run.replica("orders", partition) for partition in range(2))
        directory = bad.log.directory
        async with world.connect() as client:
            for replica in (bad, good):
                assert await code_of(client, replica) == 0
            with failing("open", directory, error_number, on=SimFileSystem):
                with failing("sync", directory):
                    assert await code_of(client, bad) == ErrorCode.KAFKA_STORAGE_ERROR
                assert bad.shard.log_dir.is_failed
                await trio.sleep(10)
                for _ in range(60):
                    assert not good.refusal
                    if error_number == errno.EACCES:
                        assert await code_of(client, good) == 0
                    await trio.sleep(1)
            await eventually(lambda: not (bad.refusal or bad.shard.log_dir.produce_refusal))
            assert await code_of(client, bad) == 0
            assert (await client.fetch(0, partition=bad.partition)).records
