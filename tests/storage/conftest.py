"""What the tests of storage share: a bench that drives one log, on a real or a simulated disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.storage.bench import Bench
from trio_broker.host.file_system import RealFileSystem
from trio_broker.testing.sim.disk import SimFileSystem

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A log dir on the real filesystem with one replica, not yet opened."""
    log_dir = tmp_path / "logs"
    log_dir.mkdir()
    with Bench(RealFileSystem(), str(log_dir)) as made:
        yield made


@pytest.fixture
def disk() -> SimFileSystem:
    """A simulated disk without faults, with an empty log dir."""
    fs = SimFileSystem(1)
    fs.prepare_directory("/logs")
    return fs


@pytest.fixture
def sim_bench(disk: SimFileSystem) -> Iterator[Bench]:
    """The same as `bench` on the simulated disk."""
    with Bench(disk, "/logs") as made:
        yield made
