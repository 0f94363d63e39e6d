"""The fixtures are there in a project that installed the wheel, and nothing else of this one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.packaging.fresh_project import TESTS, run_suite

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_suite_of_a_fresh_project(tmp_path: Path) -> None:
    assert f"{TESTS} passed" in run_suite(tmp_path, [], [])
