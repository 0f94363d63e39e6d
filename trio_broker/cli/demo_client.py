"""The client half of the demo: create a topic, send batches, read them back, time single records.

Uses `client.Connection`, one task, and several requests in flight. Knows nothing of the broker
inside this program: it would do the same against any Kafka broker.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import trio
from attrs import define, field

from trio_broker.errors import ErrorCode, TrioBrokerError
from trio_broker.records.build import Record, build_batch
from trio_broker.records.iterate import iterate_batches, iterate_records
from trio_broker.wire.messages.create_topics import (
    CreatableTopic,
    CreateTopicsRequest,
    CreateTopicsResponse,
)
from trio_broker.wire.messages.fetch import FetchPartition, FetchRequest, FetchResponse, FetchTopic
from trio_broker.wire.messages.metadata import (
    MetadataRequest,
    MetadataRequestTopic,
    MetadataResponse,
)
from trio_broker.wire.messages.produce import (
    PartitionProduceData,
    ProduceRequest,
    ProduceResponse,
    TopicProduceData,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from uuid import UUID

    from trio_broker.client.connection import Connection

BATCH_BYTES = 64 * 1024
RECORD_OVERHEAD_BYTES = 10
REQUESTS_IN_FLIGHT = 5
FETCH_BYTES_MAX = 8 * 1024 * 1024
PARTITION_FETCH_BYTES_MAX = 1024 * 1024
ACKS_ALL = -1
TIMEOUT_MS = 30_000
#: A step that waits longer than this for the broker has failed.
STEP_SECONDS_MAX = 60.0


class DemoFailed(TrioBrokerError):
    """The broker did not do what it should; says what."""


class Batch(NamedTuple):
    """One batch to send."""

    partition: int
    record_count: int
    data: bytes


class Topic(NamedTuple):
    """What requests need to name a topic, whichever way their version does."""

    name: str
    topic_id: UUID
    partition_count: int


@define
class Timing:
    """What one step measured.

    Attributes:
        seconds: how long it took in all.
        waits: seconds of each request, from sending to the response.
    """

    seconds: float = 0.0
    waits: list[float] = field(factory=list)

    def milliseconds(self, share: float) -> float:
        """Return the wait that `share` of all requests stayed within."""
        ordered = sorted(self.waits)
        return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def value_of(number: int, record_bytes: int) -> bytes:
    """Return the value of a record: its number, so that order and completeness can be checked."""
    return b"%0*d" % (record_bytes, number)


def build_batches(
    record_count: int, record_bytes: int, partition_count: int, done: Callable[[int], None]
) -> list[Batch]:
    """Build all batches beforehand, so that producing measures the broker more than this client."""
    per_batch = max(1, BATCH_BYTES // (record_bytes + RECORD_OVERHEAD_BYTES))
    batches: list[Batch] = []
    for first in range(0, record_count, per_batch):
        numbers = range(first, min(first + per_batch, record_count))
        records = [Record(value=value_of(number, record_bytes)) for number in numbers]
        partition = len(batches) % partition_count
        batches.append(Batch(partition, len(records), build_batch(records)))
        done(len(records))
    return batches


async def create_topic(connection: Connection, name: str, partition_count: int) -> Topic:
    """Create a topic and return how to name it.

    Raises:
        DemoFailed: the broker refused.
    """
    wanted = CreatableTopic(
        name=name,
        num_partitions=partition_count,
        replication_factor=1,
        assignments=(),
        configs=(),
    )
    created = await connection.request(
        CreateTopicsRequest(topics=[wanted], timeout_ms=TIMEOUT_MS), CreateTopicsResponse
    )
    _check("creating the topic", (answer.error_code for answer in created.topics))
    described = await connection.request(
        MetadataRequest(topics=[MetadataRequestTopic(name=name)]), MetadataResponse
    )
    _check("describing the topic", (answer.error_code for answer in described.topics))
    found = described.topics[0]
    if len(found.partitions) != partition_count:
        raise DemoFailed(f"the topic has {len(found.partitions)} partitions")
    return Topic(name, found.topic_id, partition_count)


async def produce(
    connection: Connection, topic: Topic, batches: Sequence[Batch], done: Callable[[int], None]
) -> Timing:
    """Send batches, several requests in flight, and wait for every acknowledgement (acks=all).

    Raises:
        DemoFailed: a batch was refused, or the broker is silent.
    """
    timing = Timing()
    started = trio.current_time()
    sent_at: list[float] = []
    for acknowledged, batch in enumerate(batches):
        while len(sent_at) < min(len(batches), acknowledged + REQUESTS_IN_FLIGHT):
            sent_at.append(trio.current_time())
            await connection.send(_produce_request(topic, batches[len(sent_at) - 1]))
        with _patience("acknowledgement"):
            _check_produced(await connection.receive(ProduceResponse))
        timing.waits.append(trio.current_time() - sent_at[acknowledged])
        done(batch.record_count)
    timing.seconds = trio.current_time() - started
    return timing


async def consume(
    connection: Connection,
    topic: Topic,
    record_count: int,
    record_bytes: int,
    done: Callable[[int], None],
) -> Timing:
    """Read every partition from its beginning and compare each record with what was sent.

    Raises:
        DemoFailed: a record is missing, wrong or out of order, or the broker is silent.
    """
    timing = Timing()
    started = trio.current_time()
    expected = {index: _numbers(index, topic, record_count, record_bytes) for index in _all(topic)}
    positions = dict.fromkeys(_all(topic), 0)
    left = record_count
    while left:
        asked_at = trio.current_time()
        with _patience("records"):
            answer = await connection.request(_fetch_request(topic, positions), FetchResponse)
        timing.waits.append(trio.current_time() - asked_at)
        _check("fetching", [answer.error_code])
        found = 0
        for partition in answer.responses[0].partitions if answer.responses else ():
            _check("fetching", [partition.error_code])
            index = partition.partition_index
            for _, batch in iterate_batches(partition.records or b""):
                for record in iterate_records(batch, bytes_max=FETCH_BYTES_MAX):
                    if record.offset < positions[index]:
                        continue  # a batch begins before the offset asked for
                    number = next(expected[index], -1)
                    if record.value != value_of(number, record_bytes):
                        raise DemoFailed(f"partition {index} offset {record.offset} is wrong")
                    positions[index] = record.offset + 1
                    found += 1
        left -= found
        done(found)
    timing.seconds = trio.current_time() - started
    return timing


async def time_single_records(
    connection: Connection, topic: Topic, count: int, record_bytes: int
) -> Timing:
    """Send records one at a time, each after the acknowledgement of the one before.

    Raises:
        DemoFailed: a record was refused, or the broker is silent.
    """
    timing = Timing()
    started = trio.current_time()
    for number in range(count):
        data = build_batch([Record(value=value_of(number, record_bytes))])
        sent_at = trio.current_time()
        with _patience("acknowledgement"):
            await connection.send(_produce_request(topic, Batch(0, 1, data)))
            _check_produced(await connection.receive(ProduceResponse))
        timing.waits.append(trio.current_time() - sent_at)
    timing.seconds = trio.current_time() - started
    return timing


@contextmanager
def _patience(what: str) -> Iterator[None]:
    """Give the broker a limited time: a demo must never hang."""
    with trio.move_on_after(STEP_SECONDS_MAX) as scope:
        yield
    if scope.cancelled_caught:
        raise DemoFailed(f"no {what} within {STEP_SECONDS_MAX:g} s")


def _all(topic: Topic) -> range:
    return range(topic.partition_count)


def _numbers(partition: int, topic: Topic, record_count: int, record_bytes: int) -> Iterator[int]:
    """Yield the numbers that `build_batches` put into one partition, in order."""
    per_batch = max(1, BATCH_BYTES // (record_bytes + RECORD_OVERHEAD_BYTES))
    for first in range(partition * per_batch, record_count, per_batch * topic.partition_count):
        yield from range(first, min(first + per_batch, record_count))


def _produce_request(topic: Topic, batch: Batch) -> ProduceRequest:
    partition = PartitionProduceData(index=batch.partition, records=batch.data)
    data = TopicProduceData(name=topic.name, topic_id=topic.topic_id, partition_data=[partition])
    return ProduceRequest(acks=ACKS_ALL, timeout_ms=TIMEOUT_MS, topic_data=[data])


def _fetch_request(topic: Topic, positions: dict[int, int]) -> FetchRequest:
    partitions = [
        FetchPartition(
            partition=index, fetch_offset=offset, partition_max_bytes=PARTITION_FETCH_BYTES_MAX
        )
        for index, offset in positions.items()
    ]
    return FetchRequest(
        max_wait_ms=500,
        min_bytes=1,
        max_bytes=FETCH_BYTES_MAX,
        topics=[FetchTopic(topic=topic.name, topic_id=topic.topic_id, partitions=partitions)],
    )


def _check_produced(answer: ProduceResponse) -> None:
    for topic in answer.responses:
        for partition in topic.partition_responses:
            if partition.error_code:
                raise DemoFailed(
                    f"a batch for partition {partition.index} was refused with "
                    f"{_name(partition.error_code)}: {partition.error_message or 'no reason given'}"
                )


def _check(what: str, codes: Iterable[int]) -> None:
    for code in codes:
        if code:
            raise DemoFailed(f"{what} was answered with {_name(code)}")


def _name(code: int) -> str:
    try:
        return ErrorCode(code).name
    except ValueError:
        return f"error {code}"
