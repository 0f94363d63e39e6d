"""Who gives way when logs take too much room, in which order, and how much."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_broker.config import GIB, MIB
from trio_broker.host.interface import Space
from trio_broker.storage.disk_state import thresholds
from trio_broker.storage.pressure import (
    COMMIT_BYTES_MIN,
    LOW_MARGIN,
    PIECE_BYTES_MIN,
    PIECES,
    GivingWay,
    Holding,
    Wanted,
    choose,
    commit_bytes,
    default_bytes_max,
    gives_way,
    low_on_space,
    over_budget,
    piece_bytes,
    refusal,
)
from trio_broker.storage.retention import RetainedSegment

NOW_MS = 1_700_000_000_000
UNLIMITED = 1 << 62


def holding(
    *segments: tuple[int, int], sealed: int | None = None, upper: int = UNLIMITED
) -> Holding:
    """A partition with segments of (age, size), one offset each; the last is active."""
    facts = [
        RetainedSegment(number + 1, size, NOW_MS - age, NOW_MS)
        for number, (age, size) in enumerate(segments)
    ]
    return Holding(facts, max(0, len(facts) - 1) if sealed is None else sealed, upper)


def pick(*holdings: Holding, size_bytes: int = 0, segments: int = 0) -> GivingWay:
    return choose(holdings, Wanted(size_bytes, segments), now_ms=NOW_MS)


# ------------------------------------------------------------------------------------- who
@pytest.mark.parametrize(
    "configs, is_internal, expected",
    [
        ((), False, True),
        (("segment.bytes", "durability", "file.delete.delay.ms"), False, True),
        (("retention.ms",), False, False),
        (("retention.bytes", "segment.bytes"), False, False),
        ((), True, False),
        (("retention.ms",), True, False),
    ],
)
def test_only_topics_on_the_defaults_give_way(
    configs: tuple[str, ...], is_internal: bool, expected: bool
) -> None:
    assert gives_way(configs, is_internal=is_internal) is expected


# ----------------------------------------------------------------------------------- which
def test_nothing_goes_if_nothing_is_wanted() -> None:
    assert pick(holding((9, 10), (8, 10))) == GivingWay([0], 0, True)


def test_the_oldest_goes_first_over_all_partitions() -> None:
    first, second = holding((90, 10), (70, 10), (1, 10)), holding((80, 10), (60, 10), (1, 10))
    expected = {10: [1, 0], 11: [1, 1], 20: [1, 1], 21: [2, 1], 40: [2, 2]}
    assert {size: pick(first, second, size_bytes=size).counts for size in expected} == expected


def test_sealed_segments_go_before_older_active_ones() -> None:
    idle, busy = holding((1000, 10)), holding((5, 10), (1, 10))
    assert pick(idle, busy, size_bytes=10).counts == [0, 1]
    assert pick(idle, busy, size_bytes=11).counts == [1, 1]
    assert pick(idle, busy, size_bytes=30) == GivingWay([1, 2], 30, True)
    assert pick(idle, busy, size_bytes=31) == GivingWay([1, 2], 30, False)


def test_within_a_partition_offsets_stay_in_order() -> None:
    """A segment written later can hold older records; it waits for those before it."""
    mixed, other = holding((10, 5), (500, 5), (1, 5)), holding((50, 5), (1, 5))
    assert pick(mixed, other, size_bytes=5).counts == [0, 1]
    assert pick(mixed, other, size_bytes=15).counts == [2, 1]


def test_what_consumers_may_not_read_yet_stays() -> None:
    assert pick(holding((9, 10), (8, 10), (7, 10), upper=1), size_bytes=30).counts == [1]


def test_empty_segments_give_nothing() -> None:
    assert pick(holding((9, 10), (0, 0)), size_bytes=30) == GivingWay([1], 10, False)
    assert pick(holding(), size_bytes=1) == GivingWay([0], 0, False)


def test_files_can_be_what_is_wanted() -> None:
    assert pick(holding((9, 1), (8, 1), (7, 1)), segments=2).counts == [2]


histories = st.lists(
    st.builds(
        lambda segments, active, upper: holding(
            *segments, sealed=len(segments) - (active and bool(segments)), upper=upper
        ),
        st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)), max_size=6),
        st.booleans(),
        st.one_of(st.just(UNLIMITED), st.integers(0, 6)),
    ),
    max_size=5,
)


def can_go(each: Holding, number: int) -> bool:
    segment = each.segments[number]
    return segment.size_bytes > 0 and segment.end_offset <= each.upper_offset


def simply(holdings: list[Holding], wanted: Wanted) -> GivingWay:
    """Look at all partitions, take the first in order, and so on: slow, and plainly right."""
    counts = [0] * len(holdings)
    sizes: list[int] = []
    while sum(sizes) < wanted.size_bytes or len(sizes) < wanted.segments:
        heads = [
            (counts[number] >= each.sealed, each.segments[counts[number]].max_timestamp, number)
            for number, each in enumerate(holdings)
            if counts[number] < len(each.segments) and can_go(each, counts[number])
        ]
        if not heads:
            return GivingWay(counts, sum(sizes), False)
        _, _, number = min(heads)
        sizes.append(holdings[number].segments[counts[number]].size_bytes)
        counts[number] += 1
    return GivingWay(counts, sum(sizes), True)


@given(holdings=histories, size_bytes=st.integers(0, 200), segments=st.integers(0, 8))
def test_as_little_as_possible_goes_and_in_order(
    holdings: list[Holding], size_bytes: int, segments: int
) -> None:
    wanted = Wanted(size_bytes, segments)
    found = choose(holdings, wanted, now_ms=NOW_MS)
    assert found == simply(holdings, wanted)
    for each, count in zip(holdings, found.counts, strict=True):
        assert all(can_go(each, number) for number in range(count))
    if not found.is_enough:
        for each, count in zip(holdings, found.counts, strict=True):
            assert count == len(each.segments) or not can_go(each, count)


# --------------------------------------------------------------------------------- how much
def test_a_budget_is_kept_exactly_and_broken_once_in_a_while() -> None:
    assert not over_budget(1000, 1000)
    assert over_budget(1001, 1000) == Wanted(1 + 20)
    assert over_budget(5, 0) == Wanted(5)


def test_a_disk_is_freed_to_well_above_its_low_threshold() -> None:
    low_bytes = thresholds(64 * MIB).low_bytes
    room_bytes = int(low_bytes * LOW_MARGIN)
    assert low_on_space(Space(64 * MIB, low_bytes, 1 << 20)) == Wanted(room_bytes - low_bytes)
    assert not low_on_space(Space(64 * MIB, room_bytes, 1 << 20))
    assert not low_on_space(Space(64 * MIB, room_bytes, 0)), "some filesystems count no inodes"
    assert low_on_space(Space(64 * MIB, 64 * MIB, 200)) == Wanted(0, 40)


@given(total_bytes=st.integers(16 * MIB, 1 << 44), shards=st.integers(1, 8))
def test_the_default_budget_leaves_room_to_act_in_time(total_bytes: int, shards: int) -> None:
    limits = thresholds(total_bytes)
    limit_bytes = default_bytes_max(total_bytes)
    assert total_bytes - limit_bytes >= 2 * limits.low_bytes - 1
    under_way = shards * commit_bytes(total_bytes, shards)
    overdrawn = total_bytes - limit_bytes - 2 * under_way
    assert overdrawn >= limits.degraded_bytes - 1 or under_way == shards * COMMIT_BYTES_MIN


@given(limit_bytes=st.integers(0, 1 << 44), partitions=st.integers(0, 10_000))
def test_a_budget_has_enough_pieces(limit_bytes: int, partitions: int) -> None:
    size_bytes = piece_bytes(limit_bytes, partitions)
    assert size_bytes >= PIECE_BYTES_MIN
    assert size_bytes == PIECE_BYTES_MIN or size_bytes * PIECES * max(1, partitions) <= limit_bytes


def test_a_disk_of_usual_size_is_not_slowed_down() -> None:
    assert commit_bytes(1 * GIB, 2) > 8 * MIB
    assert piece_bytes(default_bytes_max(1024 * GIB), 10) > GIB


def test_a_refusal_says_how_much_and_what_to_do() -> None:
    text = refusal(70, 64, "in /data/logs")
    assert "70 of 64 bytes" in text
    assert "storage.bytes_max" in text
