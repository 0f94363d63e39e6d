"""``trio-broker demo``: a broker in a temporary directory, a client on a real socket, numbers.

The broker runs inside this program (`open_broker`), the client speaks the Kafka protocol to it
over TCP. Both share one process, so the numbers are lower than a server's of its own.
"""

from __future__ import annotations

import tempfile

import trio

from trio_broker.broker.embed import open_broker
from trio_broker.cli import demo_client
from trio_broker.cli.progress import progress
from trio_broker.client.connection import Connection, open_connection
from trio_broker.config import BrokerConfig, Durability, StorageConfig

TOPIC = "demo"
PARTITIONS = 6
SINGLE_RECORDS = 200


async def run_demo(record_count: int, record_bytes: int, durability: str) -> None:
    """Run the whole demo and print what came out of it.

    Args:
        record_count: how many records to send and read back.
        record_bytes: size of each value.
        durability: value of `Durability`.

    Raises:
        DemoFailed: a record is missing or wrong, or the broker answered with an error.
        TrioBrokerError, OSError: the broker or the client failed.
    """
    with tempfile.TemporaryDirectory(prefix="trio-broker-demo-") as directory:
        config = BrokerConfig(
            data_dir=directory,
            listeners=("127.0.0.1:0",),
            storage=StorageConfig(durability=Durability(durability)),
        )
        started = trio.current_time()
        async with open_broker(config) as broker:
            print(
                f"broker    started in {_ms_since(started)} with its data in {directory}, "
                f"listens on {broker.bootstrap}"
            )
            host, port = broker.listeners[0]
            async with open_connection(host, port) as connection:
                await _drive(connection, record_count, record_bytes, durability)
            stopping = trio.current_time()
        print(f"broker    stopped cleanly in {_ms_since(stopping)}")


async def _drive(
    connection: Connection, record_count: int, record_bytes: int, durability: str
) -> None:
    megabytes = record_count * record_bytes / 1e6
    topic = await demo_client.create_topic(connection, TOPIC, PARTITIONS)
    with progress("building records", record_count) as done:
        batches = demo_client.build_batches(record_count, record_bytes, PARTITIONS, done)
    with progress("producing", record_count) as done:
        sent = await demo_client.produce(connection, topic, batches, done)
    print(
        f"produced  {record_count:,} records of {record_bytes} bytes in {sent.seconds:.2f} s: "
        f"{record_count / sent.seconds:,.0f} records/s, {megabytes / sent.seconds:.1f} MB/s "
        f"(acks=all, durability={durability})"
    )
    with progress("consuming", record_count) as done:
        read = await demo_client.consume(connection, topic, record_count, record_bytes, done)
    print(
        f"consumed  {record_count:,} records in {read.seconds:.2f} s: "
        f"{record_count / read.seconds:,.0f} records/s, {megabytes / read.seconds:.1f} MB/s, "
        "each compared with what was sent"
    )
    single = await demo_client.time_single_records(connection, topic, SINGLE_RECORDS, record_bytes)
    print(
        "latency   of one record, from sending to its acknowledgement: "
        f"p50 {single.milliseconds(0.5):.2f} ms, p99 {single.milliseconds(0.99):.2f} ms "
        f"({len(single.waits)} records)"
    )


def _ms_since(moment: float) -> str:
    return f"{1000 * (trio.current_time() - moment):.0f} ms"
