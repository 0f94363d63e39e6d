"""Appending, publishing and reading, on real files."""

from __future__ import annotations

from tests.storage.bench import Bench, batch
from trio_broker.storage.log import Accepted


def test_records_come_back_in_order_and_complete(bench: Bench) -> None:
    bench.open()
    assert bench.append(batch([b"a", b"b"]), batch([b"c"])) == [Accepted(0, -1), Accepted(2, -1)]
    assert bench.append(batch([b"d"])) == [Accepted(3, -1)]
    assert bench.read_all() == [(0, b"a"), (1, b"b"), (2, b"c"), (3, b"d")]
    assert bench.log.log_end_offset == bench.log.durable_offset == 4
    bench.open()
    assert bench.read_all() == [(0, b"a"), (1, b"b"), (2, b"c"), (3, b"d")]
    summary = bench.stop()
    bench.open(summary)
    assert bench.read_all() == [(0, b"a"), (1, b"b"), (2, b"c"), (3, b"d")]
