"""The producer, against our broker and against Apache Kafka."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import pytest
import trio

from trio_broker import ErrorCode, RequestError
from trio_broker.client import (
    ClientClosed,
    ClientOptions,
    Compression,
    ConsumerOptions,
    ProducerOptions,
    TopicPartition,
)
from trio_broker.client.partitioner import murmur2

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from trio_broker.client import Client, ConsumedRecord

FROM_START = ConsumerOptions(auto_offset_reset="earliest")


async def read(client: Client, topic: str, count: int) -> list[ConsumedRecord]:
    """Read all partitions of a topic until that many records have come."""
    partitions = (await client.admin.describe_topic(topic)).partitions
    found: list[ConsumedRecord] = []
    async with client.open_consumer(FROM_START) as consumer:
        await consumer.assign([(topic, index) for index in partitions])
        with trio.fail_after(20):
            while len(found) < count:
                found.append(await consumer.next_record())
    return found


async def test_a_record_is_stored_as_it_was_given(client: Client, topic: str) -> None:
    async with client.open_producer() as producer:
        placed = await producer.send(
            topic, b"value", key=b"key", headers=[("a", b"1"), ("a", None)], timestamp_ms=1234567
        )
        empty = await producer.send(topic, None, partition=1, timestamp_ms=1234568)
    assert (placed.topic, placed.offset, placed.timestamp_ms) == (topic, 0, 1234567)
    assert placed.partition == (murmur2(b"key") & 0x7FFFFFFF) % 3
    assert (empty.partition, empty.timestamp_ms) == (1, 1234568)
    records = {(r.partition, r.value): r for r in await read(client, topic, 2)}
    stored = records[placed.partition, b"value"]
    assert (stored.offset, stored.timestamp_ms, stored.key) == (0, 1234567, b"key")
    assert stored.headers == (("a", b"1"), ("a", None))
    assert (1, None) in records


@pytest.mark.parametrize("codec", [codec.name.lower() for codec in Compression])
async def test_records_of_many_tasks_keep_their_order(
    client: Client, topic: str, codec: str
) -> None:
    options = ProducerOptions(compression=codec, batch_bytes=2000, linger_seconds=0.001)

    async def send(name: str) -> None:
        for number in range(100):
            await producer.send_soon(topic, f"{name} {number}".encode() * 5, key=name.encode())

    async with client.open_producer(options) as producer:
        async with trio.open_nursery() as nursery:
            for name in "abcd":
                nursery.start_soon(send, name)
    by_key = defaultdict(list)
    for record in await read(client, topic, 400):
        by_key[record.key].append(record.value)
    for name in "abcd":
        assert by_key[name.encode()] == [f"{name} {number}".encode() * 5 for number in range(100)]


async def test_deliveries_tell_where_each_record_is(client: Client, topic: str) -> None:
    async with client.open_producer(ProducerOptions(batch_bytes=500)) as producer:
        deliveries = [
            await producer.send_soon(topic, b"%d" % number, partition=0) for number in range(50)
        ]
        await producer.flush()
        assert all(delivery.is_done for delivery in deliveries)
        assert [(await d.wait()).offset for d in deliveries] == list(range(50))
        assert producer.buffered_bytes == 0


@pytest.mark.parametrize("acks", [0, 1, "all"])
async def test_acknowledgements(client: Client, topic: str, acks: int | str) -> None:
    async with client.open_producer(ProducerOptions(acks=acks)) as producer:
        placed = [await producer.send(topic, b"%d" % n, partition=0) for n in range(5)]
    assert [p.offset for p in placed] == ([-1] * 5 if acks == 0 else list(range(5)))
    assert [record.value for record in await read(client, topic, 5)] == [
        b"%d" % number for number in range(5)
    ]


async def test_memory_has_a_bound_and_senders_wait(client: Client, topic: str) -> None:
    options = ProducerOptions(buffer_bytes=10_000, batch_bytes=3000, linger_seconds=10)
    async with client.open_producer(options) as producer:
        most = 0
        for _ in range(100):
            await producer.send_soon(topic, bytes(1000))
            most = max(most, producer.buffered_bytes)
        assert most <= 10_000
        with pytest.raises(trio.WouldBlock):
            for _ in range(100):
                producer.send_nowait(topic, bytes(1000))
        # A record larger than the bound has its turn when there is nothing else.
        await producer.send(topic, bytes(20_000))


async def test_records_without_a_key_stay_together_for_a_batch(client: Client, topic: str) -> None:
    async with client.open_producer(ProducerOptions(batch_bytes=1000)) as producer:
        deliveries = [await producer.send_soon(topic, bytes(76)) for _ in range(300)]
        partitions = [(await delivery.wait()).partition for delivery in deliveries]
    runs = sum(1 for i in range(1, 300) if partitions[i] != partitions[i - 1])
    assert 1 <= runs <= 30
    assert set(partitions) == {0, 1, 2}


async def test_what_cannot_be_sent_is_refused_at_once(client: Client, topic: str) -> None:
    async with client.open_producer(ProducerOptions(request_bytes_max=5000)) as producer:
        with pytest.raises(RequestError) as caught:
            await producer.send(topic, bytes(5000))
        assert caught.value.code == ErrorCode.MESSAGE_TOO_LARGE
        with pytest.raises(RequestError) as caught:
            await producer.send(topic, b"", partition=3)
        assert caught.value.code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        with pytest.raises(TypeError):
            await producer.send(topic, "text")  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            await producer.send(topic, b"", headers=[(b"name", b"")])  # type: ignore[list-item]
        with pytest.raises(ValueError, match="timestamp"):
            await producer.send(topic, b"", timestamp_ms=-1)
        await producer.send(topic, b"", partition=0)


async def test_a_topic_that_does_not_exist(client: Client, new_name: Callable[[], str]) -> None:
    cluster = client._cluster
    cluster.options = ClientOptions(topic_timeout_seconds=0.05)
    async with client.open_producer() as producer:
        name = new_name()
        with pytest.raises(RequestError) as caught:
            await producer.send(name, b"")
        assert caught.value.code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        with pytest.raises(trio.WouldBlock):
            producer.send_nowait(name, b"")


async def test_a_refusal_reaches_its_record_and_no_other(client: Client, topic: str) -> None:
    """A batch refused for good leaves no hole in the sequence: what comes after it is stored."""
    far_future_ms = 2**60
    async with client.open_producer(ProducerOptions(batch_bytes=1)) as producer:
        before = await producer.send_soon(topic, b"1", partition=0)
        refused = await producer.send_soon(topic, b"2", partition=0, timestamp_ms=far_future_ms)
        after = [await producer.send_soon(topic, b"%d" % n, partition=0) for n in range(3, 9)]
        assert (await before.wait()).offset == 0
        with pytest.raises(RequestError) as caught:
            await refused.wait()
        assert caught.value.code == ErrorCode.INVALID_TIMESTAMP
        assert [(await delivery.wait()).offset for delivery in after] == list(range(1, 7))
    values = [record.value for record in await read(client, topic, 7)]
    assert values == [b"1", *(b"%d" % n for n in range(3, 9))]


async def test_a_failure_that_nobody_looks_at_is_raised_by_flush(
    client: Client, topic: str
) -> None:
    async with client.open_producer() as producer:
        await producer.send_soon(topic, b"", timestamp_ms=2**60)
        with pytest.raises(RequestError) as caught:
            await producer.flush()
        assert caught.value.code == ErrorCode.INVALID_TIMESTAMP
        await producer.flush()
    with pytest.raises(RequestError):
        async with client.open_producer() as producer:
            await producer.send_soon(topic, b"", timestamp_ms=2**60)


async def test_a_batch_too_large_for_the_topic_is_split(
    client: Client, new_name: Callable[[], str]
) -> None:
    name = new_name()
    await client.admin.create_topic(name, partitions=1, configs={"max.message.bytes": "3000"})
    async with client.open_producer(ProducerOptions(batch_bytes=20_000)) as producer:
        deliveries = [await producer.send_soon(name, b"%3d" % n * 100) for n in range(60)]
        assert [(await d.wait()).offset for d in deliveries] == list(range(60))
        with pytest.raises(RequestError) as caught:
            await producer.send(name, bytes(4000))
        assert caught.value.code == ErrorCode.MESSAGE_TOO_LARGE
        assert (await producer.send(name, b"last")).offset == 60
    assert [r.value for r in await read(client, name, 60)][:60] == [
        b"%3d" % n * 100 for n in range(60)
    ]
    await client.admin.delete_topic(name)


async def test_leaving_with_an_error_gives_up(client: Client, topic: str) -> None:
    options = ProducerOptions(linger_seconds=1000)
    with pytest.raises(KeyError, match="mine"):
        async with client.open_producer(options) as producer:
            delivery = await producer.send_soon(topic, b"1")
            raise KeyError("mine")
    with pytest.raises(ClientClosed):
        await delivery.wait()
    with pytest.raises(ClientClosed):
        await producer.send(topic, b"2")


async def test_tasks_may_run_in_the_caller_s_nursery(
    opens_client: Callable[..., AbstractAsyncContextManager[Client]], topic: str
) -> None:
    async with trio.open_nursery() as nursery:
        async with opens_client(nursery=nursery) as another:
            async with another.open_producer() as producer:
                assert (await producer.send(topic, b"1", partition=0)).offset == 0
            assert len(nursery.child_tasks) == 1
        assert not nursery.child_tasks


async def test_two_producers_share_a_client(client: Client, topic: str) -> None:
    async with client.open_producer() as first, client.open_producer() as second:
        places = [await p.send(topic, b"", partition=2) for p in (first, second, first, second)]
    assert [place.offset for place in places] == [0, 1, 2, 3]
    assert {TopicPartition(p.topic, p.partition) for p in places} == {(topic, 2)}


async def test_an_outcome_can_be_asked_for_without_waiting(client: Client, topic: str) -> None:
    async with client.open_producer(ProducerOptions(linger_seconds=60)) as producer:
        delivery = await producer.send_soon(topic, b"1", partition=0)
        with pytest.raises(trio.WouldBlock):
            delivery.result_nowait()
        await producer.flush()
        assert delivery.result_nowait() == await delivery.wait()
