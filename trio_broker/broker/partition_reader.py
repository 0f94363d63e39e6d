"""Reading one partition inside the process: a closable async iteration over records."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import trio

from trio_broker.broker.handlers.fetch import fetch
from trio_broker.errors import BrokerClosed, ErrorCode, RequestError
from trio_broker.records.iterate import iterate_batches, iterate_records
from trio_broker.wire.fetch import FetchPartition, FetchRequest, FetchTopic

if TYPE_CHECKING:
    from trio_broker.broker.state import BrokerState
    from trio_broker.records.build import Record

LATEST_OFFSET = -1
EARLIEST_OFFSET = -2
FETCH_BYTES_MAX = 1024 * 1024
#: A read that finds nothing asks again after this long; data wakes it at once.
FETCH_WAIT_MS_MAX = 60_000
#: Most bytes that the records of one compressed batch may unfold to.
BATCH_BYTES_MAX = 64 * 1024 * 1024
#: A program that reads records which are there already lets others run this often.
_RECORDS_PER_TURN = 64


class PartitionReader(trio.abc.ReceiveChannel["Record"]):
    """Records of one partition in offset order; waits at the end for more.

    Attributes:
        next_offset: offset of the record that comes next.
    """

    def __init__(self, state: BrokerState, topic: str, partition: int, offset: int) -> None:
        routed = state.router.by_name.get(topic)
        replica = routed.replica(partition) if routed is not None else None
        if routed is None or replica is None:
            raise RequestError(
                ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"there is no partition {topic}-{partition}"
            )
        if replica.refusal:
            raise RequestError(replica.refusal, replica.cause)
        if offset == LATEST_OFFSET:
            offset = replica.high_watermark
        elif offset == EARLIEST_OFFSET:
            offset = replica.log.log_start_offset
        self.next_offset = offset
        self._state = state
        self._topic_id = routed.topic_id
        self._partition = partition
        self._records: deque[Record] = deque()
        self._closed = False

    async def receive(self) -> Record:
        """Return the next record, waiting for it if need be.

        Cancellation: nothing was read. Others get their turn at least every 64 records.

        Raises:
            RequestError: OFFSET_OUT_OF_RANGE if retention has overtaken this reader,
                UNKNOWN_TOPIC_ID if the topic was deleted, KAFKA_STORAGE_ERROR.
            trio.EndOfChannel: the broker is stopping.
            trio.ClosedResourceError: the reader was closed.
        """
        if self._closed:
            raise trio.ClosedResourceError
        if len(self._records) % _RECORDS_PER_TURN:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await trio.lowlevel.checkpoint()
        while not self._records:
            if self._closed:
                raise trio.ClosedResourceError
            await self._fetch()
        record = self._records.popleft()
        self.next_offset = record.offset + 1
        return record

    async def _fetch(self) -> None:
        wanted = FetchPartition(self._partition, -1, self.next_offset, -1, -1, FETCH_BYTES_MAX)
        request = FetchRequest(
            replica_id=-1,
            max_wait_ms=FETCH_WAIT_MS_MAX,
            min_bytes=1,
            max_bytes=FETCH_BYTES_MAX,
            isolation_level=1,
            session_id=0,
            session_epoch=-1,
            topics=[FetchTopic(None, self._topic_id, [wanted])],
        )
        [[result]] = await fetch(self._state, request, by_id=True)
        if result.error_code:
            raise RequestError(ErrorCode(result.error_code), f"reading at {self.next_offset}")
        data = b"".join(result.records)
        if not data and self._state.draining:
            raise trio.EndOfChannel from BrokerClosed("the broker is stopping")
        for _, batch in iterate_batches(data):
            for record in iterate_records(batch, bytes_max=BATCH_BYTES_MAX):
                if record.offset >= self.next_offset:
                    self._records.append(record)

    async def aclose(self) -> None:
        """Close the reader; a `receive` after that raises ClosedResourceError."""
        self._closed = True
        self._records.clear()
        await trio.lowlevel.checkpoint()
