"""A Kafka client for Trio: produce, and read as a member of a group. Any Kafka broker will do."""

from __future__ import annotations

import tempfile

import trio

from trio_broker import BrokerConfig, GroupConfig, open_broker
from trio_broker.client import (
    Client,
    ConsumerOptions,
    GroupOptions,
    ProducerOptions,
    open_client,
)


async def take_orders(client: Client) -> None:
    """Send some records, without waiting for each of them."""
    async with client.open_producer(ProducerOptions(compression="gzip")) as producer:
        for number in range(1, 10):
            await producer.send_soon("orders", b"%d pizza" % number, key=b"table %d" % (number % 3))
        last = await producer.send("orders", b"the bill", key=b"table 1")
        print("the bill is at", last.partition, last.offset)
    # Here every record is acknowledged, or an exception has said which was not.


async def cook(client: Client) -> None:
    """Read them all; other members of the group would get a share."""
    async with client.open_group_consumer(
        "kitchen",
        ["orders"],
        ConsumerOptions(auto_offset_reset="earliest"),
        group_options=GroupOptions(assignors=["cooperative-sticky"]),
    ) as consumer:
        cooked = 0
        async for batch in consumer:
            for record in batch:
                print(batch.partition, record.offset, record.key, record.value)
            cooked += len(batch)
            if cooked == 10:
                break
    # Here what was read is committed, and the group was left.


async def main() -> None:
    """Run the example against a broker in this program.

    With ``open_client("localhost:9092")`` it would be one anywhere else.
    """
    with tempfile.TemporaryDirectory() as directory:
        config = BrokerConfig(
            data_dir=directory, listeners=(), group=GroupConfig(initial_rebalance_delay_ms=0)
        )
        async with open_broker(config) as broker, open_client(broker=broker) as client:
            await client.admin.create_topic("orders", partitions=3)
            await take_orders(client)
            await cook(client)
            offsets = await client.admin.group_offsets("kitchen")
            print("committed:", sum(committed.offset for committed in offsets.values()))


if __name__ == "__main__":
    trio.run(main)
