"""The embedded broker: what a Trio program can do with it, and how errors leave it."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests.support.crashes import Crashes
from trio_broker import (
    BrokerClosed,
    BrokerConfig,
    BrokerCrashed,
    ErrorCode,
    RequestError,
    open_broker,
    serve,
)
from trio_broker.records.build import Record


async def test_produce_then_read(config: BrokerConfig) -> None:
    async with open_broker(config) as broker:
        await broker.create_topic("orders", partitions=3)
        partition, offset = await broker.produce("orders", b"1", key=b"a", headers=[("h", b"x")])
        assert offset == 0
        assert await broker.produce("orders", b"2", key=b"a") == (partition, 1)
        async with broker.read("orders", partition) as reader:
            first = await reader.receive()
            second = await reader.receive()
    assert (first.key, first.value, first.headers, first.offset) == (b"a", b"1", (("h", b"x"),), 0)
    assert (second.value, second.offset) == (b"2", 1)


async def test_a_reader_waits_for_records_to_come(config: BrokerConfig) -> None:
    async with open_broker(config) as broker:
        await broker.create_topic("orders")
        values = []

        async def consume() -> None:
            async with broker.read("orders") as reader:
                async for record in reader:
                    values.append(record.value)
                    if len(values) == 3:
                        return

        async with trio.open_nursery() as nursery:
            nursery.start_soon(consume)
            for number in range(3):
                await trio.testing.wait_all_tasks_blocked(0.01)
                await broker.produce("orders", b"%d" % number)
    assert values == [b"0", b"1", b"2"]


async def test_records_survive_a_restart(config: BrokerConfig) -> None:
    async with open_broker(config) as broker:
        topic_id = await broker.create_topic("orders", partitions=2)
        cluster_id = broker.cluster_id
        for number in range(10):
            await broker.produce("orders", b"%d" % number, partition=number % 2)
    async with open_broker(config) as broker:
        assert broker.cluster_id == cluster_id
        assert (await broker.produce("orders", b"new", partition=0)) == (0, 5)
        async with broker.read("orders", 0) as reader:
            values = [(await reader.receive()).value for _ in range(6)]
        with pytest.raises(RequestError) as failure:
            await broker.create_topic("orders")
    assert values == [b"0", b"2", b"4", b"6", b"8", b"new"]
    assert failure.value.code is ErrorCode.TOPIC_ALREADY_EXISTS
    assert topic_id


async def test_a_batch_is_stored_whole(config: BrokerConfig) -> None:
    async with open_broker(config) as broker:
        await broker.create_topic("orders")
        records = [Record(key=None, value=b"%d" % n, timestamp_ms=1_000 + n) for n in range(5)]
        assert await broker.produce_batch("orders", records) == (0, 0)
        async with broker.read("orders", offset=3) as reader:
            assert (await reader.receive()).value == b"3"


async def test_delete_and_create_again_shows_no_old_data(config: BrokerConfig) -> None:
    async with open_broker(config) as broker:
        first = await broker.create_topic("orders")
        await broker.produce("orders", b"old")
        await broker.delete_topic("orders")
        with pytest.raises(RequestError) as failure:
            await broker.produce("orders", b"nowhere")
        second = await broker.create_topic("orders")
        assert await broker.produce("orders", b"new") == (0, 0)
        async with broker.read("orders") as reader:
            assert (await reader.receive()).value == b"new"
    assert failure.value.code is ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert first != second


async def test_a_parked_reader_learns_that_its_topic_is_gone(config: BrokerConfig) -> None:
    async with open_broker(config) as broker:
        await broker.create_topic("orders")

        async def read(task_status: trio.TaskStatus[None]) -> None:
            async with broker.read("orders") as reader:
                task_status.started()
                with pytest.raises(RequestError) as failure:
                    await reader.receive()
            assert failure.value.code in {
                ErrorCode.UNKNOWN_TOPIC_ID,
                ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
            }

        async with trio.open_nursery() as nursery:
            await nursery.start(read)
            await trio.testing.wait_all_tasks_blocked(0.01)
            await broker.delete_topic("orders")


@pytest.mark.parametrize(
    "name,code",
    [
        ("", ErrorCode.INVALID_TOPIC_EXCEPTION),
        ("../x", ErrorCode.INVALID_TOPIC_EXCEPTION),
        ("x" * 250, ErrorCode.INVALID_TOPIC_EXCEPTION),
        (".", ErrorCode.INVALID_TOPIC_EXCEPTION),
    ],
)
async def test_illegal_names_are_refused(config: BrokerConfig, name: str, code: ErrorCode) -> None:
    async with open_broker(config) as broker:
        with pytest.raises(RequestError) as failure:
            await broker.create_topic(name)
    assert failure.value.code is code


async def test_the_programs_own_error_leaves_as_it_is(config: BrokerConfig) -> None:
    with pytest.raises(ZeroDivisionError):
        async with open_broker(config):
            raise ZeroDivisionError


async def test_a_crash_is_one_exception_and_cancels_the_block(
    config: BrokerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    Crashes(monkeypatch, LookupError("a bug")).happen()
    with pytest.raises(BrokerCrashed) as failure:
        async with open_broker(config):
            await trio.sleep_forever()
    assert isinstance(failure.value.__cause__, LookupError)


async def test_cancelling_the_program_stops_the_broker(config: BrokerConfig) -> None:
    with trio.move_on_after(0.3) as scope:
        async with open_broker(config) as broker:
            await broker.create_topic("orders")
            await broker.produce("orders", b"kept")
            await trio.sleep_forever()
    assert scope.cancelled_caught
    async with open_broker(config) as broker, broker.read("orders") as reader:
        assert (await reader.receive()).value == b"kept"


async def test_serve_gives_the_broker_and_ends_when_asked(config: BrokerConfig) -> None:
    async with trio.open_nursery() as nursery:
        broker = await nursery.start(serve, config)
        await broker.create_topic("orders")
        broker.request_stop()
    with pytest.raises(BrokerClosed):
        await broker.produce("orders", b"late")


async def test_a_second_broker_on_the_same_directory_is_refused(config: BrokerConfig) -> None:
    async with open_broker(config):
        with pytest.raises(Exception, match=r"lock|in use|held") as failure:
            async with open_broker(config):
                pytest.fail("two brokers share a directory")
    assert not isinstance(failure.value, ExceptionGroup)


async def test_an_address_in_use_is_one_plain_error(wire_config: BrokerConfig) -> None:
    async with open_broker(wire_config) as broker:
        host, port = broker.listeners[0]
        other = wire_config.with_values(
            data_dir=wire_config.data_dir + "2", listeners=(f"{host}:{port}",)
        )
        with pytest.raises(OSError, match="in use"):
            async with open_broker(other):
                pytest.fail("bound twice")


async def test_what_cannot_be_produced(config: BrokerConfig) -> None:
    async with open_broker(config) as broker:
        await broker.create_topic("orders", partitions=2, configs={"max.message.bytes": "1000"})
        for topic, value, partition, code in [
            ("nowhere", b"", None, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
            ("orders", b"", 2, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
            ("orders", b"", -1, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
            ("orders", bytes(2000), 0, ErrorCode.MESSAGE_TOO_LARGE),
        ]:
            with pytest.raises(RequestError) as failure:
                await broker.produce(topic, value, partition=partition)
            assert failure.value.code is code
        for wrong in ({"value": "text"}, {"value": b"", "key": 1}, {"value": bytearray(1)}):
            with pytest.raises(TypeError, match="keys and values are bytes, not "):
                await broker.produce("orders", **wrong)
        for headers in ({"a": b"1"}, {"ab": b"1"}, [("a", "1")], [(b"a", b"1")]):
            with pytest.raises(TypeError, match="headers are pairs of a str and bytes"):
                await broker.produce("orders", b"", headers=headers)
        with pytest.raises(RequestError) as failure:
            await broker.produce_batch("orders", [])
        assert failure.value.code is ErrorCode.INVALID_RECORD
        for partition, offset in ((2, 0), (-1, 0)):
            with pytest.raises(RequestError) as failure:
                async with broker.read("orders", partition, offset=offset):
                    pytest.fail("there is no such partition")
            assert failure.value.code is ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        async with broker.read("orders", 0, offset=7) as reader:
            with pytest.raises(RequestError) as failure:
                await reader.receive()
        assert failure.value.code is ErrorCode.OFFSET_OUT_OF_RANGE


async def test_records_without_a_key_go_to_the_partitions_in_turn(config: BrokerConfig) -> None:
    async with open_broker(config) as broker:
        await broker.create_topic("orders", partitions=3)
        turns = [(await broker.produce("orders", b"x"))[0] for _ in range(7)]
        assert turns == [0, 1, 2, 0, 1, 2, 0]
        keyed = {(await broker.produce("orders", None, key=b"k"))[0] for _ in range(5)}
        assert len(keyed) == 1
