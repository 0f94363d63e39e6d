"""Records out of what a Fetch has brought: decompressed when they are taken, aborted ones left out.

Pure. A consumer keeps one `FetchedRecords` for each answer about a partition, as it came: memory is
counted before decompression, and nothing is decompressed before somebody wants it.
"""

from __future__ import annotations

import struct
from itertools import islice
from typing import TYPE_CHECKING

from crc32c import crc32c

from trio_broker.client.types import IsolationLevel
from trio_broker.errors import CodecUnavailable, CorruptRecords
from trio_broker.records.batch import CRC_START
from trio_broker.records.iterate import iterate_batches, iterate_records

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from trio_broker.client.options import ConsumerOptions
    from trio_broker.records.batch import BatchHeader
    from trio_broker.records.build import Record

#: Key of a control record: version and type, of which 0 is abort and 1 commit (KIP-98).
_CONTROL_KEY = struct.Struct(">hh")
_ABORT = 0
#: A smaller piece of a receive buffer is copied, so that it does not keep the whole buffer alive.
_COPIED_BYTES_MAX = 32 * 1024


class FetchedRecords:
    """The records of one partition in one answer.

    Attributes:
        size_bytes: as they came.
        next_offset: first offset behind what was taken.
        end_offset: first offset behind everything that came.
    """

    def __init__(
        self,
        data: bytes | bytearray | memoryview,
        offset: int,
        aborted: Iterable[tuple[int, int]],
        options: ConsumerOptions,
    ) -> None:
        """Look at the headers.

        Args:
            data: whole batches, perhaps followed by a part of one.
            offset: first one wanted; the first batch may begin earlier.
            aborted: producer id and first offset of aborted transactions.
            options: of the consumer.

        Raises:
            CorruptRecords: there are no batches, or not even one whole one.
        """
        view = memoryview(data)
        self._data = memoryview(bytes(view)) if len(view) < _COPIED_BYTES_MAX else view
        self._options = options
        self._aborted = sorted(aborted, key=lambda transaction: transaction[1], reverse=True)
        self.size_bytes = len(self._data)
        self.next_offset = offset
        self.end_offset = offset
        for header, _ in iterate_batches(self._data):
            self.end_offset = max(self.end_offset, header.last_offset + 1)
        if self._data and self.end_offset == offset:
            raise CorruptRecords(f"{self.size_bytes} bytes at offset {offset} hold no whole batch")
        self._records = self._iterate(offset)
        self._error: CorruptRecords | CodecUnavailable | None = None

    def take(self, count: int) -> list[Record]:
        """Return the next records, fewer than `count` only at the end.

        Raises:
            CorruptRecords, CodecUnavailable: the next one cannot be read, and `next_offset` stays
                before it.
        """
        if self._error is not None:
            raise self._error.with_traceback(None)
        records: list[Record] = []
        try:
            # What came before damage stays in the list.
            records.extend(islice(self._records, count))
        except (CorruptRecords, CodecUnavailable) as error:
            self._error = error
            if not records:
                raise
            self.next_offset = records[-1].offset + 1
            return records
        self.next_offset = records[-1].offset + 1 if len(records) == count else self.end_offset
        return records

    def _iterate(self, offset: int) -> Iterator[Record]:
        hides_aborted = self._options.isolation is IsolationLevel.READ_COMMITTED
        open_aborted: set[int] = set()
        for header, batch in iterate_batches(self._data):
            if header.last_offset < offset:
                continue
            if self._options.check_crcs and crc32c(batch[CRC_START:]) != header.crc:
                raise CorruptRecords(
                    f"the batch at offset {header.base_offset} does not match its checksum"
                )
            if hides_aborted:
                while self._aborted and self._aborted[-1][1] <= header.last_offset:
                    open_aborted.add(self._aborted.pop()[0])
            if header.is_control:
                if hides_aborted and self._is_abort(batch):
                    open_aborted.discard(header.producer_id)
                continue
            if header.is_transactional and header.producer_id in open_aborted:
                continue
            yield from self._from(header, batch, offset)

    def _from(self, header: BatchHeader, batch: memoryview, offset: int) -> Iterator[Record]:
        records = iterate_records(batch, bytes_max=self._options.decompressed_bytes_max)
        if header.base_offset >= offset:
            return records
        return (record for record in records if record.offset >= offset)

    def _is_abort(self, batch: memoryview) -> bool:
        for record in iterate_records(batch, bytes_max=self._options.decompressed_bytes_max):
            if record.key is not None and len(record.key) >= _CONTROL_KEY.size:
                return bool(_CONTROL_KEY.unpack_from(record.key)[1] == _ABORT)
        return False


class ReturnedRecords:
    """Records that were taken and put back, to be taken like `FetchedRecords` once more.

    Attributes:
        size_bytes: nothing; what was fetched does not wait for them.
        next_offset: first offset behind what was taken.
        end_offset: first offset behind everything.
    """

    def __init__(self, records: Sequence[Record], end_offset: int) -> None:
        self.size_bytes = 0
        self.next_offset = records[0].offset
        self.end_offset = end_offset
        self._records = records

    def take(self, count: int) -> list[Record]:
        """Return the next records, fewer than `count` only at the end."""
        taken, self._records = list(self._records[:count]), self._records[count:]
        self.next_offset = self._records[0].offset if self._records else self.end_offset
        return taken
