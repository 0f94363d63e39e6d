"""What ``trio-broker produce`` does: lines of stdin or of files to records of a topic.

Memory is bounded: nothing more is read while `_BUFFER_BYTES` of records wait for acknowledgement.
The first signal ends reading; what was read by then is still sent. Called by `produce`.
"""

from __future__ import annotations

import sys
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import trio

from trio_broker.cli.output import counted, say
from trio_broker.cli.progress import long_work
from trio_broker.cli.record_text import BadRecord, Headers, ReadRecord, parse_record, unescape
from trio_broker.cli.running import Failed
from trio_broker.cli.standard_streams import InputPieces, RecordTooLong
from trio_broker.cli.watermarks import check_partitions
from trio_broker.client.options import ProducerOptions
from trio_broker.errors import TrioBrokerError

if TYPE_CHECKING:
    from trio_broker.cli.running import Interruption
    from trio_broker.client.client import Client
    from trio_broker.client.producer import Producer
    from trio_broker.client.producer_batch import Delivery

_BUFFER_BYTES = 8 * 1024 * 1024
#: How often somebody looks for failures while stdin has nothing.
_LOOK_SECONDS = 0.25
#: How long an interrupted command waits for the acknowledgement of what it has sent.
_FAREWELL_SECONDS_MAX = 5.0
_ROOM_BYTES = 64 * 1024


class Reading(NamedTuple):
    """What is read, and how it becomes records; see the options of ``produce``.

    Attributes:
        files: paths, None for stdin.
        delimiter: between records; None: each file is one record.
    """

    files: tuple[str | None, ...]
    delimiter: bytes | None
    key_delimiter: bytes | None
    as_json: bool
    key: bytes | None
    headers: Headers
    partition: int | None
    keeps_partitions: bool
    empty_is_null: bool
    records_max: int | None
    record_bytes_max: int


class Sending(NamedTuple):
    """Where records go, and how; see the options of ``produce``."""

    topic: str
    compression: str
    acks: str
    is_verbose: bool
    timeout_seconds: float


class Place(NamedTuple):
    """Where a record was read: name of the file, and which record of it, counted from 1."""

    name: str
    number: int


def delimiter_of(text: str) -> bytes:
    """Return the bytes of a delimiter. Raises ValueError if there are none, or an escape is not."""
    found = unescape(text)
    if not found:
        raise ValueError("a delimiter must not be empty")
    return found


async def produce(
    client: Client, interruption: Interruption, reading: Reading, sending: Sending
) -> None:
    """Send records until the input ends, so many were asked for, or somebody interrupts.

    Raises:
        Failed: a line is no record, or was refused; the text names it.
        RequestError: there is no such topic or partition.
        OSError: a file cannot be read.
    """
    options = ProducerOptions(
        acks=sending.acks if sending.acks == "all" else int(sending.acks),
        compression=sending.compression,
        delivery_timeout_seconds=sending.timeout_seconds,
        buffer_bytes=max(_BUFFER_BYTES, 2 * reading.record_bytes_max),
        # Key, headers and lengths come on top.
        request_bytes_max=reading.record_bytes_max + _ROOM_BYTES,
    )
    async with client.open_producer(options) as producer:
        sender = _Sender(producer, reading, sending.topic)
        try:
            with interruption.cancels_this() as interrupted:
                topic = await client.admin.describe_topic(sending.topic)
                if reading.partition is not None:
                    check_partitions(topic, [reading.partition])
                await sender.send_all()
            farewell = _FAREWELL_SECONDS_MAX if interrupted.cancel_called else float("inf")
            with trio.move_on_after(farewell):
                await sender.finish()
        finally:
            if sending.is_verbose or sys.stderr.isatty():
                say(f"{counted(sender.acknowledged, 'record')} sent to {sending.topic}")
        sender.check()


class _Sender:
    """Sends what is read, and knows which line became of which record.

    Attributes:
        acknowledged: records whose outcome is known, and good.
    """

    def __init__(self, producer: Producer, reading: Reading, topic: str) -> None:
        self.acknowledged = 0
        self._producer = producer
        self._reading = reading
        self._topic = topic
        self._under_way: deque[tuple[Place, Delivery]] = deque()
        self._left = reading.records_max
        self._failure: Failed | None = None
        self._refused = 0

    async def send_all(self) -> None:
        """Read and send until there is no more, or something has failed. Raises OSError."""
        for path in self._reading.files:
            if self._left == 0 or self._failure is not None:
                return
            await self._send_file(path)

    async def finish(self) -> None:
        """Wait for what is under way."""
        while self._under_way:
            try:
                await self._under_way[0][1].wait()
            except TrioBrokerError:
                pass  # it is taken note of with the others
            self._take_outcomes()

    def check(self) -> None:
        """Raise what has failed.

        Raises:
            Failed: the first record that did; records before it are stored.
        """
        if self._failure is None:
            return
        if self._refused > 1:
            say(f"{counted(self._refused - 1, 'more record')} refused after this one:")
        raise self._failure

    async def _send_file(self, path: str | None) -> None:
        reading = self._reading
        name = "stdin" if path is None else path
        if path is None and sys.stdin.isatty():
            say("each line is a record; Ctrl-D ends")
        with InputPieces(path, reading.delimiter, reading.record_bytes_max) as pieces:
            with long_work("producing", pieces.size_bytes, writes_stdout=False) as done:
                number = 0
                while self._failure is None:
                    lines = await self._next_lines(pieces, Place(name, number + 1))
                    if not lines:
                        return
                    for line in lines:
                        if self._left == 0 or self._failure is not None:
                            return
                        number += 1
                        await self._send(Place(name, number), line)
                    done(sum(map(len, lines)) + len(lines))

    async def _next_lines(self, pieces: InputPieces, where: Place) -> list[bytes]:
        """Return what comes next, and look for failures while nothing does."""
        while self._failure is None:
            self._take_outcomes()
            try:
                with trio.move_on_after(_LOOK_SECONDS):
                    return await pieces.next_pieces()
            except RecordTooLong as error:
                self._fail(where, error)
        return []

    async def _send(self, where: Place, line: bytes) -> None:
        if self._reading.as_json and not line.strip():
            return
        try:
            record = self._record(line)
            delivery = await self._send_record(record)
        except (BadRecord, TrioBrokerError) as error:
            self._fail(where, error)
            return
        self._under_way.append((where, delivery))
        if self._left is not None:
            self._left -= 1

    async def _send_record(self, record: ReadRecord) -> Delivery:
        """Send a record, at once if there is room: most records need not wait for anything."""
        producer, topic = self._producer, self._topic
        key, value, headers, timestamp_ms, partition = record
        try:
            return producer.send_nowait(
                topic,
                value,
                key=key,
                headers=headers,
                timestamp_ms=timestamp_ms,
                partition=partition,
            )
        except trio.WouldBlock:
            return await producer.send_soon(
                topic,
                value,
                key=key,
                headers=headers,
                timestamp_ms=timestamp_ms,
                partition=partition,
            )

    def _record(self, line: bytes) -> ReadRecord:
        """Turn a line into a record. Raises BadRecord."""
        reading = self._reading
        if reading.as_json:
            record = parse_record(line)
            if not reading.keeps_partitions or record.partition is None:
                record = record._replace(partition=reading.partition)
            return record
        key, value = reading.key, line
        if reading.key_delimiter is not None:
            before, delimiter, after = line.partition(reading.key_delimiter)
            if delimiter:
                key, value = before, after
        is_null = reading.empty_is_null and not value
        return ReadRecord(key, None if is_null else value, reading.headers, None, reading.partition)

    def _take_outcomes(self) -> None:
        """Take note of the outcomes that are known, in order."""
        while self._under_way:
            where, delivery = self._under_way[0]
            try:
                delivery.result_nowait()
            except trio.WouldBlock:
                return
            except TrioBrokerError as error:
                self._fail(where, error)
            else:
                self.acknowledged += 1
            self._under_way.popleft()

    def _fail(self, where: Place, error: Exception) -> None:
        self._refused += 1
        if self._failure is None:
            self._failure = Failed(f"{where.name}, record {where.number}: {error}")
            self._failure.__cause__ = error
