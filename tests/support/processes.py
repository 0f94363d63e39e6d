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

    The scheduler's statistics count nanoseconds but forget threads that have ended; the figures
    that psutil reads remember those but are cut to ticks of 10 ms. Neither is ever too high, so the
    higher of the two is the better one.
    """
    times = psutil.Process(pid).cpu_times()
    ticks = float(times.user + times.system)
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        readings = [int((task / "schedstat").read_text().split()[0]) for task in tasks]
    except OSError:  # no /proc here, or a thread ended between the two lines
        return ticks
    return max(ticks, sum(readings) / 1e9)


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


def is_halted(pid: int) -> bool:
    """Say whether every thread of `pid` is stopped, or asleep in the kernel until it stops."""
    try:
        states = [
            (task / "stat").read_text().rpartition(")")[2].split()[0]
            for task in Path(f"/proc/{pid}/task").iterdir()
        ]
    except FileNotFoundError:  # a thread ended meanwhile
        return False
    return all(state in "TtD" for state in states)
