"""Faults of one directory of a simulated disk, while everything beside it works.

A log dir on a disk of its own that dies, a partition whose files lie on bad sectors, a directory
with a quota, a mount that hangs: what a program does about the rest is the question. Owned by
`disk`, which asks here before each operation; tests say what goes wrong with
`SimFileSystem.set_faults_below` and `SimFileSystem.failing_below`.
"""

from __future__ import annotations

import errno
import posixpath
from typing import TYPE_CHECKING

import trio
from attrs import frozen

if TYPE_CHECKING:
    import random

    from trio_broker.testing.sim.faults import DiskFaults

_SYNC_CALLS = frozenset({"sync", "sync_directory"})
_WRITE_CALLS = frozenset({"write_at", "truncate"})


@frozen
class PathFaults:
    """What goes wrong with one directory and all that is below it; with nothing else.

    Rates are probabilities per operation, as in `DiskFaults`, whose faults go on as they are: of
    two rates the greater one counts, of two latencies the longer one.

    Attributes:
        read_error_rate: read_at fails.
        write_error_rate: write_at or truncate fails; part of a write may be in the file.
        sync_error_rate: sync or sync_directory fails (see `disk`, "fsyncgate").
        name_error_rate: open, rename, unlink, list, stat, space and so on fail. A rename fails
            with either of its names.
        error_number: errno of these errors. ENOSPC on a write is a short write first, and the
            error on the next write to that file, as kernels do it.
        short_write_rate: write_at writes less than it was given.
        is_full: what would make a file longer fails with ENOSPC, after a short write, and so does
            a new directory; `space` of a path in it says that nothing is free. A quota of the
            directory, or a disk of its own that is full.
        is_frozen: operations in lanes hang until these faults are taken back or the power fails.
        latency_seconds: least and mean time of an operation in a lane; None: as everywhere.
        sync_latency_seconds: the same for sync and sync_directory.
    """

    read_error_rate: float = 0.0
    write_error_rate: float = 0.0
    sync_error_rate: float = 0.0
    name_error_rate: float = 0.0
    error_number: int = errno.EIO
    short_write_rate: float = 0.0
    is_full: bool = False
    is_frozen: bool = False
    latency_seconds: tuple[float, float] | None = None
    sync_latency_seconds: tuple[float, float] | None = None


def error_rate(faults: DiskFaults | PathFaults, call: str) -> float:
    """Return how often a call fails."""
    if call == "read_at":
        return faults.read_error_rate
    if call in _WRITE_CALLS:
        return faults.write_error_rate
    return faults.sync_error_rate if call in _SYNC_CALLS else faults.name_error_rate


def drawn_latency(faults: DiskFaults | PathFaults, call: str, random: random.Random) -> float:
    """Draw how long a call takes in a lane, 0.0 if nothing is said about it."""
    latency = faults.sync_latency_seconds if call in _SYNC_CALLS else faults.latency_seconds
    if latency is None:
        return 0.0
    least, mean = latency
    return least + random.expovariate(1.0) * (mean - least) if mean > least else least


class FaultyPaths:
    """Which directories have faults of their own; outlives power cuts, as broken disks do."""

    def __init__(self) -> None:
        self._faults: dict[str, PathFaults] = {}
        self._changed = trio.Event()

    def __bool__(self) -> bool:
        return bool(self._faults)

    def set(self, path: str, faults: PathFaults | None) -> None:
        """Give a directory faults of its own in place of those it had, None to take them back."""
        path = posixpath.normpath(path)
        if not path.startswith("/"):
            raise ValueError(f"paths of a simulated disk are absolute, not {path!r}")
        if faults is None:
            self._faults.pop(path, None)
        else:
            self._faults[path] = faults
        self.wake()

    def of(self, path: str) -> list[PathFaults]:
        """Return the faults that concern a path: of directories above it, and its own."""
        return [
            faults
            for above, faults in self._faults.items()
            if above == "/" or path == above or path.startswith(f"{above}/")
        ]

    def is_full(self, path: str) -> bool:
        """Whether there is no room at a path."""
        return any(faults.is_full for faults in self.of(path))

    def drawn_error(self, call: str, path: str, random: random.Random) -> int:
        """Draw what a call fails with, 0 for nothing."""
        for faults in self.of(path):
            rate = error_rate(faults, call)
            if rate and random.random() < rate:
                return faults.error_number
        return 0

    def short_write_rate(self, path: str) -> float:
        """Return how often a write at a path is a short one."""
        return max((faults.short_write_rate for faults in self.of(path)), default=0.0)

    def delay_seconds(self, call: str, path: str, random: random.Random) -> float:
        """Draw how long a call takes at least."""
        delays = [drawn_latency(faults, call, random) for faults in self.of(path)]
        return max(delays, default=0.0)

    def is_frozen(self, path: str) -> bool:
        """Whether operations on a path hang."""
        return any(faults.is_frozen for faults in self.of(path))

    async def wait_changed(self) -> None:
        """Wait until it is worth looking again. Cancellation: just stops waiting."""
        await self._changed.wait()

    def wake(self) -> None:
        """Let everybody look again who waits."""
        self._changed.set()
        self._changed = trio.Event()
