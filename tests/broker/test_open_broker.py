"""What leaves `open_broker`: the program's own exception as it is, a crash as one BrokerCrashed."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.broker.harness import World, failing, simulated
from tests.support.crashes import Crashes
from trio_broker import (
    Broker,
    BrokerClosed,
    BrokerConfig,
    BrokerCrashed,
    RequestError,
    ShutdownConfig,
    open_broker,
    serve,
)
from trio_broker.admin.statistics import TopicStatistics
from trio_broker.broker.broker import HURRY_SECONDS
from trio_broker.errors import ConfigError, LogDirInUse


class OwnError(Exception):
    """Raised by the program."""


@pytest.mark.parametrize("error", [OwnError(), KeyboardInterrupt(), SystemExit(3), GeneratorExit()])
async def test_the_programs_exception_is_the_same_object(
    config: BrokerConfig, error: BaseException
) -> None:
    with pytest.raises(type(error)) as caught:
        async with open_broker(config) as broker:
            await broker.create_topic("orders")
            raise error
    assert caught.value is error
    assert broker.shutdown_report is not None
    assert broker.shutdown_report.clean


async def test_a_group_of_the_programs_own_is_not_touched(config: BrokerConfig) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with open_broker(config), trio.open_nursery():
            raise OwnError
    assert isinstance(caught.value.exceptions[0], OwnError)


async def test_cancelled_from_outside_and_from_inside(config: BrokerConfig) -> None:
    with trio.CancelScope() as outer:
        async with open_broker(config) as broker:
            outer.cancel()
            await trio.sleep_forever()
    assert outer.cancelled_caught
    assert broker.shutdown_report is not None
    assert broker.shutdown_report.clean
    async with open_broker(config):
        with trio.CancelScope() as inner:
            inner.cancel()
            await trio.sleep_forever()
        assert inner.cancelled_caught
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("count", [1, 2])
async def test_a_crash_is_one_exception_with_its_causes(
    config: BrokerConfig, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    causes = [ZeroDivisionError("a bug"), LookupError("another one")][:count]
    crashes = Crashes(monkeypatch, *causes)
    with pytest.raises(BrokerCrashed) as caught:
        async with open_broker(config):
            await wait_all_tasks_blocked()
            crashes.happen()
            await trio.sleep_forever()
    cause = caught.value.__cause__
    if count == 1:
        assert cause is causes[0]
    else:
        assert isinstance(cause, ExceptionGroup)
        assert set(cause.exceptions) == set(causes)
    monkeypatch.undo()
    async with open_broker(config) as broker:  # nothing of it is left
        await broker.create_topic("orders")


async def test_a_crash_that_the_block_leaves_by_itself_is_told_all_the_same(
    config: BrokerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashes = Crashes(monkeypatch, ZeroDivisionError())
    with pytest.raises(BrokerCrashed):
        async with open_broker(config):
            crashes.happen()
            await wait_all_tasks_blocked()


async def test_cancelling_and_crashing_at_once(
    config: BrokerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashes = Crashes(monkeypatch, ZeroDivisionError())
    with trio.CancelScope() as outer, pytest.raises(BrokerCrashed):
        async with open_broker(config):
            crashes.happen()
            outer.cancel()
            await trio.sleep_forever()


async def test_a_start_that_fails_is_one_plain_error(config: BrokerConfig) -> None:
    async with open_broker(config):
        with pytest.raises(LogDirInUse):
            async with open_broker(config):
                pytest.fail("two brokers share a directory")
        async with trio.open_nursery() as nursery:
            with pytest.raises(LogDirInUse):  # handed over as it is
                await nursery.start(serve, config)
    other = config.with_values(node_id=7)
    with pytest.raises(ConfigError):
        async with open_broker(other):
            pytest.fail("somebody else's directory")


@simulated
async def test_a_disk_that_fails_at_the_start_is_one_plain_error(world: Any) -> None:
    with failing("write_at", "/data"):
        with pytest.raises(Exception, match=r"EIO|Input/output") as caught:
            async with open_broker(world.config(), host=world.host):
                pytest.fail("it started")
    assert not isinstance(caught.value, BaseExceptionGroup)
    assert list(world.fs.open_files()) == []
    async with open_broker(world.config(), host=world.host) as broker:
        await broker.create_topic("orders")


def test_a_real_disk_under_a_virtual_clock_is_refused(config: BrokerConfig) -> None:
    async def main() -> None:
        async with open_broker(config):
            pytest.fail("it started")

    with pytest.raises(RuntimeError, match="virtual clock"):
        trio.run(main, clock=MockClock(autojump_threshold=0))


@pytest.mark.parametrize("end", ["leave", "ask", "cancel", "serve cancelled", "error"])
async def test_however_a_program_ends_it_what_was_acknowledged_is_there(
    config: BrokerConfig, end: str
) -> None:
    """With records under way when it ends; the marker is there, and the report says how it went."""
    acknowledged: list[tuple[int, int]] = []
    enough = trio.Event()
    broker: Broker | None = None

    async def produce(broker: Broker) -> None:
        try:
            while True:
                acknowledged.append(await broker.produce("orders", b"x"))
                if len(acknowledged) == 200:
                    enough.set()
        except (BrokerClosed, RequestError):
            pass

    async def load(broker: Broker, nursery: trio.Nursery) -> None:
        await broker.create_topic("orders", partitions=4)
        for _ in range(20):
            nursery.start_soon(produce, broker)
        with trio.fail_after(30):
            await enough.wait()

    with trio.CancelScope() as program:
        try:
            if end == "serve cancelled":
                async with trio.open_nursery() as nursery:
                    broker = await nursery.start(serve, config)
                    await load(broker, nursery)
                    program.cancel()
            else:
                async with open_broker(config) as broker, trio.open_nursery() as nursery:
                    await load(broker, nursery)
                    if end == "ask":
                        broker.request_stop()
                    elif end == "cancel":
                        program.cancel()
                        await trio.sleep_forever()
                    elif end == "error":
                        raise OwnError
                    else:
                        nursery.cancel_scope.cancel()
        except* OwnError:
            assert end == "error"
    assert broker is not None
    report = broker.shutdown_report
    assert report is not None
    assert report.clean, report
    assert report.phases[-1].name == "close"
    assert report.failures == ()
    assert ("was cancelled" in report.reason) == ("cancel" in end)
    async with open_broker(config) as again:
        ends = {part.partition: part.high_watermark for part in topic_of(again).partitions}
    for partition, offset in acknowledged:
        assert offset < ends[partition]


@simulated
async def test_a_program_that_is_cancelled_while_the_broker_stops_is_not_kept(world: World) -> None:
    config = world.config(shutdown=ShutdownConfig(ready_grace_seconds=60))
    began = trio.current_time()
    with trio.move_on_after(10) as program:
        async with open_broker(config, host=world.host) as broker:
            await broker.create_topic("orders")
    assert program.cancelled_caught
    assert trio.current_time() - began < 10 + HURRY_SECONDS
    assert broker.shutdown_report is not None
    assert broker.shutdown_report.clean


def topic_of(broker: Broker) -> TopicStatistics:
    [topic] = broker.statistics().topics
    return topic
