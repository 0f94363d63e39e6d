"""What a log tells from memory about when a record was written: the ground of lag in seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from tests.storage.bench import Bench
from trio_broker.config import TopicConfig
from trio_broker.records.batch import read_header
from trio_broker.records.build import Record, build_batch
from trio_broker.storage.log import BatchToAppend
from trio_broker.testing.sim.disk import SimFileSystem

if TYPE_CHECKING:
    from collections.abc import Sequence

START_MS = 1_700_000_000_000


def bench_with(times_ms: Sequence[int], *, interval_bytes: int) -> Bench:
    """Write one batch of one record at each of these times, in segments of a few batches."""
    fs = SimFileSystem(1)
    fs.prepare_directory("/logs")
    bench = Bench(fs, "/logs")
    bench.config = TopicConfig(segment_bytes=1024, index_interval_bytes=interval_bytes)
    bench.open()
    for time_ms in times_ms:
        raw = build_batch([Record(key=None, value=b"v" * 50, timestamp_ms=time_ms)])
        bench.append(BatchToAppend(raw, read_header(raw)))
    return bench


@given(
    steps=st.lists(st.integers(0, 10_000), min_size=1, max_size=40),
    interval_bytes=st.sampled_from([0, 150, 400, 4096]),
    forget_indexes=st.booleans(),
)
def test_the_truth_lies_between_the_bounds(
    steps: list[int], interval_bytes: int, forget_indexes: bool
) -> None:
    times_ms = [START_MS + sum(steps[: number + 1]) for number in range(len(steps))]
    with bench_with(times_ms, interval_bytes=interval_bytes) as bench:
        if forget_indexes:
            bench.open(bench.stop())
        for offset, time_ms in enumerate(times_ms):
            bounds = bench.log.timestamp_bounds(offset)
            assert bounds is not None
            assert bounds[0] <= time_ms <= bounds[1]
        assert bench.log.timestamp_bounds(len(times_ms)) is None


def test_a_dense_index_makes_them_narrow() -> None:
    times_ms = [START_MS + 1000 * number for number in range(8)]
    with bench_with(times_ms, interval_bytes=0) as bench:
        bounds = bench.log.timestamp_bounds(5)
    assert bounds == (START_MS + 5000, START_MS + 6000)


def test_an_empty_log_knows_nothing() -> None:
    with bench_with([], interval_bytes=0) as bench:
        assert bench.log.timestamp_bounds(0) is None
