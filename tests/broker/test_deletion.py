"""Deletion of topics: what an answer promises, what a disk may do to it, and what comes after."""

from __future__ import annotations

import errno
from itertools import count
from uuid import UUID

import pytest
import trio

from tests.broker.harness import (
    Running,
    World,
    failing,
    fetch_request,
    make_batch,
    produce_request,
    simulated,
    slow,
)
from trio_broker import ErrorCode, RequestError
from trio_broker.broker.reconciler import Reconciler
from trio_broker.broker.replica import ReplicaState
from trio_broker.cluster import embedded
from trio_broker.config import StorageConfig, TopicConfig
from trio_broker.names import ZERO_TOPIC_ID, TopicPartition
from trio_broker.storage import log_dir as log_dir_module
from trio_broker.storage import paths
from trio_broker.storage.disk_state import DiskState
from trio_broker.testing.sim.disk import SimFileSystem
from trio_broker.testing.sim.path_faults import PathFaults
from trio_broker.wire.messages.delete_topics import DeleteTopicsRequest, DeleteTopicState

#: One batch of `fill_segments` each.
SMALL_SEGMENTS = TopicConfig(segment_bytes=1024, retention_ms=-1)


def delete_request(*names: str, timeout_ms: int = 30_000) -> DeleteTopicsRequest:
    topics = [DeleteTopicState(name=name, topic_id=ZERO_TOPIC_ID) for name in names]
    return DeleteTopicsRequest(topics=topics, topic_names=names, timeout_ms=timeout_ms)


def left_of(world: World, topic_id: UUID) -> list[str]:
    """Return what the disk still holds of a topic."""
    return [path for path in world.fs.tree() if str(topic_id) in path]


def open_of(world: World, topic_id: UUID) -> list[str]:
    return [file.path for file in world.fs.open_files() if str(topic_id) in file.owner]


def tasks_of(run: Running, topic_id: UUID) -> list[object]:
    """Return the replicas of a topic whose tasks live."""
    return [
        replica
        for log_dir in run.state.log_dirs
        for shard in log_dir.shards
        for key, replica in shard.replicas.items()
        if key.topic_id == topic_id
    ]


def check_gone(world: World, run: Running, topic_id: UUID) -> None:
    """Check that neither the disk nor the metadata nor the ledger knows of a topic."""
    assert not left_of(world, topic_id)
    assert not open_of(world, topic_id)
    assert topic_id not in run.state.controller.image.deletions


async def fail_to_delete(run: Running) -> None:
    """Delete a topic whose files cannot be moved: an error, and it is gone for clients."""
    with pytest.raises(RequestError, match="could not be moved out of the way") as failure:
        await run.broker.delete_topic("orders")
    assert failure.value.code is ErrorCode.KAFKA_STORAGE_ERROR
    assert "orders" not in run.state.router.by_name


async def fill_segments(world: World, topic: str, count: int) -> None:
    """Fill so many segments, where they are small."""
    async with world.connect() as client:
        for _ in range(count):
            await client.produce(make_batch(bytes(900)), topic=topic)


@simulated
async def test_at_the_answer_no_task_and_no_file_is_left_and_a_power_cut_changes_nothing(
    world: World,
) -> None:
    async with world.running_until_power_cut() as run:
        topic_id = await run.broker.create_topic("orders", partitions=5)
        async with world.connect() as client, world.connect() as reader:
            for partition in range(5):
                await client.produce(make_batch(bytes(500)), partition=partition)
            await reader.send(fetch_request(1, max_wait_ms=600_000), 12)
            await trio.sleep(1)
            assert len(tasks_of(run, topic_id)) == 5
            answer = await client.call(delete_request("orders"))
            assert answer.responses[0].error_code == 0
            assert not tasks_of(run, topic_id)
            assert not open_of(world, topic_id)
            tops = {path for path in left_of(world, topic_id) if path.count("/") == 3}
            assert tops
            assert all(path.endswith(paths.DELETED_SUFFIX) for path in tops)
    async with world.running() as run:
        assert "orders" not in run.state.router.by_name
        assert not run.state.controller.image.deletions
        await trio.sleep(5)
        assert not left_of(world, topic_id)


@simulated
async def test_what_takes_too_long_is_said_and_goes_on(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """A commit that takes its time holds the deletion up, but nobody who wants the name."""
    async with world.running() as run:
        old_id = await run.broker.create_topic("orders")
        async with world.connect() as client, world.connect() as producer:
            await client.produce(make_batch(b"old"))
            with slow(str(old_id), 3.0):
                await producer.send(produce_request(make_batch(b"late")), 11)
                await trio.sleep(0.5)
                began = trio.current_time()
                answer = await client.call(delete_request("orders", timeout_ms=1000))
                assert answer.responses[0].error_code == ErrorCode.REQUEST_TIMED_OUT
                assert trio.current_time() - began == pytest.approx(1, abs=0.2)
                [line] = [text for text in caplog.messages if "still held" in text]
                assert line.startswith("deleting orders takes longer than the request allows")
                assert "<Replica orders-0 closing>" in line
                assert f"{paths.replica_name(TopicPartition(old_id, 0))}/" in line
                # The name is free, and what is made under it has nothing of the old.
                new_id = await run.broker.create_topic("orders")
                assert new_id != old_id
                assert (await client.produce(make_batch(b"new"))).base_offset == 0
                await run.state.controller.wait_for_work()
            assert not tasks_of(run, old_id)
            assert not open_of(world, old_id)
            found = await client.fetch()
            assert (found.high_watermark, b"new" in bytes(found.records)) == (1, True)
            await trio.sleep(60)
            check_gone(world, run, old_id)


@simulated
async def test_queued_produces_and_parked_fetches_are_told(world: World) -> None:
    async with world.running() as run:
        topic_id = await run.broker.create_topic("orders")
        gone = {ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, ErrorCode.UNKNOWN_TOPIC_ID}
        async with (
            world.connect() as first,
            world.connect() as queued,
            world.connect() as by_id,
            world.connect() as parked,
            world.connect() as parked_by_id,
            world.connect() as admin,
        ):
            await parked.send(fetch_request(5, max_wait_ms=600_000), 12)
            await parked_by_id.send(fetch_request(topic=topic_id, max_wait_ms=600_000), 13)
            with slow(str(topic_id), 2.0):
                await first.send(produce_request(make_batch()), 11)
                await trio.sleep(0.5)  # its commit is under way
                await queued.send(produce_request(make_batch()), 11)
                await by_id.send(produce_request(make_batch(), topic=topic_id), 13)
                await trio.sleep(0.5)
                answer = await admin.call(delete_request("orders"))
            assert answer.responses[0].error_code == 0
            for client, version in ((queued, 11), (by_id, 13)):
                response = await client.receive(produce_request(b""), version)
                assert response.responses[0].partition_responses[0].error_code in gone
            for client, version in ((parked, 12), (parked_by_id, 13)):
                response = await client.receive(fetch_request(), version)
                code = response.responses[0].partitions[0].error_code
                assert code in gone | {ErrorCode.OFFSET_OUT_OF_RANGE}
            await first.receive(produce_request(b""), 11)  # stored, or not: it is answered


@simulated
async def test_an_offline_replica_leaves_no_task_that_would_revive_it(world: World) -> None:
    async with world.running() as run:
        topic_id = await run.broker.create_topic("orders")
        replica = run.replica("orders")
        name = paths.replica_name(replica.topic_partition)
        async with world.connect() as client:
            with failing("write_at", name), failing("truncate", name), failing("read_at", name):
                await client.produce(make_batch())
                assert replica.state is ReplicaState.OFFLINE
                await trio.sleep(20)  # it will be tried again after a long pause
            nursery = replica.shard._nursery
            assert nursery is not None
            before = len(nursery.child_tasks)
            began = trio.current_time()
            await run.broker.delete_topic("orders")
            assert trio.current_time() - began < 1, "nobody waits for the pause to end"
            assert len(nursery.child_tasks) == before - 2  # it, and who would have revived it
        assert replica.state is ReplicaState.CLOSED
        assert not open_of(world, topic_id)


@simulated
async def test_files_that_cannot_be_moved_are_an_error_and_are_moved_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world.running() as run:
        old_id = await run.broker.create_topic("orders", partitions=3)
        others_id = await run.broker.create_topic("others")
        await run.broker.produce("orders", b"old", partition=0)
        rename = SimFileSystem.rename

        def refuse(fs: SimFileSystem, source: str, target: str) -> None:
            if source.endswith("-1") and str(old_id) in source:
                raise OSError(errno.EACCES, "refused", source)
            rename(fs, source, target)

        with monkeypatch.context() as patch:
            patch.setattr(SimFileSystem, "rename", refuse)
            await fail_to_delete(run)
            assert not tasks_of(run, old_id)
            assert not open_of(world, old_id)
            assert old_id in run.state.controller.image.deletions
            await run.broker.create_topic("orders")
            assert await run.broker.produce("orders", b"new") == (0, 0)
            await trio.sleep(30)
            # Those that could be moved do not wait for the one that cannot.
            assert {path.count("/") for path in left_of(world, old_id)} <= {3, 4}
            assert all("-1" in path for path in left_of(world, old_id))
        await trio.sleep(120)
        check_gone(world, run, old_id)
        assert left_of(world, others_id)


@simulated
async def test_files_that_a_start_cannot_move_either_are_moved_later(world: World) -> None:
    async with world.running() as run:
        topic_id = await run.broker.create_topic("orders")
        await run.broker.create_topic("others")
        forbidden = PathFaults(name_error_rate=1.0, error_number=errno.EACCES)
        world.fs.set_faults_below(f"/data/logs/{topic_id}-0", forbidden)
        with pytest.raises(RequestError, match="could not be moved out of the way"):
            await run.broker.delete_topic("orders")
    async with world.running() as run:
        await trio.sleep(30)
        assert topic_id in run.state.controller.image.deletions
        assert await run.broker.produce("others", b"x") == (0, 0)
        world.fs.set_faults_below(f"/data/logs/{topic_id}-0", None)
        await trio.sleep(120)
        assert not left_of(world, topic_id)
        assert not run.state.controller.image.deletions


@simulated
async def test_a_bug_while_files_are_moved_later_ends_that_and_not_the_broker(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_reconciler: Reconciler, _partitions: object) -> None:
        raise ZeroDivisionError("a bug")

    async with world.running(reraise=False) as run:
        run.faults_expected = {"controller"}
        monkeypatch.setattr(Reconciler, "move_away", fail)
        topic_id = await run.broker.create_topic("orders")
        await run.broker.create_topic("others")
        with failing("rename", str(topic_id), errno.EACCES, on=SimFileSystem):
            await fail_to_delete(run)
            await trio.sleep(10)
        assert run.state.supervisor.faults["controller"].count == 1
        assert await run.broker.produce("others", b"x") == (0, 0)
        assert topic_id in run.state.controller.image.deletions
    async with world.running():  # which goes on with it
        await trio.sleep(10)
        assert not left_of(world, topic_id)


@simulated
async def test_a_disk_that_fails_in_a_deletion_is_failed_and_goes_on_with_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world.running() as run:
        run.faults_expected = {"log dir /data/logs"}
        old_id = await run.broker.create_topic("orders")
        await run.broker.create_topic("others")
        sync = SimFileSystem.sync_directory

        def fail(fs: SimFileSystem, path: str) -> None:
            if path == "/data/logs":
                raise OSError(errno.EIO, "broken", path)
            sync(fs, path)

        with monkeypatch.context() as patch:
            patch.setattr(SimFileSystem, "sync_directory", fail)
            async with world.connect() as client:
                answer = await client.call(delete_request("orders"))
                assert answer.responses[0].error_code == ErrorCode.KAFKA_STORAGE_ERROR
            assert run.state.log_dirs[0].is_failed
            assert old_id in run.state.controller.image.deletions
        await trio.sleep(120)  # a probe finds that the disk works again
        assert not run.state.log_dirs[0].is_failed
        check_gone(world, run, old_id)
        assert await run.broker.produce("others", b"x") == (0, 0)


@simulated
async def test_a_hung_call_is_waited_for_before_the_topic_counts_as_deleted(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    storage = StorageConfig(operation_seconds_max=5)
    async with world.running(storage=storage) as run:
        run.faults_expected = {"log dir /data/logs"}
        topic_id = await run.broker.create_topic("orders")
        replica = run.replica("orders")
        async with world.connect() as client, world.connect() as admin:
            await client.produce(make_batch())
            with slow(f"{topic_id}-0/", 100.0):
                await client.send(produce_request(make_batch()), 11)
                await trio.sleep(1)
                answer = await admin.call(delete_request("orders", timeout_ms=15_000))
                assert answer.responses[0].error_code == ErrorCode.REQUEST_TIMED_OUT
                # The lane was given up, and the replica is gone; the call still has its file.
                assert replica.state is ReplicaState.CLOSED
                assert open_of(world, topic_id)
                [line] = [text for text in caplog.messages if "still held" in text]
                assert "has been in one system call for" in line
                assert f"of {paths.owner_name(replica.topic_partition)}" in line
                assert topic_id in run.state.controller.image.deletions
            await trio.sleep(300)
        check_gone(world, run, topic_id)


@simulated
async def test_strange_directories_that_may_not_be_moved_do_not_count_against_the_disk(
    world: World,
) -> None:
    async with world.running() as run:
        await run.broker.create_topic("orders")
    strangers = [f"{UUID(int=number)}-0" for number in range(1, 6)]
    for name in strangers:
        world.fs.prepare_directory(f"/data/logs/{name}")
    with failing("rename", "00000000-0000", errno.EACCES, on=SimFileSystem) as met:
        async with world.running() as run:
            assert len(met) == len(strangers)
            assert run.state.log_dirs[0].health.state is DiskState.OK
            assert await run.broker.produce("orders", b"x") == (0, 0)


# ------------------------------------------------------------------------------- giving space back
@simulated
async def test_a_large_topic_is_removed_in_small_jobs_beside_other_work(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_dir_module, "REMOVED_FILES_MAX", 4)
    async with world.running(topic=SMALL_SEGMENTS) as run:
        topic_id = await run.broker.create_topic("large")
        await run.broker.create_topic("small")
        await fill_segments(world, "large", 40)
        async with world.connect() as other:
            await trio.sleep(5)
            files = len(left_of(world, topic_id))
            assert files > 40
            with slow(paths.DELETED_SUFFIX, 0.1):
                await run.broker.delete_topic("large")
                longest = 0.0
                while left_of(world, topic_id):
                    began = trio.current_time()
                    answer = await other.produce(make_batch(), topic="small")
                    assert answer.error_code == 0
                    longest = max(longest, trio.current_time() - began)
                    await trio.sleep(0.05)
            # A job of 4 files takes 8 operations and the listing: 0.9 s of the lane, not 8 s.
            assert longest < 2.0


@simulated
async def test_files_that_may_not_be_removed_keep_neither_others_waiting_nor_the_disk_from_writing(
    world: World,
) -> None:
    async with world.running() as run:
        names = ("orders", "refunds", "returns")
        ids = [await run.broker.create_topic(name) for name in names]
        await run.broker.create_topic("others", partitions=2)  # one in each shard
        with failing("unlink", str(ids[0]), errno.EACCES, on=SimFileSystem) as met:
            for name in names:
                await run.broker.delete_topic(name)
            for second in range(60):  # each makes housekeeping tell that something is to be removed
                await run.broker.produce("others", b"x", partition=second % 2)
                await trio.sleep(1)
        assert run.state.log_dirs[0].write_failures == 0
        assert not left_of(world, ids[1])
        assert not left_of(world, ids[2])
        assert left_of(world, ids[0])
        assert 3 <= len(met) <= 8, "ever more seldom"
        await trio.sleep(120)
        assert not left_of(world, ids[0])


@simulated
async def test_files_that_may_not_be_moved_do_not_count_against_the_disk(world: World) -> None:
    async with world.running() as run:
        topic_id = await run.broker.create_topic("orders")
        await run.broker.create_topic("others")
        with failing("rename", str(topic_id), errno.EACCES, on=SimFileSystem) as met:
            await fail_to_delete(run)
            for _ in range(20):
                await run.broker.produce("others", b"x")
                await trio.sleep(1)
            assert len(met) > 3
        await trio.sleep(120)
        assert not left_of(world, topic_id)


@simulated
async def test_removal_goes_on_after_a_restart(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_dir_module, "REMOVED_FILES_MAX", 2)
    async with world.running_until_power_cut(topic=SMALL_SEGMENTS) as run:
        topic_id = await run.broker.create_topic("orders", partitions=2)
        await fill_segments(world, "orders", 20)
        with slow(paths.DELETED_SUFFIX, 0.2):
            await run.broker.delete_topic("orders")
            await trio.sleep(3)
            assert left_of(world, topic_id)
    assert left_of(world, topic_id)
    async with world.running() as run:
        assert run.state.log_dirs[0].deleted.names
        await trio.sleep(10)
        assert not left_of(world, topic_id)
        assert not run.state.log_dirs[0].deleted.names


@simulated
async def test_a_stop_does_not_wait_for_space_to_be_given_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_dir_module, "REMOVED_FILES_MAX", 2)
    with slow(paths.DELETED_SUFFIX, 0.5):
        async with world.running(topic=SMALL_SEGMENTS) as run:
            await run.broker.create_topic("orders")
            await fill_segments(world, "orders", 40)
            await run.broker.delete_topic("orders")
            began = trio.current_time()
        assert trio.current_time() - began < 10
        assert run.tree.report is not None
        assert run.tree.report.clean


@simulated
async def test_topics_can_be_deleted_when_the_metadata_is_full(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "CONTENT_BYTES_MAX", 4_000)
    long_configs = {"cleanup.policy": ",".join(["delete"] * 100)}  # as a client may send it
    async with world.running() as run:
        names = []
        with pytest.raises(RequestError, match="full") as caught:
            for number in count():
                await run.broker.create_topic(f"topic-{number}", configs=long_configs)
                names.append(f"topic-{number}")
        assert caught.value.code == ErrorCode.KAFKA_STORAGE_ERROR
        for name in names:
            await run.broker.delete_topic(name)
        await run.broker.create_topic("again", configs=long_configs)
