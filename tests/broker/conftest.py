"""A broker in the test's own Trio run, on a real disk in a temporary directory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from trio_broker import BrokerConfig
from trio_broker.config import TopicConfig

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def config(tmp_path: Path) -> BrokerConfig:
    """A broker without sockets."""
    return BrokerConfig(data_dir=str(tmp_path / "data"), listeners=())


@pytest.fixture
def wire_config(tmp_path: Path) -> BrokerConfig:
    """A broker that listens on loopback."""
    return BrokerConfig(
        data_dir=str(tmp_path / "data"),
        listeners=("127.0.0.1:0",),
        topic=TopicConfig(retention_ms=-1),  # timestamps of test data are years old
    )
