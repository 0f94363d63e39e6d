"""The consumer of chosen partitions, against our broker and against Apache Kafka."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from trio_broker import ErrorCode, RequestError
from trio_broker.client import (
    ClientClosed,
    ClientOptions,
    CommittedOffset,
    ConsumerOptions,
    OffsetSpec,
    ProducerOptions,
    TopicPartition,
)
from trio_broker.client import client as client_module
from trio_broker.wire.api import ApiKey

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_broker.client import Client, Consumer

FROM_START = ConsumerOptions(auto_offset_reset="earliest")
FIRST_MS = time.time_ns() // 1_000_000 - 60_000
PATIENCE_SECONDS = 20


async def produce(
    client: Client, topic: str, numbers: range, *, partition: int = 0, batch_bytes: int = 1000
) -> None:
    async with client.open_producer(ProducerOptions(batch_bytes=batch_bytes)) as producer:
        for number in numbers:
            await producer.send_soon(
                topic, b"%d" % number, partition=partition, timestamp_ms=FIRST_MS + number
            )


async def values(consumer: Consumer, count: int) -> list[int]:
    found: list[int] = []
    with trio.fail_after(PATIENCE_SECONDS):
        while len(found) < count:
            found += [int(record.value or b"") for record in await consumer.next_batch()]
    return found


async def test_everything_is_read_once_and_in_order(client: Client, topic: str) -> None:
    for partition in range(3):
        await produce(client, topic, range(200), partition=partition)
    options = ConsumerOptions(
        auto_offset_reset="earliest", records_max=7, partition_fetch_bytes=1500
    )
    places = [TopicPartition(topic, index) for index in range(3)]
    read: dict[TopicPartition, list[int]] = {place: [] for place in places}
    async with client.open_consumer(options) as consumer:
        await consumer.assign(places)
        with trio.fail_after(PATIENCE_SECONDS):
            async for batch in consumer:
                assert 1 <= len(batch) <= 7
                assert batch.next_offset == batch.records[-1].offset + 1
                assert await consumer.position(batch.place) == batch.next_offset
                read[batch.place] += [record.offset for record in batch]
                if sum(map(len, read.values())) == 600:
                    break
        assert consumer.high_watermark(places[0]) == 200
    assert all(offsets == list(range(200)) for offsets in read.values())


async def test_records_one_by_one(client: Client, topic: str) -> None:
    await produce(client, topic, range(10))
    async with client.open_consumer(FROM_START) as consumer:
        await consumer.assign([(topic, 0)])
        place = TopicPartition(topic, 0)
        with trio.fail_after(PATIENCE_SECONDS):
            async for record in consumer.records():
                assert record.value == b"%d" % record.offset
                assert await consumer.position(place) == record.offset + 1
                if record.offset == 4:
                    break
        rest = await consumer.next_batch()
        assert [record.offset for record in rest] == [5, 6, 7, 8, 9]


async def test_single_records_of_a_partition_that_is_given_up_and_read_again(
    client: Client, topic: str
) -> None:
    await produce(client, topic, range(10))
    place = TopicPartition(topic, 0)
    async with client.open_consumer(FROM_START) as consumer:
        with trio.fail_after(PATIENCE_SECONDS):
            await consumer.assign({place: 0})
            assert (await consumer.next_record()).offset == 0
            await consumer.assign([])
            await consumer.assign({place: 7})
            assert (await consumer.next_record()).offset == 7


async def test_reading_waits_for_what_is_written_later(client: Client, topic: str) -> None:
    async with client.open_consumer() as consumer, client.open_producer() as producer:
        await consumer.assign([(topic, 0), (topic, 1)])
        # "latest" is looked up, so that what is sent from here on is read
        assert await consumer.position((topic, 0)) == 0
        assert await consumer.position((topic, 1)) == 0
        for number in range(5):
            await producer.send(topic, b"%d" % number, partition=number % 2)
            assert await values(consumer, 1) == [number]


async def test_cancelling_a_read_loses_nothing(client: Client, topic: str) -> None:
    await produce(client, topic, range(300), batch_bytes=200)
    found: list[int] = []
    async with client.open_consumer(FROM_START) as consumer:
        await consumer.assign([(topic, 0)])
        with trio.fail_after(PATIENCE_SECONDS):
            while len(found) < 300:
                with trio.move_on_after(0.0005):
                    while True:
                        found.append(int((await consumer.next_record()).value or b""))
                await trio.lowlevel.checkpoint()
    assert found == list(range(300))


async def test_seeking(client: Client, topic: str) -> None:
    await produce(client, topic, range(50))
    place = TopicPartition(topic, 0)
    async with client.open_consumer(FROM_START) as consumer:
        await consumer.assign({place: 40})
        assert await values(consumer, 10) == list(range(40, 50))
        consumer.seek(place, 5)
        assert (await values(consumer, 45))[0] == 5
        consumer.seek(place, OffsetSpec.EARLIEST)
        assert (await values(consumer, 50))[0] == 0
        consumer.seek_to_time(place, FIRST_MS + 30)
        assert (await values(consumer, 20))[0] == 30
        consumer.seek(place, OffsetSpec.LATEST)
        assert await consumer.position(place) == 50
        consumer.seek_to_time(place, FIRST_MS + 1_000_000)
        assert await consumer.position(place) == 50
        for wrong in (lambda: consumer.seek((topic, 1), 0), lambda: consumer.pause([(topic, 2)])):
            with pytest.raises(KeyError, match="not read"):
                wrong()
        times = await consumer.offsets_for_times({place: FIRST_MS + 7})
        assert times[place].offset == 7


async def test_seeking_in_the_middle_of_a_batch(client: Client, topic: str) -> None:
    await produce(client, topic, range(20))
    async with client.open_consumer(FROM_START) as consumer:
        await consumer.assign([(topic, 0)])
        assert [(await consumer.next_record()).offset for _ in range(3)] == [0, 1, 2]
        consumer.seek((topic, 0), 10)
        assert (await consumer.next_record()).offset == 10


async def test_pausing(client: Client, topic: str) -> None:
    first, second = TopicPartition(topic, 0), TopicPartition(topic, 1)
    await produce(client, topic, range(10), partition=0)
    await produce(client, topic, range(100, 110), partition=1)
    async with client.open_consumer(FROM_START) as consumer:
        await consumer.assign([first, second])
        consumer.pause([first])
        assert consumer.paused == {first}
        assert await values(consumer, 10) == list(range(100, 110))
        consumer.pause([second])
        consumer.resume([first])
        assert await values(consumer, 10) == list(range(10))
        assert consumer.paused == {second}


async def test_pausing_in_the_middle_of_single_records(client: Client, topic: str) -> None:
    first, second = TopicPartition(topic, 0), TopicPartition(topic, 1)
    await produce(client, topic, range(10), partition=0)
    await produce(client, topic, range(10), partition=1)
    read: dict[int, list[int]] = {0: [], 1: []}
    async with client.open_consumer(FROM_START) as consumer:
        await consumer.assign([first, second])
        consumer.pause([second])
        with trio.fail_after(PATIENCE_SECONDS):
            async for record in consumer.records():
                read[record.partition].append(record.offset)
                if len(read[0]) == 4 and not read[1]:
                    consumer.pause([first])
                    assert consumer.read_to(first) == 4
                    consumer.resume([second])
                elif len(read[1]) == 3:
                    consumer.resume([first])
                elif sum(map(len, read.values())) == 20:
                    break
    assert read == {0: list(range(10)), 1: list(range(10))}


async def test_changing_the_assignment_keeps_positions(client: Client, topic: str) -> None:
    first, second = TopicPartition(topic, 0), TopicPartition(topic, 1)
    await produce(client, topic, range(10), partition=0)
    await produce(client, topic, range(10), partition=1)
    async with client.open_consumer(FROM_START) as consumer:
        await consumer.assign({first: 5})
        assert await values(consumer, 5) == [5, 6, 7, 8, 9]
        await consumer.assign([first, second])
        assert consumer.assignment == {first, second}
        assert await values(consumer, 10) == list(range(10))
        assert await consumer.position(first) == 10
        await consumer.assign([second])
        with pytest.raises(KeyError):
            await consumer.position(first)


async def test_offsets_outside_of_the_log(client: Client, topic: str) -> None:
    await produce(client, topic, range(10))
    place = TopicPartition(topic, 0)
    async with client.open_consumer(FROM_START) as consumer:
        await consumer.assign({place: 99})
        assert await values(consumer, 10) == list(range(10))
    async with client.open_consumer(ConsumerOptions(auto_offset_reset="none")) as consumer:
        with pytest.raises(RequestError) as caught:
            await consumer.assign([place])
        assert caught.value.code == ErrorCode.OFFSET_OUT_OF_RANGE
        await consumer.assign({place: 99})
        for _ in range(2):
            with pytest.raises(RequestError) as caught:
                await consumer.next_batch()
            assert caught.value.code == ErrorCode.OFFSET_OUT_OF_RANGE
        consumer.seek(place, 3)
        assert await values(consumer, 7) == list(range(3, 10))


async def test_log_starts_move(client: Client, topic: str, served: Callable[..., None]) -> None:
    served(ApiKey.DELETE_RECORDS)
    await produce(client, topic, range(10))
    place = TopicPartition(topic, 0)
    await client.admin.delete_records({place: 6})
    async with client.open_consumer(FROM_START) as consumer:
        await consumer.assign({place: 0})
        assert await values(consumer, 4) == [6, 7, 8, 9]


async def test_committed_offsets(client: Client, topic: str, new_name: Callable[[], str]) -> None:
    group = new_name()
    place = TopicPartition(topic, 0)
    await produce(client, topic, range(10))
    async with client.open_consumer(FROM_START, group=group) as consumer:
        await consumer.assign([place])
        assert await consumer.committed([place]) == {}
        for _ in range(4):
            await consumer.next_record()
        await consumer.commit()
        assert (await consumer.committed([place]))[place].offset == 4
    async with client.open_consumer(FROM_START, group=group) as consumer:
        await consumer.assign([place])
        assert (await consumer.next_record()).offset == 4
        await consumer.commit({place: CommittedOffset(7, "seven")})
        assert (await consumer.committed([place]))[place].metadata == "seven"
    async with client.open_consumer(FROM_START) as consumer:
        with pytest.raises(ValueError, match="group"):
            await consumer.commit()
    if (await client.admin.describe_cluster()).nodes and group:
        assert (await client.admin.group_offsets(group))[place].offset == 7


async def test_what_does_not_exist(client: Client, topic: str, new_name: Callable[[], str]) -> None:
    client._cluster.options = ClientOptions(topic_timeout_seconds=0.05)
    async with client.open_consumer() as consumer:
        for place in [(topic, 3), (new_name(), 0)]:
            with pytest.raises(RequestError) as caught:
                await consumer.assign([place])
            assert caught.value.code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


async def test_a_topic_deleted_while_it_is_read(
    client: Client, new_name: Callable[[], str]
) -> None:
    client._cluster.options = ClientOptions(topic_timeout_seconds=0.05)
    name = new_name()
    await client.admin.create_topic(name, partitions=1)
    await produce(client, name, range(3))
    async with client.open_consumer(FROM_START) as consumer:
        await consumer.assign([(name, 0)])
        assert await values(consumer, 3) == [0, 1, 2]
        await client.admin.delete_topic(name)
        with trio.fail_after(PATIENCE_SECONDS), pytest.raises(RequestError) as caught:
            await consumer.next_batch()
        assert caught.value.code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


async def test_fetching_ahead_has_a_bound(client: Client, topic: str) -> None:
    for partition in range(3):
        await produce(client, topic, range(2000), partition=partition)
    options = ConsumerOptions(
        auto_offset_reset="earliest",
        partition_fetch_bytes=2000,
        fetch_bytes_max=6000,
        partition_prefetch_bytes=4000,
        prefetch_bytes=8000,
    )
    async with client.open_consumer(options) as consumer:
        await consumer.assign([(topic, index) for index in range(3)])
        count = 0
        with trio.fail_after(PATIENCE_SECONDS):
            while count < 6000:
                count += len(await consumer.next_batch())
                assert consumer._state.buffered_bytes <= 8000 + 6000
    assert count == 6000


async def test_a_closed_consumer_says_so(client: Client, topic: str) -> None:
    async def read() -> None:
        with pytest.raises(ClientClosed):
            await consumer.next_batch()

    async with trio.open_nursery() as nursery:
        async with client.open_consumer() as consumer:
            await consumer.assign([(topic, 0)])
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
    with pytest.raises(ClientClosed):
        await consumer.assign([(topic, 0)])


async def test_leaving_while_fetches_are_under_way_is_no_failure_of_theirs(
    client: Client, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A task about to run must not find its connection closed under it, and complain."""
    for partition in range(3):
        await produce(client, topic, range(300), partition=partition)
    options = ConsumerOptions(
        auto_offset_reset="earliest", records_max=50, partition_fetch_bytes=1500
    )
    for _ in range(10):
        async with client.open_consumer(options) as consumer:
            await consumer.assign([(topic, index) for index in range(3)])
            await values(consumer, 150)
    assert [record.message for record in caplog.records] == []


async def test_how_far_everything_was_read(client: Client, topic: str) -> None:
    await produce(client, topic, range(10))
    async with client.open_consumer(FROM_START) as consumer:
        await consumer.assign([(topic, 0)])
        assert consumer.read_to((topic, 0)) in {None, 0}
        with trio.fail_after(PATIENCE_SECONDS):
            await consumer.next_record()
        assert consumer.read_to((topic, 0)) == 1
        await values(consumer, 9)
        assert consumer.read_to((topic, 0)) == 10
        with pytest.raises(KeyError):
            consumer.read_to((topic, 1))


async def test_its_connections_are_closed_even_if_a_task_does_not_end_in_time(
    client: Client, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "END_SECONDS_MAX", 0.1)
    may_end = trio.Event()

    async def go_on() -> None:
        with trio.CancelScope(shield=True):
            await may_end.wait()

    def purposes() -> set[str]:
        return {purpose for _, purpose in client._cluster._links if "consumer" in purpose}

    await produce(client, topic, range(1))
    try:
        async with client.open_consumer(FROM_START) as consumer:
            await consumer.assign([(topic, 0)])
            assert await values(consumer, 1) == [0]
            consumer._scope.start("stubborn", go_on)
            await trio.testing.wait_all_tasks_blocked()
            assert purposes()
        assert not purposes()
    finally:
        may_end.set()
