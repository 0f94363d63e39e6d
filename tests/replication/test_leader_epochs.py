"""The cache against the plainest model: the epoch of every single offset."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_broker.replication.leader_epochs import EpochEnd, EpochStart, LeaderEpochCache


def cache_of(*entries: tuple[int, int]) -> LeaderEpochCache:
    cache = LeaderEpochCache()
    for epoch, start_offset in entries:
        assert cache.assign(epoch, start_offset)
    return cache


def entries(cache: LeaderEpochCache) -> list[tuple[int, int]]:
    return [tuple(entry) for entry in cache.entries]


@st.composite
def logs(draw: st.DrawFn) -> list[int]:
    """Draw the epochs of offsets 0, 1, 2...: they never fall."""
    return sorted(draw(st.lists(st.integers(0, 6), max_size=20)))


def written(log: list[int]) -> LeaderEpochCache:
    cache = LeaderEpochCache()
    for offset, epoch in enumerate(log):
        news = cache.assign(epoch, offset)
        assert news == (offset == 0 or log[offset - 1] != epoch)
    return cache


@given(log=logs(), start=st.integers(0, 22), end=st.integers(0, 22), wanted=st.integers(-1, 8))
def test_answers_are_those_of_a_list_of_all_offsets(
    log: list[int], start: int, end: int, wanted: int
) -> None:
    cache = written(log)
    start = min(start, len(log))
    assert cache.truncate_from_end(end) == any(
        offset >= end for offset, epoch in enumerate(log) if offset == log.index(epoch)
    )
    del log[end:]
    if log and start < len(log):
        expected_news = start > 0
        assert cache.truncate_from_start(start) == expected_news
    else:
        start = 0
    log_end_offset = len(log)
    for offset in range(start, log_end_offset):
        assert cache.epoch_at(offset) == log[offset]
    if start:
        assert cache.epoch_at(start - 1) == -1
    epochs = log[start:]
    if not epochs or wanted < 0 or wanted > epochs[-1]:
        expected = EpochEnd(-1, -1)
    else:
        floor = max([epoch for epoch in epochs if epoch <= wanted], default=wanted)
        above = [offset for offset in range(start, log_end_offset) if log[offset] > wanted]
        expected = EpochEnd(floor, above[0] if above else log_end_offset)
    assert cache.end_offset_for(wanted, log_end_offset) == expected
    assert entries(LeaderEpochCache.from_bytes(cache.to_bytes())) == entries(cache)


def test_an_epoch_that_wrote_nothing_ends_where_it_began() -> None:
    cache = cache_of((1, 0), (3, 10), (5, 10), (6, 20))
    assert entries(cache) == [(1, 0), (5, 10), (6, 20)]
    assert cache.end_offset_for(3, 25) == EpochEnd(1, 10)
    assert cache.end_offset_for(5, 25) == EpochEnd(5, 20)
    assert cache.end_offset_for(0, 25) == EpochEnd(0, 0)
    assert cache.latest == EpochStart(6, 20)


def test_what_a_new_leader_contradicts_is_dropped() -> None:
    cache = cache_of((1, 0), (3, 10), (4, 20))
    assert cache.assign(3, 5)
    assert entries(cache) == [(1, 0), (3, 5)]
    assert not cache.assign(3, 8)
    assert cache.assign(3, 2)
    assert entries(cache) == [(1, 0), (3, 2)]
    assert cache.assign(2, 30)
    assert entries(cache) == [(1, 0), (2, 30)]


def test_no_epoch_is_not_kept() -> None:
    cache = LeaderEpochCache()
    assert not cache.assign(-1, 0)
    assert not cache.assign(0, -1)
    assert cache.latest is None
    assert cache.epoch_at(0) == -1
    assert cache.end_offset_for(0, 0) == EpochEnd(-1, -1)
    assert not cache.truncate_from_start(5)
    assert not cache.truncate_from_end(0)


def test_the_epoch_at_the_new_start_stays_even_with_nothing_left_of_it() -> None:
    cache = cache_of((1, 0), (3, 10))
    assert cache.truncate_from_start(30)
    assert entries(cache) == [(3, 30)]
    assert not cache.truncate_from_start(30)
    assert repr(cache) == "<LeaderEpochCache [(3, 30)]>"


def snapshot(*entries: tuple[int, int], version: int = 1, count: int | None = None) -> bytes:
    head = struct.pack(">hi", version, len(entries) if count is None else count)
    return head + b"".join(struct.pack(">iq", *entry) for entry in entries)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        snapshot(version=2),
        snapshot((1, 0))[:-1],
        snapshot((1, 0)) + b"x",
        snapshot(count=-1),
        snapshot((1, 0), count=2),
        snapshot((-1, 0)),
        snapshot((1, -1)),
        snapshot((1, 0), (1, 5)),
        snapshot((1, 5), (2, 5)),
    ],
)
def test_damaged_snapshots_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="leader epoch"):
        LeaderEpochCache.from_bytes(data)
