"""What a process uses, read from outside: CPU time, memory, descriptors.

Linux answers exactly (nanoseconds per thread, peak memory); elsewhere psutil's figures stand in.
"""

from __future__ import annotations

from pathlib import Path

import psutil
from attrs import frozen

MIB = 1024 * 1024


@frozen
class Usage:
    """One reading of a process.

    Attributes:
        cpu_seconds: user and system time of all its living threads since it started.
        rss_bytes: resident memory now.
        descriptors: open file descriptors.
        threads: threads alive.
    """

    cpu_seconds: float
    rss_bytes: int
    descriptors: int
    threads: int


def usage(pid: int) -> Usage:
    """Read what `pid` uses now.

    Raises:
        psutil.NoSuchProcess: it has ended.
    """
    process = psutil.Process(pid)
    return Usage(
        cpu_seconds=cpu_seconds(pid),
        rss_bytes=process.memory_info().rss,
        descriptors=process.num_fds(),
        threads=process.num_threads(),
    )


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of `pid`.

    The kernel's scheduler statistics count nanoseconds; `/proc/PID/stat`, which psutil reads,
    counts ticks of 10 ms, too coarse for a run of a second. Threads that have ended are missing
    from the former, so take differences only over a time in which no thread ends.
    """
    tasks = Path(f"/proc/{pid}/task")
    try:
        readings = [int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()]
    except (FileNotFoundError, PermissionError):
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system)
    return sum(readings) / 1e9


def reset_peak_rss(pid: int) -> None:
    """Make `peak_rss_bytes` start again from now (Linux; elsewhere nothing happens)."""
    clear = Path(f"/proc/{pid}/clear_refs")
    if clear.exists():
        clear.write_text("5")


def peak_rss_bytes(pid: int) -> int:
    """Return the most memory `pid` had resident since the last reset (without /proc: has now)."""
    status = Path(f"/proc/{pid}/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return int(psutil.Process(pid).memory_info().rss)
