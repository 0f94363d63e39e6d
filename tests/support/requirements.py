"""What some tests need of the machine, and saying loudly when it is missing."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import NoReturn

import pytest


def missing_for_loop_disks() -> list[str]:
    """Return what keeps this machine from mounting a filesystem in a file; empty if nothing."""
    if sys.platform != "linux":
        return ["LINUX"]
    missing = [] if os.geteuid() == 0 else ["ROOT"]
    for program in ("losetup", "mkfs.ext4", "mount", "umount", "fsfreeze"):
        if shutil.which(program) is None:
            missing.append(f"THE PROGRAM {program}")
    if not Path("/dev/loop-control").exists():
        missing.append("LOOP DEVICES (/dev/loop-control)")
    return missing


def missing_for_faulty_disks(filesystem: str = "ext4") -> list[str]:
    """Return what keeps this machine from having disks that fail on demand; empty if nothing."""
    missing = missing_for_loop_disks()
    if not Path("/dev/fuse").exists():
        missing.append("FUSE (/dev/fuse)")
    program = f"mkfs.{filesystem.partition('-')[0]}"
    if shutil.which(program) is None and program != "mkfs.ext4":
        missing.append(f"THE PROGRAM {program}")
    return missing


def missing_for_tmpfs() -> list[str]:
    """Return what keeps this machine from mounting a filesystem in memory; empty if nothing."""
    if sys.platform != "linux":
        return ["LINUX"]
    return [] if os.geteuid() == 0 else ["ROOT, or: unshare --user --map-root-user --mount"]


def missing_programs(*names: str) -> list[str]:
    """Return which of these programs are not installed."""
    return [f"THE PROGRAM {name}" for name in names if shutil.which(name) is None]


def skip_loudly(what: str, missing: list[str]) -> NoReturn:
    """Skip the calling test, saying in capitals what was not tested and why."""
    pytest.skip(f"NOT TESTED: {what.upper()}. MISSING: {', '.join(missing)}")


def require_tmpfs(what: str) -> None:
    """Skip the calling test loudly unless filesystems can be mounted in memory."""
    if missing := missing_for_tmpfs():
        skip_loudly(what, missing)


def require_faulty_disks(what: str) -> None:
    """Skip the calling test loudly unless disks can be made to fail."""
    if missing := missing_for_faulty_disks():
        skip_loudly(what, missing)


def require_loop_disks(what: str) -> None:
    """Skip the calling test loudly unless filesystems can be mounted from files."""
    if missing := missing_for_loop_disks():
        skip_loudly(what, missing)
