"""The header of a RecordBatch (magic 2), read in one go from any buffer.

The unit of work of this broker is the batch: everything that accepts, stores, finds or replays
bytes decides from these 61 bytes and leaves the records behind them alone. Called by validation,
storage, replication and the builders of this folder. Reads only; `stamp` is what writes.

Layout (Kafka documentation, "Record Batch"; org.apache.kafka.common.record.DefaultRecordBatch),
all big-endian::

     0 base offset int64          23 last offset delta int32     51 producer epoch int16
     8 batch length int32         27 base timestamp int64        53 base sequence int32
    12 leader epoch int32         35 max timestamp int64         57 record count int32
    16 magic int8                 43 producer id int64           61 records
    17 CRC-32C uint32 of all bytes from 21 on
    21 attributes int16: bits 0-2 codec, 3 timestamp type, 4 transactional, 5 control,
       6 base timestamp is a delete horizon (set by compaction)
"""

from __future__ import annotations

import struct
from typing import NamedTuple, TypeAlias

from trio_broker.config import TimestampType
from trio_broker.records.compression import Compression

Buffer: TypeAlias = bytes | bytearray | memoryview

#: Bytes of a batch before its records.
HEADER_BYTES = 61
#: Base offset and batch length: what the batch length field does not count.
LOG_OVERHEAD_BYTES = 12
#: Least value of the batch length field.
LENGTH_MIN = HEADER_BYTES - LOG_OVERHEAD_BYTES
#: Where the bytes begin that the CRC covers.
CRC_START = 21
#: The only format served; 0 and 1 are the message sets of before Kafka 0.11.
MAGIC = 2

NO_PRODUCER_ID = -1
NO_PRODUCER_EPOCH = -1
NO_SEQUENCE = -1
NO_TIMESTAMP = -1
#: Sequences count from 0 to 2^31 - 1 and then from 0 again.
SEQUENCE_MASK = 0x7FFF_FFFF

ATTRIBUTE_CODEC_MASK = 0x07
ATTRIBUTE_LOG_APPEND_TIME = 0x08
ATTRIBUTE_TRANSACTIONAL = 0x10
ATTRIBUTE_CONTROL = 0x20

HEADER_STRUCT = struct.Struct(">qiibIhiqqqhii")
assert HEADER_STRUCT.size == HEADER_BYTES
_unpack_header = HEADER_STRUCT.unpack_from


class BatchHeader(NamedTuple):
    """The fixed part of a batch, field for field; nothing here has been checked.

    Attributes:
        base_offset: offset of the first record; 0 as sent by a producer.
        length: bytes of the batch after this field (`size_bytes` is the whole batch).
        leader_epoch: epoch of the leader that appended the batch.
        magic: format version.
        crc: CRC-32C of everything from the attributes on.
        attributes: bit field, see the module's text.
        last_offset_delta: `last_offset` - `base_offset`, kept by compaction.
        base_timestamp: milliseconds since 1970 of the first record.
        max_timestamp: largest timestamp in the batch, or its append time.
        producer_id: -1 without idempotence.
        producer_epoch: -1 without idempotence.
        base_sequence: sequence of the first record, -1 without idempotence.
        record_count: number of records; 0 for a batch that compaction emptied.
    """

    base_offset: int
    length: int
    leader_epoch: int
    magic: int
    crc: int
    attributes: int
    last_offset_delta: int
    base_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    record_count: int

    @property
    def size_bytes(self) -> int:
        """Bytes of the whole batch."""
        return LOG_OVERHEAD_BYTES + self.length

    @property
    def compression(self) -> Compression:
        """The codec of the records.

        Raises:
            ValueError: the bits name no codec; validation refuses such a batch before.
        """
        return Compression(self.attributes & ATTRIBUTE_CODEC_MASK)

    @property
    def is_transactional(self) -> bool:
        """Whether the records become visible only with their transaction's commit."""
        return self.attributes & ATTRIBUTE_TRANSACTIONAL != 0

    @property
    def is_control(self) -> bool:
        """Whether this is a marker written by a coordinator instead of data."""
        return self.attributes & ATTRIBUTE_CONTROL != 0

    @property
    def timestamp_type(self) -> TimestampType:
        """Whose clock the timestamps come from."""
        if self.attributes & ATTRIBUTE_LOG_APPEND_TIME:
            return TimestampType.LOG_APPEND_TIME
        return TimestampType.CREATE_TIME

    @property
    def last_offset(self) -> int:
        """Offset of the last record (also where compaction removed it)."""
        return self.base_offset + self.last_offset_delta

    @property
    def last_sequence(self) -> int:
        """Sequence of the last record, wrapped at 2^31; -1 without idempotence."""
        if self.base_sequence == NO_SEQUENCE:
            return NO_SEQUENCE
        return (self.base_sequence + self.last_offset_delta) & SEQUENCE_MASK


_make_header = BatchHeader._make


def read_header(buffer: Buffer, offset: int = 0) -> BatchHeader:
    """Read the header at `offset`; the caller guarantees that 61 bytes are there.

    Raises:
        struct.error: they are not (a bug of the caller).
    """
    return _make_header(_unpack_header(buffer, offset))
