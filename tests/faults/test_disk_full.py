"""A disk that is really full: refusals with a reason, nothing lost, and no restart to recover."""

from __future__ import annotations

from pathlib import Path

import pytest
from confluent_kafka.admin import NewTopic

from tests.faults.disk_full import DISK_BYTES, PARTITIONS, PROMISED, Clients, run_filling
from tests.faults.rounds import Site
from tests.support.disks import loop_disk, tmpfs
from tests.support.requirements import require_loop_disks, require_tmpfs

pytestmark = pytest.mark.slow


def test_a_full_disk_refuses_and_recovers_round_after_round(tmp_path: Path, seed: int) -> None:
    """`python -m tests.faults.disk_full` goes on for longer."""
    require_tmpfs("a disk that is really full")
    with tmpfs(tmp_path, name="small", size_bytes=DISK_BYTES) as disk:
        run_filling(tmp_path, disk, rounds=4, seed=seed)


def test_a_full_disk_with_delayed_allocation(tmp_path: Path, seed: int) -> None:
    """Where blocks are found when pages are written back, not when they are written."""
    require_loop_disks("a full disk with delayed allocation")
    with loop_disk(tmp_path, size_bytes=DISK_BYTES) as disk:
        run_filling(tmp_path, disk.mount_point, rounds=2, seed=seed)


def test_a_byte_budget_that_is_used_up_by_promises_is_a_refusal_of_its_own(tmp_path: Path) -> None:
    settings = {"storage.bytes_max": 4 << 20, "shutdown.ready_grace_seconds": 0}
    site = Site(tmp_path / "data", tmp_path / "server.log", settings)
    server = site.start()
    try:
        clients = Clients(site.bootstrap, 1)
        new = NewTopic("promised", PARTITIONS, config=PROMISED)
        clients.admin.create_topics([new])["promised"].result(30)
        clients.fill("promised", 0)
        assert set(clients.refused) == {"POLICY_VIOLATION"}
        assert clients.read("promised", 0) == clients.acknowledged["promised", 0]
        clients.close()
        assert server.stop() == 0
    finally:
        server.kill()
