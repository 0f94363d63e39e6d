"""The client side of a benchmark, in a process of its own so that it can have its own CPU.

``python -m tests.benchmarks.drive ADDRESS '{"what": "produce", ...}'`` prints one JSON object. The
Kafka side is librdkafka at its default settings (but ``acks=all``) through confluent-kafka.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from typing import Any

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests.benchmarks.twin import REPLY, read_frame, receive_exactly, write_frame

_SECONDS = 120.0
_CHUNK_RECORDS = 1000
_TWIN_IN_FLIGHT = 5
_READ_BYTES = 1 << 20


def create_topic(bootstrap: str, topic: str, partitions: int, config: dict[str, str]) -> Any:
    """Create a topic with a topic configuration."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    new = NewTopic(topic, partitions, 1, config=config)
    for future in admin.create_topics([new]).values():
        future.result(_SECONDS)
    return {}


def produce(bootstrap: str, topic: str, partitions: int, records: int, record_bytes: int) -> Any:
    """Send records as fast as librdkafka takes them; time until the last acknowledgement."""
    statistics: dict[str, Any] = {}

    def remember(text: str) -> None:
        statistics.update(json.loads(text))

    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "acks": "all",
            "statistics.interval.ms": 200,
            "stats_cb": remember,
        }
    )
    producer.list_topics(topic, _SECONDS)  # connect and learn the leaders before the clock starts
    chunk = [{"value": b"v" * record_bytes}] * _CHUNK_RECORDS
    failed: list[KafkaError] = []

    def delivered(error: KafkaError | None, message: object) -> None:
        if error is not None:
            failed.append(error)

    began = time.perf_counter()
    for number in range(records // _CHUNK_RECORDS):
        pending = chunk
        while True:
            taken = producer.produce_batch(topic, pending, partition=number % partitions)
            if taken == len(pending):
                break
            pending = pending[taken:]
            producer.poll(0.002)
        producer.poll(0)
    # The last record of each partition tells of failures: with a callback for each record the
    # client, not the server, would be what is measured.
    for partition in range(partitions):
        producer.produce(topic, partition=partition, value=b"last", on_delivery=delivered)
    unsent = producer.flush(_SECONDS)
    seconds = time.perf_counter() - began
    if unsent or failed:
        raise SystemExit(f"{unsent} records not acknowledged, errors {failed[:3]}")
    producer.poll(0.25)
    brokers = [b for b in statistics["brokers"].values() if b["req"].get("Produce")]
    return {
        "seconds": seconds,
        "records": records + partitions,
        "bytes": records * record_bytes,
        "requests": sum(broker["req"]["Produce"] for broker in brokers),
    }


def fetch(bootstrap: str, topic: str, partitions: int, records: int) -> Any:
    """Read all `records` back by assignment, as fast as the client hands them out."""
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "benchmark", "enable.auto.commit": False}
    )
    consumer.list_topics(topic, _SECONDS)
    began = time.perf_counter()
    consumer.assign([TopicPartition(topic, number, 0) for number in range(partitions)])
    missing = records
    size = 0
    while missing:
        messages = consumer.consume(min(10_000, missing), _SECONDS)
        if not messages:
            raise SystemExit(f"{missing} records never came")
        missing -= len(messages)
        size += sum(map(len, messages))
    seconds = time.perf_counter() - began
    consumer.close()
    return {"seconds": seconds, "records": records, "bytes": size}


def one_at_a_time(bootstrap: str, topic: str, records: int, record_bytes: int) -> Any:
    """Send a record, wait for its acknowledgement, send the next: latency and cost unbatched."""
    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all", "linger.ms": 0})
    producer.list_topics(topic, _SECONDS)
    value = b"v" * record_bytes
    took = []
    began = time.perf_counter()
    for _ in range(records):
        sent = time.perf_counter()
        producer.produce(topic, partition=0, value=value)
        if producer.flush(_SECONDS):
            raise SystemExit("a record was not acknowledged")
        took.append(time.perf_counter() - sent)
    seconds = time.perf_counter() - began
    took.sort()
    return {
        "seconds": seconds,
        "records": records,
        "bytes": records * record_bytes,
        "p50_ms": 1000 * took[records // 2],
        "p99_ms": 1000 * took[records * 99 // 100],
        "max_ms": 1000 * took[-1],
    }


def twin_write(address: str, total_bytes: int, frame_bytes: int) -> Any:
    """Append frames to the twin's file, a few in flight, as a pipelining client does."""
    host, _, port = address.rpartition(":")
    frame = write_frame(b"v" * frame_bytes)
    frames = max(1, total_bytes // frame_bytes)
    reply = memoryview(bytearray(len(REPLY)))
    with socket.create_connection((host, int(port))) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        began = time.perf_counter()
        for number in range(frames):
            if number >= _TWIN_IN_FLIGHT:
                receive_exactly(sock, reply)
            sock.sendall(frame)
        for _ in range(min(frames, _TWIN_IN_FLIGHT)):
            receive_exactly(sock, reply)
        seconds = time.perf_counter() - began
    return {
        "seconds": seconds,
        "records": frames,
        "bytes": frames * frame_bytes,
        "requests": frames,
    }


def twin_read(address: str, total_bytes: int) -> Any:
    """Read the twin's file back in pieces of 1 MiB, librdkafka's fetch size."""
    host, _, port = address.rpartition(":")
    reads = max(1, total_bytes // _READ_BYTES)
    piece = memoryview(bytearray(_READ_BYTES))
    with socket.create_connection((host, int(port))) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        began = time.perf_counter()
        sock.sendall(read_frame(0, _READ_BYTES))
        for number in range(1, reads + 1):
            if number < reads:
                sock.sendall(read_frame(number * _READ_BYTES, _READ_BYTES))
            if not receive_exactly(sock, piece):
                raise SystemExit("the twin closed")
        seconds = time.perf_counter() - began
    return {"seconds": seconds, "records": reads, "bytes": reads * _READ_BYTES}


def main() -> None:
    """Do what the command line says and print the result."""
    address, text = sys.argv[1:]
    options = json.loads(text)
    actions = {
        "create": create_topic,
        "produce": produce,
        "fetch": fetch,
        "one_at_a_time": one_at_a_time,
        "twin_write": twin_write,
        "twin_read": twin_read,
    }
    action: Any = actions[options.pop("what")]
    print(json.dumps(action(address, **options)))


if __name__ == "__main__":
    main()
