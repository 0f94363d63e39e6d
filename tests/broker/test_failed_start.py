"""A start that fails leaves log dirs that nobody has written in as clean as it found them."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest
import trio

from tests.broker.harness import World, failing, running, simulated
from trio_broker.broker.broker import BrokerTree
from trio_broker.broker.controller import Controller
from trio_broker.broker.reconciler import Reconciler
from trio_broker.cluster.store import StoreUnavailable
from trio_broker.errors import LogDirInUse, StorageError, TrioBrokerError
from trio_broker.host.file_system import RealFileSystem
from trio_broker.host.real import real_host
from trio_broker.storage import paths
from trio_broker.testing.sim.disk import SimFileSystem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.broker.harness import Running
    from trio_broker.config import BrokerConfig

PARTITIONS = 4


async def fill(run: Running) -> None:
    await run.broker.create_topic("orders", partitions=PARTITIONS)
    for partition in range(PARTITIONS):
        await run.broker.produce("orders", b"value", partition=partition)


def trusted(run: Running) -> dict[str, bool]:
    """Return for each log dir whether all its logs were believed."""
    found: dict[str, bool] = {}
    for replica in run.state.router.replicas():
        assert not replica.refusal
        if replica.topic.name == "orders":
            assert replica.log.log_end_offset == 1
        path = os.path.basename(replica.shard.log_dir.directory.path)
        found[path] = found.get(path, True) and replica.log.recovery.is_trusted
    return found


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    lock = RealFileSystem().lock_directory(str(directory), "another broker")
    try:
        yield
    finally:
        lock.release()


@contextmanager
def without_identity(directory: Path) -> Iterator[None]:
    meta = directory / paths.META_NAME
    meta.rename(directory.parent / "meta")
    try:
        yield
    finally:
        (directory.parent / "meta").rename(meta)


@contextmanager
def in_the_way(directory: Path) -> Iterator[None]:
    """The clean marker can be read, and neither be replaced nor removed."""
    unlink, rename = RealFileSystem.unlink, RealFileSystem.rename
    marker = str(directory / paths.CLEAN_MARKER_NAME)

    def refuse(path: str) -> None:
        if path == marker:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM), path)

    def unlink_other(fs: RealFileSystem, path: str) -> None:
        refuse(path)
        unlink(fs, path)

    def rename_other(fs: RealFileSystem, source: str, target: str) -> None:
        refuse(target)
        rename(fs, source, target)

    with (
        patch.object(RealFileSystem, "unlink", unlink_other),
        patch.object(RealFileSystem, "rename", rename_other),
    ):
        yield


@contextmanager
def without_metadata(_directory: Path) -> Iterator[None]:
    with patch.object(Controller, "broker_started", side_effect=StoreUnavailable("for a test")):
        yield


TROUBLES = {
    "in use": (locked, LogDirInUse),
    "nobody knows whose": (without_identity, StorageError),
    "a marker that cannot be removed": (in_the_way, OSError),
    "no metadata": (without_metadata, TrioBrokerError),
}


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_a_second_log_dir_that_fails_costs_the_first_nothing(
    wire_config: BrokerConfig, tmp_path: Path, trouble: str
) -> None:
    directories = [tmp_path / "a", tmp_path / "b"]
    config = wire_config.with_values(log_dirs=tuple(map(str, directories)))
    async with running(config) as run:
        await fill(run)
    in_trouble, error = TROUBLES[trouble]
    for _ in range(2):
        with in_trouble(directories[1]), pytest.raises((error, ExceptionGroup)) as caught:
            await BrokerTree(config, real_host()).run()
        assert caught.group_contains(error) or isinstance(caught.value, error)
    async with running(config) as run:
        assert trusted(run) == {"a": True, "b": True}
        for partition in range(PARTITIONS):
            await run.broker.produce("orders", b"more", partition=partition)


@simulated
async def test_once_a_log_has_been_opened_a_crash_means_recovery(world: World) -> None:
    """The process is killed when all is written, before anybody has stopped anything in order."""
    disks = {"log_dirs": ("/disk-a", "/disk-b")}
    async with world.running(**disks) as run:
        await fill(run)
    seen: list[bool] = []
    start_all = Reconciler.start_all

    async def look(reconciler: Reconciler, image: Any) -> None:
        for log_dir in reconciler._state.log_dirs:
            names = await log_dir.lane.call(world.fs.list_directory, log_dir.directory.path)
            seen.append(paths.CLEAN_MARKER_NAME in names)
        await start_all(reconciler, image)

    with patch.object(Reconciler, "start_all", look):
        async with world.running_until_power_cut(**disks):
            await trio.sleep(1)
    assert seen == [False, False]
    async with world.running(**disks) as run:
        assert trusted(run) == {"disk-a": False, "disk-b": False}


@simulated
async def test_a_marker_whose_removal_is_in_doubt_is_not_put_back(world: World) -> None:
    """The fsync fails: the old content may come back, or not. The other log dir is as it was."""
    disks = {"log_dirs": ("/disk-a", "/disk-b")}
    async with world.running(**disks) as run:
        await fill(run)
    with (
        failing("sync_directory", "/disk-b", on=SimFileSystem),
        pytest.raises((StorageError, ExceptionGroup)),
    ):
        await BrokerTree(world.config(**disks), world.host).run()
    async with world.running(**disks) as run:
        assert trusted(run) == {"disk-a": True, "disk-b": False}
