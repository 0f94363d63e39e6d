"""Directories of deleted replicas, of one log dir: moved out of the way at once, removed in time.

Moving is part of the deletion: a topic counts as deleted once the new names are durable. Removing
gives the space back, a few files a job, with pauses in between, so that a large topic that goes
does not hold up those that stay; on a disk that is low on space without pauses. Both begin again
after a restart: moving because the metadata remembers the topic until it is done, removing because
the names say what they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import trio

from trio_broker.broker.supervise import Backoff
from trio_broker.errors import LogDirFailed, StorageError, StuckIO, SyncFailed
from trio_broker.storage import paths

if TYPE_CHECKING:
    from trio_broker.broker.log_dir import LogDir
    from trio_broker.host.interface import Lane
    from trio_broker.names import TopicPartition

#: Directories renamed with one job of the lane: some milliseconds.
RENAMED_TOGETHER = 32
#: No pause between two removals is longer.
PAUSE_SECONDS_MAX = 1.0


class DeletedReplicas:
    """What is left of deleted replicas in one log dir.

    Attributes:
        names: of directories that are to be removed.
    """

    def __init__(self, log_dir: LogDir) -> None:
        self.names = list(log_dir.directory.deleted)
        self._refused: set[str] = set()
        self._retry_at = -math.inf
        self._backoff = Backoff()
        self._log_dir = log_dir
        self._told = trio.Event()
        self._is_stopped = False
        if self.names:
            self._told.set()

    async def move_away(self, lane: Lane, replicas: Sequence[TopicPartition]) -> None:
        """Give the directories of replicas, whose files are closed, names that say so, durably.

        May be called again for the same replicas, after a failure. Others get the lane in between.

        Cancellation: some have been moved, and perhaps not durably. The metadata still knows of the
        deletion, and the next start goes on with it.

        Raises:
            StorageError, OSError: some may still be in their places; those that are not are taken
                care of.
        """
        log_dir = self._log_dir
        failures: dict[str, OSError] = {}
        try:
            for first in range(0, len(replicas), RENAMED_TOGETHER):
                if log_dir.is_failed:
                    path = log_dir.directory.path
                    raise LogDirFailed(f"log dir {path} has failed: {log_dir.cause}")
                some = replicas[first : first + RENAMED_TOGETHER]
                sync = first + RENAMED_TOGETHER >= len(replicas)
                failures |= await lane.run(log_dir.directory.move_away_job(some, sync=sync))
        except (StuckIO, SyncFailed) as fault:
            log_dir.fail(fault)
            raise
        moved = dict.fromkeys(map(paths.deleted_name, replicas))
        known = failures.keys() | self.names
        self.names += [name for name in moved if name not in known]
        self.tell()
        for error in failures.values():
            log_dir.removal_failed(error)
            raise error

    def tell(self) -> None:
        """Let the task look whether there is something to remove."""
        if self.names:
            self._told.set()

    def stop(self) -> None:
        """Begin no more removals."""
        self._is_stopped = True

    async def remove_when_told(self) -> None:
        """Remove what is to be removed, soon after it is known, until cancelled."""
        while True:
            await self._told.wait()
            self._told = trio.Event()
            await self.remove_all()

    async def remove_all(self) -> None:
        """Remove the files of deleted replicas, beside other work.

        Those that cannot be removed now do not keep the others waiting; they are tried again when
        somebody tells, ever more seldom.
        """
        log_dir = self._log_dir
        if trio.current_time() >= self._retry_at:
            self._refused.clear()
        while (name := self._next_name()) and not log_dir.is_failed and not self._is_stopped:
            began = trio.current_time()
            try:
                is_gone = await log_dir.lane.run(log_dir.directory.remove_deleted_job(name))
            except (StorageError, OSError) as error:
                log_dir.removal_failed(error)
                if not self._refused:
                    now = trio.current_time()
                    self._retry_at = now + self._backoff.next_seconds(now)
                self._refused.add(name)
            else:
                if is_gone and name in self.names:  # or somebody else has been at it too
                    self.names.remove(name)
            if self._next_name() and not log_dir.health.is_tight:
                # At most half of the lane's time, whatever the disk's speed.
                await trio.sleep(min(PAUSE_SECONDS_MAX, trio.current_time() - began))

    def _next_name(self) -> str | None:
        return next((name for name in self.names if name not in self._refused), None)
