from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trio_broker.config import TimestampType
from trio_broker.records.batch import BatchHeader, read_header
from trio_broker.records.build import Record, build_batch
from trio_broker.records.iterate import iterate_records
from trio_broker.records.stamp import stamp
from trio_broker.records.validation import check_stored

BATCH = build_batch([Record(b"k", b"v", timestamp_ms=1000 + i) for i in range(3)])

offsets = st.integers(0, 2**62)
epochs = st.integers(-1, 2**31 - 1)


@given(base_offset=offsets, leader_epoch=epochs)
def test_a_stamped_batch_is_sound_and_differs_only_in_what_was_stamped(
    base_offset: int, leader_epoch: int
) -> None:
    original = bytearray(BATCH)
    prefix, rest = stamp(
        original, read_header(BATCH), base_offset=base_offset, leader_epoch=leader_epoch
    )
    assert rest.obj is original  # not a copy
    assert original == BATCH
    stamped = check_stored(prefix + bytes(rest), 0)
    expected = read_header(BATCH)._replace(base_offset=base_offset, leader_epoch=leader_epoch)
    assert stamped == expected


@given(base_offset=offsets, leader_epoch=epochs, append_time_ms=st.integers(0, 2**53))
def test_append_time_replaces_the_timestamps_and_keeps_the_crc_right(
    base_offset: int, leader_epoch: int, append_time_ms: int
) -> None:
    prefix, rest = stamp(
        memoryview(BATCH),
        read_header(BATCH),
        base_offset=base_offset,
        leader_epoch=leader_epoch,
        log_append_time_ms=append_time_ms,
    )
    stored = prefix + bytes(rest)
    header = check_stored(stored, 0)
    assert isinstance(header, BatchHeader)
    assert header.timestamp_type is TimestampType.LOG_APPEND_TIME
    assert header.max_timestamp == append_time_ms
    assert [
        (record.timestamp_ms, record.offset) for record in iterate_records(stored, bytes_max=99)
    ] == [(append_time_ms, base_offset + i) for i in range(3)]
