"""A broker inside a Trio program: create a topic, produce a record, read it back."""

from __future__ import annotations

import tempfile

import trio

from trio_broker import BrokerConfig, open_broker


async def main() -> None:
    """Run the example in a temporary directory."""
    with tempfile.TemporaryDirectory() as directory:
        config = BrokerConfig(data_dir=directory, listeners=("127.0.0.1:0",))
        async with open_broker(config) as broker:
            print("Kafka clients may connect to", broker.bootstrap)
            await broker.create_topic("orders", partitions=3)
            partition, offset = await broker.produce("orders", b"1 pizza", key=b"table 4")
            async with broker.read("orders", partition, offset=offset) as records:
                async for record in records:
                    print(record.offset, record.key, record.value)
                    break
        # Here everything is drained, flushed and closed.


if __name__ == "__main__":
    trio.run(main)
