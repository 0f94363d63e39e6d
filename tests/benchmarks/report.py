"""From measurements to tables: medians over rounds, and each row's share of the twin's."""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import psutil

from tests.benchmarks.cells import TWIN, Row

#: A yardstick that varies more than this between rounds makes the run noisy.
NOISY_SPREAD = 0.30
#: Least MB per server CPU second, as a share of the twin's, with fsync before each acknowledgement.
SHARE_MIN = 0.30
#: What has to come up to it.
PROMISED_CELLS = ("1 KiB, 1 partition", "1 KiB, 6 partitions")
#: Most memory after a gigabyte has passed through.
RSS_MAX_MIB = 80
_THROUGHPUT_HEAD = (
    "| load | system | durability | server CPU µs per record | MB per server CPU s"
    " | share of the twin | records/s | MB/s | request KB | RSS MiB before → after |"
)


@attrs.frozen(kw_only=True)
class Summary:
    """All rounds of one system in one cell.

    Attributes:
        share_of_twin: MB per server CPU second divided by the twin's of the same round, median.
        noisy: the twin itself varied too much between rounds to be a yardstick.
    """

    cell: str
    action: str
    system: str
    durability: str
    rounds: int
    cpu_us_per_record: float
    megabytes_per_cpu_second: float
    share_of_twin: float | None
    noisy: bool
    records_per_second: float
    megabytes_per_second: float
    frame_bytes: int
    rss_before_mib: float
    rss_after_mib: float
    latency_ms: dict[str, float]


def summarise(rows: Sequence[Row]) -> list[Summary]:
    """Return one summary for each cell, action, system and durability, in order of appearance."""
    groups: dict[tuple[str, str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.cell, row.action, row.system, row.durability), []).append(row)
    return [_summary(group, rows) for group in groups.values()]


def _summary(group: Sequence[Row], rows: Sequence[Row]) -> Summary:
    first = group[0]
    twins = {
        row.round: row.megabytes_per_cpu_second
        for row in rows
        if (row.cell, row.action, row.system) == (first.cell, first.action, TWIN)
    }
    shares = [
        row.megabytes_per_cpu_second / twins[row.round] for row in group if row.round in twins
    ]
    spread = max(twins.values()) / min(twins.values()) - 1 if twins else 0.0

    def median(value: Callable[[Row], float]) -> float:
        return statistics.median(map(value, group))

    return Summary(
        cell=first.cell,
        action=first.action,
        system=first.system,
        durability=first.durability,
        rounds=len(group),
        cpu_us_per_record=median(lambda row: row.cpu_us_per_record),
        megabytes_per_cpu_second=median(lambda row: row.megabytes_per_cpu_second),
        share_of_twin=statistics.median(shares) if shares else None,
        noisy=spread > NOISY_SPREAD,
        records_per_second=median(lambda row: row.records / row.seconds),
        megabytes_per_second=median(lambda row: row.megabytes / row.seconds),
        frame_bytes=round(median(lambda row: row.frame_bytes)),
        rss_before_mib=median(lambda row: row.rss_before_bytes / 2**20),
        rss_after_mib=median(lambda row: row.rss_after_bytes / 2**20),
        latency_ms={
            key: statistics.median(row.latency_ms[key] for row in group) for key in first.latency_ms
        },
    )


def limits(summaries: Sequence[Summary]) -> list[tuple[str, str, str]]:
    """Return what the throughput cells promise: name, worst value measured, limit."""
    large = [s for s in summaries if s.cell in PROMISED_CELLS and s.system == "trio-broker"]
    shares = [
        s.share_of_twin
        for s in large
        if (s.action, s.durability) == ("produce", "fsync") and s.share_of_twin is not None
    ]
    rows = []
    if shares:
        name = "1 KiB produced in fsync mode: smallest share of the twin"
        rows.append((name, f"{min(shares):.2f}", f"at least {SHARE_MIN}"))
    if large:
        name = "1 KiB cells: most memory afterwards"
        most = max(s.rss_after_mib for s in large)
        rows.append((name, f"{most:.1f} MiB", f"{RSS_MAX_MIB} MiB"))
    return rows


def machine() -> dict[str, Any]:
    """Say what the numbers were measured on."""
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "cpus": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "load_average": psutil.getloadavg()[0],
    }


def markdown(summaries: Sequence[Summary], facts: Sequence[tuple[str, str, str]]) -> str:
    """Return the tables: throughput by action, latency, and the other facts."""
    about = machine()
    lines = [", ".join(f"{key} {value}" for key, value in about.items()), ""]
    throughput = [s for s in summaries if not s.latency_ms]
    for action in dict.fromkeys(s.action for s in throughput):
        lines += [
            f"**{action}**",
            "",
            _THROUGHPUT_HEAD,
            "|---|---|---|--:|--:|--:|--:|--:|--:|--:|",
        ]
        lines += [_throughput_line(s) for s in throughput if s.action == action]
        lines.append("")
    latency = [s for s in summaries if s.latency_ms]
    if latency:
        lines += [
            "**one record at a time**",
            "",
            "| system | durability | server CPU µs per record | p50 ms | p99 ms | max ms |",
            "|---|---|--:|--:|--:|--:|",
        ]
        lines += [
            f"| {s.system} | {s.durability} | {s.cpu_us_per_record:.0f}"
            f" | {s.latency_ms['p50_ms']:.2f} | {s.latency_ms['p99_ms']:.2f}"
            f" | {s.latency_ms['max_ms']:.2f} |"
            for s in latency
        ]
        lines.append("")
    if facts:
        lines += ["| measured | value | limit |", "|---|--:|--:|"]
        lines += [f"| {name} | {value} | {limit} |" for name, value, limit in facts]
        lines.append("")
    return "\n".join(lines)


def _throughput_line(s: Summary) -> str:
    share = "" if s.share_of_twin is None else f"{s.share_of_twin:.2f}{' noisy' * s.noisy}"
    per_record = "" if s.system.startswith(TWIN) else f"{s.cpu_us_per_record:.2f}"
    records = "" if s.system.startswith(TWIN) else f"{s.records_per_second:,.0f}"
    request_kb = f"{s.frame_bytes / 1000:.0f}" if s.frame_bytes else ""
    return (
        f"| {s.cell} | {s.system} | {s.durability} | {per_record}"
        f" | {s.megabytes_per_cpu_second:.0f} | {share} | {records}"
        f" | {s.megabytes_per_second:.0f} | {request_kb}"
        f" | {s.rss_before_mib:.0f} → {s.rss_after_mib:.0f} |"
    )


def write(
    directory: Path,
    rows: Sequence[Row],
    summaries: Sequence[Summary],
    facts: Sequence[tuple[str, str, str]],
) -> None:
    """Write results.json (every measurement) and results.md (the tables)."""
    directory.mkdir(parents=True, exist_ok=True)
    everything = {
        "machine": machine(),
        "rows": [attrs.asdict(row) for row in rows],
        "summaries": [attrs.asdict(summary) for summary in summaries],
        "facts": facts,
    }
    (directory / "results.json").write_text(json.dumps(everything, indent=1))
    (directory / "results.md").write_text(markdown(summaries, facts))
