"""Clients of one broker, in a process of their own: ``python -m tests.faults.leak_clients``.

One writes, one reads as a member of a group, one with a fixed assignment; when there is nothing
more to read both sit in long polls. Says ``read`` once both have everything, and goes on until its
standard input ends. librdkafka, because its memory and sockets must not count as the broker's.
"""

from __future__ import annotations

import argparse
import sys
import threading

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

POLL_SECONDS = 0.2
LONG_POLL_MS = 60_000
VALUE = b"x" * 100


def produce(bootstrap: str, topic: str, partitions: int, count: int) -> None:
    """Write `count` records in turn and wait for all acknowledgements."""
    failures: list[KafkaError] = []
    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all", "linger.ms": 5})

    def delivered(error: KafkaError | None, _message: object) -> None:
        if error is not None:
            failures.append(error)

    for number in range(count):
        while True:
            try:
                producer.produce(topic, VALUE, partition=number % partitions, on_delivery=delivered)
                break
            except BufferError:
                producer.poll(0.05)
        producer.poll(0)
    assert producer.flush(60) == 0
    assert not failures, failures[:3]


def read(consumer: Consumer, count: int, has_read: threading.Event, end: threading.Event) -> None:
    """Read until told to end."""
    seen = 0
    while not end.is_set():
        for message in consumer.consume(5000, POLL_SECONDS):
            seen += message.error() is None  # what comes after the deletion is an error
        if seen >= count:
            has_read.set()
    consumer.close()


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.leak_clients")
    parser.add_argument("bootstrap")
    parser.add_argument("topic")
    parser.add_argument("partitions", type=int)
    parser.add_argument("count", type=int)
    options = parser.parse_args()
    common = {
        "bootstrap.servers": options.bootstrap,
        "auto.offset.reset": "earliest",
        "enable.auto.commit": True,
        "fetch.wait.max.ms": LONG_POLL_MS,
        "socket.timeout.ms": 2 * LONG_POLL_MS,
        "log_level": 2,
    }
    member = Consumer({**common, "group.id": "members"})
    member.subscribe([options.topic])
    fixed = Consumer({**common, "group.id": "fixed"})
    fixed.assign([TopicPartition(options.topic, number, 0) for number in range(options.partitions)])
    end, threads, all_read = threading.Event(), [], []
    for consumer in (member, fixed):
        has_read = threading.Event()
        all_read.append(has_read)
        threads.append(threading.Thread(target=read, args=(consumer, options.count, has_read, end)))
        threads[-1].start()
    produce(options.bootstrap, options.topic, options.partitions, options.count)
    for has_read in all_read:
        assert has_read.wait(300), "not everything was read"
    print("read", flush=True)
    sys.stdin.read()
    end.set()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
