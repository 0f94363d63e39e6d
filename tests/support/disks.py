"""Disks that a test can take away: an ext4 filesystem in a file, mounted on a loop device.

It can lose power (`cut_power`: whatever was not synced is gone after the next `mount`) and it can
hang (`frozen`: writes block until it thaws). Needs root and loop devices, see
`tests.support.requirements`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs

from tests.support.waiting import wait_until

#: EXT4_IOC_SHUTDOWN of linux/fs/ext4/ext4.h, _IOR('X', 125, __u32). Its argument 2 is
#: EXT4_GOING_FLAGS_NOLOGFLUSH: not even the journal is written, as when the power goes.
_EXT4_IOC_SHUTDOWN = 0x8004587D
_NO_LOG_FLUSH = 2

_UNMOUNT_SECONDS = 20.0
#: Behind a thin disk, what `ThinDisk.exhausted` lets grow; and how large it is before.
_HOG = "hog"
_HOG_BYTES = 32 << 20


@attrs.define
class LoopDisk:
    """An ext4 filesystem of its own.

    Attributes:
        image: the file that holds it.
        mount_point: the directory where it is seen.
    """

    image: Path
    mount_point: Path
    is_mounted: bool = False

    def mount(self) -> None:
        """Mount it; after a power cut this replays the journal, as a booting machine does."""
        _run("mount", "-t", "ext4", "-o", "loop,noatime", str(self.image), str(self.mount_point))
        self.is_mounted = True

    def unmount(self) -> None:
        """Unmount it; every process that has files open there must be gone."""

        def unmounted() -> bool:
            return _succeeds("umount", str(self.mount_point))

        wait_until(unmounted, seconds=_UNMOUNT_SECONDS, what=f"umount {self.mount_point}")
        self.is_mounted = False

    def cut_power(self) -> None:
        """Shut the filesystem down at once: what was not synced will not be there again.

        Every later operation fails with EIO until `unmount` and `mount`.
        """
        descriptor = os.open(self.mount_point, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _EXT4_IOC_SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        finally:
            os.close(descriptor)

    def remount(self) -> None:
        """Unmount and mount, as a reboot does after `cut_power`."""
        self.unmount()
        self.mount()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Hang every write (and fsync) for the length of the block. Always thaws."""
        _run("fsfreeze", "--freeze", str(self.mount_point))
        try:
            yield
        finally:
            _run("fsfreeze", "--unfreeze", str(self.mount_point))


@contextmanager
def tmpfs(directory: Path, *, name: str, size_bytes: int) -> Iterator[Path]:
    """Mount a filesystem in memory that is really full when it says so."""
    mount_point = directory / name
    mount_point.mkdir()
    _run("mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "none", str(mount_point))
    try:
        yield mount_point
    finally:
        wait_until(
            lambda: _succeeds("umount", str(mount_point)),
            seconds=_UNMOUNT_SECONDS,
            what=f"umount {mount_point}",
        )


@attrs.define
class ThinDisk:
    """A disk that promises more room than there is behind it, as thinly provisioned volumes do.

    Writes go to the page cache and succeed; fsync fails, for real, when nothing is left.
    """

    disk: LoopDisk
    backing: Path

    @contextmanager
    def exhausted(self) -> Iterator[None]:
        """Take away what is left behind the disk, for the length of the block.

        Afterwards there is more room than before, should whoever writes have used all of it.
        """
        hog = self.backing / _HOG
        with contextlib.suppress(OSError), hog.open("ab", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))
        try:
            yield
        finally:
            os.truncate(hog, 0)


@contextmanager
def thin_disk(
    directory: Path, *, backing_bytes: int = 192 << 20, has_journal: bool = False
) -> Iterator[ThinDisk]:
    """Make an ext4 filesystem, much larger than what is behind it.

    A journal that cannot be written makes it read-only until it is mounted again; without one it
    works again as soon as there is room.
    """
    with tmpfs(directory, name="backing", size_bytes=backing_bytes) as backing:
        (backing / _HOG).write_bytes(bytes(_HOG_BYTES))
        options = ("-O", f"{'' if has_journal else '^'}has_journal")
        with loop_disk(backing, size_bytes=1 << 30, options=options) as disk:
            yield ThinDisk(disk, backing)


@contextmanager
def loop_disk(
    directory: Path,
    *,
    name: str = "disk",
    size_bytes: int = 1 << 30,
    options: Sequence[str] = (),
) -> Iterator[LoopDisk]:
    """Make a filesystem in a (sparse) file under `directory`, mounted for the length of the block.

    Processes that use it must have ended when the block does. `options` are of mkfs.
    """
    image = directory / f"{name}.img"
    mount_point = directory / name
    mount_point.mkdir()
    with image.open("wb") as file:
        file.truncate(size_bytes)
    _run("mkfs.ext4", "-q", "-F", "-m0", "-E", "lazy_itable_init=1", *options, str(image))
    disk = LoopDisk(image, mount_point)
    disk.mount()
    try:
        yield disk
    finally:
        if disk.is_mounted:
            try:
                disk.unmount()
            except AssertionError:
                # Somebody still has files open there. Take it out of everybody's way at least:
                # a mount that stays behind would trip whoever tidies up this directory.
                _run("umount", "--lazy", str(mount_point))
                raise
        image.unlink()


def sync_all() -> None:
    """Write everything that is cached to its disk, so that a test starts from a known state."""
    os.sync()


def _run(*command: str) -> None:
    result = subprocess.run(command, capture_output=True, check=False)
    if result.returncode != 0:
        raise OSError(f"{' '.join(command)}: {result.stderr.decode(errors='replace').strip()}")


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
