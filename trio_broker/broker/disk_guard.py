"""Watches one log dir's disk: room, probes while it is refused or broken, and the way back.

One task per log dir. The decisions are `storage.disk_state`'s; what they mean for replicas is
`LogDir`'s. A disk that hangs hangs this task's lane job, which then fails with `StuckIO` like any
other; the other log dirs have guards and lanes of their own.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from trio_broker.broker.supervise import Backoff
from trio_broker.errors import StorageError, StuckIO
from trio_broker.host import jobs
from trio_broker.storage.disk_state import DiskState

if TYPE_CHECKING:
    from trio_broker.broker.log_dir import LogDir
    from trio_broker.host.interface import FileSystem, Host, Job, Space

logger = logging.getLogger("trio_broker.disk_guard")

LOOK_SECONDS = 1.0
LOOK_SECONDS_TIGHT = 0.1
PROBE_BYTES = 4096
#: Ends like a temporary file, so that the next start removes what a crash leaves of it.
PROBE_NAME = "probe" + jobs.TEMPORARY_SUFFIX


def probe_job(fs: FileSystem, path: str) -> Job[Space]:
    """Write and fsync a small file, remove it, and return the room there is.

    Raises:
        AppendFailed, SyncFailed, OSError: the disk does not work.
    """
    name = f"{path}/{PROBE_NAME}"
    file = yield from jobs.open_file(fs, name, f"log-dir/{path}", create=True)
    try:
        yield from jobs.append_all(file, 0, [bytes(PROBE_BYTES)])
        yield from jobs.sync(file)
    finally:
        file.close()
    yield fs.unlink, (name,)
    space: Space = yield fs.space, (path,)
    return space


class DiskGuard:
    """The guard of one log dir."""

    def __init__(self, log_dir: LogDir, host: Host) -> None:
        self._log_dir = log_dir
        self._host = host
        self._backoff = Backoff()

    async def run(self) -> None:
        """Watch until cancelled."""
        health = self._log_dir.health
        while True:
            if health.state is DiskState.FAILED:
                await trio.sleep(self._backoff.next_seconds(trio.current_time()))
                await self._probe()
            elif health.state is DiskState.DEGRADED:
                await trio.sleep(LOOK_SECONDS_TIGHT)
                await self._probe()
            else:
                await self._look()
                await trio.sleep(LOOK_SECONDS_TIGHT if health.is_tight else LOOK_SECONDS)

    async def _look(self) -> None:
        """Learn how much room there is."""
        path = self._log_dir.directory.path
        try:
            space = await self._log_dir.lane.call(self._host.fs.space, path)
        except (StuckIO, OSError) as error:
            self._log_dir.fail(error)
            return
        before = self._log_dir.health.state
        self._log_dir.health.observe(space)
        await self._log_dir.disk_changed(before)

    async def _probe(self) -> None:
        """Find out whether a refused or broken disk works again, and bring it back if it does."""
        log_dir = self._log_dir
        health = log_dir.health
        try:
            space = await log_dir.lane.run(probe_job(self._host.fs, log_dir.directory.path))
        except (StorageError, OSError) as error:
            health.probe_failed()
            logger.debug("log dir %s still does not work: %s", log_dir.directory.path, error)
            return
        if not health.probe_succeeded(space, trio.current_time()):
            return
        before = health.state
        health.recovered(space)
        self._backoff.attempts = 0
        await log_dir.disk_changed(before)
