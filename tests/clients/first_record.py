"""Time to the first record of a default confluent-kafka group consumer, measured by itself.

``python -m tests.clients.first_record 127.0.0.1:9092 topic group`` prints the seconds from making
the consumer to its first record, without what starting Python and loading the library took.
"""

from __future__ import annotations

import sys
import time

from confluent_kafka import Consumer

PATIENCE_SECONDS = 30.0


def main() -> None:
    """Read one record and print how long that took."""
    bootstrap, topic, group = sys.argv[1:]
    began = time.perf_counter()
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": group, "auto.offset.reset": "earliest"}
    )
    consumer.subscribe([topic])
    message = consumer.poll(PATIENCE_SECONDS)
    took = time.perf_counter() - began
    assert message is not None, "no record came"
    assert message.error() is None, message.error()
    print(f"{took:.3f}")
    consumer.close()


if __name__ == "__main__":
    main()
