"""What ``trio-broker consume`` does: records of partitions, or of a member's share, to stdout.

Memory is bounded by what a consumer fetches ahead: while whoever reads stdout is slow, nothing more
is fetched. Called by `consume`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import trio

from trio_broker.cli.now import now_ms
from trio_broker.cli.output import say
from trio_broker.cli.progress import long_work
from trio_broker.cli.record_text import format_writer, line_writer, record_json, unescape
from trio_broker.cli.standard_streams import OutputBytes
from trio_broker.cli.watermarks import Extent, check_partitions
from trio_broker.client.consumer_state import ConsumedBatch
from trio_broker.client.options import ConsumerOptions, GroupOptions
from trio_broker.client.types import IsolationLevel, OffsetSpec, TopicPartition
from trio_broker.records.build import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from trio_broker.cli.consume import Place
    from trio_broker.cli.options import Moment
    from trio_broker.cli.record_text import Writer
    from trio_broker.client.client import Client
    from trio_broker.client.reader import Reader

_BATCH_RECORDS_MAX = 500
_PREFETCH_BYTES = 16 * 1024 * 1024
#: How often somebody looks whether the reader of stdout has gone while no record comes.
_LOOK_SECONDS = 0.5
#: After so long without a record, or --timeout, the broker is asked whether it is there at all.
_ASK_SECONDS = 10.0


class Wanted(NamedTuple):
    """What to read; see the options of ``consume``."""

    topics: tuple[str, ...]
    partitions: tuple[int, ...]
    start: Place
    stop: Moment | None
    stops_at_end: bool
    records_max: int | None
    isolation: str
    group: str | None
    timeout_seconds: float


def writer_for(
    *, template: str | None, as_json: bool, key_delimiter: str | None, delimiter: str
) -> Writer:
    """Return what writes a record.

    Raises:
        ValueError: the format or a delimiter makes no sense.
    """
    if as_json:
        return record_json
    if template is not None:
        return format_writer(template)
    return line_writer(
        unescape(delimiter), None if key_delimiter is None else unescape(key_delimiter)
    )


async def consume(client: Client, wanted: Wanted, write: Writer) -> None:
    """Write records to stdout until there is a reason to stop.

    Raises:
        RequestError: there is no such topic or partition, or it cannot be read.
        Unreachable, RequestTimedOut: no broker has answered for as long as the client tries.
        BrokenPipeError, OSError: see `OutputBytes.write`.
    """
    places = []
    for name in wanted.topics:
        topic = await client.admin.describe_topic(name)
        check_partitions(topic, wanted.partitions)
        indexes = wanted.partitions or sorted(topic.partitions)
        places += [TopicPartition(name, index) for index in indexes]
    if wanted.records_max == 0:
        return
    if wanted.group is None:
        await _consume_partitions(client, wanted, places, write)
    else:
        await _consume_as_member(client, wanted, places, write)


def _options(wanted: Wanted) -> ConsumerOptions:
    count = _BATCH_RECORDS_MAX if wanted.records_max is None else wanted.records_max
    from_end = wanted.start.offset is None and wanted.start.moment is None
    return ConsumerOptions(
        isolation=wanted.isolation,
        # Without a group it counts only if retention takes away what is being read.
        auto_offset_reset="latest" if from_end and wanted.group is not None else "earliest",
        records_max=min(count, _BATCH_RECORDS_MAX),
        prefetch_bytes=_PREFETCH_BYTES,
    )


# ---------------------------------------------------------------------------- chosen partitions
async def _consume_partitions(
    client: Client, wanted: Wanted, places: list[TopicPartition], write: Writer
) -> None:
    found = await _extents(client, wanted, places)
    starts = await _starts(client, wanted, found)
    stops: dict[TopicPartition, int] | None = None
    if wanted.stop is not None:
        stops = await _at_moment(client, wanted.stop, found)
    elif wanted.stops_at_end:
        stops = {place: extent.end for place, extent in found.items()}
    if stops is not None:
        starts = {place: start for place, start in starts.items() if start < stops[place]}
        if not starts:
            return
    async with client.open_consumer(_options(wanted)) as consumer:
        await consumer.assign(starts)
        total = None if stops is None else sum(stops[place] - starts[place] for place in starts)
        if total is not None and wanted.records_max is not None:
            total = min(total, wanted.records_max)
        with long_work("consuming", total, writes_stdout=True) as done:
            await _Pump(client, consumer, write, wanted, stops, done).run()


async def _extents(
    client: Client, wanted: Wanted, places: list[TopicPartition]
) -> dict[TopicPartition, Extent]:
    isolation = IsolationLevel[wanted.isolation.upper()]
    listed = [
        await client.admin.list_offsets(dict.fromkeys(places, int(spec)), isolation=isolation)
        for spec in (OffsetSpec.EARLIEST, OffsetSpec.LATEST)
    ]
    return {place: Extent(listed[0][place].offset, listed[1][place].offset) for place in places}


async def _starts(
    client: Client, wanted: Wanted, found: Mapping[TopicPartition, Extent]
) -> dict[TopicPartition, int]:
    """Return where each partition begins; where there is no such offset, say so."""
    start = wanted.start
    if start.moment is not None:
        return await _at_moment(client, start.moment, found)
    if start.offset is None:
        return {place: extent.end for place, extent in found.items()}
    if start.offset < 0:
        return {
            place: max(extent.start, extent.end + start.offset) for place, extent in found.items()
        }
    starts = {}
    for place, extent in found.items():
        starts[place] = min(max(start.offset, extent.start), extent.end)
        if start.offset > extent.end or 0 < start.offset < extent.start:
            say(
                f"{place} has offsets {extent.start} to {extent.end}, not {start.offset}: "
                f"beginning at {starts[place]}"
            )
    return starts


async def _at_moment(
    client: Client, moment: Moment, found: Mapping[TopicPartition, Extent]
) -> dict[TopicPartition, int]:
    """Return the offset of the first record of a time or later, the end if there is none."""
    listed = await client.admin.list_offsets(dict.fromkeys(found, moment.at_ms(now_ms())))
    return {
        place: found[place].end if answer.offset < 0 else answer.offset
        for place, answer in listed.items()
    }


# ------------------------------------------------------------------------------ as a member
async def _consume_as_member(
    client: Client, wanted: Wanted, places: list[TopicPartition], write: Writer
) -> None:
    assert wanted.group is not None
    stops = None
    if wanted.stops_at_end:
        found = await _extents(client, wanted, places)
        stops = {place: extent.end for place, extent in found.items()}
    async with client.open_group_consumer(
        wanted.group,
        wanted.topics,
        _options(wanted),
        group_options=GroupOptions(auto_commit_seconds=1.0),
    ) as consumer:
        with long_work("consuming", None, writes_stdout=True) as done:
            await _Pump(client, consumer, write, wanted, stops, done).run()


# ------------------------------------------------------------------------------------ records
class _Pump:
    """Takes records from a consumer and writes them, until there is a reason to stop."""

    def __init__(
        self,
        client: Client,
        consumer: Reader,
        write: Writer,
        wanted: Wanted,
        stops: Mapping[TopicPartition, int] | None,
        done: Callable[[int], None],
    ) -> None:
        self._client = client
        self._consumer = consumer
        self._write = write
        self._left = wanted.records_max
        self._stops = stops
        self._done = done
        self._output = OutputBytes()
        self._heard_at = trio.current_time()
        self._ask_seconds = min(_ASK_SECONDS, wanted.timeout_seconds)

    async def run(self) -> None:
        """Do it. Raises as `consume`."""
        while not self._is_complete():
            batch = await self._next()
            if batch is None:
                await self._look_around()
                continue
            self._heard_at = trio.current_time()
            records = batch.records
            if self._stops is not None and batch.next_offset > self._stops[batch.place]:
                records = [one for one in records if one.offset < self._stops[batch.place]]
            topic, partition, write = batch.topic, batch.partition, self._write
            await self._output.write(b"".join([write(topic, partition, one) for one in records]))
            self._done(len(records))
            if self._left is not None:
                self._left -= len(records)

    def _is_complete(self) -> bool:
        if self._left == 0:
            return True
        assigned = self._consumer.assignment
        if self._stops is None or not assigned:
            return False
        for place in assigned:
            read_to = self._consumer.read_to(place)
            if read_to is None or read_to < self._stops.get(place, 0):
                return False
        return True

    async def _next(self) -> ConsumedBatch | None:
        """Return the next records, not more than are wanted; None if none has come for a while."""
        with trio.move_on_after(_LOOK_SECONDS):
            if self._left is None or self._left >= _BATCH_RECORDS_MAX:
                return await self._consumer.next_batch()
            # Only what was asked for counts as processed.
            one = await self._consumer.next_record()
            record = Record(
                key=one.key,
                value=one.value,
                headers=one.headers,
                timestamp_ms=one.timestamp_ms,
                offset=one.offset,
            )
            return ConsumedBatch(one.topic, one.partition, [record], one.offset + 1, -1)
        return None

    async def _look_around(self) -> None:
        """Find out about what nobody tells as long as no record comes.

        Raises:
            BrokenPipeError: whoever read stdout has gone.
            Unreachable, RequestTimedOut: no broker answers.
        """
        if self._output.is_abandoned:
            raise BrokenPipeError
        if trio.current_time() - self._heard_at >= self._ask_seconds:
            await self._client.admin.describe_cluster()
            self._heard_at = trio.current_time()
