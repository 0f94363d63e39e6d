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
import math
import posixpath
from collections import Counter
from operator import attrgetter
from typing import TYPE_CHECKING

import trio

from trio_broker.broker.paced_log import PacedLog
from trio_broker.broker.statistics import FILES_PER_TURN
from trio_broker.cluster.embedded_folder import JOURNAL_FILES_MAX, JOURNAL_PARTITION
from trio_broker.cluster.embedded_folder import OWNER as METADATA_OWNER
from trio_broker.errors import StuckIO
from trio_broker.storage.log_dir import owner_of
from trio_broker.storage.paths import LOCK_NAME, owner_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_broker.broker.state import BrokerState
    from trio_broker.host.interface import OpenFile
    from trio_broker.metadata.image import MetadataImage

logger = logging.getLogger("trio_broker.leak_watch")

LOOK_SECONDS = 10.0
#: While neither the files nor the topics change: what nobody accounts for is all there could be.
LOOK_SECONDS_QUIET = 60.0
#: How long something may look like a leak before somebody is told.
PATIENCE_SECONDS = 30.0
#: Files that a job may have open for an owner besides those that stay open.
FILES_OF_A_JOB = 2
REPLICA_OWNER_PREFIX = "replica/"
#: All replicas together, which share one cache of open files.
ALL_REPLICAS = "replicas"
_PATHS_SHOWN = 3
#: Replicas looked at before others get a turn: about a millisecond.
_REPLICAS_PER_TURN = 500
_PATH = attrgetter("path")
_OWNER = attrgetter("owner")


class LeakWatch:
    """Watches the descriptors of one broker.

    What it suspects is in `BrokerState.leaks`: a sentence for each owner (or path, where the ledger
    knows no owner).
    """

    def __init__(self, state: BrokerState) -> None:
        self._state = state
        self._first_seen: dict[str, float] = {}
        self._looked_at = -math.inf
        self._image: MetadataImage | None = None
        self._ledger: Sequence[OpenFile] = ()
        self._paced = PacedLog(logger)

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:  # a generator would be left behind when this is cancelled during a look
            ledger = self._state.host.fs.open_files()
            if self._is_worth_a_look(ledger):
                await self._look(ledger)
            await trio.sleep(LOOK_SECONDS)

    def _is_worth_a_look(self, ledger: Sequence[OpenFile]) -> bool:
        """Tell whether anything has changed, or is suspected, or the last look was long ago."""
        state = self._state
        is_quiet = (
            not self._first_seen
            and trio.current_time() - self._looked_at < LOOK_SECONDS_QUIET
            and state.controller.image is self._image
            and ledger == self._ledger
        )
        return not is_quiet

    async def look(self) -> None:
        """Look once."""
        await self._look(self._state.host.fs.open_files())

    async def _look(self, before: Sequence[OpenFile]) -> None:
        state = self._state
        fs = state.host.fs
        image = state.controller.image
        try:
            lane = state.log_dirs[0].lane
            open_paths = await lane.call(fs.descriptor_paths, state.directories)
        except (StuckIO, OSError):
            return  # the disk is in trouble, which is told elsewhere
        self._ledger = after = fs.open_files()
        self._looked_at, self._image = trio.current_time(), image
        await trio.lowlevel.checkpoint()  # each step takes a while where there are 10,000 replicas
        found = await self._beyond_bounds(after)
        for path in await self._unaccounted(open_paths, before, after):
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

    async def _unaccounted(
        self, open_paths: Sequence[str], before: Sequence[OpenFile], after: Sequence[OpenFile]
    ) -> list[str]:
        """Return the paths that are open more often than the ledger says.

        What was opened or closed meanwhile is in one of the two ledgers.
        """
        open_now = Counter(open_paths)
        await trio.lowlevel.checkpoint()
        known_before, known_after = Counter[str](), Counter[str]()
        for known, ledger in ((known_before, before), (known_after, after)):
            for start in range(0, len(ledger), FILES_PER_TURN):
                known.update(map(_PATH, ledger[start : start + FILES_PER_TURN]))
                await trio.lowlevel.checkpoint()
        return [
            path
            for path, count in open_now.items()
            if count > known_before.get(path, 0)
            and count > known_after.get(path, 0)
            and posixpath.basename(path) != LOCK_NAME
        ]

    async def _beyond_bounds(self, ledger: Sequence[OpenFile]) -> dict[str, str]:
        """Return a sentence for each owner that holds more files than it may."""
        own: list[OpenFile] = []
        for start in range(0, len(ledger), FILES_PER_TURN):
            own += self._state.own_files(ledger[start : start + FILES_PER_TURN])
            await trio.lowlevel.checkpoint()
        held = Counter(map(_OWNER, own))
        held[ALL_REPLICAS] = sum(map(_is_replicas, own))
        await trio.lowlevel.checkpoint()
        bounds = await self._bounds()
        await trio.lowlevel.checkpoint()
        paths: dict[str, list[str]] = {
            owner: [] for owner, count in held.items() if count > bounds.get(owner, 0)
        }
        for file in own if paths else ():
            for owner in (file.owner, ALL_REPLICAS if _is_replicas(file) else ""):
                if owner in paths:
                    paths[owner].append(file.path)
        found = {}
        for owner, held_paths in paths.items():
            shown = ", ".join(held_paths[:_PATHS_SHOWN])
            more = len(held_paths) - _PATHS_SHOWN
            why = f"may hold {bounds[owner]}" if owner in bounds else "is gone"
            found[owner] = f"{owner} {why}, and holds {held[owner]}: {shown}" + (
                f" and {more} more" if more > 0 else ""
            )
        return found

    async def _bounds(self) -> dict[str, int]:
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
                for number, replica in enumerate(list(shard.replicas.values()), start=1):
                    segments = replica.log.segment_count if replica.has_log else 0
                    bounds[owner_name(replica.topic_partition)] = segments + FILES_OF_A_JOB
                    if number % _REPLICAS_PER_TURN == 0:
                        await trio.lowlevel.checkpoint()
        bounds[ALL_REPLICAS] = (
            state.descriptors.files_max + JOURNAL_FILES_MAX + FILES_OF_A_JOB * lanes
        )
        return bounds


def _is_replicas(file: OpenFile) -> bool:
    return file.owner.startswith(REPLICA_OWNER_PREFIX)
