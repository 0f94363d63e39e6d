"""docs/reference/configuration.md is what the code says."""

from __future__ import annotations

from tests.cli.reference_page import PAGE, render


def test_the_reference_page_is_up_to_date() -> None:
    assert PAGE.read_text("utf-8") == render(), "run: python -m tests.cli.reference_page"
