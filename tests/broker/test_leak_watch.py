"""The leak watch: files that nobody should hold are found, named once, and forgotten when gone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from trio_broker import open_broker
from trio_broker.broker import leak_watch
from trio_broker.broker.leak_watch import LeakWatch

if TYPE_CHECKING:
    from trio_broker import BrokerConfig
    from trio_broker.broker.embed import Broker


def watch_of(broker: Broker) -> LeakWatch:
    return LeakWatch(broker._state)


async def test_a_broker_at_work_is_not_suspected(
    config: BrokerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leak_watch, "PATIENCE_SECONDS", 0.0)
    async with open_broker(config) as broker:
        await broker.create_topic("orders", partitions=3)
        for partition in range(3):
            await broker.produce("orders", b"x", partition=partition)
        watch = watch_of(broker)
        await watch.look()
        assert watch.suspects == {}
        await broker.delete_topic("orders")
        await watch.look()
        assert watch.suspects == {}


async def test_a_descriptor_that_the_ledger_does_not_know_is_found(
    config: BrokerConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(leak_watch, "PATIENCE_SECONDS", 0.0)
    async with open_broker(config) as broker:
        await broker.create_topic("orders")
        await broker.produce("orders", b"x")
        stranger = Path(config.data_dir) / "logs" / "stranger"
        stranger.touch()
        descriptor = os.open(stranger, os.O_RDONLY)
        stranger.unlink()
        try:
            watch = watch_of(broker)
            await watch.look()
            await watch.look()
            assert list(watch.suspects) == [f"{stranger} (deleted)"]
            assert broker._state.leaks_suspected == 1
        finally:
            os.close(descriptor)
        await watch.look()
        assert watch.suspects == {}
    assert sum("leaked files" in text and "still holds" in text for text in caplog.messages) == 1


async def test_patience_comes_first(config: BrokerConfig) -> None:
    async with open_broker(config) as broker:
        stranger = Path(config.data_dir) / "logs" / "stranger"
        with stranger.open("w"):
            watch = watch_of(broker)
            await watch.look()
            assert watch.suspects == {}


async def test_files_elsewhere_are_the_programs_own(
    config: BrokerConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(leak_watch, "PATIENCE_SECONDS", 0.0)
    async with open_broker(config) as broker:
        with (tmp_path / "mine").open("w"):
            watch = watch_of(broker)
            await watch.look()
            assert watch.suspects == {}
