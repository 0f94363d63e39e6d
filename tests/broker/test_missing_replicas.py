"""The directory of a partition has vanished from a log dir, on a real disk.

What was acknowledged is gone then, and must not be forgotten in silence: the partition waits for an
operator. Where nothing can have been stored yet, it is made as if it had not been there.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest
import trio

from tests.broker.harness import World, failing, make_batch, running, simulated, slow
from tests.broker.test_isolation import is_log_of, planted
from trio_broker import ErrorCode
from trio_broker.admin.health import health
from trio_broker.broker import made_replicas
from trio_broker.broker.log_dir import LogDir
from trio_broker.broker.replica import ReplicaState
from trio_broker.broker.statistics import health_facts, snapshot
from trio_broker.group.commands import CommitOffsets
from trio_broker.group.offsets import OffsetToCommit
from trio_broker.group.partitioning import offsets_partition
from trio_broker.metadata.decisions import MorePartitions
from trio_broker.names import OFFSETS_TOPIC_NAME, TopicName
from trio_broker.storage import paths
from trio_broker.storage.log import Log
from trio_broker.testing.sim.disk import SimFileSystem

if TYPE_CHECKING:
    from tests.broker.harness import Running
    from trio_broker.broker.replica import Replica
    from trio_broker.config import BrokerConfig

LOST, KEPT = 0, 1


@pytest.fixture(autouse=True)
def told_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody wants to wait a second until the metadata knows of each topic that it was made."""
    monkeypatch.setattr(made_replicas, "GATHER_SECONDS", 0.01)


def directory_of(replica: Replica) -> Path:
    log_dir = replica.shard.log_dir.directory
    return Path(log_dir.replica_path(replica.topic_partition))


def acceptance_of(directory: Path) -> Path:
    return directory.with_name(directory.name + paths.ACCEPT_LOSS_SUFFIX)


async def code_of(run: Running, partition: int, *, topic: str = "orders") -> int:
    async with run.connect() as client:
        answer = await client.produce(make_batch(b"later"), partition=partition, topic=topic)
        return int(answer.error_code)


async def fill(run: Running, *, batches: int = 3) -> Path:
    """Make a topic with two partitions and records; return the directory of one of them."""
    await run.broker.create_topic("orders", partitions=2)
    for _ in range(batches):
        for partition in (LOST, KEPT):
            assert await code_of(run, partition) == 0
    return directory_of(run.replica("orders", LOST))


async def wait_made(run: Running) -> None:
    """Wait until the metadata knows that the directories of all partitions are there."""
    with trio.fail_after(10):
        while run.state.controller.image.creations:  # noqa: ASYNC110
            await trio.sleep(0.02)


def killed(config: BrokerConfig) -> BrokerConfig:
    """Return what a process leaves that is killed now, as the configuration of another one."""
    copy = f"{config.data_dir}-killed"
    shutil.copytree(config.data_dir, copy)
    return config.with_values(data_dir=copy)


def moved(directory: Path, config: BrokerConfig) -> Path:
    """Return where a directory is in such a copy."""
    return Path(config.data_dir, directory.relative_to(directory.parents[1]))


async def test_the_metadata_is_let_alone_while_a_disk_is_in_trouble(
    wire_config: BrokerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be on that disk, and nobody has asked for this commit."""
    monkeypatch.setattr(made_replicas, "GATHER_SECONDS", 0.05)
    async with running(wire_config) as run:
        await run.broker.create_topic("orders", partitions=2)
        asked = trio.Event()
        looks = iter(range(3))

        def takes_replicas(*_: object, **__: object) -> bool:
            if next(looks, None) is None:
                asked.set()
            return False

        with monkeypatch.context() as patched:
            patched.setattr(LogDir, "takes_replicas", takes_replicas)
            with trio.fail_after(10):
                await asked.wait()
            assert run.state.controller.image.creations
        await wait_made(run)


async def check_offline(run: Running, directory: Path) -> None:
    """Check that one partition waits for an operator, and says so, and the other one serves."""
    lost = run.replica("orders", LOST)
    assert lost.state is ReplicaState.OFFLINE
    assert lost.is_missing
    assert str(directory) in lost.cause
    assert acceptance_of(directory).name in lost.cause
    assert await code_of(run, LOST) == ErrorCode.KAFKA_STORAGE_ERROR
    assert await code_of(run, KEPT) == 0
    assert directory.name not in os.listdir(directory.parent)
    found = health(health_facts(run.state)).body
    assert any("orders-0" in reason and "vanished" in reason for reason in found["reasons"])
    shards = [shard for each in snapshot(run.state).log_dirs for shard in each.shards]
    assert sum(shard.missing_replicas for shard in shards) == 1


@pytest.mark.parametrize("was_killed", [False, True])
async def test_a_partition_whose_directory_has_vanished_waits_for_an_operator(
    wire_config: BrokerConfig, caplog: pytest.LogCaptureFixture, *, was_killed: bool
) -> None:
    config = wire_config
    async with running(config) as run:
        directory = await fill(run)
        await wait_made(run)
        epoch = run.replica("orders", LOST).leader_epoch
        if was_killed:
            config = killed(config)
            directory = moved(directory, config)
    shutil.rmtree(directory)
    for _ in range(2):
        caplog.clear()
        async with running(config) as run:
            await check_offline(run, directory)
            [error] = [each for each in caplog.records if each.levelno == logging.ERROR]
            assert "orders-0" in error.getMessage()
            assert str(directory) in error.getMessage()
            before, epoch = epoch, run.replica("orders", LOST).leader_epoch
            assert epoch > before
        assert run.tree.report is not None
        assert run.tree.report.clean, run.tree.report.failures
    acceptance_of(directory).touch()
    async with running(config) as run:
        lost = run.replica("orders", LOST)
        assert lost.log.log_end_offset == 0
        assert lost.leader_epoch > epoch  # consumers can tell the new records from the old ones
        assert not acceptance_of(directory).exists()
        assert not lost.is_missing
        assert await code_of(run, LOST) == 0
    async with running(config) as run:
        assert run.replica("orders", LOST).log.log_end_offset == 1
        assert run.replica("orders", LOST).log.recovery.is_trusted


async def test_a_directory_that_was_put_back_serves_what_it_had(
    wire_config: BrokerConfig, tmp_path: Path
) -> None:
    async with running(wire_config) as run:
        directory = await fill(run)
    shutil.move(directory, tmp_path / "elsewhere")
    async with running(wire_config) as run:
        await check_offline(run, directory)
    shutil.move(tmp_path / "elsewhere", directory)
    acceptance_of(directory).touch()  # somebody was of two minds: what is there is what counts
    async with running(wire_config) as run:
        assert run.replica("orders", LOST).log.log_end_offset == 3
        assert not acceptance_of(directory).exists()
        assert await code_of(run, LOST) == 0


async def test_a_topic_with_a_directory_that_has_vanished_can_be_deleted(
    wire_config: BrokerConfig,
) -> None:
    async with running(wire_config) as run:
        directory = await fill(run)
    shutil.rmtree(directory)
    async with running(wire_config) as run:
        await run.broker.delete_topic("orders")
        await run.broker.create_topic("orders", partitions=2)
        assert await code_of(run, LOST) == 0
    async with running(wire_config) as run:
        assert run.replica("orders", LOST).log.log_end_offset == 1


async def test_a_directory_without_records_is_made_anew_after_an_orderly_stop(
    wire_config: BrokerConfig,
) -> None:
    async with running(wire_config) as run:
        directory = await fill(run, batches=0)
    shutil.rmtree(directory)
    async with running(wire_config) as run:
        assert await code_of(run, LOST) == 0


@pytest.mark.parametrize("what", ["topic", "partitions"])
async def test_a_kill_before_the_directories_are_made_loses_nothing(
    wire_config: BrokerConfig, what: str
) -> None:
    """What was decided is committed first, and only then are directories made."""
    make_directories = LogDir.make_directories
    copies: list[BrokerConfig] = []

    async def killed_before(log_dir: LogDir, *arguments: Any) -> None:
        if not copies:  # it is called for each shard
            copies.append(killed(wire_config))
        await make_directories(log_dir, *arguments)

    async with running(wire_config) as run:
        await fill(run)
        await wait_made(run)
        with patch.object(LogDir, "make_directories", killed_before):
            if what == "topic":
                await run.broker.create_topic("fresh", partitions=2)
            else:
                more = MorePartitions(name="orders", count=4)
                await run.state.controller.create_partitions([more])
    [config] = copies
    topic, partition = ("fresh", 1) if what == "topic" else ("orders", 3)
    async with running(config) as run:
        assert not [each for each in run.state.router.replicas() if each.refusal]
        assert await code_of(run, partition, topic=topic) == 0
        await wait_made(run)
        directory = directory_of(run.replica(topic, partition))
    shutil.rmtree(directory)
    async with running(config) as run:
        assert run.replica(topic, partition).is_missing


@simulated
async def test_a_partition_that_could_not_be_made_is_made_by_a_later_start(world: World) -> None:
    """Its disk refuses directories when the topic is made, and until the power fails."""
    async with world.running_until_power_cut() as run:
        await run.broker.create_topic("other")
        with failing("make_directory", "/data/logs", errno.ENOSPC, on=SimFileSystem):
            await run.broker.create_topic("orders", partitions=2)
            await trio.sleep(100)
            assert run.replica("orders", LOST).refusal
    async with world.running() as run:
        assert not [each for each in run.state.router.replicas() if each.refusal]


@simulated
async def test_a_disk_comes_back_without_a_directory_that_has_vanished_while_it_failed(
    world: World,
) -> None:
    async with world.running() as run:
        await run.broker.create_topic("orders", partitions=2)
        lost, kept = (run.replica("orders", partition) for partition in (LOST, KEPT))
        run.faults_expected = {"log dir /data/logs"}
        async with world.connect() as client:
            for partition in (LOST, KEPT):
                assert (await client.produce(make_batch(), partition=partition)).error_code == 0
            with failing("sync", lost.log.directory):
                assert (await client.produce(make_batch(), partition=LOST)).error_code != 0
                await lost.shard.lane.call(world.fs.rename, lost.log.directory, "/data/elsewhere")
            await trio.sleep(100)
            assert lost.is_missing
            assert not kept.refusal


@simulated
async def test_wherever_the_power_fails_while_a_topic_is_made_it_is_there_afterwards(
    world: World,
) -> None:
    for number in range(12):
        async with world.running_until_power_cut() as run, trio.open_nursery() as nursery:
            with slow("/data/logs", 0.05):
                create = partial(run.broker.create_topic, f"topic-{number}", partitions=3)
                nursery.start_soon(create)
                await trio.sleep(0.03 * number)
                nursery.cancel_scope.cancel()
    async with world.running() as run:
        assert len(run.state.router.by_name) > 3
        assert not [each for each in run.state.router.replicas() if each.refusal]


@simulated
async def test_a_directory_that_vanishes_under_a_running_broker_is_not_made_anew(
    world: World,
) -> None:
    """The partition has a fault, and its log is opened again."""
    async with world.running(reraise=False) as run:
        await run.broker.create_topic("orders", partitions=2)
        lost = run.replica("orders", LOST)
        run.faults_expected = {lost.boundary}
        async with world.connect() as client:
            assert (await client.produce(make_batch(), partition=LOST)).error_code == 0
            directory = lost.log.directory
            await lost.shard.lane.call(world.fs.rename, directory, "/data/elsewhere")
            with planted(Log, "publish", is_log_of(lost)):
                assert (await client.produce(make_batch(), partition=LOST)).error_code != 0
            await trio.sleep(100)
            assert lost.is_missing
            assert (await client.produce(make_batch(), partition=LOST)).error_code == (
                ErrorCode.KAFKA_STORAGE_ERROR
            )
            assert (await client.produce(make_batch(), partition=KEPT)).error_code == 0
        await lost.shard.lane.call(world.fs.rename, "/data/elsewhere", directory)
    async with world.running() as run:
        assert run.replica("orders", LOST).log.log_end_offset >= 1


async def test_groups_whose_offsets_have_vanished_are_told_so_and_others_served(
    wire_config: BrokerConfig,
) -> None:
    """An empty answer would send their consumers back to the beginning, or to the end."""
    by_partition = {offsets_partition(f"group-{n}", 4): f"group-{n}" for n in range(40)}

    async def commit(run: Running, partition: int) -> ErrorCode:
        wanted = OffsetToCommit(TopicName("orders"), 0, 1, -1, "", run.topic_id("orders"))
        request = CommitOffsets(group_id=by_partition[partition], offsets=(wanted,))
        [code] = await run.state.coordinator.commit(request)
        return code

    async with running(wire_config) as run:
        await fill(run)
        for partition in by_partition:
            assert await commit(run, partition) is ErrorCode.NONE
        directory = directory_of(run.replica(OFFSETS_TOPIC_NAME, LOST))
    shutil.rmtree(directory)
    async with running(wire_config) as run:
        assert run.replica(OFFSETS_TOPIC_NAME, LOST).is_missing
        load_group = run.state.coordinator.load_group
        passing = {ErrorCode.COORDINATOR_NOT_AVAILABLE, ErrorCode.COORDINATOR_LOAD_IN_PROGRESS}
        assert await load_group(by_partition[LOST]) in passing
        assert await commit(run, LOST) in passing
        assert not await load_group(by_partition[KEPT])
        assert await commit(run, KEPT) is ErrorCode.NONE
        assert await code_of(run, LOST) == 0
    acceptance_of(directory).touch()
    async with running(wire_config) as run:
        assert not await run.state.coordinator.load_group(by_partition[LOST])
        assert await commit(run, LOST) is ErrorCode.NONE
