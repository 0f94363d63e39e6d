"""The page of client compatibility is about the clients and tests there are, and all of it works.

What it says comes from running them: ``python -m tests.clients.compatibility``.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients import compatibility
from tests.clients.compatibility import COLUMNS, FAILED, FILES, NONE, PAGE, SKIPPED, YES, Tried
from tests.clients.foreign.__main__ import CLIENTS as FOREIGN
from tests.clients.foreign.__main__ import Outcome
from tests.clients.group_member import MEMBERS
from tests.clients.worker import ADMINS, CLIENTS


def tables_of(page: str) -> list[list[list[str]]]:
    """Return the fields of each row of each table, headers first."""
    tables: list[list[list[str]]] = []
    was_table = False
    for line in page.splitlines():
        is_table = line.startswith("|")
        if is_table and not was_table:
            tables.append([])
        if is_table and not line.startswith("|---"):
            tables[-1].append([field.strip() for field in line.strip("|").split("|")])
        was_table = is_table
    return tables


def test_the_page_is_about_the_tests_and_clients_there_are() -> None:
    again = "write it again: python -m tests.clients.compatibility"
    suite, foreign = tables_of(PAGE.read_text("utf-8"))
    header, *rows = suite
    assert [field.split()[0] for field in header[1:]] == list(COLUMNS.values()), again
    tests = [test for file in FILES for test in compatibility.tests_of(file)]
    assert [row[0] for row in rows] == [compatibility.sentence_of(test) for test in tests], again
    assert [row[0] for row in foreign[1:]] == list(FOREIGN), again


def test_all_that_the_page_says_was_tried_works() -> None:
    suite, foreign = tables_of(PAGE.read_text("utf-8"))
    for row in suite[1:]:
        assert set(row[1:]) <= {YES, NONE}, row
        assert YES in row[1:], row
    for row in foreign[1:]:
        assert row[3] == YES, row
        assert row[2], row
        assert row[4], row


def test_every_client_of_the_tests_has_a_column() -> None:
    for name in (*CLIENTS, *ADMINS, *MEMBERS):
        assert compatibility.client_of("test_something", f"gzip-{name}") in COLUMNS
    with pytest.raises(ValueError, match="SINGLE"):
        compatibility.client_of("test_something", "gzip")


def test_results_are_read_and_the_worst_of_each_counts(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text(
        "<testsuites><testsuite>"
        '<testcase name="test_offsets_by_timestamp[kcat]"/>'
        '<testcase name="test_offsets_by_timestamp[aiokafka-none]"/>'
        '<testcase name="test_offsets_by_timestamp[aiokafka-gzip]"><failure/></testcase>'
        '<testcase name="test_configs_are_described_in_full[confluent-admin]"><skipped/></testcase>'
        "</testsuite></testsuites>",
        "utf-8",
    )
    tried = list(compatibility.read_results(report))
    assert tried[0] == Tried("test_offsets_by_timestamp", "kcat", YES)
    java = Outcome("java", "4.2", passed=True, seconds=1.0, said="version 4.2\nok one\nok two\n")
    page = compatibility.render(
        tried, dict.fromkeys(COLUMNS, "1.0"), [("java", "", java), ("go", "no go", java)]
    )
    suite, foreign = tables_of(page)
    rows = {row[0]: row[1:] for row in suite}
    assert rows["offsets by timestamp"] == [NONE, YES, FAILED, NONE]
    assert rows["configs are described in full"] == [SKIPPED, NONE, NONE, NONE]
    assert foreign[1] == ["java", "Java", "4.2", YES, "one; two"]
    assert foreign[2][3] == "no go"
