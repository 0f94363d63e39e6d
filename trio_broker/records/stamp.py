"""Writes what the broker decides into a batch: offset, leader epoch and, if asked, append time.

Base offset and leader epoch lie outside the CRC, so the bytes a client sent are kept as they are
behind a patched prefix, and no CRC is computed. Called by `storage.Log` while it plans an append.
"""

from __future__ import annotations

import struct

from crc32c import crc32c

from trio_broker.records.batch import (
    ATTRIBUTE_LOG_APPEND_TIME,
    CRC_START,
    MAGIC,
    BatchHeader,
    Buffer,
)

_PREFIX_STRUCT = struct.Struct(">qii")
_pack_prefix = _PREFIX_STRUCT.pack
_PREFIX_BYTES = _PREFIX_STRUCT.size

#: Everything up to and with the max timestamp; the CRC's part begins at its sixth field.
_HEAD_STRUCT = struct.Struct(">qiibI")
_CHECKED_STRUCT = struct.Struct(">hiqq")
_CHECKED_END = CRC_START + _CHECKED_STRUCT.size


def stamp(
    buffer: Buffer,
    header: BatchHeader,
    *,
    base_offset: int,
    leader_epoch: int,
    log_append_time_ms: int | None = None,
) -> tuple[bytes, memoryview]:
    """Give a validated batch its place in a log.

    Args:
        buffer: the whole batch (format "B"); it is not changed and must stay alive and unchanged
            for as long as the result is used.
        header: its header.
        base_offset: offset of its first record.
        leader_epoch: epoch of the leader that appends it.
        log_append_time_ms: with LogAppendTime, the time that replaces all timestamps of the
            batch (milliseconds since 1970); costs a CRC of the batch.

    Returns:
        The batch in two parts to be written one after the other: a new beginning, and the rest
        of `buffer` without a copy.
    """
    view = memoryview(buffer)
    if log_append_time_ms is None:
        return _pack_prefix(base_offset, header.length, leader_epoch), view[_PREFIX_BYTES:]
    checked = _CHECKED_STRUCT.pack(
        header.attributes | ATTRIBUTE_LOG_APPEND_TIME,
        header.last_offset_delta,
        header.base_timestamp,
        log_append_time_ms,
    )
    rest = view[_CHECKED_END:]
    crc = crc32c(rest, crc32c(checked))
    head = _HEAD_STRUCT.pack(base_offset, header.length, leader_epoch, MAGIC, crc)
    return head + checked, rest
