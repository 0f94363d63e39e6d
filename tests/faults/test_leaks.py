"""What comes and goes in a program leaves nothing behind; the command shows it for much longer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.leaks import run_leaks

pytestmark = pytest.mark.slow


async def test_topics_and_brokers_come_and_go_and_leave_nothing(tmp_path: Path) -> None:
    """`python -m tests.faults.leaks` counts memory too, which takes a thousand brokers."""
    leaks = await run_leaks(tmp_path, records=3000, cycles=12, brokers=25)
    print(leaks)
    leaks.require()
