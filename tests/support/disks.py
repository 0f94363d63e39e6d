"""Disks that a test can take away: a filesystem in a file, mounted on a loop device.

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

#: EXT4_IOC_SHUTDOWN of linux/fs/ext4/ext4.h and XFS_IOC_GOINGDOWN, _IOR('X', 125, __u32).
_IOC_SHUTDOWN = 0x8004587D
#: Its argument: everything is written first, or the journal, or not even that, as when the power
#: goes.
FLUSH_ALL, FLUSH_LOG, NO_LOG_FLUSH = 0, 1, 2

_UNMOUNT_SECONDS = 20.0
#: Behind a thin disk, what `ThinDisk.exhausted` lets grow; and how large it is before.
_HOG = "hog"
_HOG_BYTES = 32 << 20
_PAGE_KIB = 4


@attrs.frozen
class Filesystem:
    """How a kind of filesystem is made, mounted and, where it has no journal, repaired."""

    kind: str
    make: Sequence[str]
    mount_options: str = ""
    repair: Sequence[str] = ()


_MAKE_EXT4 = ("mkfs.ext4", "-q", "-F", "-m0", "-E", "lazy_itable_init=1")
FILESYSTEMS = {
    "ext4": Filesystem("ext4", _MAKE_EXT4),
    "ext4-remount-ro": Filesystem("ext4", _MAKE_EXT4, "errors=remount-ro"),
    "ext4-nojournal": Filesystem(
        "ext4", (*_MAKE_EXT4, "-O", "^has_journal"), "", ("e2fsck", "-f", "-y")
    ),
    "xfs": Filesystem("xfs", ("mkfs.xfs", "-q", "-f", "-K")),
    "btrfs": Filesystem("btrfs", ("mkfs.btrfs", "-q", "-f", "-K")),
}


@attrs.define
class LoopDisk:
    """A filesystem of its own.

    Attributes:
        image: the file that holds it.
        mount_point: the directory where it is seen.
        filesystem: what it is.
    """

    image: Path
    mount_point: Path
    filesystem: Filesystem = FILESYSTEMS["ext4"]
    is_mounted: bool = False

    def make(self, options: Sequence[str] = ()) -> None:
        """Make it, empty; `options` are of mkfs."""
        _run(*self.filesystem.make, *options, str(self.image))

    def mount(self) -> None:
        """Mount it; after a power cut this replays the journal, as a booting machine does."""
        if self.filesystem.repair:
            # Its exit code says whether there was something to repair.
            _succeeds(*self.filesystem.repair, str(self.image))
        options = ",".join(filter(None, ("loop", "noatime", self.filesystem.mount_options)))
        kind = self.filesystem.kind
        _run("mount", "-t", kind, "-o", options, str(self.image), str(self.mount_point))
        self.is_mounted = True

    def unmount(self) -> None:
        """Unmount it; every process that has files open there must be gone."""

        def unmounted() -> bool:
            return _succeeds("umount", str(self.mount_point))

        wait_until(unmounted, seconds=_UNMOUNT_SECONDS, what=f"umount {self.mount_point}")
        self.is_mounted = False
        # Else the next mount might share its loop device, and that device's page cache.
        wait_until(
            lambda: not self.loop_devices(),
            seconds=_UNMOUNT_SECONDS,
            what=f"the loop device of {self.image} to be gone",
        )

    def loop_devices(self) -> list[str]:
        """Return the names of the loop devices that its image is behind: one while mounted."""
        found = _output("losetup", "--list", "--noheadings", "-O", "NAME", "-j", str(self.image))
        return [Path(line.strip()).name for line in found.decode().splitlines()]

    def cut_power(self, how: int = NO_LOG_FLUSH) -> None:
        """Shut the filesystem down at once: what was not synced will not be there again.

        Every later operation fails with EIO until `unmount` and `mount`.
        """
        descriptor = os.open(self.mount_point, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _IOC_SHUTDOWN, struct.pack("I", how))
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

    Linux's loop device (of 6.18, at least) calls a write to its file a success that was cut short
    since there was room for a part of it only. So it is asked for one page at a time.
    """

    disk: LoopDisk
    backing: Path

    @contextmanager
    def exhausted(self) -> Iterator[None]:
        """Take away what is left behind the disk, for the length of the block.

        Afterwards there is more room than before, should whoever writes have used all of it.
        """
        hog = self.backing / _HOG
        for device in self.disk.loop_devices():
            (Path("/sys/block") / device / "queue" / "max_sectors_kb").write_text(str(_PAGE_KIB))
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
    disk = LoopDisk(image, mount_point)
    disk.make(options)
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


def _output(*command: str) -> bytes:
    return subprocess.run(command, capture_output=True, check=False).stdout


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
