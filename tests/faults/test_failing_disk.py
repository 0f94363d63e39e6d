"""A disk that fails for a moment, and a server that is started beside what the fault has left."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.failing_disk import Result, run_on_one_disk
from tests.support.requirements import require_faulty_disks

pytestmark = pytest.mark.slow

#: A way to lose something acknowledged, once.
ROUNDS = ("nothing new fits, stops",)


def test_nothing_acknowledged_is_lost_on_a_disk_that_fails(tmp_path: Path, seed: int) -> None:
    require_faulty_disks("a disk that fails for a moment")
    result = Result()
    report = run_on_one_disk(tmp_path, "ext4", ROUNDS, seed=seed, result=result)
    report.require_clean()
    print(result)
