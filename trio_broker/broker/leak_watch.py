"""Looks for files that nobody should hold any more, and says whose they were.

Two things can go wrong. A file in the handle ledger may have an owner that is gone: a replica
whose topic was deleted. And this process may hold a descriptor under one of our directories that
the ledger does not know. Either is reported only if it lasts, because files of an operation under
way look the same for a moment. Files elsewhere are the embedding program's own business.
"""

from __future__ import annotations

import logging
import posixpath
from typing import TYPE_CHECKING

import trio

from trio_broker.cluster.embedded_folder import JOURNAL_PARTITION
from trio_broker.errors import StuckIO
from trio_broker.storage.paths import LOCK_NAME, owner_name

if TYPE_CHECKING:
    from trio_broker.broker.state import BrokerState

logger = logging.getLogger("trio_broker.leak_watch")

LOOK_SECONDS = 10.0
#: How long a file may be without an owner before somebody is told.
PATIENCE_SECONDS = 30.0
_REPLICA_OWNER_PREFIX = "replica/"


class LeakWatch:
    """Watches the descriptors of one broker.

    Attributes:
        suspects: owners (or paths, where the ledger knows no owner) that hold files for too long,
            with the paths.
    """

    def __init__(self, state: BrokerState) -> None:
        self.suspects: dict[str, tuple[str, ...]] = {}
        self._state = state
        self._first_seen: dict[str, float] = {}

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:  # a generator would be left behind when this is cancelled during a look
            await self.look()
            await trio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Look once."""
        held = self._without_owner()
        for path in await self._unknown_descriptors():
            held.setdefault(path, []).append(path)
        now = trio.current_time()
        self._first_seen = {key: self._first_seen.get(key, now) for key in held}
        suspects = {
            key: tuple(paths)
            for key, paths in held.items()
            if now - self._first_seen[key] >= PATIENCE_SECONDS
        }
        for key in suspects.keys() - self.suspects.keys():
            logger.error("leaked files: %s still holds %s", key, ", ".join(suspects[key]))
        for key in self.suspects.keys() - suspects.keys():
            logger.info("leaked files: %s has let go", key)
        self.suspects = suspects
        self._state.leaks_suspected = len(suspects)

    def _without_owner(self) -> dict[str, list[str]]:
        """Return ledger entries of replicas that are gone, by owner."""
        living = {
            owner_name(topic_partition)
            for log_dir in self._state.log_dirs
            for shard in log_dir.shards
            for topic_partition in shard.replicas
        }
        living.add(owner_name(JOURNAL_PARTITION))
        held: dict[str, list[str]] = {}
        for file in self._state.host.fs.open_files():
            if file.owner.startswith(_REPLICA_OWNER_PREFIX) and file.owner not in living:
                held.setdefault(file.owner, []).append(file.path)
        return held

    async def _unknown_descriptors(self) -> list[str]:
        """Return paths under our directories that are open without being in the ledger."""
        config = self._state.config
        fs = self._state.host.fs
        directories = (config.data_dir, *config.log_directories)
        try:
            open_paths = await self._state.log_dirs[0].lane.call(fs.descriptor_paths, directories)
        except (StuckIO, OSError):
            return []  # the disk is in trouble, which is told elsewhere
        known = {file.path for file in fs.open_files()}
        return [
            path
            for path in dict.fromkeys(open_paths)
            if path not in known and posixpath.basename(path) != LOCK_NAME
        ]
