"""The sparse index: lookups, its files, and rebuilding."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trio_broker.storage.index import SegmentIndex

BATCHES = st.lists(
    st.tuples(st.integers(1, 20), st.integers(61, 900), st.integers(0, 50)), max_size=40
)


def build(batches: list[tuple[int, int, int]], interval: int) -> SegmentIndex:
    index, offset = SegmentIndex(), 0
    for count, size, timestamp in batches:
        index.note(offset, size, timestamp, interval)
        offset += count
    return index


@given(batches=BATCHES, interval=st.sampled_from([0, 100, 1000, 4096]), data=st.data())
def test_lookups_never_go_too_far(
    batches: list[tuple[int, int, int]], interval: int, data: st.DataObject
) -> None:
    index = build(batches, interval)
    starts, offset, position = [], 0, 0
    for count, size, timestamp in batches:
        starts.append((offset, position, timestamp))
        offset, position = offset + count, position + size
    assert index.covered_bytes == position
    wanted = data.draw(st.integers(0, offset))
    floor_offset, floor_position = index.floor(wanted)
    assert floor_offset <= wanted
    assert (floor_offset, floor_position) in [(0, 0), *((o, p) for o, p, _ in starts)]
    passed = [p for o, p, _ in starts if o <= wanted]
    if passed:
        largest = max(size for _, size, _ in batches)
        assert passed[-1] - floor_position <= interval + largest
    limit = data.draw(st.integers(0, position))
    assert index.boundary(limit) <= limit
    wanted_ms = data.draw(st.integers(0, 60))
    first = next((p for _, p, timestamp in starts if timestamp >= wanted_ms), position)
    assert index.position_before(wanted_ms) <= first


@given(batches=BATCHES, interval=st.sampled_from([0, 100, 1000]), cut=st.integers(0, 40))
def test_files_hold_all_of_it_and_go_on_where_they_end(
    batches: list[tuple[int, int, int]], interval: int, cut: int
) -> None:
    first = build(batches[:cut], interval)
    again = SegmentIndex.from_payloads(77, *first.to_payloads(77))
    assert again is not None
    offset = sum(count for count, _, _ in batches[:cut])
    for count, size, timestamp in batches[cut:]:
        again.note(offset, size, timestamp, interval)
        offset += count
    assert again.to_payloads(77) == build(batches, interval).to_payloads(77)


@given(data=st.binary(max_size=120))
def test_files_that_make_no_sense_are_no_index(data: bytes) -> None:
    good = build([(1, 500, 5)] * 10, 100)
    offsets, times = good.to_payloads(0)
    assert SegmentIndex.from_payloads(0, data, times) is None
    assert SegmentIndex.from_payloads(0, offsets, data) is None
    assert SegmentIndex.from_payloads(1, offsets, times) is None
    other = build([(1, 500, 5)] * 11, 100).to_payloads(0)
    assert SegmentIndex.from_payloads(0, offsets, other[1]) is None


def test_an_index_is_small() -> None:
    """1 GiB of log in batches of 16 KiB with the default interval."""
    index = build([(15, 16 * 1024, 7)] * 65_536, 4096)
    assert index.memory_bytes < 2 * 1024 * 1024
