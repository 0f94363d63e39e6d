"""What may go wrong on a simulated machine, and how a test asks for it.

Two ways, which combine:

- *rates*: each operation draws whether it fails, from a seeded stream;
- *systematic*: `crash_at`, `fail_at` and `fail_from` name the operation by its number, so that a
  test can walk through every operation of a scenario.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Literal

from attrs import frozen


class NodeDead(BaseException):
    """The simulated machine has lost power: nothing that still runs on it has any effect.

    A BaseException on purpose: the code under test must not be able to handle it, and whatever
    its ``finally`` blocks try on disk or network meets this exception again.
    """


@frozen
class DiskFaults:
    """Properties and faults of a simulated disk; all rates are probabilities per operation.

    Attributes:
        crash_at: power fails at the operation with this number (the first is 1); whether that
            operation still takes effect is drawn.
        fail_at: (number, errno): that operation fails so. ENOSPC on a write is a short write
            first, and the error on the next write to that file, as kernels do it.
        fail_from: (number, errno): that operation and all later ones fail so (a disk that died).
        read_error_rate: read_at fails with EIO.
        write_error_rate: write_at or truncate fails with EIO; part of a write may be in the file.
        sync_error_rate: sync or sync_directory fails with EIO (see `disk`, "fsyncgate").
        name_error_rate: open, rename, unlink, list and so on fail with EIO.
        short_write_rate: write_at writes less than it was given.
        cached_read_rate: how often read_cached finds the bytes in memory.
        latency_seconds: least and mean time of an operation in a lane.
        sync_latency_seconds: the same for sync and sync_directory.
        hang_rate: an operation in a lane takes `hang_seconds` longer.
        hang_seconds: inf means until the machine's power fails.
        capacity_bytes: size of the disk, None for as good as endless. Space is counted in blocks
            of 4,096 bytes; unlinked files count until they are closed.
        quota_reached: tells of a path whether it is under a quota that is used up: what would make
            such a file longer fails with ENOSPC, and so does such a new directory, although
            `space` shows room. None: there is no quota.
        inodes_max: most files and directories, None for as good as endless.
        open_files_max: most open files (EMFILE beyond, but for `FileSystem.spare_descriptors`).
        names_lost: which of the name changes not yet durable survive a crash: a "prefix" of them
            (a journalled filesystem) or any "subset".
        writes_lost: which of the writes not yet durable survive: "any" of them, whole or torn,
            or an "ordered" beginning.
    """

    crash_at: int | None = None
    fail_at: tuple[int, int] | None = None
    fail_from: tuple[int, int] | None = None
    read_error_rate: float = 0.0
    write_error_rate: float = 0.0
    sync_error_rate: float = 0.0
    name_error_rate: float = 0.0
    short_write_rate: float = 0.0
    cached_read_rate: float = 0.5
    latency_seconds: tuple[float, float] = (0.0001, 0.0005)
    sync_latency_seconds: tuple[float, float] = (0.002, 0.01)
    hang_rate: float = 0.0
    hang_seconds: float = inf
    capacity_bytes: int | None = None
    quota_reached: Callable[[str], bool] | None = None
    inodes_max: int | None = None
    open_files_max: int = 1024
    names_lost: Literal["prefix", "subset"] = "prefix"
    writes_lost: Literal["any", "ordered"] = "any"
