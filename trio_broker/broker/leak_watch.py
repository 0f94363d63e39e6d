"""Looks for files that nobody should hold, and says whose they are.

Three things can go wrong. A file in the handle ledger may have an owner that is gone: a replica
whose topic was deleted. An owner that lives may hold more files than it has use for. And this
process may hold a descriptor under one of our directories that the ledger does not know. Each is
reported only if it lasts, because files of an operation under way look the same for a moment.
Files elsewhere are the embedding program's own business, and so are those of another broker that
runs on the same host.
"""

from __future__ import annotations

import logging
import posixpath
from collections import Counter
from typing import TYPE_CHECKING

import trio

from trio_broker.broker.paced_log import PacedLog
from trio_broker.cluster.embedded_folder import JOURNAL_FILES_MAX, JOURNAL_PARTITION
from trio_broker.cluster.embedded_folder import OWNER as METADATA_OWNER
from trio_broker.errors import StuckIO
from trio_broker.storage.log_dir import owner_of
from trio_broker.storage.paths import LOCK_NAME, owner_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_broker.broker.state import BrokerState
    from trio_broker.host.interface import OpenFile

logger = logging.getLogger("trio_broker.leak_watch")

LOOK_SECONDS = 10.0
#: How long something may look like a leak before somebody is told.
PATIENCE_SECONDS = 30.0
#: Files that a job may have open for an owner besides those that stay open.
FILES_OF_A_JOB = 2
REPLICA_OWNER_PREFIX = "replica/"
#: All replicas together, which share one cache of open files.
ALL_REPLICAS = "replicas"
_PATHS_SHOWN = 3


class LeakWatch:
    """Watches the descriptors of one broker.

    What it suspects is in `BrokerState.leaks`: a sentence for each owner (or path, where the ledger
    knows no owner).
    """

    def __init__(self, state: BrokerState) -> None:
        self._state = state
        self._first_seen: dict[str, float] = {}
        self._paced = PacedLog(logger)

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:  # a generator would be left behind when this is cancelled during a look
            await self.look()
            await trio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Look once."""
        state = self._state
        fs = state.host.fs
        before = fs.open_files()
        try:
            lane = state.log_dirs[0].lane
            open_paths = await lane.call(fs.descriptor_paths, state.directories)
        except (StuckIO, OSError):
            return  # the disk is in trouble, which is told elsewhere
        after = fs.open_files()
        await trio.lowlevel.checkpoint()  # each step takes a while where there are 10,000 replicas
        found = await self._beyond_bounds(after)
        await trio.lowlevel.checkpoint()
        # What was opened or closed in between is in one of the two.
        known = Counter(file.path for file in before) | Counter(file.path for file in after)
        unknown = Counter(path for path in open_paths if posixpath.basename(path) != LOCK_NAME)
        for path in unknown - known:
            found[path] = f"{path} is open and nobody accounts for it"
        now = trio.current_time()
        self._first_seen = {key: self._first_seen.get(key, now) for key in found}
        leaks = {
            key: sentence
            for key, sentence in found.items()
            if now - self._first_seen[key] >= PATIENCE_SECONDS
        }
        for key in leaks.keys() - state.leaks.keys():
            self._paced.log(logging.ERROR, "leak", f"files held: {leaks[key]}")
        for key in state.leaks.keys() - leaks.keys():
            logger.info("files held: %s has let go", key)
        state.leaks = leaks

    async def _beyond_bounds(self, ledger: Sequence[OpenFile]) -> dict[str, str]:
        """Return a sentence for each owner that holds more files than it may."""
        held: dict[str, list[str]] = {}
        for file in self._state.own_files(ledger):
            held.setdefault(file.owner, []).append(file.path)
            if file.owner.startswith(REPLICA_OWNER_PREFIX):
                held.setdefault(ALL_REPLICAS, []).append(file.path)
        await trio.lowlevel.checkpoint()
        bounds = self._bounds()
        await trio.lowlevel.checkpoint()
        found = {}
        for owner, paths in held.items():
            bound = bounds.get(owner, 0)
            if len(paths) > bound:
                shown = ", ".join(paths[:_PATHS_SHOWN])
                more = f" and {len(paths) - _PATHS_SHOWN} more" if len(paths) > _PATHS_SHOWN else ""
                why = f"may hold {bound}" if owner in bounds else "is gone"
                found[owner] = f"{owner} {why}, and holds {len(paths)}: {shown}{more}"
        return found

    def _bounds(self) -> dict[str, int]:
        """Return how many files each living owner may have open."""
        state = self._state
        bounds = {
            METADATA_OWNER: FILES_OF_A_JOB,
            owner_name(JOURNAL_PARTITION): JOURNAL_FILES_MAX + FILES_OF_A_JOB,
        }
        lanes = 1
        for log_dir in state.log_dirs:
            bounds[owner_of(log_dir.directory.path)] = FILES_OF_A_JOB
            lanes += len(log_dir.shards)
            for shard in log_dir.shards:
                for topic_partition, replica in shard.replicas.items():
                    segments = replica.log.segment_count if replica.has_log else 0
                    bounds[owner_name(topic_partition)] = segments + FILES_OF_A_JOB
        bounds[ALL_REPLICAS] = (
            state.descriptors.files_max + JOURNAL_FILES_MAX + FILES_OF_A_JOB * lanes
        )
        return bounds
