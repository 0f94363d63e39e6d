"""A log dir: one directory of logs, with its lock, its clean marker and its shards.

The boundary for disks: when one fails, the partitions of this log dir answer KAFKA_STORAGE_ERROR
and every other log dir goes on. Opening takes the lock, removes the clean marker, and starts the
shards; leaving closes the logs in order and writes the marker back only if nothing was missed.
"""

from __future__ import annotations

import logging
from enum import Enum
from typing import TYPE_CHECKING

from trio_broker.broker.shard import Shard
from trio_broker.errors import StorageError
from trio_broker.storage.log_dir import LogDirectory

if TYPE_CHECKING:
    from uuid import UUID

    from trio_broker.broker.state import BrokerState
    from trio_broker.broker.supervise import Supervisor
    from trio_broker.host.interface import Lane

logger = logging.getLogger("trio_broker.log_dir")


class DiskState(Enum):
    """What a log dir can do now."""

    OK = "ok"
    FAILED = "failed"  # a failed fsync or a hung system call: nothing is written any more


class LogDir:
    """A running log dir.

    Attributes:
        directory: what is on disk.
        shards: in the order of their indexes, which metadata refers to.
        disk_state: OK or FAILED; `cause` says why.
        write_failures: appends that were refused by the system (full disk, EIO) and cut back.
    """

    def __init__(self, directory: LogDirectory, state: BrokerState, lanes: list[Lane]) -> None:
        self.directory = directory
        self.disk_state = DiskState.OK
        self.cause = ""
        self.write_failures = 0
        self.supervisor: Supervisor = state.supervisor
        self._state = state
        self.shards = [
            Shard(
                name=f"{directory.path}#{index}",
                log_dir=self,
                lane=lane,
                host=state.host,
                config=state.config.storage,
                flusher=state.flusher,
            )
            for index, lane in enumerate(lanes)
        ]

    def __repr__(self) -> str:
        return f"<LogDir {self.directory.path} {self.disk_state.value} shards={self.shards}>"

    @property
    def directory_id(self) -> UUID:
        """Identity of this directory, whatever its path."""
        return self.directory.directory_id

    @property
    def is_failed(self) -> bool:
        """Whether nothing is written here any more."""
        return self.disk_state is DiskState.FAILED

    def fail(self, error: BaseException) -> None:
        """Take every replica of this log dir offline: what the disk holds is no longer known."""
        if self.is_failed:
            return
        self.disk_state = DiskState.FAILED
        self.cause = str(error)
        self.supervisor.record(f"log dir {self.directory.path}", error)
        for shard in self.shards:
            for replica in list(shard.replicas.values()):
                replica.go_offline(f"log dir {self.directory.path} failed: {error}")
        self._state.flusher.flush()

    def write_failed(self, error: StorageError | OSError) -> None:
        """Take note of a write that the system refused and that was cut back: nothing is lost."""
        self.write_failures += 1
        if self.write_failures & (self.write_failures - 1) == 0:  # at powers of two
            logger.error(
                "log dir %s: write refused (%d so far): %s",
                self.directory.path,
                self.write_failures,
                error,
            )
