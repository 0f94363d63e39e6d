"""Facts about this process and its disks, for limits, health, metrics and benchmarks.

Owns nothing. Functions that only read counters of the own process may be called on the event loop;
those that ask a filesystem say so and belong into a job.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from typing import NamedTuple

import psutil

_process = psutil.Process()

#: More than struct timex has anywhere; all zero asks and sets nothing.
_TIMEX_BYTES = 512
#: What adjtimex returns for a clock that is not synchronised.
_TIME_ERROR = 5


class ProcessFacts(NamedTuple):
    """What this process uses now; `started_at` is in seconds since the Unix epoch."""

    resident_bytes: int
    cpu_seconds: float
    threads: int
    descriptors: int
    descriptors_max: int
    started_at: float


class MountFacts(NamedTuple):
    """The filesystem that holds a path."""

    device: str
    mount_point: str
    kind: str


def descriptors_max() -> int:
    """Return how many descriptors this process may have open (the soft RLIMIT_NOFILE)."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if soft != resource.RLIM_INFINITY else 2**31 - 1


def descriptors_hard_max() -> int:
    """Return how many descriptors a server may have that lifts its soft limit, as `serve` does."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return hard if hard != resource.RLIM_INFINITY else 2**31 - 1


def raise_descriptors_max() -> int:
    """Lift the soft limit of descriptors to the hard one, as servers do; return the new limit.

    Only the command line calls this: an embedding program's limits are its own.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):
            pass  # macOS says "unlimited" and means OPEN_MAX: then the old limit stays
    return descriptors_max()


def open_descriptors() -> int:
    """Return how many descriptors this process has open: files, sockets and all else."""
    return _current_process().num_fds()


def descriptor_paths() -> list[str]:
    """Return the path of each file and directory that this process has open.

    On Linux files that were removed are among them, marked ``(deleted)``; elsewhere psutil finds
    only files that still have a name.
    """
    directory = "/proc/self/fd"
    try:
        numbers = os.listdir(directory)
    except FileNotFoundError:
        return [file.path for file in _current_process().open_files()]
    paths = []
    for number in numbers:
        try:
            paths.append(os.readlink(f"{directory}/{number}"))
        except FileNotFoundError:
            continue  # the descriptor of the listing itself, or closed meanwhile
    return paths


def process_facts() -> ProcessFacts:
    """Return what this process uses. Reads counters only; some 100 microseconds."""
    process = _current_process()
    with process.oneshot():
        return ProcessFacts(
            resident_bytes=process.memory_info().rss,
            cpu_seconds=sum(process.cpu_times()[:2]),
            threads=process.num_threads(),
            descriptors=process.num_fds(),
            descriptors_max=descriptors_max(),
            started_at=process.create_time(),
        )


def memory_bytes() -> int:
    """Return the memory of this machine."""
    return psutil.virtual_memory().total


def mount_of(path: str) -> MountFacts | None:
    """Return the filesystem that holds `path`, or None if the system does not say.

    Asks the filesystem: call it in a job.
    """
    real = os.path.realpath(path)
    best: MountFacts | None = None
    for found in psutil.disk_partitions(all=True):
        point = found.mountpoint
        if real == point or real.startswith(point.rstrip("/") + "/"):
            # Later mounts on the same point hide earlier ones.
            if best is None or len(point) >= len(best.mount_point):
                best = MountFacts(found.device, point, found.fstype)
    return best


def clock_is_synchronised() -> bool | None:
    """Return whether somebody keeps this machine's clock (NTP), None where the kernel won't say.

    Linux: adjtimex(2) that changes nothing.
    """
    if sys.platform != "linux":
        return None
    answer = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    return None if answer < 0 else answer != _TIME_ERROR


def _current_process() -> psutil.Process:
    """Return this process, also after a fork."""
    global _process  # noqa: PLW0603 - a cache of one handle
    if _process.pid != os.getpid():
        _process = psutil.Process()
    return _process
