"""Looking into a replica's directory from outside."""

from __future__ import annotations

import pytest

from tests.storage.bench import Bench, batch, values_in
from trio_broker.config import TopicConfig
from trio_broker.records.compression import Compression
from trio_broker.storage import paths
from trio_broker.storage.inspect import (
    Severity,
    inspect_batches,
    inspect_replica,
    inspect_segments,
    verify_replica,
)
from trio_broker.testing.sim.disk import SimFileSystem


@pytest.fixture
def filled(sim_bench: Bench) -> Bench:
    sim_bench.config = TopicConfig(segment_bytes=2048, index_interval_bytes=150)
    sim_bench.open()
    sim_bench.append(batch([b"p" * 30], producer_id=5))
    sim_bench.fill(30)
    sim_bench.checkpoint()
    sim_bench.fill(5)
    return sim_bench


def log_path(bench: Bench, offset: int) -> str:
    return f"{bench.directory}/{paths.offset_name(offset, paths.LOG_SUFFIX)}"


def test_a_sound_log_has_no_findings_even_while_it_is_used(filled: Bench) -> None:
    before = filled.fs.open_files()
    assert list(verify_replica(filled.fs, filled.directory)) == []
    assert filled.fs.open_files() == before


def test_batches_are_shown_as_they_lie(filled: Bench) -> None:
    rows = list(inspect_batches(filled.fs, filled.directory))
    assert len(rows) == 36
    assert all(row.header is not None and not row.fault for row in rows)
    assert rows[0].header is not None
    assert (rows[0].header.producer_id, rows[0].codec) == (5, Compression.NONE.name.lower())
    assert values_in([row.batch for row in rows]) == filled.read_all()
    rows = list(inspect_batches(filled.fs, filled.directory, from_offset=20))
    assert rows[0].header is not None
    assert rows[0].header.base_offset == 20


def test_segments_and_the_replica_are_described(filled: Bench) -> None:
    segments = list(inspect_segments(filled.fs, filled.directory))
    assert [segment.end_offset for segment in segments[:-1]] == [
        segment.base_offset for segment in segments[1:]
    ]
    assert sum(segment.records for segment in segments) == 36
    assert {segment.index_state for segment in segments[:-2]} == {"ok"}
    report = inspect_replica(filled.fs, filled.directory)
    assert report.metadata is not None
    assert report.metadata["topic"] == "orders"
    assert report.checkpoint is not None
    assert report.checkpoint.end.offset == 31
    assert report.segments == [segment.base_offset for segment in segments]
    assert not report.sync_failed


def test_damage_is_told_from_a_torn_tail(filled: Bench, disk: SimFileSystem) -> None:
    last = inspect_replica(disk, filled.directory).segments[-1]
    disk.damage(log_path(filled, last), len(disk.content(log_path(filled, last))) - 5, b"?")
    (finding,) = verify_replica(disk, filled.directory)
    assert finding.severity is Severity.TAIL
    assert "CRC" in finding.message
    disk.damage(log_path(filled, 0), 200, b"?")
    findings = list(verify_replica(disk, filled.directory))
    assert next(finding.severity for finding in findings if "0.log" in finding.path) is (
        Severity.DAMAGE
    )
    rows = [row for row in inspect_batches(disk, filled.directory) if row.fault]
    assert {row.segment for row in rows} == {0, last}


def test_missing_segments_and_rotten_derived_files_are_found(
    filled: Bench, disk: SimFileSystem
) -> None:
    bases = inspect_replica(disk, filled.directory).segments
    disk.unlink(log_path(filled, bases[1]))
    for name in filled.names():
        if name.endswith((".index", ".snapshot", ".json")) and not name.startswith(
            f"{bases[1]:020d}"
        ):
            disk.rot(f"{filled.directory}/{name}", bits=7)
    findings = list(verify_replica(disk, filled.directory))
    damaged = {finding.path for finding in findings if finding.severity is Severity.DAMAGE}
    assert damaged == {log_path(filled, bases[1]), log_path(filled, bases[2])}
    derived = [finding for finding in findings if finding.severity is Severity.DERIVED]
    assert len(derived) >= 3
    filled.crash()


def test_an_index_that_lies_is_found(filled: Bench, disk: SimFileSystem) -> None:
    index, times = f"{filled.directory}/{0:020d}.index", f"{filled.directory}/{0:020d}.timeindex"
    from trio_broker.host.jobs import run_inline, write_small_file
    from trio_broker.storage.index import SegmentIndex

    wrong = SegmentIndex()
    for number in range(12):
        wrong.note(number, 167 if number else 150, 1, 150)
    for path, payload in zip((index, times), wrong.to_payloads(0), strict=True):
        run_inline(write_small_file(disk, path, "test", payload))
    findings = [f for f in verify_replica(disk, filled.directory) if f.path == index]
    assert findings
    assert findings[0].severity is Severity.DERIVED
