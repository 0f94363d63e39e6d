"""The leak watch: files that nobody should hold are found, named once, and forgotten when gone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from trio_broker import open_broker
from trio_broker.broker import leak_watch
from trio_broker.broker.leak_watch import LeakWatch
from trio_broker.broker.statistics import health_facts
from trio_broker.client import open_client
from trio_broker.host.real import real_host
from trio_broker.storage.paths import owner_name

if TYPE_CHECKING:
    from trio_broker import BrokerConfig
    from trio_broker.broker.embed import Broker


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the watch suspect what it sees once."""
    monkeypatch.setattr(leak_watch, "PATIENCE_SECONDS", 0.0)


async def leaks_of(broker: Broker) -> dict[str, str]:
    """Let a watch look once; return what the broker says of leaks then."""
    await LeakWatch(broker._state).look()
    return dict(broker._state.leaks)


async def make_topic(broker: Broker, partitions: int = 1) -> str:
    """Make a topic and write to it; return what one replica's files are entered under."""
    await broker.create_topic("orders", partitions=partitions)
    for partition in range(partitions):
        await broker.produce("orders", b"x", partition=partition)
    replica = broker._state.router.by_name["orders"].replica(min(1, partitions - 1))
    assert replica is not None
    return owner_name(replica.topic_partition)


@pytest.mark.usefixtures("impatient")
async def test_a_broker_at_work_is_not_suspected(config: BrokerConfig) -> None:
    async with open_broker(config) as broker:
        await make_topic(broker, partitions=3)
        assert await leaks_of(broker) == {}
        await broker.delete_topic("orders")
        assert await leaks_of(broker) == {}


@pytest.mark.usefixtures("impatient")
async def test_a_descriptor_that_the_ledger_does_not_know_is_found(
    config: BrokerConfig, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_broker(config) as broker:
        await make_topic(broker)
        stranger = Path(config.data_dir) / "logs" / "stranger"
        stranger.touch()
        descriptor = os.open(stranger, os.O_RDONLY)
        stranger.unlink()
        try:
            for _ in range(2):
                leaks = await leaks_of(broker)
                assert list(leaks) == [f"{stranger} (deleted)"]
            assert "nobody accounts for it" in leaks[f"{stranger} (deleted)"]
            assert broker.statistics().leaks_suspected == 1
            [sentence] = health_facts(broker._state).leaks
            assert str(stranger) in sentence
        finally:
            os.close(descriptor)
        assert await leaks_of(broker) == {}
    assert sum("files held" in text and "accounts" in text for text in caplog.messages) == 1


async def test_patience_comes_first(config: BrokerConfig) -> None:
    async with open_broker(config) as broker:
        with (Path(config.data_dir) / "logs" / "stranger").open("w"):
            assert await leaks_of(broker) == {}


@pytest.mark.usefixtures("impatient")
async def test_files_elsewhere_are_the_programs_own(config: BrokerConfig, tmp_path: Path) -> None:
    async with open_broker(config) as broker:
        with (tmp_path / "mine").open("w"):
            assert await leaks_of(broker) == {}


@pytest.mark.usefixtures("impatient")
async def test_a_file_whose_owner_is_gone_is_found_with_its_owner(config: BrokerConfig) -> None:
    async with open_broker(config) as broker:
        owner = await make_topic(broker)
        await broker.delete_topic("orders")
        fs = broker._state.host.fs
        kept = fs.open(str(Path(config.data_dir) / "logs" / "kept"), owner, create=True)
        assert await leaks_of(broker) == {owner: f"{owner} is gone, and holds 1: {kept.path}"}
        kept.close()
        assert await leaks_of(broker) == {}


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("held_by", ["replica", "metadata"])
async def test_an_owner_that_holds_more_than_it_has_use_for_is_found(
    config: BrokerConfig, held_by: str
) -> None:
    async with open_broker(config) as broker:
        owner = await make_topic(broker, partitions=11)
        if held_by == "metadata":
            owner = held_by
        own_count = sum(file.owner == owner for file in broker._state.host.fs.open_files())
        path = f"{config.data_dir}/logs/many"
        files = [broker._state.host.fs.open(path, owner, create=True) for _ in range(10)]
        leaks = await leaks_of(broker)
        # And not those whose names only begin alike: replica 1 is not replica 10.
        assert list(leaks) == [owner]
        assert f"{owner} may hold " in leaks[owner]
        assert leaks[owner].endswith(f" and {own_count + 7} more")
        for file in files:
            file.close()
        assert await leaks_of(broker) == {}


@pytest.mark.usefixtures("impatient")
async def test_a_descriptor_that_was_doubled_is_found(config: BrokerConfig) -> None:
    async with open_broker(config) as broker:
        owner = await make_topic(broker)
        [file] = [file for file in broker._state.host.fs._ledger.files() if file.owner == owner]
        double = os.dup(file._descriptor)
        leaks = await leaks_of(broker)
        os.close(double)
        assert list(leaks) == [file.path]


@pytest.mark.usefixtures("impatient")
async def test_brokers_on_one_host_do_not_suspect_each_other(config: BrokerConfig) -> None:
    host = real_host()
    other = config.with_values(data_dir=config.data_dir + "-other")
    async with open_broker(config, host=host) as first, open_broker(other, host=host) as second:
        for broker in (first, second):
            await broker.create_topic("orders", partitions=3)
            await broker.produce("orders", b"x")
        for broker in (first, second):
            assert await leaks_of(broker) == {}
            owners = {each.owner: each for each in broker.statistics().owners}
            assert owners["replica"].open_files == 2  # and the journal's
            assert owners["replica"].tasks == 3


async def test_files_tasks_and_bytes_are_counted_by_their_owners(
    wire_config: BrokerConfig,
) -> None:
    async with open_broker(wire_config) as broker:
        await broker.create_topic("orders", partitions=5)
        await broker.produce("orders", bytes(1000), partition=0)
        async with open_client(broker.bootstrap) as client:
            await client.admin.list_topics()
            owners = {each.owner: each for each in broker.statistics().owners}
            assert owners["connection"].tasks == len(broker._state.clients) > 0
        assert owners["replica"].tasks == 5
        assert owners["replica"].open_bytes > 1000
        assert owners["lane"].tasks == 3
        assert owners["shard"].tasks == 4
        assert owners["log-dir"].tasks == 3
        assert owners["listener"].tasks == 1
        # What is left are the root and the few tasks for the broker as a whole.
        assert owners["broker"].tasks < 10
        await broker.delete_topic("orders")
        owners = {each.owner: each for each in broker.statistics().owners}
        assert owners.get("replica") is None or owners["replica"].tasks == 0
