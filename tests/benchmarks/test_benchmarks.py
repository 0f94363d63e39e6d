"""The yardstick measures, the tables add up, and the server's footprint stays within its limits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.benchmarks import footprint
from tests.benchmarks.cells import CELLS, TWIN, Row, run_twin
from tests.benchmarks.report import Summary, limits, markdown, summarise, write
from tests.support.processes import MIB


def row(system: str, number: int, cpu_seconds: float, **changes: object) -> Row:
    values: dict[str, object] = {
        "cell": "1 KiB, 1 partition",
        "action": "produce",
        "system": system,
        "durability": "none" if system == TWIN else "fsync",
        "round": number,
        "records": 1_000_000,
        "megabytes": 1024.0,
        "seconds": 2.0,
        "cpu_seconds": cpu_seconds,
        "frame_bytes": 1_000_000,
        "rss_before_bytes": 40 * MIB,
        "rss_after_bytes": 50 * MIB,
        **changes,
    }
    return Row(**values)  # type: ignore[arg-type]


def summary_of(rows: list[Row], system: str) -> Summary:
    (summary,) = [summary for summary in summarise(rows) if summary.system == system]
    return summary


def test_shares_are_taken_within_each_round_and_then_their_median() -> None:
    rows = [
        *(row("trio-broker", 1, 1.0), row(TWIN, 1, 0.5)),
        *(row("trio-broker", 2, 4.0), row(TWIN, 2, 2.0)),
        *(row("trio-broker", 3, 2.0), row(TWIN, 3, 0.2)),
    ]
    ours = summary_of(rows, "trio-broker")
    assert ours.share_of_twin == pytest.approx(0.5)
    assert ours.cpu_us_per_record == pytest.approx(2.0)
    assert ours.megabytes_per_cpu_second == pytest.approx(512)
    assert (ours.rounds, ours.noisy) == (3, True)


def test_a_steady_yardstick_is_not_noisy() -> None:
    rows = [row(TWIN, 1, 0.50), row(TWIN, 2, 0.60), row("trio-broker", 1, 1.0)]
    assert not summary_of(rows, "trio-broker").noisy
    assert summary_of(rows, TWIN).share_of_twin == pytest.approx(1.0)


def test_results_are_written_as_tables_and_as_data(tmp_path: Path) -> None:
    latency = {"p50_ms": 0.3, "p99_ms": 0.5, "max_ms": 2.0}
    rows = [
        row("trio-broker", 1, 1.0),
        row(TWIN, 1, 0.5),
        row("trio-broker", 1, 0.9, action="fetch"),
        row("trio-broker", 1, 0.7, cell="one", records=3000, latency_ms=latency),
    ]
    facts = [("idle server: memory", "43.0 MiB", "60 MiB")]
    write(tmp_path, rows, summarise(rows), facts)
    data = json.loads((tmp_path / "results.json").read_text())
    assert len(data["rows"]) == 4
    text = (tmp_path / "results.md").read_text()
    assert text == markdown(summarise(rows), facts)
    assert "| 1 KiB, 1 partition | trio-broker | fsync | 1.00 | 1024 | 0.50 | 500,000 |" in text
    assert "| trio-broker | fsync | 233 | 0.30 | 0.50 | 2.00 |" in text
    assert "| idle server: memory | 43.0 MiB | 60 MiB |" in text


def test_the_worst_of_the_promised_figures_is_named() -> None:
    rows = [
        *(row("trio-broker", 1, 1.0), row(TWIN, 1, 0.5)),
        row("trio-broker", 1, 2.0, cell="1 KiB, 6 partitions", rss_after_bytes=61 * MIB),
        row(TWIN, 1, 0.5, cell="1 KiB, 6 partitions"),
        *(row("trio-broker", 1, 9.0, cell="100 B"), row(TWIN, 1, 0.5, cell="100 B")),
    ]
    assert [(value, limit) for _, value, limit in limits(summarise(rows))] == [
        ("0.25", "at least 0.3"),
        ("61.0 MiB", "80 MiB"),
    ]
    assert limits([]) == []


def test_the_twin_moves_every_byte_both_ways(tmp_path: Path) -> None:
    cell = CELLS[0].scaled(0.01)
    total_bytes = cell.records * cell.record_bytes
    rows = list(run_twin(cell, frame_bytes=100_000, number=1, directory=tmp_path))
    assert [row.action for row in rows] == ["produce", "fetch"]
    for measured in rows:
        assert 0.8 * total_bytes < measured.megabytes * 1e6 <= total_bytes
        assert measured.cpu_seconds > 0
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.foreign_descriptors
def test_an_idle_server_is_light(tmp_path: Path) -> None:
    idle = footprint.idle_server(tmp_path, seconds=2.0)
    assert idle.rss_bytes < footprint.IDLE_RSS_MAX_BYTES
    assert idle.cpu_seconds < footprint.IDLE_CPU_SECONDS_MAX


@pytest.mark.slow
@pytest.mark.foreign_descriptors
def test_two_thousand_idle_partitions_are_light(tmp_path: Path) -> None:
    """`python -m tests.benchmarks` watches for 30 seconds instead of 10."""
    idle = footprint.idle_partitions(tmp_path, seconds=10.0)
    assert idle.rss_bytes < footprint.PARTITIONS_RSS_MAX_BYTES
    assert idle.descriptors < footprint.DESCRIPTORS_MAX
    assert idle.cpu_seconds < footprint.IDLE_CPU_SECONDS_MAX
