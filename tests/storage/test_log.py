"""Appending, publishing and reading, on real files."""

from __future__ import annotations

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from tests.storage.bench import NOW_MS, Bench, batch, values_in
from trio_broker.config import Durability, TimestampType, TopicConfig
from trio_broker.errors import ErrorCode
from trio_broker.host.jobs import run_inline
from trio_broker.records.batch import read_header
from trio_broker.records.iterate import iterate_batches
from trio_broker.storage.log import Accepted, Duplicate, Refused
from trio_broker.testing.sim.disk import SimFileSystem

SMALL = TopicConfig(segment_bytes=1024, index_interval_bytes=150)


def test_records_come_back_in_order_and_complete(bench: Bench) -> None:
    bench.open()
    assert bench.append(batch([b"a", b"b"]), batch([b"c"])) == [Accepted(0, -1), Accepted(2, -1)]
    assert bench.append(batch([b"d"])) == [Accepted(3, -1)]
    expected = [(0, b"a"), (1, b"b"), (2, b"c"), (3, b"d")]
    assert bench.read_all() == expected
    assert bench.log.log_end_offset == bench.log.durable_offset == 4
    bench.open()
    assert bench.read_all() == expected
    summary = bench.stop()
    bench.open(summary)
    assert bench.log.recovery.is_trusted
    assert bench.read_all() == expected


def test_nothing_is_visible_before_it_is_published(bench: Bench) -> None:
    log = bench.open()
    plan = log.plan_append([batch()], now_ms=NOW_MS, leader_epoch=0)
    run_inline(log.append_job(plan, sync=True))
    assert log.log_end_offset == 0
    assert bench.read(0) == []
    log.publish(plan, synced=True)
    assert bench.read(0) == [(0, b"v")]


def test_batches_are_stored_as_sent_behind_a_new_prefix(bench: Bench) -> None:
    bench.open()
    bench.leader_epoch = 5
    sent = batch([b"x" * 50, b"y"])
    bench.append(batch(), sent)
    ((_, stored),) = list(iterate_batches(bench_bytes(bench)))[1:]
    header = read_header(stored)
    assert (header.base_offset, header.leader_epoch) == (1, 5)
    assert bytes(stored[16:]) == bytes(memoryview(sent.buffer)[16:])
    assert bench.log.epochs.end_offset_for(5, 3) == (5, 3)


def bench_bytes(bench: Bench) -> bytes:
    plan = bench.log.locate(0, max_bytes=1 << 20, upper_offset=1 << 62)
    assert plan is not None
    return b"".join(run_inline(bench.log.read_job(plan)))


def test_log_append_time_replaces_the_timestamps(bench: Bench) -> None:
    bench.config = TopicConfig(message_timestamp_type=TimestampType.LOG_APPEND_TIME)
    bench.open()
    bench.now_ms = NOW_MS + 77
    assert bench.append(batch(timestamp_ms=1)) == [Accepted(0, NOW_MS + 77)]
    (header, _), *_ = iterate_batches(bench_bytes(bench))
    assert header.max_timestamp == NOW_MS + 77 == bench.log.max_timestamp


# ------------------------------------------------------------------------------------- producers


def test_a_retry_is_answered_with_the_offset_of_the_first_copy(bench: Bench) -> None:
    bench.open()
    bench.fill(3)
    first = batch([b"a", b"b"], producer_id=9)
    assert bench.append(first) == [Accepted(3, -1)]
    assert bench.append(first) == [Duplicate(3, -1)]
    assert bench.log.log_end_offset == 5


def test_a_retry_in_the_same_commit_is_answered_like_its_first_copy(bench: Bench) -> None:
    bench.open()
    first, second = batch([b"a"], producer_id=9), batch([b"b"], producer_id=9, sequence=1)
    outcomes = bench.append(first, second, first, second)
    assert outcomes == [Accepted(0, -1), Accepted(1, -1), Duplicate(0, -1), Duplicate(1, -1)]


def test_a_gap_in_the_sequence_is_refused_and_leaves_no_trace(bench: Bench) -> None:
    bench.open()
    bench.append(batch(producer_id=9))
    (outcome,) = bench.append(batch(producer_id=9, sequence=5))
    assert isinstance(outcome, Refused)
    assert outcome.code is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    assert bench.log.log_end_offset == 1
    assert bench.append(batch(producer_id=9, sequence=1)) == [Accepted(1, -1)]


def test_producers_are_known_after_a_crash_and_after_an_orderly_stop(bench: Bench) -> None:
    bench.open()
    sent = batch([b"a", b"b"], producer_id=9)
    bench.append(sent)
    bench.open()
    assert bench.append(sent) == [Duplicate(0, -1)]
    bench.open(bench.stop())
    assert bench.append(sent) == [Duplicate(0, -1)]


# ----------------------------------------------------------------------------------- segments


def test_segments_roll_by_size_and_reading_crosses_them(bench: Bench) -> None:
    bench.config = SMALL
    bench.open()
    bench.fill(40)
    assert bench.log.segment_count > 5
    assert [offset for offset, _ in bench.read_all()] == list(range(40))
    assert bench.log.size_bytes == sum(
        info.size_bytes
        for name in bench.names()
        if name.endswith(".log") and (info := bench.fs.stat(f"{bench.directory}/{name}"))
    )


def test_one_commit_may_span_several_segments(bench: Bench) -> None:
    bench.config = SMALL
    bench.open()
    bench.append(*(batch([b"%03d" % number * 100]) for number in range(12)))
    assert bench.log.segment_count == 6
    expected = bench.read_all()
    assert [offset for offset, _ in expected] == list(range(12))
    bench.open()
    assert bench.read_all() == expected


def test_segments_roll_by_the_age_of_their_first_record(bench: Bench) -> None:
    bench.config = TopicConfig(segment_ms=1000)
    bench.open()
    for age_ms in (0, 900, 1001, 1500, 2100):
        bench.append(batch(timestamp_ms=NOW_MS + age_ms))
    assert bench.log.segment_count == 3


def test_a_batch_too_far_from_the_base_offset_rolls(bench: Bench) -> None:
    bench.open()
    wide = batch()
    header = wide.header._replace(last_offset_delta=2**31 - 1)
    bench.append(batch())
    plan = bench.log.plan_append(
        [wide._replace(header=header), batch()], now_ms=NOW_MS, leader_epoch=0
    )
    assert [write.segment.base_offset for write in plan.writes] == [1, 1 + 2**31]
    bench.log.abandon(plan)


# --------------------------------------------------------------------------------------- reading


def test_offsets_out_of_range_and_at_the_end(bench: Bench) -> None:
    bench.open()
    bench.fill(3)
    assert bench.read(4) is None
    assert bench.read(-1) is None
    assert bench.read(3) == []
    plan = bench.log.locate(3, max_bytes=100, upper_offset=3)
    assert plan is not None
    assert (plan.is_empty, plan.size_bytes, bench.log.read_cached(plan)) == (True, 0, [])


def test_the_batch_that_contains_the_offset_comes_first(bench: Bench) -> None:
    bench.open()
    bench.append(batch([b"a"]), batch([b"b", b"c", b"d"]), batch([b"e"]))
    assert bench.read(2) == [(1, b"b"), (2, b"c"), (3, b"d"), (4, b"e")]


def test_the_first_batch_comes_whole_even_if_larger_than_asked_for(bench: Bench) -> None:
    bench.open()
    bench.append(batch([b"a" * 40_000]), batch([b"b" * 40_000]))
    for offset, size in ((0, 1), (0, 500), (1, 0), (1, 20_000)):
        (found,) = bench.read(offset, max_bytes=size) or []
        assert found[0] == offset
    assert bench.read(0, max_bytes=39_000, at_least_one=False) == []
    assert len(bench.read(0, max_bytes=45_000, at_least_one=False) or []) == 1


def test_nothing_beyond_the_upper_offset_is_returned(bench: Bench) -> None:
    bench.open()
    bench.fill(10)
    assert [o for o, _ in bench.read(2, upper_offset=5) or []] == [2, 3, 4]
    assert bench.read(5, upper_offset=5) == []
    assert bench.read(7, upper_offset=5) == []


@given(
    sizes=st.lists(st.lists(st.integers(0, 400), min_size=1, max_size=4), min_size=1, max_size=25),
    segment_bytes=st.sampled_from([1024, 2000, 1 << 20]),
    interval_bytes=st.sampled_from([0, 1, 300, 4096]),
    is_cold=st.booleans(),
    data=st.data(),
)
def test_any_read_returns_whole_batches_within_its_bounds(
    sizes: list[list[int]],
    segment_bytes: int,
    interval_bytes: int,
    is_cold: bool,
    data: st.DataObject,
) -> None:
    fs = SimFileSystem(1)
    fs.prepare_directory("/logs")
    with Bench(fs, "/logs") as bench:
        bench.config = TopicConfig(segment_bytes=segment_bytes, index_interval_bytes=interval_bytes)
        log = bench.open()
        bounds = []  # (base offset, end offset, size) of every batch
        for values in sizes:
            one = batch([b"x" * size for size in values])
            (outcome,) = bench.append(one)
            base = outcome.base_offset
            bounds.append((base, base + len(values), one.header.size_bytes))
        if is_cold:
            log = bench.open(bench.stop())
        offset = data.draw(st.integers(0, log.log_end_offset - 1), "offset")
        max_bytes = data.draw(st.integers(0, 3000), "max_bytes")
        upper = data.draw(st.sampled_from([end for _, end, _ in bounds]), "upper")
        at_least_one = data.draw(st.booleans(), "at_least_one")
        plan = log.locate(
            offset, max_bytes=max_bytes, upper_offset=upper, at_least_one=at_least_one
        )
        assert plan is not None
        assert plan.is_empty == (offset >= upper) == (plan.size_bytes == 0)
        buffers = log.read_cached(plan)
        if buffers is None:
            buffers = run_inline(log.read_job(plan))
        offsets = [found for found, _ in values_in(buffers)]
        total = sum(map(len, buffers))
        first = next(bound for bound in bounds if bound[1] > offset)
        if offset >= upper or (not at_least_one and first[2] > max_bytes):
            assert offsets == []
            return
        assert offsets == list(range(first[0], first[0] + len(offsets)))
        assert offsets[-1] >= offset
        assert offsets[-1] < upper
        assert total <= max_bytes or total == first[2]


def test_timestamps_are_found_in_every_segment(bench: Bench) -> None:
    bench.config = SMALL
    log = bench.open()
    for number in range(30):
        bench.append(batch([b"x" * 90], timestamp_ms=NOW_MS + 10 * number))
    for reopened in (False, True):
        if reopened:
            log = bench.open(bench.stop())
        for asked_ms, expected in ((0, 0), (NOW_MS, 0), (NOW_MS + 1, 1), (NOW_MS + 290, 29)):
            found = run_inline(log.offset_by_timestamp_job(asked_ms))
            assert found is not None
            assert (found.offset, found.header.base_offset) == (expected, expected)
            assert values_in([found.batch]) == [(expected, b"x" * 90)]
        assert run_inline(log.offset_by_timestamp_job(NOW_MS + 291)) is None
        assert log.max_timestamp == NOW_MS + 290


def test_timestamps_out_of_order_and_bounds_of_the_search(bench: Bench) -> None:
    bench.config = evolve(SMALL, index_interval_bytes=0)
    log = bench.open()
    for age_ms in (50, 10, 40, 90, 20, 60):
        bench.append(batch([b"x" * 300], timestamp_ms=NOW_MS + age_ms))

    def offset_of(age_ms: int, **bounds: int) -> int | None:
        found = run_inline(log.offset_by_timestamp_job(NOW_MS + age_ms, **bounds))
        return None if found is None else found.offset

    assert [offset_of(age) for age in (10, 50, 51, 90, 91)] == [0, 0, 3, 3, None]
    assert offset_of(10, from_offset=1) == 1
    assert offset_of(60, from_offset=4) == 5
    assert offset_of(51, upper_offset=3) is None


# ------------------------------------------------------------------------------------ durability


@pytest.mark.parametrize("durability", [Durability.INTERVAL, Durability.OS])
def test_unflushed_bytes_are_counted_until_they_are_flushed(
    sim_bench: Bench, durability: Durability
) -> None:
    bench = sim_bench
    bench.durability, bench.config = durability, SMALL
    log = bench.open()
    plan = log.plan_append([batch()], now_ms=NOW_MS, leader_epoch=0)
    run_inline(log.append_job(plan, sync=False))
    log.publish(plan, synced=False, now_seconds=12.5)
    size_bytes = plan.size_bytes
    assert (log.unflushed_bytes, log.unflushed_since, log.durable_offset) == (size_bytes, 12.5, 0)
    flush, end_offset = log.flush_job(), log.log_end_offset
    bench.fill(20)
    run_inline(flush)
    log.mark_flushed(end_offset)
    assert log.durable_offset == 1
    assert log.unflushed_bytes == log.size_bytes - size_bytes
    assert log.unflushed_since == 0.0
    flush, end_offset = log.flush_job(), log.log_end_offset
    run_inline(flush)
    log.mark_flushed(end_offset)
    assert (log.unflushed_bytes, log.unflushed_since, log.durable_offset) == (0, None, 21)
    expected = bench.read_all()
    assert isinstance(bench.fs, SimFileSystem)
    bench.crash()
    bench.fs = bench.fs.crash()
    bench.open()
    assert bench.read_all() == expected


def test_a_synced_append_covers_what_was_not_synced_before(sim_bench: Bench) -> None:
    """A topic that is switched to fsync: its next acknowledgement covers everything before."""
    bench = sim_bench
    bench.durability, bench.config = Durability.OS, SMALL
    log = bench.open()
    bench.fill(20)
    assert log.durable_offset == 0
    bench.durability = log.durability = Durability.FSYNC
    bench.fill(1)
    assert (log.durable_offset, log.unflushed_bytes) == (21, 0)
    expected = bench.read_all()
    assert isinstance(bench.fs, SimFileSystem)
    bench.crash()
    bench.fs = bench.fs.crash()
    bench.open()
    assert bench.read_all() == expected


def test_one_commit_costs_one_write_and_one_sync(sim_bench: Bench, disk: SimFileSystem) -> None:
    sim_bench.open()
    sim_bench.fill(1)
    before = disk.count_calls()
    sim_bench.append(*(batch([b"%d" % number]) for number in range(10)))
    assert disk.count_calls() - before == {"write_at": 1, "sync": 1}


def test_a_broken_or_closed_log_refuses_everything(bench: Bench) -> None:
    log = bench.open()
    bench.fill(1)
    log.mark_broken()
    (outcome,) = bench.append(batch())
    assert isinstance(outcome, Refused)
    assert outcome.code is ErrorCode.KAFKA_STORAGE_ERROR
    assert bench.read(0) is not None
    log.close_files()
    assert bench.open_count == 0
    assert bench.read(0) is None
