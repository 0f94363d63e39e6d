"""What fsync says of a disk that fails under it is compared with what the disk holds afterwards."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.support.disks import FILESYSTEMS, LoopDisk, ThinDisk, thin_disk
from tests.support.faulty_disk import faulty_disk
from tests.support.requirements import require_faulty_disks, require_loop_disks
from tests.support.waiting import wait_until
from trio_broker.host.file_system import RealFileSystem

pytestmark = pytest.mark.slow

WRITERS = 16
ROUNDS = 8
CHUNK = bytes(range(1, 129)) * 64


class Writer(threading.Thread):
    """Appends to a file of its own, each time followed by an fsync, until that fails.

    Attributes:
        path: the file.
        durable_bytes: how much of it an fsync has vouched for.
    """

    def __init__(self, fs: RealFileSystem, path: Path) -> None:
        super().__init__()
        self.path = path
        self.durable_bytes = 0
        self._fs = fs

    def run(self) -> None:
        file = self._fs.open(str(self.path), "test", create=True)
        try:
            while True:
                file.write_at(self.durable_bytes, [CHUNK])
                file.sync()
                self.durable_bytes += len(CHUNK)
        except OSError:
            pass
        finally:
            file.close()


def write_until_it_fails(fs: RealFileSystem, thin: ThinDisk) -> list[Writer]:
    writers = [Writer(fs, thin.disk.mount_point / f"file{number}") for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    wait_until(
        lambda: all(writer.durable_bytes for writer in writers),
        seconds=30,
        what="every file to have something",
    )
    with thin.exhausted():
        for writer in writers:
            writer.join(60)
            assert not writer.is_alive()
    return writers


def test_an_fsync_vouches_for_nothing_that_an_aborted_journal_has_dropped(
    fs: RealFileSystem, tmp_path: Path
) -> None:
    """The kernel does: without the question after each fsync, most runs lose something."""
    require_loop_disks("an fsync that succeeds on a disk that has failed")
    lost = []
    for number in range(ROUNDS):
        directory = tmp_path / str(number)
        directory.mkdir()
        with thin_disk(directory, has_journal=True, backing_bytes=64 << 20) as thin:
            writers = write_until_it_fails(fs, thin)
            thin.disk.remount()
            lost += [
                f"{number}/{writer.path.name}: {writer.durable_bytes} bytes, not {size}"
                for writer in writers
                if (size := writer.path.stat().st_size) < writer.durable_bytes
                or writer.path.read_bytes()[: writer.durable_bytes]
                != CHUNK * (writer.durable_bytes // len(CHUNK))
            ]
    assert not lost


def test_what_is_written_after_a_failed_fsync_lasts_once_the_cache_is_forgotten(
    fs: RealFileSystem, tmp_path: Path
) -> None:
    """Without that ext4 writes the same blocks again, and goes on saying that they are empty."""
    require_faulty_disks("a write after an fsync that has failed")
    mount_point = tmp_path / "disk"
    mount_point.mkdir()
    with faulty_disk(tmp_path, size_bytes=64 << 20) as drive:
        disk = LoopDisk(drive.image, mount_point, FILESYSTEMS["ext4"])
        disk.make()
        disk.mount()
        path = mount_point / "file"
        file = fs.open(str(path), "test", create=True)
        file.write_at(0, [CHUNK])
        file.sync()
        drive.fail("new")
        file.write_at(len(CHUNK), [CHUNK])
        with pytest.raises(OSError, match="Input/output error"):
            file.sync()
        drive.heal()
        file.close()
        file = fs.open(str(path), "test")
        assert file.read_at(0, 2 * len(CHUNK)) == 2 * CHUNK
        assert file.forget_cached(len(CHUNK))
        assert file.read_at(0, 2 * len(CHUNK)) == CHUNK + bytes(len(CHUNK))
        file.write_at(len(CHUNK), [CHUNK])
        file.sync()
        file.close()
        disk.remount()
        assert path.read_bytes() == 2 * CHUNK
        disk.unmount()
