"""Produce over a connection: codes, order, limits, duplicates, deadlines, and what it leaves."""

from __future__ import annotations

import attrs
import pytest
import trio

from tests.broker.harness import (
    World,
    fetch_request,
    make_batch,
    produce_request,
    running,
    simulated,
)
from tests.support.kafka_bytes import Batch
from trio_broker import BrokerConfig, ErrorCode
from trio_broker.config import NetworkConfig
from trio_broker.group.commands import CommitOffsets
from trio_broker.names import ZERO_TOPIC_ID
from trio_broker.wire.messages.produce import (
    PartitionProduceData,
    ProduceRequest,
    TopicProduceData,
)


async def test_every_version_stores_a_batch(wire_config: BrokerConfig) -> None:
    async with running(wire_config) as run:
        for version in [3, 4, 5, 6, 7, 8, 9, 10, 11, 12]:
            await run.broker.create_topic("orders")
            async with run.connect() as client:
                for offset in (0, 2):
                    stored = await client.produce(make_batch(b"1", b"2"), version=version)
                    assert (stored.error_code, stored.base_offset) == (0, offset)
                    assert stored.log_append_time_ms == -1
                    assert stored.log_start_offset == (0 if version >= 5 else -1)
            async with run.broker.read("orders") as reader:
                assert [(await reader.receive()).value for _ in range(4)] == [b"1", b"2"] * 2
            await run.broker.delete_topic("orders")


async def test_topics_are_named_by_id_in_version_13(wire_config: BrokerConfig) -> None:
    async with running(wire_config) as run:
        topic_id = await run.broker.create_topic("orders")
        async with run.connect() as client:
            stored = await client.produce(make_batch(), topic=topic_id, version=13)
            assert (stored.error_code, stored.base_offset) == (0, 0)
            unknown = await client.produce(make_batch(), topic=ZERO_TOPIC_ID, version=13)
            assert unknown.error_code == ErrorCode.UNKNOWN_TOPIC_ID
            # A topic that has been made again under the same name is another one.
            await run.broker.delete_topic("orders")
            await run.broker.create_topic("orders")
            gone = await client.produce(make_batch(), topic=topic_id, version=13)
            assert gone.error_code == ErrorCode.UNKNOWN_TOPIC_ID


FAULTS = {
    "null records": (None, ErrorCode.INVALID_RECORD),
    "empty records": (b"", ErrorCode.INVALID_RECORD),
    "wrong checksum": (Batch(crc=1).encode(), ErrorCode.CORRUPT_MESSAGE),
    "old magic": (Batch(magic=1).encode(), ErrorCode.INVALID_RECORD),
    "a lie about the length": (Batch(length=40).encode(), ErrorCode.CORRUPT_MESSAGE),
    "no records": (Batch(values=()).encode(), ErrorCode.INVALID_RECORD),
    "wrong count": (Batch(count=7).encode(), ErrorCode.INVALID_RECORD),
    "an offset": (Batch(base_offset=5).encode(), ErrorCode.INVALID_RECORD),
    "two batches": (Batch().encode() * 2, ErrorCode.INVALID_RECORD),
    "a control batch": (Batch(attributes=0x20).encode(), ErrorCode.INVALID_RECORD),
    "stamped by the client": (Batch(attributes=0x08).encode(), ErrorCode.INVALID_TIMESTAMP),
    "a producer without a sequence": (Batch(producer_id=1).encode(), ErrorCode.INVALID_RECORD),
    "too large": (Batch(values=(bytes(2_000_000),)).encode(), ErrorCode.MESSAGE_TOO_LARGE),
    "from far in the future": (
        Batch(base_timestamp=2**62, max_timestamp=2**62).encode(),
        ErrorCode.INVALID_TIMESTAMP,
    ),
    "transactional": (
        Batch(attributes=0x10, producer_id=1, producer_epoch=0, base_sequence=0).encode(),
        ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    ),
}


async def test_what_is_no_good_batch_is_refused_and_stores_nothing(
    wire_config: BrokerConfig,
) -> None:
    async with running(wire_config) as run:
        await run.broker.create_topic("orders")
        async with run.connect() as client:
            for fault, (batch, code) in FAULTS.items():
                answer = await client.produce(batch)
                assert (answer.error_code, answer.base_offset) == (code, -1), fault
                assert answer.error_message, fault
            assert (await client.produce(make_batch())).base_offset == 0
        assert run.replica("orders").log.size_bytes == len(make_batch())


async def test_requests_that_cannot_be_carried_out(wire_config: BrokerConfig) -> None:
    async with running(wire_config) as run:
        await run.broker.create_topic("orders", configs={"segment.bytes": "2000"})
        await run.broker.create_topic("safe", configs={"min.insync.replicas": "2"})
        async with run.connect() as client:

            async def code(**arguments: object) -> int:
                values = (b"value",) if "values" not in arguments else arguments.pop("values")
                return (await client.produce(make_batch(*values), **arguments)).error_code

            assert await code(acks=2) == ErrorCode.INVALID_REQUIRED_ACKS
            assert await code(acks=-2, topic="nowhere") == ErrorCode.INVALID_REQUIRED_ACKS
            assert await code(topic="nowhere") == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
            assert await code(partition=1) == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
            assert await code(partition=-1) == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
            assert (
                await code(transactional_id="t") == ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED
            )
            assert await code(values=[bytes(3000)]) == ErrorCode.RECORD_LIST_TOO_LARGE
            assert await code(topic="safe") == ErrorCode.NOT_ENOUGH_REPLICAS
            assert await code(topic="safe", acks=1) == 0
            assert await code() == 0


async def test_clients_do_not_write_internal_topics(wire_config: BrokerConfig) -> None:
    async with running(wire_config) as run:
        await run.state.coordinator.commit(CommitOffsets(group_id="group", offsets=()))
        topic_id = run.topic_id("__consumer_offsets")
        async with run.connect() as client:
            answer = await client.produce(make_batch(), topic="__consumer_offsets")
            assert answer.error_code == ErrorCode.INVALID_TOPIC_EXCEPTION
            answer = await client.produce(make_batch(), topic=topic_id, version=13)
            assert answer.error_code == ErrorCode.INVALID_TOPIC_EXCEPTION


@pytest.mark.parametrize("version", [0, 2, 14, -1])
async def test_versions_that_are_not_served_close_the_connection(
    wire_config: BrokerConfig, version: int
) -> None:
    async with running(wire_config) as run:
        await run.broker.create_topic("orders")
        async with run.connect() as client, run.connect() as other:
            frame = bytearray(client.encode(produce_request(make_batch()), 3))
            frame[6:8] = version.to_bytes(2, "big", signed=True)
            await client.send_bytes(bytes(frame))
            await client.wait_closed()
            assert (await other.produce(make_batch())).base_offset == 0


async def test_partitions_of_one_request_fail_alone(wire_config: BrokerConfig) -> None:
    async with running(wire_config) as run:
        await run.broker.create_topic("orders", partitions=2)
        await run.broker.create_topic("carts")
        bad = Batch(crc=1).encode()

        def data(index: int, batch: bytes) -> PartitionProduceData:
            return PartitionProduceData(index=index, records=batch)

        request = ProduceRequest(
            acks=-1,
            timeout_ms=1000,
            topic_data=[
                TopicProduceData(
                    name="orders",
                    partition_data=[data(0, make_batch()), data(1, bad), data(2, make_batch())],
                ),
                TopicProduceData(name="nowhere", partition_data=[data(0, make_batch())]),
                TopicProduceData(name="carts", partition_data=[data(0, make_batch())]),
            ],
        )
        async with run.connect() as client:
            for offset in range(2):
                response = await client.call(request, 9)
                found = [
                    (topic.name, part.index, part.error_code, part.base_offset)
                    for topic in response.responses
                    for part in topic.partition_responses
                ]
                assert found == [
                    ("orders", 0, 0, offset),
                    ("orders", 1, ErrorCode.CORRUPT_MESSAGE, -1),
                    ("orders", 2, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, -1),
                    ("nowhere", 0, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, -1),
                    ("carts", 0, 0, offset),
                ]


async def test_acks_0_has_no_answer_and_its_failure_closes_the_connection(
    wire_config: BrokerConfig,
) -> None:
    async with running(wire_config) as run:
        await run.broker.create_topic("orders")
        async with run.connect() as client:
            await client.send(produce_request(make_batch(b"silent"), acks=0), 9)
            assert (await client.produce(make_batch(b"heard"))).base_offset == 1
            await client.send(produce_request(make_batch(b"answered")), 9)
            await client.send(produce_request(make_batch(), acks=0, topic="nowhere"), 9)
            answered = await client.receive(produce_request(b""), 9)
            assert answered.responses[0].partition_responses[0].base_offset == 2
            await client.wait_closed()
        await run.wait_idle()


async def test_log_append_time_is_stamped_and_told(wire_config: BrokerConfig) -> None:
    async with running(wire_config) as run:
        await run.broker.create_topic("orders", configs={"message.timestamp.type": "LogAppendTime"})
        async with run.connect() as client:
            before = run.host.wall.now_ms()
            stored = await client.produce(make_batch(timestamp_ms=1))
            assert before <= stored.log_append_time_ms <= run.host.wall.now_ms()
        async with run.broker.read("orders") as reader:
            assert (await reader.receive()).timestamp_ms == stored.log_append_time_ms


# -------------------------------------------------------------------------- idempotent producers
def sequenced(base_sequence: int, *values: bytes, producer: int = 1, epoch: int = 0) -> bytes:
    return make_batch(
        *values, producer_id=producer, producer_epoch=epoch, base_sequence=base_sequence
    )


async def test_duplicates_are_answered_with_their_first_offset(wire_config: BrokerConfig) -> None:
    async with running(wire_config) as run:
        await run.broker.create_topic("orders")
        async with run.connect() as client:

            async def produce(*arguments: object, **options: object) -> tuple[int, int]:
                answer = await client.produce(sequenced(*arguments, **options))
                return answer.error_code, answer.base_offset

            assert await produce(0, b"a", b"b") == (0, 0)
            assert await produce(2, b"c") == (0, 2)
            assert await produce(0, b"a", b"b") == (0, 0)
            assert await produce(2, b"c") == (0, 2)
            assert await produce(4, b"gap") == (ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER, -1)
            assert await produce(1, b"old") == (ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER, -1)
            assert await produce(0, b"new", epoch=1) == (0, 3)
            assert await produce(3, b"late") == (ErrorCode.INVALID_PRODUCER_EPOCH, -1)
            assert await produce(77, b"unknown", producer=2) == (0, 4)
    async with running(wire_config) as run, run.connect() as client:
        answer = await client.produce(sequenced(0, b"new", epoch=1))
        assert (answer.error_code, answer.base_offset) == (0, 3)
        answer = await client.produce(sequenced(78, b"next", producer=2))
        assert (answer.error_code, answer.base_offset) == (0, 5)


async def test_duplicates_in_flight_wait_for_the_first(wire_config: BrokerConfig) -> None:
    """A client that sends five batches, loses patience, and sends them again at once."""
    async with running(wire_config) as run:
        await run.broker.create_topic("orders")
        requests = [produce_request(sequenced(n, b"%d" % n)) for n in range(5)]
        async with run.connect() as first, run.connect() as second:
            for request in requests:
                await first.send(request, 9)
                await second.send(request, 9)
            for client in (first, second):
                for number, request in enumerate(requests):
                    part = (await client.receive(request, 9)).responses[0].partition_responses[0]
                    assert (part.error_code, part.base_offset) == (0, number)
        assert run.replica("orders").log.log_end_offset == 5


# --------------------------------------------------------------------------- order and limits
@simulated
async def test_replies_come_in_request_order_whoever_is_slower(world: World) -> None:
    """Several partitions in two shards, several sizes: the order on the wire is the client's."""
    random = world.sim.random("requests")
    async with world.running() as run:
        await run.broker.create_topic("orders", partitions=6)
        async with world.connect() as client:
            sent: list[tuple[int, int]] = []
            ends = [0] * 6
            async with trio.open_nursery() as nursery:

                async def receive_all() -> None:
                    for _ in range(60):
                        got, response = await client.receive_with_id(produce_request(b""), 9)
                        expected, offset = sent.pop(0)
                        part = response.responses[0].partition_responses[0]
                        assert (got, part.error_code, part.base_offset) == (expected, 0, offset)

                nursery.start_soon(receive_all)
                for _ in range(60):
                    partition = random.randrange(6)
                    batch = make_batch(*[b"x" * random.randrange(1, 3000)] * random.randrange(1, 4))
                    size = int.from_bytes(batch[57:61], "big")
                    sent.append((client._correlation_id + 1, ends[partition]))
                    ends[partition] += size
                    await client.send(produce_request(batch, partition=partition), 9)
        await run.wait_idle()


@simulated
async def test_a_connection_has_so_many_requests_and_bytes_in_flight(world: World) -> None:
    network = NetworkConfig(produce_requests_in_flight_max=3, produce_bytes_in_flight_max=20_000)
    async with world.running(network=network) as run:
        await run.broker.create_topic("orders")

        async def most_in_flight(count: int, value_bytes: int) -> int:
            """Send more than is allowed while the disk hangs; return what the broker took on."""
            async with world.connect() as client:
                world.fs.freeze()
                batch = make_batch(bytes(value_bytes))
                async with trio.open_nursery() as nursery:

                    async def send_all() -> None:
                        for _ in range(count):
                            await client.send(produce_request(batch), 9)

                    nursery.start_soon(send_all)
                    await trio.sleep(5)
                    [connection] = run.state.clients
                    found = len(connection._pending)
                    held = connection._in_flight_bytes + connection._claimed_bytes
                    assert run.state.request_memory.used_bytes == held
                    world.fs.thaw()
                    for _ in range(count):
                        response = await client.receive(produce_request(b""), 9)
                        assert response.responses[0].partition_responses[0].error_code == 0
            await run.wait_idle()
            return found

        assert await most_in_flight(8, 10) == 3
        assert await most_in_flight(8, 12_000) == 2


@simulated
async def test_other_requests_wait_for_produces_and_are_answered_after_them(world: World) -> None:
    async with world.running() as run:
        await run.broker.create_topic("orders")
        async with world.connect() as client:
            first = await client.send(produce_request(make_batch()), 9)
            second = await client.send(fetch_request(0), 11)
            third = await client.send(produce_request(make_batch()), 9)
            assert (await client.receive_with_id(produce_request(b""), 9))[0] == first
            got, response = await client.receive_with_id(fetch_request(0), 11)
            assert got == second
            assert response.responses[0].partitions[0].high_watermark == 1
            assert (await client.receive_with_id(produce_request(b""), 9))[0] == third


# ----------------------------------------------------------------------------------- deadlines
@simulated
async def test_a_late_produce_is_answered_by_its_own_deadline(world: World) -> None:
    async with world.running() as run:
        await run.broker.create_topic("orders")
        async with world.connect() as client:
            world.fs.freeze()
            began = trio.current_time()
            for number in range(3):
                request = produce_request(make_batch(b"%d" % number), timeout_ms=2_000)
                await client.send(request, 9)
                await trio.sleep(0.1)  # the first one is in the writer's hands alone
            for _ in range(3):
                response = await client.receive(produce_request(b""), 9)
                part = response.responses[0].partition_responses[0]
                assert part.error_code == ErrorCode.REQUEST_TIMED_OUT
                assert part.error_message
            assert 2 <= trio.current_time() - began < 4
            world.fs.thaw()
            # What the writer had taken is stored, what it had not is not; neither is counted on.
            after = await client.produce(make_batch(b"after"))
            assert (after.error_code, after.base_offset) == (0, 1)
        await run.wait_idle()
        async with run.broker.read("orders") as reader:
            assert [(await reader.receive()).value for _ in range(2)] == [b"0", b"after"]


@simulated
async def test_a_first_batch_that_timed_out_is_not_overtaken_by_the_second(world: World) -> None:
    """The client gave batch 0 up, and its batch 1 arrives: storing it would be a silent hole."""
    async with world.running() as run:
        await run.broker.create_topic("orders")
        async with world.connect() as client, world.connect() as other:
            world.fs.freeze()
            await other.send(produce_request(make_batch(b"in the writer's hands")), 9)
            await trio.sleep(1)
            late = await client.produce(sequenced(0, b"first"), timeout_ms=1000)
            assert late.error_code == ErrorCode.REQUEST_TIMED_OUT
            world.fs.thaw()
            second = await client.produce(sequenced(1, b"second"))
            assert second.error_code == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
            assert (await client.produce(sequenced(0, b"first"))).error_code == 0
            assert (await client.produce(sequenced(1, b"second"))).error_code == 0


@simulated
async def test_a_second_batch_that_timed_out_does_not_keep_the_first_from_being_stored(
    world: World,
) -> None:
    """The requests of one producer may have different patience."""
    async with world.running() as run:
        await run.broker.create_topic("orders")
        async with world.connect() as client, world.connect() as other:
            world.fs.freeze()
            await other.send(produce_request(make_batch(b"in the writer's hands")), 9)
            await trio.sleep(1)
            await client.send(produce_request(sequenced(0, b"first"), timeout_ms=30_000), 9)
            await client.send(produce_request(sequenced(1, b"second"), timeout_ms=1_000), 9)
            await trio.sleep(3)
            world.fs.thaw()
            found = [await client.receive(produce_request(b""), 9) for _ in range(2)]
            codes = [each.responses[0].partition_responses[0].error_code for each in found]
            assert codes == [ErrorCode.NONE, ErrorCode.REQUEST_TIMED_OUT]
            assert (await client.produce(sequenced(2))).error_code == (
                ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
            )
            assert (await client.produce(sequenced(1, b"second"))).error_code == 0


@simulated
async def test_a_connection_that_breaks_with_requests_in_flight_leaves_nothing(
    world: World,
) -> None:
    async with world.running() as run:
        await run.broker.create_topic("orders")
        async with world.connect() as client:
            world.fs.freeze()
            for number in range(5):
                await client.send(produce_request(make_batch(b"%d" % number)), 9)
            await trio.sleep(1)
            assert run.state.request_memory.used_bytes > 0
            client.stream.reset()
            with trio.fail_after(10):
                while run.state.clients:
                    await run.state.client_left.park()
        assert run.state.request_memory.used_bytes == 0
        world.fs.thaw()
        # They were in the queue, so they are stored, as if the answers had been lost on the way.
        async with run.broker.read("orders") as reader:
            values = [(await reader.receive()).value for _ in range(5)]
        assert values == [b"0", b"1", b"2", b"3", b"4"]


@simulated
async def test_a_full_write_queue_holds_the_connection_and_not_the_others(world: World) -> None:
    config = attrs.evolve(world.config().storage, write_queue_bytes_max=1024 * 1024)
    async with world.running(storage=config) as run:
        await run.broker.create_topic("orders", partitions=2)
        shards = {run.replica("orders", index).shard for index in range(2)}
        assert len(shards) == 2
        full = run.replica("orders", 0).shard
        async with full.changes, world.connect() as client, world.connect() as other:
            async with trio.open_nursery() as nursery:
                batch = make_batch(bytes(600_000))

                async def send_all() -> None:
                    for _ in range(4):
                        await client.send(produce_request(batch), 9)

                nursery.start_soon(send_all)
                await trio.sleep(2)
                assert not full.has_room
                assert 1 <= full.queued_bytes // len(batch) <= 3
                held = full.queued_bytes
                assert (await other.produce(make_batch(), partition=1)).error_code == 0
                await trio.sleep(2)
                assert full.queued_bytes == held
                full.changes.release()
                try:
                    for _ in range(4):
                        response = await client.receive(produce_request(b""), 9)
                        part = response.responses[0].partition_responses[0]
                        assert part.error_code == 0
                finally:
                    await full.changes.acquire()
        await run.wait_idle()
