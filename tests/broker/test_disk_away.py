"""A failed disk is taken away, and leaves the directory that it was mounted on."""

from __future__ import annotations

import trio

from tests.broker.harness import World, failing, make_batch, simulated
from trio_broker import ErrorCode
from trio_broker.testing.sim.disk import SimFileSystem


@simulated
async def test_a_disk_that_is_not_mounted_any_more_does_not_come_back_empty(world: World) -> None:
    async with world.running(log_dirs=("/disk-a", "/disk-b")) as run:
        run.faults_expected = {"log dir /disk-a"}
        await run.broker.create_topic("orders", partitions=4)
        by_disk = {"/disk-a": [], "/disk-b": []}
        for replica in run.state.router.replicas():
            by_disk[replica.shard.log_dir.directory.path].append(replica)
        mine, lane = by_disk["/disk-a"], by_disk["/disk-b"][0].shard.lane
        stored = next(replica for replica in mine if replica.topic.name == "orders")
        async with world.connect() as client:
            answer = await client.produce(make_batch(b"kept"), partition=stored.partition)
            assert answer.error_code == 0
        with failing("space", "/disk-a", on=SimFileSystem), trio.fail_after(200):
            while not stored.refusal:  # noqa: ASYNC110 - of a simulated clock
                await trio.sleep(0.1)
        await lane.call(world.fs.rename, "/disk-a", "/elsewhere")
        await lane.call(world.fs.make_directory, "/disk-a")
        await trio.sleep(300)
        assert all(replica.refusal == ErrorCode.KAFKA_STORAGE_ERROR for replica in mine)
        assert await lane.call(world.fs.list_directory, "/disk-a") == []
        await lane.call(world.fs.remove_directory, "/disk-a")
        await lane.call(world.fs.rename, "/elsewhere", "/disk-a")
        with trio.fail_after(200):
            while any(replica.refusal for replica in mine):  # noqa: ASYNC110
                await trio.sleep(0.1)
        async with run.broker.read("orders", stored.partition) as reader:
            assert (await reader.receive()).value == b"kept"
