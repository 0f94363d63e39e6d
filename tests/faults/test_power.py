"""Power cuts, from both sides: `fsync` mode loses nothing, and the rig sees who does."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.power import lose_power_once, run_power_cuts
from tests.support.checker import Anomaly
from tests.support.requirements import require_loop_disks
from tests.support.server import SERVE_WITHOUT_FSYNC

pytestmark = pytest.mark.slow

#: Ten times storage.flush_interval_ms: a flush that is due may have to wait for a busy disk.
INTERVAL_BOUND_SECONDS = 1.0


def test_five_power_cuts_lose_nothing_acknowledged_in_fsync_mode(tmp_path: Path, seed: int) -> None:
    require_loop_disks("power cuts in fsync mode")
    outcome = run_power_cuts(tmp_path, rounds=5, seed=seed)
    outcome.report.require_clean()


def test_os_mode_loses_what_the_kernel_had_not_written(tmp_path: Path) -> None:
    """The rig's own proof: where nothing is promised, it really takes something away."""
    require_loop_disks("that a power cut loses data in os mode")
    loss = lose_power_once(tmp_path, durability="os")
    assert loss.report.lost
    assert loss.lost_before_load == 0
    assert_only_lost_at_the_end(loss.report.found, suffixes=loss.report.lost_are_suffixes)


def test_interval_mode_loses_no_more_than_its_bound(tmp_path: Path) -> None:
    require_loop_disks("the bound of interval mode")
    loss = lose_power_once(tmp_path, durability="interval", load_seconds=2.5)
    assert loss.lost_before_load == 0
    assert loss.oldest_lost_seconds <= INTERVAL_BOUND_SECONDS
    assert_only_lost_at_the_end(loss.report.found, suffixes=loss.report.lost_are_suffixes)


def test_a_build_without_fsync_is_caught_in_fsync_mode(tmp_path: Path) -> None:
    """The same run as in fsync mode, against a server whose fsync does nothing."""
    require_loop_disks("that a build without fsync is caught")
    loss = lose_power_once(tmp_path, durability="fsync", command=SERVE_WITHOUT_FSYNC)
    assert Anomaly.LOST_WRITE in loss.report.found


def test_the_same_run_with_fsync_is_clean(tmp_path: Path) -> None:
    require_loop_disks("that a power cut loses nothing in fsync mode")
    loss = lose_power_once(tmp_path, durability="fsync")
    loss.report.require_clean()


def assert_only_lost_at_the_end(found: object, *, suffixes: bool) -> None:
    """A prefix is left: no hole, no record twice, no offset with another record than promised."""
    assert set(found) <= {Anomaly.LOST_WRITE}
    assert suffixes
