"""Librdkafka closes its sockets in its own time, and skipped fault tests are not passed over."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "/faults/" in item.path.as_posix():
            item.add_marker(pytest.mark.foreign_descriptors)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """End with a line that nobody overlooks if something could not be tested here."""
    missing = sorted(
        {
            report.longrepr[2].removeprefix("Skipped: ")
            for report in terminalreporter.stats.get("skipped", [])
            if isinstance(report.longrepr, tuple) and "NOT TESTED: " in report.longrepr[2]
        }
    )
    if missing:
        terminalreporter.section("NOT TESTED ON THIS MACHINE", red=True, bold=True)
        for line in missing:
            terminalreporter.line(line)
