"""Watches one log dir's disk: room, probes while it is refused or broken, and the way back.

One task per log dir. It looks once a second while the broker writes, or the room changes because
others do; on a quiet disk ever more rarely, and again at once when the first write comes. The
decisions are `storage.disk_state`'s; what they mean for replicas is
`LogDir`'s. A disk that hangs hangs this task's lane job, which then fails with `StuckIO` like any
other; the other log dirs have guards and lanes of their own.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from trio_broker.broker.paced_log import PacedLog
from trio_broker.broker.supervise import Backoff
from trio_broker.config import MIB
from trio_broker.errors import AppendFailed, CorruptLog, StorageError, StuckIO
from trio_broker.host import jobs
from trio_broker.storage import paths
from trio_broker.storage.disk_state import FULL, DiskState, thresholds
from trio_broker.storage.log_dir import owner_of

if TYPE_CHECKING:
    from trio_broker.broker.log_dir import LogDir
    from trio_broker.host.interface import File, FileSystem, Host, Job, Space

logger = logging.getLogger("trio_broker.disk_guard")

LOOK_SECONDS = 1.0
#: On a disk on which nothing changes; up to this long, that is, since pauses double.
LOOK_SECONDS_QUIET = 30.0
LOOK_SECONDS_TIGHT = 0.1
PROBE_BYTES = 4096
BALLAST_BYTES_MAX = 64 * MIB
BALLAST_SHARE = 0.05
#: Ends like a temporary file, so that the next start removes what a crash leaves of it.
PROBE_NAME = "probe" + jobs.TEMPORARY_SUFFIX


def probe_job(fs: FileSystem, path: str, *, may_be_full: bool) -> Job[Space]:
    """Write and fsync a small file, remove it, and return the room there is.

    Args:
        fs: the filesystem.
        path: of the log dir.
        may_be_full: a disk that has no room for the file, and says so, works all the same.

    Raises:
        AppendFailed, SyncFailed, OSError: the disk does not work.
    """
    name = f"{path}/{PROBE_NAME}"
    file = yield from jobs.open_file(fs, name, owner_of(path), create=True)
    try:
        try:
            yield from jobs.append_all(file, 0, [bytes(PROBE_BYTES)])
        except AppendFailed as error:
            if not (may_be_full and error.cut_back and error.errno in FULL):
                raise
        yield from jobs.sync(file)
    finally:
        file.close()
    yield fs.unlink, (name,)
    space: Space = yield fs.space, (path,)
    return space


def ballast_job(fs: FileSystem, path: str, size_bytes: int) -> Job[None]:
    """Make the ballast of a log dir `size_bytes` long; 0 gives its room back.

    Cutting a file works on a full disk, where hardly anything else does.

    Raises:
        OSError: there is no room for it.
    """
    name = f"{path}/{paths.BALLAST_NAME}"
    file = yield from jobs.open_file(fs, name, owner_of(path), create=True)
    try:
        if file.size > size_bytes:
            yield file.truncate, (size_bytes,)
        elif file.size < size_bytes:
            yield from _lengthen(file, size_bytes)
    finally:
        file.close()


def _lengthen(file: File, size_bytes: int) -> Job[None]:
    """Make a file longer, or leave it as it is.

    Where there is too little room, or a quota is used up, ext4 keeps what it has found of it.
    """
    before_bytes = file.size
    try:
        yield file.allocate, (size_bytes,)
    except (OSError, StorageError):
        yield file.truncate, (before_bytes,)
        raise


class DiskGuard:
    """The guard of one log dir.

    Args:
        log_dir: whose disk it watches.
        host: the machine.
        ballast_bytes: room to keep for a full disk; -1: a share of the disk.
    """

    def __init__(self, log_dir: LogDir, host: Host, ballast_bytes: int) -> None:
        self._log_dir = log_dir
        self._path = log_dir.directory.path
        self._host = host
        self._wanted_bytes = ballast_bytes
        self._held_bytes = 0
        self._backoff = Backoff()
        self._pause_seconds = 0.0
        self._wake = trio.CancelScope()
        self._paced = PacedLog(logger)

    async def run(self) -> None:
        """Watch until cancelled."""
        health = self._log_dir.health
        await self._find_ballast()
        while True:
            if health.state is DiskState.FAILED:
                await trio.sleep(self._backoff.next_seconds(trio.current_time()))
                await self._probe()
            elif health.state is DiskState.DEGRADED:
                await self._give_ballast_back()
                await self._measure()  # clients are told
                await trio.sleep(LOOK_SECONDS_TIGHT)
                await self._probe()
            else:
                before = health.space
                await self._look()
                self._choose_pause(before)
                with trio.move_on_after(self._pause_seconds) as self._wake:
                    # A write that met a full disk: the ballast is wanted at once.
                    await self._log_dir.disk_news.wait()

    def stir(self) -> None:
        """Look at once if the last look was long ago: after a pause there are writes again."""
        if self._pause_seconds > LOOK_SECONDS:
            self._wake.cancel()

    def _choose_pause(self, before: Space | None) -> None:
        """Choose how long to wait for the next look; `before` is what the one before has found."""
        health = self._log_dir.health
        if health.is_tight:
            self._pause_seconds = LOOK_SECONDS_TIGHT
        elif self._log_dir.keeper.has_changed or health.space != before:
            self._pause_seconds = LOOK_SECONDS
        else:
            longer_seconds = max(2 * self._pause_seconds, LOOK_SECONDS)
            self._pause_seconds = min(longer_seconds, LOOK_SECONDS_QUIET)

    async def _measure(self) -> None:
        """Learn how much room there is on a disk that refuses writes."""
        try:
            space = await self._log_dir.lane.call(self._host.fs.space, self._path)
        except (StuckIO, OSError) as error:
            logger.debug("log dir %s cannot be measured: %s", self._path, error)
        else:
            self._log_dir.health.space = self._beside_ballast(space)

    async def _find_ballast(self) -> None:
        """Learn what an earlier run has kept."""
        name = f"{self._path}/{paths.BALLAST_NAME}"
        try:
            info = await self._log_dir.lane.call(self._host.fs.stat, name)
        except (StuckIO, OSError) as error:
            self._log_dir.fail(error)
        else:
            self._held_bytes = 0 if info is None else info.size_bytes

    async def _look(self) -> None:
        """Learn how much room there is, and see to the ballast."""
        try:
            space = await self._log_dir.lane.call(self._host.fs.space, self._path)
        except (StuckIO, OSError) as error:
            self._log_dir.fail(error)
            return
        health = self._log_dir.health
        before = health.state
        health.observe(space)
        self._log_dir.keeper.measured(space)
        await self._log_dir.disk_changed(before)
        wanted_bytes = self._ballast_bytes(space)
        if self._held_bytes > wanted_bytes:  # of a run with another configuration
            await self._set_ballast(wanted_bytes)
        elif self._held_bytes < wanted_bytes and not health.refuses_produce:
            limits = thresholds(space.total_bytes)
            # It makes no disk low, nor one that is low refuse produce.
            is_low = health.state is DiskState.LOW
            needed_bytes = limits.degraded_bytes if is_low else limits.low_bytes
            if self._beside_ballast(space).free_bytes > needed_bytes:
                await self._set_ballast(wanted_bytes)

    def _ballast_bytes(self, space: Space) -> int:
        if self._wanted_bytes >= 0:
            return self._wanted_bytes
        return min(BALLAST_BYTES_MAX, int(space.total_bytes * BALLAST_SHARE))

    def _beside_ballast(self, space: Space) -> Space:
        """Return the room there is for clients, who do not get that of the ballast."""
        owed_bytes = self._ballast_bytes(space) - self._held_bytes
        return space._replace(free_bytes=max(space.free_bytes - owed_bytes, 0))

    async def _give_ballast_back(self) -> None:
        """Make room for offsets and deletions on a disk that is full.

        Whatever clients have under way on it comes first, so that it meets the end of the disk and
        does not take this room; what comes later is refused.
        """
        if self._held_bytes:
            await self._log_dir.commits_ended()
            await self._set_ballast(0)

    async def _set_ballast(self, size_bytes: int) -> None:
        """Take or give back the ballast; a disk that refuses is tried again at the next look."""
        if self._held_bytes == size_bytes:
            return
        try:
            await self._log_dir.lane.run(ballast_job(self._host.fs, self._path, size_bytes))
        except (StorageError, OSError) as error:
            what = f"log dir {self._path}: ballast of {size_bytes} bytes: {error}"
            self._paced.log(logging.WARNING, "ballast", what)
        else:
            self._held_bytes = size_bytes

    async def _probe(self) -> None:
        """Find out whether a refused or broken disk works again, and bring it back if it does."""
        log_dir = self._log_dir
        health = log_dir.health
        try:
            await log_dir.lane.run(log_dir.directory.check_job())
            # Nothing is deleted on a disk that has failed, so it could be full for ever.
            probing = probe_job(self._host.fs, self._path, may_be_full=log_dir.is_failed)
            space = await log_dir.lane.run(probing)
        except CorruptLog as error:
            health.probe_failed()
            self._paced.log(
                logging.ERROR, "identity", f"log dir stays {health.state.value}: {error}"
            )
            return
        except (StorageError, OSError) as error:
            health.probe_failed()
            logger.debug("log dir %s still does not work: %s", self._path, error)
            if getattr(error, "errno", None) in FULL:
                await self._give_ballast_back()  # one that has failed has not done so before
            return
        space = self._beside_ballast(space)
        if not health.probe_succeeded(space, trio.current_time()):
            return
        before = health.state
        health.recovered(space)
        await log_dir.disk_changed(before)
