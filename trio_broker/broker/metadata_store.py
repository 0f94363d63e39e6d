"""The level of the tree that holds the metadata: its store, the store's lane, the controller.

Opened before the log dirs, whose replicas are what the metadata says, and closed after them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from trio_broker.broker.controller import Controller, run_controller
from trio_broker.cluster.embedded import open_embedded_store
from trio_broker.storage.foreign_directories import refuse_directories_of_kafka

if TYPE_CHECKING:
    from trio_broker.broker.state import BrokerState


@asynccontextmanager
async def open_controller(state: BrokerState) -> AsyncIterator[Controller]:
    """Open this broker's own metadata store, with its lane, and run a controller on it.

    Raises:
        ConfigError: the folder belongs to another node or cluster, or one of the directories that
            are configured to Apache Kafka.
        LogDirInUse: another broker runs on it.
        StorageError, OSError: it cannot be opened.
    """
    config, host = state.config, state.host
    lane = host.open_lane("metadata", config.storage.operation_seconds_max)
    state.disk_lanes.append(lane)
    async with trio.open_nursery() as lanes:
        await lanes.start(lane.serve)
        try:
            directories = (config.data_dir, *config.log_directories)
            await lane.run(refuse_directories_of_kafka(host.fs, directories))
            async with (
                open_embedded_store(
                    host,
                    lane,
                    config.metadata_directory,
                    node_id=config.node_id,
                    cluster_id=config.cluster_id,
                ) as store,
                run_controller(
                    store,
                    cluster_id=store.identity.cluster_id,
                    config=config,
                    supervisor=state.supervisor,
                    new_topic_id=host.entropy.uuid,
                    excluded_directories=lambda is_internal: {
                        log_dir.directory_id
                        for log_dir in state.log_dirs
                        if not log_dir.takes_replicas(is_internal=is_internal)
                    },
                ) as controller,
            ):
                yield controller
        finally:
            lanes.cancel_scope.cancel()
