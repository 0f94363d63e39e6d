"""Room on the disk that is set aside for logs that are written in large pieces."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.storage.bench import NOW_MS, Bench
from trio_broker.config import GIB, KIB, MIB, TopicConfig
from trio_broker.host.interface import Space
from trio_broker.storage import paths, pressure
from trio_broker.storage.append import RESERVING_WRITE_BYTES_MIN

if TYPE_CHECKING:
    from trio_broker.testing.sim.disk import SimFileSystem

LARGE = 2 * RESERVING_WRITE_BYTES_MIN


@pytest.fixture
def roomy(sim_bench: Bench) -> Bench:
    """A log that may have 1 MiB set aside."""
    sim_bench.reserve_bytes = MIB
    sim_bench.open()
    return sim_bench


def room(bench: Bench, base_offset: int = 0) -> int:
    """Return how many bytes are set aside behind a segment."""
    name = paths.offset_name(base_offset, paths.LOG_SUFFIX)
    file = bench.fs.open(f"{bench.directory}/{name}", "test")
    try:
        return file.reserved_end - file.size
    finally:
        file.close()


def calls(disk: SimFileSystem, name: str) -> int:
    return sum(operation.call == name for operation in disk.history)


def test_large_writes_are_given_room_once_for_several(roomy: Bench, disk: SimFileSystem) -> None:
    roomy.fill(1, size_bytes=LARGE)
    assert room(roomy) == MIB
    assert calls(disk, "reserve") == 1
    roomy.fill(7, size_bytes=LARGE, start=1)
    assert 0 < room(roomy) < LARGE
    assert calls(disk, "reserve") == 1
    roomy.fill(1, size_bytes=LARGE, start=8)
    assert calls(disk, "reserve") == 2
    assert [offset for offset, _ in roomy.read_all()] == [*range(9)]


def test_small_writes_are_not(roomy: Bench, disk: SimFileSystem) -> None:
    roomy.fill(20, size_bytes=1000)
    assert room(roomy) == 0
    assert calls(disk, "reserve") == 0


def test_no_room_is_taken_where_there_is_none_to_spare(
    sim_bench: Bench, disk: SimFileSystem
) -> None:
    sim_bench.open()
    sim_bench.fill(3, size_bytes=LARGE)
    assert calls(disk, "reserve") == 0


def test_nothing_is_set_aside_beyond_the_end_of_a_segment(roomy: Bench) -> None:
    roomy.config = roomy.log.config = TopicConfig(segment_bytes=3 * LARGE)
    roomy.fill(1, size_bytes=LARGE)
    assert room(roomy) == 3 * LARGE - roomy.log.segments[0].size_bytes


def test_a_complete_segment_gives_back_what_it_has_not_used(
    roomy: Bench, disk: SimFileSystem
) -> None:
    roomy.config = roomy.log.config = TopicConfig(segment_bytes=3 * LARGE - 1)
    roomy.fill(2, size_bytes=LARGE)
    assert room(roomy) > RESERVING_WRITE_BYTES_MIN
    roomy.fill(1, size_bytes=LARGE, start=2)
    assert roomy.log.segment_count == 2
    assert roomy.log.checkpoint_due
    roomy.checkpoint()
    assert room(roomy) == 0
    assert room(roomy, 2) > 0  # it is written to
    before = calls(disk, "truncate")
    roomy.checkpoint()
    assert calls(disk, "truncate") == before
    assert [offset for offset, _ in roomy.read_all()] == [0, 1, 2]


def test_a_segment_that_has_gone_keeps_no_checkpoint_from_being_written(roomy: Bench) -> None:
    """A deletion that was given up, when a call hung, may come true later."""
    roomy.config = roomy.log.config = TopicConfig(segment_bytes=2 * LARGE)
    roomy.fill(2, size_bytes=LARGE)
    assert roomy.log.segment_count == 2
    roomy.fs.unlink(f"{roomy.directory}/{paths.offset_name(0, paths.LOG_SUFFIX)}")
    roomy.checkpoint()
    assert not roomy.log.checkpoint_due


def test_an_idle_segment_gives_it_back_too(roomy: Bench) -> None:
    roomy.config = roomy.log.config = TopicConfig(segment_ms=1000, retention_ms=-1)
    roomy.fill(1, size_bytes=LARGE)
    assert roomy.log.seal_idle(NOW_MS + 1001)
    roomy.checkpoint()
    assert room(roomy) == 0
    assert [offset for offset, _ in roomy.read_all()] == [0]


@pytest.mark.parametrize("is_clean", [True, False])
def test_room_of_an_earlier_process_is_used_and_given_back(roomy: Bench, *, is_clean: bool) -> None:
    roomy.fill(1, size_bytes=LARGE)
    log = roomy.open(roomy.stop() if is_clean else None)
    assert room(roomy) == MIB
    assert log.seal_idle(NOW_MS + log.config.segment_ms + 1)
    roomy.checkpoint()
    assert room(roomy) == 0
    assert [offset for offset, _ in roomy.read_all()] == [0]


@pytest.mark.parametrize(
    "free_bytes, logs, most_bytes, expected",
    [
        (100 * GIB, 6, 8 * MIB, 8 * MIB),
        (100 * GIB, 6, 64 * KIB, 64 * KIB),
        (100 * GIB, 6, 0, 0),
        (100 * GIB, 0, 8 * MIB, 8 * MIB),
        (10 * GIB, 200, 8 * MIB, int(10 * GIB / 16) // 200),
        (10 * GIB, 1000, 8 * MIB, 0),
        (10 * MIB, 1, 8 * MIB, 0),
        (0, 1, 8 * MIB, 0),
    ],
)
def test_all_logs_together_take_a_small_share_of_what_is_free(
    free_bytes: int, logs: int, most_bytes: int, expected: int
) -> None:
    space = Space(total_bytes=200 * GIB, free_bytes=free_bytes, free_inodes=10**6)
    found = pressure.reserve_bytes(space, logs, most_bytes)
    assert found == expected
    assert found * logs <= free_bytes / 16 + KIB
