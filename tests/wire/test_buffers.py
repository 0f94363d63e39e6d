"""Memory is used again when nobody looks at it, never sooner, and within bounds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trio_broker.buffers import (
    BUFFER_SIZES_BYTES,
    KEPT_BYTES_MAX,
    KEPT_COUNT_MAX,
    TRIM_AFTER,
    BufferPool,
)

KIB = 1024
LARGEST = BUFFER_SIZES_BYTES[-1]


def taken(pool: BufferPool, byte_count: int) -> memoryview | None:
    return pool.reuse(byte_count) or pool.make(byte_count)


def test_memory_is_used_again_once_its_last_view_is_gone() -> None:
    pool = BufferPool()
    assert pool.reuse(100 * KIB) is None
    view = pool.make(100 * KIB)
    assert view is not None
    assert len(view) == 100 * KIB
    view[:4] = b"mine"
    part = view[1:3]
    del view
    assert pool.reuse(100 * KIB) is None  # the part is still looked at
    assert part == b"in"
    del part
    again = pool.reuse(90 * KIB)
    assert again is not None
    assert (len(again), bytes(again[:4])) == (90 * KIB, b"mine")
    assert pool.reuse(200 * KIB) is None  # of another size
    assert pool.kept_bytes == 128 * KIB


def test_what_is_too_large_is_not_kept() -> None:
    pool = BufferPool()
    assert taken(pool, LARGEST) is not None
    assert taken(pool, LARGEST + 1) is None


def test_what_is_kept_has_bounds() -> None:
    pool = BufferPool()
    small = [view for _ in range(2 * KEPT_COUNT_MAX) if (view := taken(pool, 1)) is not None]
    assert len(small) == KEPT_COUNT_MAX
    large = [view for _ in range(100) if (view := taken(pool, LARGEST)) is not None]
    assert 0 < pool.kept_bytes <= KEPT_BYTES_MAX
    assert pool.kept_bytes == len(small) * BUFFER_SIZES_BYTES[0] + len(large) * LARGEST


def test_buffers_of_a_load_that_is_over_are_let_go() -> None:
    pool = BufferPool()
    views = [taken(pool, LARGEST) for _ in range(5)]
    pinned = taken(pool, 512 * KIB)  # somebody never lets go of it
    del views
    for _ in range(2 * TRIM_AFTER):
        assert pool.reuse(LARGEST) is not None
    assert pool.kept_bytes == LARGEST
    assert pinned is not None
    pinned[:] = bytes(len(pinned))  # theirs all the same


@given(st.lists(st.tuples(st.integers(0, 11), st.sampled_from(BUFFER_SIZES_BYTES)), max_size=60))
def test_nobody_is_given_what_another_looks_at(steps: list[tuple[int, int]]) -> None:
    pool = BufferPool()
    held: dict[int, memoryview] = {}
    for turn, (number, size_bytes) in enumerate(steps):
        view = held.pop(number, None)
        if view is not None:
            assert view == bytes([number]) * len(view)
            continue
        view = taken(pool, size_bytes - turn)
        if view is not None:
            view[:] = bytes([number]) * len(view)
            held[number] = view[: 1 + turn]
    assert all(view == bytes([number]) * len(view) for number, view in held.items())
