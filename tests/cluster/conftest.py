"""Stores on the real machine."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest
import trio

from trio_broker.cluster import embedded, embedded_folder
from trio_broker.cluster.embedded import open_embedded_store
from trio_broker.config import KIB, TopicConfig
from trio_broker.host.real import real_host


@asynccontextmanager
async def open_store(host, directory, *, node_id=0, cluster_id=None):
    """Open a store with a lane of its own, served as a broker would."""
    lane = host.open_lane("metadata", 5.0)
    async with trio.open_nursery() as nursery:
        await nursery.start(lane.serve)
        try:
            async with open_embedded_store(
                host, lane, directory, node_id=node_id, cluster_id=cluster_id
            ) as store:
                yield store
        finally:
            nursery.cancel_scope.cancel()


@pytest.fixture
def open_real_store(tmp_path):
    """Open the one store of the test; again and again, if it wants to."""
    host = real_host()

    def open_it(**keywords):
        return open_store(host, str(tmp_path / "data" / "metadata"), **keywords)

    open_it.directory = tmp_path / "data" / "metadata"
    return open_it


@pytest.fixture
def small_store(monkeypatch):
    """Let snapshots, segments and recovery points be due after few bytes."""
    monkeypatch.setattr(embedded, "SNAPSHOT_AFTER_BYTES", 1500)
    monkeypatch.setattr(embedded, "TIDY_AGAIN_BYTES", 300)
    monkeypatch.setattr(
        embedded_folder,
        "JOURNAL_CONFIG",
        TopicConfig(segment_bytes=KIB, retention_ms=-1, retention_bytes=-1, file_delete_delay_ms=0),
    )
    monkeypatch.setattr(
        embedded_folder,
        "JOURNAL_SETTINGS",
        embedded_folder.LogSettings(
            producer_ids_max=1, producer_id_expiration_ms=1, recovery_point_bytes=700
        ),
    )
