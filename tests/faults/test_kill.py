"""kill -9 under load: nothing acknowledged is missing, nothing is there twice, in no mode."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.kill import run_kills

pytestmark = pytest.mark.slow


def test_ten_kills_lose_and_repeat_nothing(tmp_path: Path, seed: int) -> None:
    outcome = run_kills(tmp_path, rounds=10, seed=seed)
    outcome.report.require_clean()


def test_the_page_cache_outlives_the_process(tmp_path: Path, seed: int) -> None:
    outcome = run_kills(tmp_path, rounds=2, seed=seed, durability="os")
    outcome.report.require_clean()
