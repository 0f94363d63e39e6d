"""Writes the tables of docs/reference/metrics.md: ``python -m tests.admin.reference_page``.

The tables come from the families that a scrape is made of; a test compares.
"""

from __future__ import annotations

from pathlib import Path

from trio_broker.admin.families import Family
from trio_broker.admin.metrics import COMPATIBLE, FAMILIES, INFO, REQUEST_SECONDS
from trio_broker.broker.request_counters import LATENCY_BOUNDS_SECONDS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "metrics.md"

#: All below this line of the page is written; what stands above is prose.
MARK = "<!-- Below: written by python -m tests.admin.reference_page -->\n"


def table(families: tuple[Family, ...]) -> str:
    """Return a table of families."""
    lines = ["| Name | Kind | Labels | Meaning |", "|---|---|---|---|"]
    for family in families:
        labels = ", ".join(family.labels)
        lines.append(f"| `{family.name}` | {family.kind} | {labels} | {family.help} |")
    return "\n".join(lines) + "\n"


def buckets() -> str:
    """Return the bounds of the latencies."""
    return ", ".join(f"{bound:g}" for bound in LATENCY_BOUNDS_SECONDS)


def render_page(present: str) -> str:
    """Return the page with its prose as it is and its tables as they should be."""
    (info, info_labels, info_help), (seconds, labels, seconds_help) = INFO, REQUEST_SECONDS
    special = (
        Family(info, "gauge", info_labels, info_help, lambda _: ()),
        Family(seconds, "histogram", labels, seconds_help, lambda _: ()),
    )
    prose = present.partition(MARK)[0]
    parts = [
        table((*special, *FAMILIES)),
        f"Buckets of `{seconds}`: {buckets()} seconds.\n",
        "### kafka_exporter's names, with `metrics.compat=kafka_exporter`\n",
        table(COMPATIBLE["kafka_exporter"]),
    ]
    return prose + MARK + "\n" + "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(render_page(PAGE.read_text("utf-8")), "utf-8")
    print(f"wrote {PAGE}")
