"""The idempotent producer on a network that breaks, in simulation: nothing lost, nothing twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from trio_broker import BrokerConfig, TopicConfig, open_broker
from trio_broker.client import (
    ClientOptions,
    Compression,
    ConsumerOptions,
    DeliveryTimedOut,
    ProducerOptions,
    open_client,
)
from trio_broker.testing.request_faults import DelayFault, RequestFaults
from trio_broker.testing.sim.host import SimMachine
from trio_broker.testing.sim.network import NetworkFaults, SimInternet
from trio_broker.testing.sim.run import Simulation, simulate

if TYPE_CHECKING:
    from trio_broker.client import Client

PARTITIONS = 3
RECORDS = 120
FAULTS = NetworkFaults(reset_rate=0.08, refuse_rate=0.1)
CALM = NetworkFaults()
DELIVERY_SECONDS = 120


async def send_all(client: Client, codec: Compression) -> None:
    """Send numbered records from several tasks, one for each partition."""

    async def send(partition: int) -> None:
        for number in range(RECORDS):
            await producer.send_soon("orders", b"%d" % number, partition=partition)
            if number % 10 == 0:
                await trio.sleep(0.003)

    options = ProducerOptions(batch_bytes=100, linger_seconds=0.001, compression=codec)
    async with client.open_producer(options) as producer:
        async with trio.open_nursery() as nursery:
            for partition in range(PARTITIONS):
                nursery.start_soon(send, partition)


async def read_all(client: Client) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {partition: [] for partition in range(PARTITIONS)}
    async with client.open_consumer(ConsumerOptions(auto_offset_reset="earliest")) as consumer:
        await consumer.assign([("orders", partition) for partition in range(PARTITIONS)])
        while sum(map(len, found.values())) < PARTITIONS * RECORDS:
            batch = await consumer.next_batch()
            found[batch.partition] += [int(record.value or b"") for record in batch]
        with trio.move_on_after(5):
            raise AssertionError(f"more than was sent: {await consumer.next_batch()}")
    return found


async def program(sim: Simulation) -> dict[int, list[int]]:
    internet = SimInternet(sim.streams, note=sim.note)
    server = SimMachine(sim, "server", internet=internet).host
    laptop = SimMachine(sim, "laptop", internet=internet).host
    config = BrokerConfig(
        data_dir="/data", listeners=("server:9092",), topic=TopicConfig(retention_ms=-1)
    )
    options = ClientOptions(request_timeout_seconds=2)
    async with open_broker(config, host=server) as broker:
        await broker.create_topic("orders", partitions=PARTITIONS)
        async with open_client("server:9092", host=laptop, options=options) as client:
            internet.faults = FAULTS
            await send_all(client, Compression.NONE)
            found = await read_all(client)
            internet.faults = CALM
    return found


@pytest.mark.parametrize("number", range(4))
def test_nothing_is_lost_doubled_or_reordered(seed: int, number: int) -> None:
    found: Any = simulate(program, seed + number, max_seconds=2_000.0).unwrap()
    assert found == {partition: list(range(RECORDS)) for partition in range(PARTITIONS)}


async def cut_program(sim: Simulation) -> dict[int, list[int]]:
    """The network falls silent, without an error, again and again."""
    internet = SimInternet(sim.streams, note=sim.note)
    server = SimMachine(sim, "server", internet=internet).host
    laptop = SimMachine(sim, "laptop", internet=internet).host
    config = BrokerConfig(
        data_dir="/data", listeners=("server:9092",), topic=TopicConfig(retention_ms=-1)
    )
    options = ClientOptions(request_timeout_seconds=1, connect_timeout_seconds=1)
    async with open_broker(config, host=server) as broker:
        await broker.create_topic("orders", partitions=PARTITIONS)
        async with open_client("server:9092", host=laptop, options=options) as client:

            async def cut_and_heal() -> None:
                while True:
                    await trio.sleep(0.02)
                    internet.cut("server", "laptop", both_ways=False)
                    await trio.sleep(3)
                    internet.heal()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(cut_and_heal)
                options_of_producer = ProducerOptions(
                    batch_bytes=100, linger_seconds=0.001, request_timeout_seconds=1
                )
                async with client.open_producer(options_of_producer) as producer:
                    for number in range(RECORDS):
                        for partition in range(PARTITIONS):
                            await producer.send_soon("orders", b"%d" % number, partition=partition)
                        await trio.sleep(0.01)
                nursery.cancel_scope.cancel()
            internet.heal()
            return await read_all(client)


def test_answers_that_never_come(seed: int) -> None:
    found: Any = simulate(cut_program, seed, max_seconds=4_000.0).unwrap()
    assert found == {partition: list(range(RECORDS)) for partition in range(PARTITIONS)}


async def silent_program(sim: Simulation) -> float:
    """The broker is out of reach while a record is under way; return how long that is tried."""
    internet = SimInternet(sim.streams, note=sim.note)
    server = SimMachine(sim, "server", internet=internet).host
    laptop = SimMachine(sim, "laptop", internet=internet).host
    config = BrokerConfig(data_dir="/data", listeners=("server:9092",))
    async with (
        open_broker(config, host=server) as broker,
        open_client("server:9092", host=laptop) as client,
        client.open_producer(
            ProducerOptions(delivery_timeout_seconds=DELIVERY_SECONDS)
        ) as producer,
    ):
        await broker.create_topic("orders")
        await producer.send("orders", b"1")
        # It is under way when all deadlines are looked at without any occasion.
        await trio.sleep(DELIVERY_SECONDS - 20)
        internet.cut("server", "laptop")
        began = trio.current_time()
        with pytest.raises(DeliveryTimedOut):
            await producer.send("orders", b"2")
        took = trio.current_time() - began
        internet.heal()
    return took


def test_what_was_under_way_is_given_up_in_time(seed: int) -> None:
    took: Any = simulate(silent_program, seed, max_seconds=4_000.0).unwrap()
    assert DELIVERY_SECONDS <= took < DELIVERY_SECONDS + 1


async def cancelled_program(sim: Simulation) -> int:
    """Cancel one of two producers while both begin; return how many connections are left."""
    host = SimMachine(sim, "server").host
    faults = RequestFaults()
    async with open_broker(BrokerConfig(data_dir="/data"), host=host, interceptor=faults) as broker:
        await broker.create_topic("orders")
        async with open_client(broker=broker) as client, client.open_producer() as second:
            held_up = DelayFault(api="InitProducerId")
            faults.add(held_up)
            with trio.CancelScope() as scope:
                async with client.open_producer() as first:
                    await first.send_soon("orders", b"1")
                    await held_up.wait_met()
                    await second.send_soon("orders", b"2")
                    await trio.sleep(1)
                    scope.cancel()
                    await trio.sleep_forever()
            faults.clear()
            await second.flush()
        await trio.sleep(1)
        return broker.statistics().connections.open


def test_a_producer_that_is_cancelled_leaves_the_connections_of_others(seed: int) -> None:
    assert simulate(cancelled_program, seed, max_seconds=1_000.0).unwrap() == 0
