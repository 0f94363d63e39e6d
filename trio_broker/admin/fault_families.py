"""Metric families of faults: how many the boundaries of the task tree have stopped, and which."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trio_broker.admin.families import Family, Row, Shown
from trio_broker.admin.statistics import BOUNDARY_KINDS, boundary_kind

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Boundaries, those that stopped a fault last, of which the last fault is shown.
BOUNDARIES_MAX: Final = 50
#: Of what a fault says, so much is shown.
CAUSE_LENGTH_MAX: Final = 200


def _faults(shown: Shown) -> Iterator[Row]:
    counts = dict.fromkeys(("connection", "handler", *BOUNDARY_KINDS), 0)
    for fault in shown.statistics.faults:
        kind = boundary_kind(fault.boundary)
        counts[kind] = counts.get(kind, 0) + fault.count
    for kind, count in counts.items():
        yield (kind,), count


def _last_faults(shown: Shown) -> Iterator[Row]:
    for fault in shown.statistics.faults[-BOUNDARIES_MAX:]:
        yield (fault.boundary, fault.last_cause[:CAUSE_LENGTH_MAX]), fault.count


FAULT_FAMILIES: Final = (
    Family(
        "trio_broker_faults_total",
        "counter",
        ("boundary",),
        "Unexpected errors, by the kind of boundary that stopped them. Any is a bug or a broken "
        "disk.",
        _faults,
    ),
    Family(
        "trio_broker_last_fault",
        "gauge",
        ("boundary", "cause"),
        f"For the {BOUNDARIES_MAX} boundaries that stopped a fault last: how many, and what the "
        "newest one says.",
        _last_faults,
    ),
)
