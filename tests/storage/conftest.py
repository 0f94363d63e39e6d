"""What the tests of storage share: a bench that drives one log on a real directory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.storage.bench import Bench
from trio_broker.host.file_system import RealFileSystem

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
