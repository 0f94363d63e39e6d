from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_broker.config import Durability
from trio_broker.replication.high_watermark import (
    advance,
    counted_offset,
    min_in_sync_replicas,
)

offsets = st.integers(0, 100)


@pytest.mark.parametrize(
    "durability, counted",
    [(Durability.FSYNC, 40), (Durability.INTERVAL, 50), (Durability.OS, 50)],
)
def test_only_fsync_waits_for_the_disk(durability: Durability, counted: int) -> None:
    assert counted_offset(durability, log_end_offset=50, durable_offset=40) == counted


def test_what_is_durable_and_not_yet_published_does_not_count() -> None:
    assert counted_offset(Durability.FSYNC, log_end_offset=50, durable_offset=60) == 50


def test_one_replica_is_its_own_quorum() -> None:
    assert advance(3, 9) == 9
    assert advance(9, 3) == 9


@given(
    current=offsets, own=offsets, followers=st.lists(offsets, max_size=4), quorum=st.integers(1, 5)
)
def test_it_never_falls_and_never_passes_a_replica(
    current: int, own: int, followers: list[int], quorum: int
) -> None:
    result = advance(
        current, own, followers, in_sync_count=1 + len(followers), min_in_sync_count=quorum
    )
    assert result >= current
    if result > current:
        assert quorum <= 1 + len(followers)
        assert result == min([own, *followers])
    elif quorum <= 1 + len(followers):
        assert min([own, *followers]) <= current


def test_fewer_replicas_than_the_minimum_do_not_freeze_it() -> None:
    assert min_in_sync_replicas(2, 1) == 1
    assert min_in_sync_replicas(2, 3) == 2
